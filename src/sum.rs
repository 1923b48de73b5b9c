//! Exact sums of doubles. A sum depends neither on the order of the values nor on how they were split:
//! merging the sums of all shards gives the sum of all values.

/// The number of bits per digit.
const BITS: usize = 32;
/// The number of digits, enough for every double from 2^-1074 up and for more than 2^64 of the greatest one.
const DIGITS: usize = 68;
/// The number of additions after which carries are propagated, before a digit can overflow.
const ADDITIONS: u32 = 1 << 30;

/// A sum in fixed point that is wide enough for every double (a long accumulator after Kulisch, Computer
/// Arithmetic and Validity, 2008).
#[derive(Debug, Clone, PartialEq)]
pub struct ExactSum {
    /// The digits of the sum: digit i counts 2^(32 i - 1074).
    digits: [i64; DIGITS],
    additions: u32,
    /// The sum of the values that are not finite.
    special: f64,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self { digits: [0; DIGITS], additions: 0, special: 0.0 }
    }
}

impl ExactSum {
    /// Adds a value to the sum.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.special += value;
            return;
        }
        let bits = value.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as usize;
        let fraction = bits & ((1 << 52) - 1);
        let mantissa = if exponent == 0 { fraction } else { fraction | 1 << 52 };
        let shift = exponent.max(1) - 1;
        let wide = u128::from(mantissa) << (shift % BITS);
        for place in 0..3 {
            let digit = (wide >> (place * BITS)) as u32;
            let digit = i64::from(digit);
            self.digits[shift / BITS + place] += if value < 0.0 { -digit } else { digit };
        }
        self.additions += 1;
        if self.additions >= ADDITIONS {
            self.carry();
        }
    }

    /// Adds another sum to this one.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        other.carry();
        self.carry();
        self.digits.iter_mut().zip(other.digits).for_each(|(digit, more)| *digit += more);
        self.special += other.special;
        self.carry();
    }

    /// The sum, rounded once to the nearest double.
    pub fn value(&self) -> f64 {
        if self.special != 0.0 || self.special.is_nan() {
            return self.special;
        }
        let mut sum = self.clone();
        sum.carry();
        let is_negative = sum.digits[DIGITS - 1] < 0;
        if is_negative {
            sum.digits.iter_mut().for_each(|digit| *digit = -*digit);
            sum.carry();
        }
        let magnitude = sum.magnitude();
        if is_negative { -magnitude } else { magnitude }
    }

    /// The value of the digits, none of which may be negative.
    fn magnitude(&self) -> f64 {
        let Some(top) = self.digits.iter().rposition(|digit| *digit != 0) else { return 0.0 };
        // The leading digits, which contain all 53 bits of a double, and whether a lower digit is not zero.
        let low = top.saturating_sub(3);
        let mut leading = 0_u128;
        for digit in self.digits[low..=top].iter().rev() {
            leading = leading << BITS | *digit as u128;
        }
        let is_more = self.digits[..low].iter().any(|digit| *digit != 0);
        // A bit below all bits that decide on rounding stands for the lower digits.
        let leading = if is_more { leading | 1 } else { leading };
        // The conversion from u128 to a double rounds once. Scaling by a power of two is exact unless the
        // result is subnormal, and then all digits are among the leading ones and nothing was rounded.
        scale(leading as f64, (BITS * low) as i32 - 1074)
    }

    /// Brings every digit except the last into the range from 0 to 2^32 - 1.
    fn carry(&mut self) {
        let mut carry = 0;
        for digit in &mut self.digits[..DIGITS - 1] {
            let sum = *digit + carry;
            carry = sum >> BITS;
            *digit = sum & ((1 << BITS) - 1);
        }
        self.digits[DIGITS - 1] += carry;
        self.additions = 0;
    }
}

/// Returns `value` times 2^`power`, in steps that do not leave the range of exponents.
fn scale(value: f64, power: i32) -> f64 {
    let half = power / 2;
    value * 2_f64.powi(half) * 2_f64.powi(power - half)
}

#[cfg(test)]
mod tests {
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn sum(values: &[f64]) -> f64 {
        let mut sum = ExactSum::default();
        values.iter().for_each(|value| sum.add(*value));
        sum.value()
    }

    /// Reference values: `math.fsum` of Python 3, which also rounds the exact sum once.
    #[test]
    fn sums_are_rounded_once() {
        assert_eq!(sum(&[]), 0.0);
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[1e308, 1.0, -1e308]), 1.0);
        assert_eq!(sum(&[1e16, 1.0, 1e-16]), 10_000_000_000_000_002.0);
        assert_eq!(sum(&[-0.1, -0.2, -0.3]), -0.6);
        assert_eq!(sum(&[5e-324, 5e-324]), 1e-323);
        assert_eq!(sum(&[1.0, 2_f64.powi(-53), 2_f64.powi(-106)]), 1.0000000000000002);
        assert_eq!(sum(&[1.5, f64::INFINITY]), f64::INFINITY);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    }

    #[test]
    fn neither_order_nor_split_matters() {
        let seed = 11;
        println!("seed {seed}");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..200 {
            let value = |random: &mut ChaCha8Rng| {
                let magnitude = 10_f64.powi(random.random_range(-30..30));
                random.random_range(-1.0..1.0) * magnitude
            };
            let mut values: Vec<f64> = (0..100).map(|_| value(&mut random)).collect();
            let expected = sum(&values);
            values.shuffle(&mut random);
            assert_eq!(sum(&values), expected);
            let mut merged = ExactSum::default();
            for part in values.chunks(random.random_range(1..40)) {
                let mut own = ExactSum::default();
                part.iter().for_each(|value| own.add(*value));
                merged.merge(&own);
            }
            assert_eq!(merged.value(), expected);
            // The same check for whole numbers, which i128 sums exactly.
            let whole: Vec<i64> =
                (0..100).map(|_| random.random_range(-(1 << 53)..1 << 53)).collect();
            let exact: i128 = whole.iter().map(|value| i128::from(*value)).sum();
            let doubles: Vec<f64> = whole.iter().map(|value| *value as f64).collect();
            assert_eq!(sum(&doubles), exact as f64);
        }
    }
}
