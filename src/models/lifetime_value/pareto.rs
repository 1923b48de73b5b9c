//! The integral in the likelihood of the Pareto/NBD model.
//!
//! For a customer who bought x times, last at t, the likelihood of having left before T, divided by the
//! likelihood of being alive at T, is
//! s (alpha + T)^(r + x) (beta + T)^s times the integral from t to T of
//! (alpha + u)^-(r + x) (beta + u)^-(s + 1) du.
//!
//! Its closed form is a difference of two 2F1 functions, which cancels if t is near T and converges
//! slowly if alpha and beta are far apart. The integrand is positive and falls, so it is integrated
//! numerically in logarithms, over panels that double in length up to one. Within such a panel the integrand is
//! smooth: it may fall like exp(-exp(v)) where alpha is far above beta.

use super::buyer::Buyer;

/// Nodes and weights of the Gauss-Legendre rule of 8 points on [-1, 1] (Abramowitz and Stegun 25.4.30).
const NODES: [(f64, f64); 4] = [
    (0.183_434_642_495_649_8, 0.362_683_783_378_362),
    (0.525_532_409_916_329, 0.313_706_645_877_887_3),
    (0.796_666_477_413_626_7, 0.222_381_034_453_374_5),
    (0.960_289_856_497_536_3, 0.101_228_536_290_376_26),
];

/// The greatest length of a panel.
const LONGEST: f64 = 1.0;

/// Computes the logarithm of this ratio, and its derivatives with respect to r, alpha, s and beta. The
/// logarithm is minus infinity if no time has passed since the last purchase.
pub fn gone([r, alpha, s, beta]: [f64; 4], buyer: &Buyer) -> (f64, [f64; 4]) {
    let shape = r + buyer.frequency;
    // With v = ln((beta + u) / (beta + t)) the integrand is (alpha + u)^-shape e^(-s v).
    let length = ((beta + buyer.age) / (beta + buyer.recency)).ln();
    if length.is_nan() || length <= 0.0 {
        return (f64::NEG_INFINITY, [0.0; 4]);
    }
    let begin = alpha + buyer.recency;
    let log_begin = begin.ln();
    // The first panel has the length scale of the integrand, from its rate of decay at the start.
    let fall = shape * (beta + buyer.recency) / begin + s;
    let (mut from, mut width) = (0.0, (1.0 / fall).min(length).min(LONGEST));
    let mut sums = [0.0; 5];
    while from < length {
        let to = f64::min(from + width, length);
        let (middle, half) = ((from + to) / 2.0, (to - from) / 2.0);
        for (node, weight) in NODES {
            for v in [middle - half * node, middle + half * node] {
                let passed = (beta + buyer.recency) * v.exp_m1();
                let silence = (passed / begin).ln_1p();
                let value = weight * half * (-shape * silence - s * v).exp();
                let at = begin + passed;
                sums[0] += value;
                sums[1] += value * silence;
                sums[2] += value / at;
                sums[3] += value * v;
                sums[4] += value / (beta + buyer.recency + passed);
            }
        }
        // The remaining integral is negligible.
        if (-shape * ((beta + buyer.recency) * to.exp_m1() / begin).ln_1p() - s * to) < -45.0 {
            break;
        }
        from = to;
        width = (width * 2.0).min(LONGEST);
    }
    let [integral, silence, at_alpha, passed, at_beta] = sums;
    let until = (alpha + buyer.age).ln() - log_begin;
    let log = s.ln() + shape * until + s * length + integral.ln();
    let share = |sum: f64| sum / integral;
    let slopes = [
        until - share(silence),
        shape / (alpha + buyer.age) - shape * share(at_alpha),
        1.0 / s + length - share(passed),
        s / (beta + buyer.age) - (s + 1.0) * share(at_beta),
    ];
    (log, slopes)
}
