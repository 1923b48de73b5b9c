//! Seconds to fit purchases to come, beside lifetimes on the same customers.
//!
//! usage: python3 benches/lifetime_value.py /tmp/buyers.csv && \
//!     cargo bench --bench lifetime_value -- /tmp/buyers.csv
//!
//! With a number instead of a file that many random customers are expected from, as a scoring run does,
//! by a fit of the first million, as a training does.

use std::time::Instant as Clock;

use rand::{Rng, SeedableRng};
use rand_distr::{Beta, Distribution, Exp, Gamma};

use c360_ml::models::lifetime_value::{
    Buyer, Discounting, Family, GammaGamma, Purchasing, Spend, expect,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // cargo adds --bench to the arguments of every bench.
    let Some(path) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        println!("usage: cargo bench --bench lifetime_value -- BUYERS.csv|NUMBER");
        return Ok(());
    };
    if let Ok(customers) = path.parse() {
        return many(customers);
    }
    let (mut buyers, mut spends, mut later) = (Vec::new(), Vec::new(), Vec::new());
    for line in std::fs::read_to_string(path)?.lines().skip(1) {
        let cells: Vec<f64> = line.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let [frequency, recency, age, mean, purchases] = cells[..] else {
            return Err(format!("not frequency,recency,age,mean_spend,later: {line}").into());
        };
        buyers.push(Buyer { frequency, recency, age });
        if frequency > 0.0 {
            spends.push(Spend { frequency, mean });
        }
        later.push(purchases);
    }
    for family in [Family::BgNbd, Family::MbgNbd, Family::ParetoNbd] {
        let mut seconds = f64::INFINITY;
        let mut fitted = None;
        for _ in 0..5 {
            let begun = Clock::now();
            fitted = Purchasing::fit(family, &buyers);
            seconds = seconds.min(begun.elapsed().as_secs_f64());
        }
        let (model, fit) = fitted.ok_or("the fit came to no end")?;
        let ahead = Discounting { horizon: 39.0, month: 39.0, yearly_rate: 0.0 };
        let expected: Vec<f64> =
            expect(&model, &buyers, &ahead).iter().map(|expected| expected.purchases).collect();
        let name = family.name();
        println!(
            "{name:11} {seconds:.4} s, log-likelihood {:.2}, {:.3?}, standard errors {:.3?}; \
             39 ahead {:.0} of {:.0}, correlation {:.4}",
            fit.log_likelihood,
            model.parameters,
            fit.standard_errors.unwrap_or_default(),
            expected.iter().sum::<f64>(),
            later.iter().sum::<f64>(),
            correlation(&expected, &later),
        );
        if family == Family::BgNbd {
            let one = Buyer { frequency: 2.0, recency: 30.43, age: 38.86 };
            println!(
                "  E[Y(39)] at (2, 30.43, 38.86): {:.3}",
                expect(&model, &[one], &ahead)[0].purchases
            );
        }
    }
    let begun = Clock::now();
    let (model, fit) = GammaGamma::fit(&spends).ok_or("the fit came to no end")?;
    println!(
        "Gamma-Gamma {:.4} s, log-likelihood {:.2} of {}, p {:.2} q {:.2} v {:.2}; E[M] at (2, 22.35): {:.3}",
        begun.elapsed().as_secs_f64(),
        fit.log_likelihood,
        spends.len(),
        model.p,
        model.q,
        model.v,
        model.expected(2.0, 22.35).unwrap_or(f64::NAN),
    );
    Ok(())
}

/// Customers of two years who buy and leave as MBG/NBD has it, in whole days.
fn random_buyers(customers: usize) -> Result<Vec<Buyer>, Box<dyn std::error::Error>> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    let (rates, leave) = (Gamma::new(0.6, 1.0 / 45.0)?, Beta::new(0.9, 2.5)?);
    let mut buyers = Vec::with_capacity(customers);
    for _ in 0..customers {
        let age = f64::from(random.random_range(1..730_u32));
        let (rate, share): (f64, f64) = (rates.sample(&mut random), leave.sample(&mut random));
        let wait = Exp::new(rate.max(1e-9))?;
        let (mut time, mut recency, mut frequency) = (0.0, 0.0, 0.0);
        // A flip after every purchase, the first among them.
        while random.random::<f64>() >= share {
            time += wait.sample(&mut random);
            if time >= age {
                break;
            }
            if time.ceil() > recency {
                (recency, frequency) = (time.ceil(), frequency + 1.0);
            }
        }
        buyers.push(Buyer { frequency, recency, age });
    }
    Ok(buyers)
}

fn many(customers: usize) -> Result<(), Box<dyn std::error::Error>> {
    let buyers = random_buyers(customers)?;
    let ahead = Discounting { horizon: 365.0, month: 30.4375, yearly_rate: 0.1 };
    for family in [Family::BgNbd, Family::MbgNbd, Family::ParetoNbd] {
        let begun = Clock::now();
        let fitted = Purchasing::fit(family, &buyers[..customers.min(1_000_000)]);
        let (model, fit) = fitted.ok_or("the fit came to no end")?;
        let fitting = begun.elapsed().as_secs_f64();
        let begun = Clock::now();
        let expected = expect(&model, &buyers, &ahead);
        println!(
            "{:11} fitted in {fitting:.2} s ({}), {customers} customers expected of in {:.2} s; {:.3?}, {:.3} purchases and {:.3} alive each",
            family.name(),
            if fit.converged { "converged" } else { "did not converge" },
            begun.elapsed().as_secs_f64(),
            model.parameters,
            expected.iter().map(|expected| expected.purchases).sum::<f64>() / customers as f64,
            buyers.iter().map(|buyer| model.p_alive(buyer)).sum::<f64>() / customers as f64,
        );
    }
    Ok(())
}

fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mx, my) = (mean(x), mean(y));
    let both: f64 = x.iter().zip(y).map(|(a, b)| (a - mx) * (b - my)).sum();
    let spread = |values: &[f64], m: f64| values.iter().map(|v| (v - m).powi(2)).sum::<f64>();
    both / (spread(x, mx) * spread(y, my)).sqrt()
}
