//! Seconds to factorize MovieLens 100k and how well it is predicted, beside the implicit package.
//!
//! usage: python3 benches/affinity.py ML_100K.inter /tmp/splits && \
//!     cargo bench --bench affinity -- /tmp/splits/user.csv
//!
//! The last round of the file is the test; the rounds before it choose the weights of the blend.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant as Clock;

use c360_ml::models::affinity::{Blend, ItemFactors, Neighbours, Options, Recommender, Sparse};
use c360_ml::spec::BlendSpec;
use c360_ml::training::affinity::ranking::{Case, judge};
use c360_ml::training::affinity::{candidates, choose};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is known of each user, and what they did next.
#[derive(Default)]
struct Round {
    users: BTreeMap<u32, Vec<(u32, f64)>>,
    truth: BTreeMap<u32, HashSet<u32>>,
}

impl Round {
    /// Fits a model and collects the users to judge by; films that they have seen are not recommended.
    fn fit(&self, items: usize, seed: u64) -> (Recommender, Vec<Case>, f64) {
        let rows: Sparse = self.users.values().cloned().collect();
        // Confidence 1 + alpha r with alpha 1 is implicit's alpha r with alpha 2, r being 1.
        let options =
            Options { factors: 20, alpha: 1.0, regularization: 10.0, iterations: 15, seed };
        let names = (0..items).map(|item| format!("{item:04}")).collect();
        let begun = Clock::now();
        let factors = ItemFactors::fit(names, &rows, options);
        let seconds = begun.elapsed().as_secs_f64();
        let neighbours = Neighbours::count(items, &rows);
        let gram = factors.gram();
        let case = |(user, row): (&u32, &Vec<(u32, f64)>)| {
            let hidden: Vec<u32> = row.iter().map(|(item, _)| *item).collect();
            let mut wanted = self.truth.get(user)?.clone();
            wanted.retain(|item| hidden.binary_search(item).is_err());
            let vector = factors.fold_in(row, &gram).vector;
            (!wanted.is_empty()).then(|| Case { own: row.clone(), vector, hidden, wanted })
        };
        let cases = self.users.iter().filter_map(case).collect();
        (Recommender { factors, neighbours, blend: Blend::NONE }, cases, seconds)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // cargo adds --bench to the arguments of every bench.
    let Some(path) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        println!("usage: cargo bench --bench affinity -- SPLIT.csv");
        return Ok(());
    };
    let mut rounds: Vec<Round> = Vec::new();
    let mut items = 0;
    for line in std::fs::read_to_string(path)?.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let [round, part, user, item] = cells[..] else {
            return Err(format!("not round,part,user,item: {line}").into());
        };
        let (round, user, item) = (round.parse::<usize>()?, user.parse()?, item.parse()?);
        items = items.max(item as usize + 1);
        rounds.resize_with(rounds.len().max(round + 1), Round::default);
        match part {
            "learn" => rounds[round].users.entry(user).or_default().push((item, 1.0)),
            _ => _ = rounds[round].truth.entry(user).or_default().insert(item),
        }
    }
    for round in &mut rounds {
        round.users.values_mut().for_each(|row| row.sort_unstable_by_key(|(item, _)| *item));
    }
    let (test, past) = rounds.split_last().ok_or("no rounds")?;
    for seed in 0..5 {
        let fit = |round: &Round| {
            let (model, cases, _) = round.fit(items, seed);
            candidates(&model, &cases)
        };
        let chosen: Vec<_> = past.iter().flat_map(fit).collect();
        let steps = choose(&chosen, &BlendSpec::default());
        let blend = steps.last().ok_or("no step")?.blend;
        let (model, cases, seconds) = test.fit(items, seed);
        let ndcg = |blend: &Blend| judge("", &model, &cases, blend).ranking.ndcg;
        println!(
            "seed {seed}: {seconds:.3} s, NDCG@10 over {} users: factors {:.4}, item-item {:.4}, popularity {:.4}, \
             blend {:.4} ({blend})",
            cases.len(),
            ndcg(&Blend::FACTORS),
            ndcg(&Blend::SIMILAR),
            ndcg(&Blend::POPULAR),
            ndcg(&blend),
        );
    }
    Ok(())
}
