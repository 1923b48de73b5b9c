//! Seconds to fit purchases to come, beside lifetimes on the same customers.
//!
//! usage: python3 benches/lifetime_value.py /tmp/buyers.csv && \
//!     cargo bench --bench lifetime_value -- /tmp/buyers.csv

use std::time::Instant as Clock;

use c360_ml::models::lifetime_value::{
    Buyer, Discounting, Family, GammaGamma, Purchasing, Spend, expect,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // cargo adds --bench to the arguments of every bench.
    let Some(path) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        println!("usage: cargo bench --bench lifetime_value -- BUYERS.csv");
        return Ok(());
    };
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

fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mx, my) = (mean(x), mean(y));
    let both: f64 = x.iter().zip(y).map(|(a, b)| (a - mx) * (b - my)).sum();
    let spread = |values: &[f64], m: f64| values.iter().map(|v| (v - m).powi(2)).sum::<f64>();
    both / (spread(x, mx) * spread(y, my)).sqrt()
}
