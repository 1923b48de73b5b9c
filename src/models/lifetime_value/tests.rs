//! Compares with lifetimes 0.11.3 (numpy 2.4, scipy 1.17). Fits are of `fixtures/buyers.csv` with
//! `penalizer_coef = 0, tol = 1e-7`. Expectations are at the parameters that lifetimes finds for the
//! CDNOW sample.

use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Gamma, Uniform};

use super::maximum_likelihood::Likelihood;
use super::purchasing::likelihood_of;
use super::*;

fn buyers() -> Vec<(Buyer, f64)> {
    let text = include_str!("../../../fixtures/buyers.csv");
    let row = |line: &str| {
        let numbers: Vec<f64> = line.split(',').map(|cell| cell.parse().unwrap()).collect();
        (Buyer { frequency: numbers[0], recency: numbers[1], age: numbers[2] }, numbers[3])
    };
    text.lines().skip(1).map(row).collect()
}

fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found / expected - 1.0).abs() <= tolerance, "{found} is not {expected}");
}

#[test]
fn fits_equal_lifetimes() {
    let all: Vec<Buyer> = buyers().into_iter().map(|(buyer, _)| buyer).collect();
    for (family, parameters, log_likelihood) in [
        (Family::BgNbd, [0.417628, 5.025043, 0.821020, 1.882980], -3659.550162),
        (Family::MbgNbd, [1.000723, 8.673714, 1.508443, 3.340018], -3664.662000),
        // The optimizer of lifetimes stops earlier here, so the likelihood must be at least as high.
        (Family::ParetoNbd, [1.033233, 14.378820, 1.830148, 53.076078], -3673.865819),
    ] {
        let (model, fit) = Purchasing::fit(family, &all).unwrap();
        assert!(fit.converged, "{fit:?}");
        assert!(fit.log_likelihood > log_likelihood - 1e-5, "{fit:?}");
        close(fit.log_likelihood, log_likelihood, 1e-7);
        for (found, expected) in model.parameters.iter().zip(parameters) {
            close(*found, expected, 2e-3);
        }
        assert_eq!(fit.starts.len(), 3);
        for start in &fit.starts {
            close(start.log_likelihood.unwrap(), fit.log_likelihood, 1e-9);
        }
    }
    let (_, fit) = Purchasing::fit(Family::BgNbd, &all).unwrap();
    for (found, expected) in
        fit.standard_errors.unwrap().iter().zip([0.036332, 0.677665, 0.233311, 0.684851])
    {
        close(*found, expected, 2e-3);
    }
}

#[test]
fn spend_equals_lifetimes() {
    let spends: Vec<Spend> = buyers()
        .iter()
        .filter(|(buyer, _)| buyer.frequency > 0.0)
        .map(|(buyer, mean)| Spend { frequency: buyer.frequency, mean: *mean })
        .collect();
    let (model, fit) = GammaGamma::fit(&spends).unwrap();
    assert!(fit.converged && spends.len() == 351);
    close(fit.log_likelihood, -1492.690703, 1e-8);
    for (found, expected) in [model.p, model.q, model.v].iter().zip([4.166605, 4.304567, 26.214442])
    {
        close(*found, expected, 1e-3);
    }
    for (found, expected) in fit.standard_errors.unwrap().iter().zip([0.897789, 0.590662, 9.090225])
    {
        close(*found, expected, 5e-3);
    }
    close(model.expected(2.0, 22.35).unwrap(), 25.389080, 1e-4);
    close(model.expected(0.0, 0.0).unwrap(), 33.052805, 1e-3);
    let flat = GammaGamma { p: 1.0, q: 0.9, v: 10.0 };
    assert_eq!(flat.expected(0.0, 0.0), None, "q below 1 has no mean");
}

/// Frequency, recency and age, with the expected purchases within 39 weeks and the probability of being
/// alive.
type Expectations = [([f64; 3], f64, f64); 5];

#[test]
fn expectations_equal_lifetimes() {
    let cases: [(Family, [f64; 4], Expectations); 3] = [
        (
            Family::BgNbd,
            [0.242592928279822, 4.413532265271825, 0.7928859664406758, 2.4257523826258134],
            [
                ([2.0, 30.43, 38.86], 1.2259104241744085, 0.7266091367990596),
                ([0.0, 0.0, 38.86], 0.19478085793947736, 1.0),
                ([7.0, 20.0, 27.0], 4.236153792989497, 0.6312312186824826),
                ([26.0, 30.86, 31.0], 20.75057049876324, 0.9689197159692108),
                ([1.0, 3.0, 35.0], 0.2879017647453878, 0.2772969640796448),
            ],
        ),
        (
            Family::MbgNbd,
            [0.5248377255676637, 6.1829884791339715, 0.8913562809311422, 1.6140000256721438],
            [
                ([2.0, 30.43, 38.86], 1.2626707787139533, 0.7061262587154011),
                ([0.0, 0.0, 38.86], 0.15395364436667652, 0.3897164420501681),
                ([7.0, 20.0, 27.0], 3.994808215705071, 0.619059756680986),
                ([26.0, 30.86, 31.0], 19.448037119460317, 0.965552868862071),
                ([1.0, 3.0, 35.0], 0.27335667050905893, 0.2292785352851223),
            ],
        ),
        (
            Family::ParetoNbd,
            [0.5532845924143964, 10.577673320767351, 0.6062161072690037, 11.667561974136328],
            [
                ([2.0, 30.43, 38.86], 1.4551112345229251, 0.8691172250408518),
                ([0.0, 0.0, 38.86], 0.1070581827193199, 0.2950887676825992),
                ([7.0, 20.0, 27.0], 4.747605523573996, 0.7610547709409836),
                ([26.0, 30.86, 31.0], 20.115799311500965, 0.9979179176773079),
                ([1.0, 3.0, 35.0], 0.25396936197128944, 0.23270169391307674),
            ],
        ),
    ];
    for (family, parameters, expectations) in cases {
        let model = Purchasing { family, parameters };
        for ([frequency, recency, age], purchases, p_alive) in expectations {
            let buyer = Buyer { frequency, recency, age };
            let undiscounted = Discounting { horizon: 39.0, month: 4.0, yearly_rate: 0.0 };
            let expected = expect(&model, &[buyer], &undiscounted)[0];
            close(expected.p_alive, p_alive, 1e-9);
            close(expected.purchases, purchases, 1e-9);
            close(expected.discounted, purchases, 1e-9);
        }
    }
}

/// Any history gives values within their range, for any parameters.
#[test]
fn nothing_is_out_of_range() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let logarithm = Uniform::new(-7.0, 7.0).unwrap();
    for _ in 0..3000 {
        let family = [Family::BgNbd, Family::MbgNbd, Family::ParetoNbd][random.random_range(0..3)];
        let mut parameters = [0.0; 4].map(|_: f64| f64::exp(logarithm.sample(&mut random)));
        if random.random_bool(0.2) {
            parameters[2] = 1.0;
        }
        let frequency = f64::floor(f64::exp(random.random_range(0.0..8.0)) - 1.0);
        let age = f64::exp(random.random_range(-2.0..9.0));
        let recency = if frequency > 0.0 { age * random.random_range(0.0..=1.0) } else { 0.0 };
        let buyer = Buyer { frequency, recency, age };
        let model = Purchasing { family, parameters };
        let about = format!("{model:?} {buyer:?}");
        let p_alive = model.p_alive(&buyer);
        assert!((0.0..=1.0).contains(&p_alive), "{p_alive} {about}");
        let ahead = random.random_range(0.0..400.0);
        let less = model.purchases_if_alive(frequency, age, ahead);
        let more = model.purchases_if_alive(frequency, age, ahead * 1.1);
        let rate = (parameters[0] + frequency) / (parameters[1] + age);
        assert!(less >= 0.0 && more >= less * (1.0 - 1e-9), "{less} {more} {about}");
        assert!(more <= rate * ahead * 1.1 * (1.0 + 1e-9), "{more} {rate} {about}");
        let (value, gradient) = likelihood_of(family, &[buyer]).evaluate(&parameters);
        assert!(value.is_finite() && gradient.iter().all(|g| g.is_finite()), "{about}");
    }
}

#[test]
fn gradients_are_the_slopes_of_the_likelihood() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let gamma = Gamma::new(2.0, 1.0).unwrap();
    let all: Vec<Buyer> = buyers().into_iter().map(|(buyer, _)| buyer).collect();
    for _ in 0..40 {
        for family in [Family::BgNbd, Family::MbgNbd, Family::ParetoNbd] {
            let likelihood = likelihood_of(family, &all);
            let parameters: Vec<f64> = (0..4).map(|_| 0.05 + gamma.sample(&mut random)).collect();
            let (_, gradient) = likelihood.evaluate(&parameters);
            for i in 0..4 {
                let at = |by: f64| {
                    let mut moved = parameters.clone();
                    moved[i] *= f64::exp(by);
                    likelihood.evaluate(&moved).0
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                let error = (gradient[i] - slope).abs();
                assert!(error < 1e-6 * (1.0 + slope.abs()), "{family:?} {i} {gradient:?} {slope}");
            }
        }
    }
}

/// With an alpha far above beta, the integrand stays level for long and then falls within a short stretch. The
/// expected value is by mpmath 1.3, with 40 digits: the logarithm of `quad` over the integrand of
/// [`super::pareto`].
#[test]
fn the_integral_of_pareto_finds_a_late_fall() {
    let parameters =
        [3.488715937606854, 12.468214997630211, 0.05538213974611588, 0.062090011491924293];
    let buyer = Buyer { frequency: 0.0, recency: 0.0, age: 134.85891660675526 };
    let gone = super::pareto::gone(parameters, &buyer).0;
    assert!((gone - 7.344423139040036).abs() < 1e-9, "{gone}");
}

/// The ratio of having left to being alive equals a fine sum of the integrand.
#[test]
fn the_integral_of_pareto_equals_a_fine_sum() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..200 {
        let parameters = [0.0; 4].map(|_: f64| f64::exp(random.random_range(-3.0..4.0)));
        let [r, alpha, s, beta] = parameters;
        let frequency = f64::from(random.random_range(0..60));
        let age = random.random_range(1.0..500.0);
        let recency = if frequency > 0.0 { age * random.random_range(0.0..1.0) } else { 0.0 };
        let shape = r + frequency;
        // With w = ln(1 + u / least) the integrand is smooth at both ends.
        let least = alpha.min(beta) + recency;
        let (steps, end) = (200_000, ((age - recency) / least).ln_1p());
        let integrand = |w: f64| {
            let u = recency + least * w.exp_m1();
            let log =
                shape * ((alpha + age) / (alpha + u)).ln() + s * ((beta + age) / (beta + u)).ln();
            // The sum is in units of the first value, which may be too large for a double.
            let first = shape * ((alpha + age) / (alpha + recency)).ln()
                + s * ((beta + age) / (beta + recency)).ln();
            (log - first).exp() * s / (beta + u) * least * w.exp()
        };
        let middle = |i: i32| integrand(end * (f64::from(i) + 0.5) / f64::from(steps));
        let sum = (0..steps).map(middle).sum::<f64>() * end / f64::from(steps);
        let first = shape * ((alpha + age) / (alpha + recency)).ln()
            + s * ((beta + age) / (beta + recency)).ln();
        let expected = sum.ln() + first;
        let model = Purchasing { family: Family::ParetoNbd, parameters };
        let gone = super::pareto::gone(parameters, &Buyer { frequency, recency, age }).0;
        assert!((gone - expected).abs() < 1e-6, "{gone} {expected} {model:?} {frequency} {age}");
    }
}
