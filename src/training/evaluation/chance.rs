//! How far off probabilities look by chance alone.

use rand::{Rng, SeedableRng};
use rayon::prelude::*;

use crate::models::metrics::{ece, reliability};
use crate::models::preprocessing::shape::quantile;

/// The number of times that outcomes are drawn.
const DRAWS: u64 = 200;

/// Computes the 95th percentile of the calibration error of outcomes that are drawn from the probabilities
/// themselves.
pub fn ece_by_chance(probabilities: &[f64]) -> f64 {
    let error = |draw| {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(0xECE);
        random.set_stream(draw);
        let labels: Vec<bool> = probabilities.iter().map(|p| random.random::<f64>() < *p).collect();
        ece(&reliability(probabilities, &labels))
    };
    let mut errors: Vec<f64> = (0..DRAWS).into_par_iter().map(error).collect();
    errors.sort_by(f64::total_cmp);
    quantile(&errors, 0.95)
}
