//! Forecasts the base rate of a classifier from those of earlier snapshots.
//!
//! A classifier ranks customers; how many of all customers do what it predicts also depends on the weeks ahead.
//! The base rate of the latest snapshot alone would carry the chance of its weeks, such as a holiday, into every
//! prediction. The forecast here pools all snapshots whose outcomes are known.
//!
//! The base rate is measured as an offset on the logit scale: what must be added to the logits of a model so that
//! their mean probability is the observed rate. The offset of a snapshot is the sum of
//!
//! - a level that moves as a random walk over the days (the local level model; Durbin and Koopman, Time Series
//!   Analysis by State Space Methods, 2012, chapter 2),
//! - an effect of the weeks of its own outcome window, which two snapshots share as far as their windows overlap,
//! - an effect of the season, which snapshots a year apart share,
//! - the effects of the weekdays of its outcome window, unless it consists of whole weeks,
//! - sampling noise of a known variance.
//!
//! All of them are Gaussian, so that the forecast is the conditional mean of a Gaussian process (Rasmussen and
//! Williams, Gaussian Processes for Machine Learning, 2006, section 2.2). The standard deviations of the effects
//! are not known: the forecast is the mean over a grid of them, each weighted by its prior and by the likelihood of
//! the observed offsets.

use std::f64::consts::PI;

use super::cholesky;

/// The standard deviations that are tried: of the walk over thirty days, and of the effects of windows and seasons.
const SCALES: [f64; 7] = [0.0, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0];
/// The standard deviations that are tried for the effects of single weekdays.
const WEEKDAY_SCALES: [f64; 4] = [0.0, 0.12, 0.25, 0.5];
/// The standard deviations that are tried for the effect of the season.
const SEASON_SCALES: [f64; 4] = [0.0, 0.1, 0.2, 0.4];
/// The mean of the exponential prior of all standard deviations.
const PRIOR: f64 = 0.2;
/// The number of days over which the walk has the standard deviation of a scale.
const WALK_DAYS: f64 = 30.0;
/// The variance of the level before anything is observed, which is wider than any offset.
const LEVEL_VARIANCE: f64 = 25.0;
/// The number of days in a year.
const YEAR: f64 = 365.25;
/// The length scale of the season: effects 20 days apart have a correlation of 0.6.
const SEASON_LENGTH: f64 = 0.34;
/// The number of days by which two snapshots may differ from a year for their seasons to be compared.
const SAME_SEASON: f64 = 20.0;

/// The offset of a snapshot whose outcome is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    /// The first day of the outcome window, in days since 1970-01-01.
    pub from: f64,
    /// The offset of the snapshot on the logit scale.
    pub offset: f64,
    /// The variance of the offset that is due to the sampling of customers.
    pub variance: f64,
}

/// The forecast of an offset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// The expected offset on the logit scale.
    pub offset: f64,
    /// The standard error of the forecast: how far the offset of one outcome window may be from it.
    pub error: f64,
}

/// Standard deviations of the effects, on the logit scale.
#[derive(Debug, Clone, Copy)]
struct Scales {
    walk: f64,
    window: f64,
    season: f64,
    weekday: f64,
}

impl Scales {
    /// Lists the grid, without the effects that the observations cannot tell.
    fn grid(observed: &[Observed], horizon: f64) -> Vec<Self> {
        let whole_weeks = horizon.rem_euclid(7.0) == 0.0;
        let weekdays = if whole_weeks { &WEEKDAY_SCALES[..1] } else { &WEEKDAY_SCALES };
        let a_year_apart = |a: &Observed, b: &Observed| {
            let days = (a.from - b.from).abs();
            days > YEAR / 2.0 && (days / YEAR - (days / YEAR).round()).abs() * YEAR < SAME_SEASON
        };
        let has_season = observed.iter().any(|a| observed.iter().any(|b| a_year_apart(a, b)));
        let seasons = if has_season { &SEASON_SCALES } else { &SEASON_SCALES[..1] };
        let mut grid = Vec::new();
        for walk in SCALES {
            for window in SCALES {
                for season in seasons {
                    let of =
                        |weekday: &f64| Self { walk, window, season: *season, weekday: *weekday };
                    grid.extend(weekdays.iter().map(of));
                }
            }
        }
        grid
    }

    /// The logarithm of the prior density, up to a constant.
    fn log_prior(&self) -> f64 {
        -(self.walk + self.window + self.season + self.weekday) / PRIOR
    }

    /// The covariance of the offsets of two outcome windows that begin on the days `a` and `b`, without sampling
    /// noise. `origin` is a day before all others.
    fn covariance(&self, a: f64, b: f64, origin: f64, horizon: f64) -> f64 {
        let walk = self.walk * self.walk * (a.min(b) - origin) / WALK_DAYS;
        let window = self.window * self.window * overlap(a, b, horizon);
        let season = if self.season > 0.0 {
            let phase = (PI * (a - b) / YEAR).sin() / SEASON_LENGTH;
            self.season * self.season * (-2.0 * phase * phase).exp()
        } else {
            0.0
        };
        let weekday = if self.weekday > 0.0 {
            let both = weekdays(a, horizon).into_iter().zip(weekdays(b, horizon));
            self.weekday * self.weekday * both.map(|(a, b)| a * b).sum::<f64>()
        } else {
            0.0
        };
        LEVEL_VARIANCE + walk + window + season + weekday
    }
}

/// The share of an outcome window that lies in another.
fn overlap(a: f64, b: f64, horizon: f64) -> f64 {
    (1.0 - (a - b).abs() / horizon).max(0.0)
}

/// The share of each weekday in the outcome window that begins on the day `from`, less a seventh.
fn weekdays(from: f64, horizon: f64) -> [f64; 7] {
    let mut shares = [-1.0 / 7.0; 7];
    let days = (horizon.round() as i64).max(1);
    for day in 0..days {
        let weekday = (from.floor() as i64 + day).rem_euclid(7);
        shares[weekday as usize] += 1.0 / days as f64;
    }
    shares
}

/// Forecasts the offset of an outcome window of `horizon` days that begins on the day `from`, in days since
/// 1970-01-01. Without observations the offset is 0.
pub fn forecast(observed: &[Observed], horizon: f64, from: f64) -> Forecast {
    let candidates: Vec<(f64, Forecast)> = Scales::grid(observed, horizon)
        .iter()
        .map(|scales| conditional(scales, observed, horizon, from))
        .collect();
    let greatest = candidates.iter().map(|(log, _)| *log).fold(f64::NEG_INFINITY, f64::max);
    let weight = |log: f64| (log - greatest).exp();
    let total: f64 = candidates.iter().map(|(log, _)| weight(*log)).sum();
    let mean = |value: &dyn Fn(&Forecast) -> f64| {
        candidates.iter().map(|(log, forecast)| weight(*log) * value(forecast)).sum::<f64>() / total
    };
    let offset = mean(&|forecast| forecast.offset);
    // The law of total variance.
    let variance = mean(&|f| f.error * f.error + (f.offset - offset) * (f.offset - offset));
    Forecast { offset, error: variance.sqrt() }
}

/// The forecast for given standard deviations, with the logarithm of their posterior density.
fn conditional(scales: &Scales, observed: &[Observed], horizon: f64, from: f64) -> (f64, Forecast) {
    let origin = observed.iter().map(|o| o.from).fold(from, f64::min);
    let own = scales.covariance(from, from, origin, horizon);
    let count = observed.len();
    if count == 0 {
        return (scales.log_prior(), Forecast { offset: 0.0, error: own.sqrt() });
    }
    let mut factor = Vec::with_capacity(count * count);
    for a in observed {
        for b in observed {
            // The same customers are in both samples, and what they do in the shared days is the same.
            let noise = (a.variance * b.variance).sqrt() * overlap(a.from, b.from, horizon);
            factor.push(scales.covariance(a.from, b.from, origin, horizon) + noise);
        }
    }
    cholesky::factor(&mut factor, count);
    let offsets: Vec<f64> = observed.iter().map(|o| o.offset).collect();
    let mut solved = offsets.clone();
    cholesky::substitute(&factor, &mut solved, count);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let log_determinant: f64 = (0..count).map(|i| factor[i * count + i].ln()).sum();
    let log_likelihood = -0.5 * dot(&offsets, &solved) - log_determinant;
    let shared: Vec<f64> =
        observed.iter().map(|o| scales.covariance(o.from, from, origin, horizon)).collect();
    let mut explained = shared.clone();
    cholesky::substitute(&factor, &mut explained, count);
    let variance = (own - dot(&shared, &explained)).max(0.0);
    let forecast = Forecast { offset: dot(&shared, &solved), error: variance.sqrt() };
    (log_likelihood + scales.log_prior(), forecast)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    fn normal(random: &mut ChaCha8Rng, deviation: f64) -> f64 {
        let z: f64 = StandardNormal.sample(random);
        deviation * z
    }

    /// The local level model by the Kalman filter (Durbin and Koopman 2012, section 2.2): the level and its variance
    /// after all observations, carried forward to the day `from`.
    fn filtered(observed: &[Observed], scales: &Scales, from: f64) -> (f64, f64) {
        let window = scales.window * scales.window;
        let (mut level, mut variance) = (0.0, LEVEL_VARIANCE);
        let mut day = observed[0].from;
        let moved = |days: f64| scales.walk * scales.walk * days / WALK_DAYS;
        for o in observed {
            variance += moved(o.from - day);
            day = o.from;
            let gain = variance / (variance + window + o.variance);
            level += gain * (o.offset - level);
            variance *= 1.0 - gain;
        }
        (level, variance + moved(from - day) + window)
    }

    #[test]
    fn the_forecast_is_that_of_the_kalman_filter() {
        let seed: u64 = rand::rng().random();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..20 {
            let mut day = 17_000.0;
            let observed: Vec<Observed> = (0..random.random_range(1..12))
                .map(|_| {
                    day += random.random_range(7.0..60.0);
                    let variance = random.random_range(0.001..0.1);
                    Observed { from: day, offset: normal(&mut random, 0.5), variance }
                })
                .collect();
            let [walk, window] = [0; 2].map(|_| random.random_range(0.0..1.0));
            let scales = Scales { walk, window, season: 0.0, weekday: 0.0 };
            let from = day + random.random_range(7.0..60.0);
            let (level, variance) = filtered(&observed, &scales, from);
            let (_, found) = conditional(&scales, &observed, 7.0, from);
            assert!((found.offset - level).abs() < 1e-9, "seed {seed}: {found:?}, {level}");
            assert!((found.error - variance.sqrt()).abs() < 1e-9, "seed {seed}: {found:?}");
        }
    }

    /// Draws offsets of windows of 30 days, one after the other, and the offset of the window after them.
    fn drawn(random: &mut ChaCha8Rng, walk: f64, window: f64) -> (Vec<Observed>, f64) {
        let mut level = normal(random, 1.0);
        let mut offset = |random: &mut ChaCha8Rng| {
            level += normal(random, walk);
            level + normal(random, window)
        };
        let observed = (0..8).map(|i| {
            let offset = offset(random) + normal(random, 0.05);
            Observed { from: 30.0 * f64::from(i), offset, variance: 0.05 * 0.05 }
        });
        let observed = observed.collect();
        (observed, offset(random))
    }

    /// Where windows differ by chance, pooling is better than the latest window, at best by a factor of 0.75. Where the
    /// level moves, it is hardly worse. The intervals of 95 % hold at least 85 % of the outcomes, although eight
    /// snapshots say little of how the level moves.
    #[test]
    fn the_forecast_is_at_least_as_good_as_the_latest_window() {
        let mut random = ChaCha8Rng::seed_from_u64(17);
        for (walk, window, most) in [(0.0, 0.3, 0.87), (0.3, 0.0, 1.1), (0.1, 0.3, 0.92)] {
            let (mut latest, mut pooled, mut within) = (0.0_f64, 0.0_f64, 0);
            for _ in 0..300 {
                let (observed, next) = drawn(&mut random, walk, window);
                let forecast = forecast(&observed, 30.0, 240.0);
                latest += (observed[7].offset - next).powi(2);
                pooled += (forecast.offset - next).powi(2);
                within += usize::from((forecast.offset - next).abs() < 1.96 * forecast.error);
            }
            let ratio = (pooled / latest).sqrt();
            assert!(ratio < most, "walk {walk}, window {window}: {ratio}");
            assert!(within > 255, "walk {walk}, window {window}: {within} of 300");
        }
    }

    #[test]
    fn one_snapshot_is_its_own_forecast() {
        let only = [Observed { from: 100.0, offset: 0.7, variance: 0.01 }];
        let forecast = forecast(&only, 30.0, 130.0);
        assert!((forecast.offset - 0.7).abs() < 0.01, "{forecast:?}");
        assert!(forecast.error > 0.1, "{forecast:?}");
        assert_eq!(super::forecast(&[], 30.0, 130.0).offset, 0.0);
    }

    /// A December that was high a year before is expected to be high again.
    #[test]
    fn the_season_of_a_year_before_counts() {
        let high = |day: f64| if (day - 340.0).abs() < 20.0 { 0.6 } else { 0.0 };
        let observed: Vec<Observed> = (0..22)
            .map(|i| 30.0 * f64::from(i))
            .map(|from| Observed { from, offset: high(from), variance: 0.0004 })
            .collect();
        let december = forecast(&observed, 30.0, 340.0 + 364.0);
        let november = forecast(&observed[..21], 30.0, 660.0);
        assert!(december.offset > 0.25, "{december:?}");
        assert!(november.offset < 0.15, "{november:?}");
    }

    /// Windows of one day are compared with those of the same weekday.
    #[test]
    fn weekdays_count_unless_windows_are_whole_weeks() {
        let on = |day: i32| if day % 7 < 2 { 0.8 } else { 0.0 };
        let observed: Vec<Observed> = (0..28)
            .map(|day| Observed { from: f64::from(day), offset: on(day), variance: 0.0004 })
            .collect();
        let at = |day: i32| forecast(&observed, 1.0, f64::from(day)).offset;
        assert!(at(28) > 0.6 && at(30) < 0.2, "{} {}", at(28), at(30));
    }
}
