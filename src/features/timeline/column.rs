//! Columns of integers and texts as bytes.
//!
//! All integers of a column have the same width, which is the number of bytes that the widest one needs. Any
//! of them can be read without reading those before it.

use std::cmp::Ordering;

/// The error of bytes that are not a valid column.
///
/// Checksums of the store detect damaged files before, so the remaining cause is a file that a different
/// build of the program has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;

/// Appends a column of `values` to `out`: their number, the width in bytes, the minimum, and for each value
/// its difference from the minimum.
pub fn pack(values: &[i64], out: &mut Vec<u8>) {
    let base = values.iter().copied().min().unwrap_or(0);
    let above = |value: &i64| value.wrapping_sub(base) as u64;
    let widest = values.iter().map(above).max().unwrap_or(0);
    let width = (u64::BITS - widest.leading_zeros()).div_ceil(8) as usize;
    out.extend_from_slice(&(values.len() as u64).to_le_bytes());
    out.push(width as u8);
    out.extend_from_slice(&base.to_le_bytes());
    out.reserve(values.len() * width + 8);
    for value in values {
        out.extend_from_slice(&above(value).to_le_bytes()[..width]);
    }
    // Padding allows reading any value as eight bytes.
    out.extend_from_slice(&[0; 8]);
}

/// A column of integers.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    bytes: &'a [u8],
    count: usize,
    width: usize,
    mask: u64,
    base: i64,
}

impl<'a> Packed<'a> {
    /// Reads a column from the front of `bytes` and removes it from there.
    ///
    /// # Errors
    /// `Damaged` if the bytes are too short or the width is invalid.
    pub fn read(bytes: &mut &'a [u8]) -> Result<Self, Damaged> {
        let count = usize::try_from(u64::from_le_bytes(array(bytes)?)).map_err(|_| Damaged)?;
        let [width] = array(bytes)?;
        let base = i64::from_le_bytes(array(bytes)?);
        let width = usize::from(width);
        let length = count.checked_mul(width).and_then(|length| length.checked_add(8));
        let bytes = take(bytes, length.filter(|_| width <= 8).ok_or(Damaged)?)?;
        let mask = if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 };
        Ok(Self { bytes, count, width, mask, base })
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.count
    }

    /// The value at `index`, which must be less than [`Packed::len`].
    #[inline]
    pub fn get(&self, index: usize) -> i64 {
        let mut word = [0; 8];
        let start = index * self.width;
        word.copy_from_slice(&self.bytes[start..start + 8]);
        self.base.wrapping_add((u64::from_le_bytes(word) & self.mask) as i64)
    }

    /// All values in order.
    pub fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        (0..self.count).map(|index| self.get(index))
    }
}

/// A list of texts, stored one after another.
#[derive(Debug, Default)]
pub struct Texts {
    lengths: Vec<i64>,
    bytes: Vec<u8>,
}

impl Texts {
    /// Adds a text.
    pub fn push(&mut self, text: &[u8]) {
        self.lengths.push(text.len() as i64);
        self.bytes.extend_from_slice(text);
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Appends the number of texts to `out`, followed by each text with its length. Numbers are written by
    /// [`write_varint`].
    pub fn write_short(&self, out: &mut Vec<u8>) {
        write_varint(self.len() as u64, out);
        let mut rest = self.bytes.as_slice();
        for length in &self.lengths {
            let (text, later) = rest.split_at(*length as usize);
            write_varint(text.len() as u64, out);
            out.extend_from_slice(text);
            rest = later;
        }
    }

    /// Appends the texts to `out` as a column that [`TextColumn::read`] reads.
    pub fn write(&self, out: &mut Vec<u8>) {
        pack(&self.lengths, out);
        out.extend_from_slice(&self.bytes);
    }
}

/// A column of texts.
#[derive(Debug, Clone)]
pub struct TextColumn<'a> {
    /// The offset of the start of each text, and the offset of the end of the last one.
    starts: Vec<usize>,
    bytes: &'a [u8],
}

impl<'a> TextColumn<'a> {
    /// Reads a column from the front of `bytes` and removes it from there.
    ///
    /// # Errors
    /// `Damaged` if the bytes are too short.
    pub fn read(bytes: &mut &'a [u8]) -> Result<Self, Damaged> {
        let lengths = Packed::read(bytes)?;
        let mut starts = Vec::with_capacity(lengths.len() + 1);
        let mut end = 0_usize;
        starts.push(end);
        for length in lengths.iter() {
            let length = usize::try_from(length).map_err(|_| Damaged)?;
            end = end.checked_add(length).ok_or(Damaged)?;
            starts.push(end);
        }
        Ok(Self { starts, bytes: take(bytes, end)? })
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The text at `index`, which must be less than [`TextColumn::len`].
    pub fn get(&self, index: usize) -> &'a [u8] {
        &self.bytes[self.starts[index]..self.starts[index + 1]]
    }

    /// Searches for `text` in a column that is sorted in ascending order, and returns its index.
    pub fn find(&self, text: &[u8]) -> Option<usize> {
        let mut range = 0..self.len();
        while !range.is_empty() {
            let middle = range.start + range.len() / 2;
            match self.get(middle).cmp(text) {
                Ordering::Equal => return Some(middle),
                Ordering::Less => range.start = middle + 1,
                Ordering::Greater => range.end = middle,
            }
        }
        None
    }
}

/// Appends a number with seven bits per byte, the lowest bits first.
pub fn write_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 128 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a number that [`write_varint`] has written from the front of `bytes`.
///
/// # Errors
/// `Damaged` if the bytes end before the number does, or the number is too long.
pub fn read_varint(bytes: &mut &[u8]) -> Result<u64, Damaged> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let [byte] = array(bytes)?;
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Ok(number);
        }
    }
    Err(Damaged)
}

/// Takes `count` bytes from the front of `bytes`.
///
/// # Errors
/// `Damaged` if there are fewer bytes.
pub fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Damaged> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(Damaged)?;
    *bytes = rest;
    Ok(taken)
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Damaged> {
    take(bytes, N)?.try_into().map_err(|_| Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_whatever_their_width() {
        let cases: [&[i64]; 8] = [
            &[],
            &[7, 7, 7],
            &[0, 255],
            &[-1, 256],
            &[i64::MIN, 0, i64::MAX],
            &[1_719_792_000_000_000, 1_656_633_600_000_001],
            &[i64::MIN],
            &[-5, 1 << 40, 3],
        ];
        for values in cases {
            let mut bytes = Vec::new();
            pack(values, &mut bytes);
            bytes.push(9);
            let mut rest = bytes.as_slice();
            let column = Packed::read(&mut rest).unwrap();
            assert_eq!(column.iter().collect::<Vec<_>>(), values);
            assert_eq!(rest, [9]);
            assert_eq!(Packed::read(&mut &bytes[..bytes.len() - 2]).err(), Some(Damaged));
        }
    }

    #[test]
    fn short_and_long_numbers_come_back() {
        for number in [0, 1, 127, 128, 300, 1 << 40, u64::MAX] {
            let mut bytes = Vec::new();
            write_varint(number, &mut bytes);
            assert_eq!(read_varint(&mut bytes.as_slice()), Ok(number));
            assert_eq!(read_varint(&mut &bytes[..bytes.len() - 1]), Err(Damaged));
        }
        assert_eq!(read_varint(&mut &[255; 11][..]), Err(Damaged));
    }

    #[test]
    fn texts_come_back() {
        let mut texts = Texts::default();
        for text in ["", "a", "später", ""] {
            texts.push(text.as_bytes());
        }
        let mut bytes = Vec::new();
        texts.write(&mut bytes);
        let column = TextColumn::read(&mut bytes.as_slice()).unwrap();
        let found: Vec<&[u8]> = (0..column.len()).map(|i| column.get(i)).collect();
        assert_eq!(found, [&b""[..], b"a", "später".as_bytes(), b""]);
        assert_eq!(TextColumn::read(&mut &bytes[..bytes.len() - 1]).err(), Some(Damaged));
    }
}
