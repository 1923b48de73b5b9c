//! Seconds to fit a logistic regression, beside scikit-learn's on the same rows.
//!
//! usage: python3 benches/logistic.py /tmp/rows.bin && cargo bench --bench logistic -- /tmp/rows.bin

use std::time::Instant as Clock;

use c360_ml::models::logistic::Logistic;
use c360_ml::models::logit::sigmoid;
use c360_ml::models::matrix::Matrix;
use c360_ml::models::newton::Objective;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // cargo adds --bench to the arguments of every bench.
    let Some(path) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        println!("usage: cargo bench --bench logistic -- ROWS_FILE");
        return Ok(());
    };
    let (rows, labels) = read(&std::fs::read(path)?)?;
    // scikit-learn's C = 1 is this penalty per row.
    let l2 = 1.0 / labels.len() as f64;
    for _ in 0..3 {
        let begun = Clock::now();
        let objective = Objective { rows: &rows, labels: &labels, class_weights: [1.0; 2], l2 };
        let model = Logistic::fit(objective, None)?;
        let seconds = begun.elapsed().as_secs_f64();
        let logits = model.logits(&rows);
        let loss = logits.iter().zip(&labels).map(|(z, y)| {
            let p = sigmoid(*z);
            -if *y { p.ln() } else { (1.0 - p).ln() }
        });
        let loss = loss.sum::<f64>() / labels.len() as f64;
        println!(
            "{} rows x {} columns: {seconds:.2} s, log loss {loss:.9}, coefficients {:.6?} …",
            labels.len(),
            rows.width,
            &model.coefficients[..3.min(rows.width)]
        );
    }
    Ok(())
}

/// Rows and columns as 64-bit integers, the values row after row as doubles, a byte per label.
fn read(bytes: &[u8]) -> Result<(Matrix, Vec<bool>), Box<dyn std::error::Error>> {
    let number = |at: usize| -> Result<[u8; 8], std::array::TryFromSliceError> {
        bytes[at..at + 8].try_into()
    };
    let (count, width) =
        (u64::from_le_bytes(number(0)?) as usize, u64::from_le_bytes(number(8)?) as usize);
    let values: Result<Vec<f64>, _> =
        (0..count * width).map(|i| number(16 + 8 * i).map(f64::from_le_bytes)).collect();
    let labels = bytes[16 + 8 * count * width..].iter().map(|byte| *byte == 1).collect();
    Ok((Matrix::of(width, values?, count), labels))
}
