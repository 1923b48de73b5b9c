//! Seconds to factorize MovieLens 100k and how well it foretells, beside the implicit package.
//!
//! usage: python3 benches/affinity.py ML_100K.inter /tmp/split.csv && \
//!     cargo bench --bench affinity -- /tmp/split.csv

use std::collections::HashSet;
use std::time::Instant as Clock;

use c360_ml::models::affinity::{ItemFactors, Options, Sparse};
use c360_ml::training::affinity::ranking::{Case, Ranker, judge};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // cargo adds --bench to the arguments of every bench.
    let Some(path) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        println!("usage: cargo bench --bench affinity -- SPLIT.csv");
        return Ok(());
    };
    let mut users: Sparse = Vec::new();
    let mut truth: Vec<HashSet<u32>> = Vec::new();
    let mut count = 0;
    for line in std::fs::read_to_string(path)?.lines().skip(1) {
        let cells: Vec<usize> = line.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let [user, item, later] = cells[..] else {
            return Err(format!("not user,item,later: {line}").into());
        };
        users.resize(users.len().max(user + 1), Vec::new());
        truth.resize(users.len(), HashSet::new());
        count = count.max(item + 1);
        match later {
            0 => users[user].push((item as u32, 1.0)),
            _ => _ = truth[user].insert(item as u32),
        }
    }
    users.iter_mut().for_each(|row| row.sort_unstable_by_key(|(item, _)| *item));
    for seed in 0..5 {
        // Confidence 1 + alpha r with alpha 1 is implicit's alpha r with alpha 2, r being 1.
        let options =
            Options { factors: 20, alpha: 1.0, regularization: 10.0, iterations: 15, seed };
        let names = (0..count).map(|item| format!("{item:04}")).collect();
        let begun = Clock::now();
        let model = ItemFactors::fit(names, &users, options);
        let seconds = begun.elapsed().as_secs_f64();
        let gram = model.gram();
        let case = |(row, wanted): (&Vec<(u32, f64)>, &HashSet<u32>)| Case {
            own: row.clone(),
            vector: model.fold_in(row, &gram).vector,
            hidden: row.iter().map(|(item, _)| *item).collect(),
            wanted: wanted.clone(),
        };
        let judged = users.iter().zip(&truth).filter(|(_, wanted)| !wanted.is_empty());
        let cases: Vec<Case> = judged.map(case).collect();
        let mean = judge("", &model, &cases, Ranker::Blend(0.0)).ranking.ndcg;
        println!("seed {seed}: {seconds:.3} s, NDCG@10 {mean:.4}");
    }
    Ok(())
}
