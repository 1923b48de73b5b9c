//! A generator of customers with a known truth.
//!
//! Purchases follow the Pareto/NBD process (Schmittlein, Morrison and Colombo 1987): each customer buys at a
//! rate of their own while alive and drops out at a rate of their own. Sessions, emails and support follow
//! interest, which ends with the drop-out. Each customer is drawn from a random stream of their own, block by
//! block, so that memory does not grow with the number of customers.

pub mod customers;
pub mod tables;

use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::store::parquet::Writer;
use crate::time::{Duration, Instant};
use customers::{Event, Latent};

/// The number of customers that are drawn, sorted and written at a time.
const BLOCK: u64 = 20_000;

/// The settings of a simulation.
#[derive(Debug, Clone)]
pub struct Options {
    /// The number of customers, including orphans.
    pub customers: u64,
    /// The days of history.
    pub days: u32,
    /// The seed. The same seed gives the same bytes.
    pub seed: u64,
    /// The end of the history.
    pub end: Instant,
    /// The gap of the outcome whose exact probability the truth file contains.
    pub gap: Duration,
    /// The horizon of that outcome.
    pub horizon: Duration,
    /// The instants for which the truth file contains state and probability.
    pub truth_at: Vec<Instant>,
}

/// The size of a simulation.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Simulated {
    /// The number of customers in the profile.
    pub profiles: u64,
    /// The number of events, including duplicates.
    pub events: u64,
}

/// Writes the folders `profile/`, `events/` and `truth/` in `out`, which must not contain them yet.
pub fn simulate(options: &Options, out: &Path) -> Result<Simulated> {
    for name in ["profile", "events", "truth"] {
        let folder = out.join(name);
        if folder.exists() {
            let (out, required) = (folder.display(), "a folder that does not exist yet");
            let hint = "name another --out, or remove it";
            return Err(Error::setting("simulate", "--out", out, required, hint));
        }
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    }
    let mut simulated = Simulated::default();
    for block in 0..options.customers.div_ceil(BLOCK) {
        let range = block * BLOCK..options.customers.min((block + 1) * BLOCK);
        let (mut latents, mut events): (Vec<Latent>, Vec<Event>) = (Vec::new(), Vec::new());
        for number in range {
            let mut random = ChaCha8Rng::seed_from_u64(options.seed);
            random.set_stream(number);
            let latent = Latent::draw(number, options, &mut random);
            latent.live(options, &mut random, &mut events);
            latents.push(latent);
        }
        events.sort_by(|a, b| (a.time, &a.id, a.ingested).cmp(&(b.time, &b.id, b.ingested)));
        let profile = tables::profile(&latents, options)?;
        simulated.profiles += profile.num_rows() as u64;
        simulated.events += events.len() as u64;
        let named = [
            ("profile", profile),
            ("events", tables::events(&events)?),
            ("truth", tables::truth(&latents, options)?),
        ];
        for (name, rows) in named {
            let path = out.join(name).join(format!("part-{block:03}.parquet"));
            let mut writer = Writer::create(&path, &rows.schema())?;
            writer.write(&rows)?;
            writer.finish()?;
        }
    }
    Ok(simulated)
}
