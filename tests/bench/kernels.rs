//! Rates of what an analysis is made of: products, decompositions, reading, hashing.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use faer::linalg::matmul::matmul;
use faer::traits::ComplexField;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use weightvane::checkpoint::{self, Manifest};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::clock::Reading;
use crate::{Error, print, warm};

/// Runs of each kernel, of which the median counts.
const RUNS: usize = 5;
/// A run repeats its kernel until it has taken this long, so that the clock's grain does not show.
const LONG_ENOUGH: f64 = 0.02;
/// Bytes of a checkpoint that are read for a rate.
const ENOUGH_BYTES: u64 = 512 << 20;

pub(crate) fn measure(checkpoint: &Path) -> Result<(), Error> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    products(&mut rng)?;
    decompositions(&mut rng)?;
    bytes(checkpoint)
}

/// The rates that floors are made of.
pub(crate) fn rates(checkpoint: &Path) -> Result<(), Error> {
    square::<f32>("gemm f32", 2048, &mut ChaCha8Rng::seed_from_u64(1))?;
    bytes(checkpoint)
}

/// Median CPU-seconds of a kernel.
fn median(mut kernel: impl FnMut()) -> f64 {
    kernel();
    let mut times: Vec<f64> = (0..RUNS).map(|_| once(&mut kernel)).collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}

fn once(kernel: &mut impl FnMut()) -> f64 {
    let (start, mut runs) = (Reading::now(), 0.0);
    loop {
        kernel();
        runs += 1.0;
        let spent = start.elapsed().thread;
        if spent >= LONG_ENOUGH {
            return spent / runs;
        }
    }
}

/// Reports a kernel; `work` is its number of operations.
fn show(kernel: &str, shape: &str, seconds: f64, work: Option<f64>) -> io::Result<()> {
    print(&json!({
        "library": "weightvane",
        "kernel": kernel,
        "shape": shape,
        "seconds": seconds,
        "gflops": work.map(|w| w / seconds / 1e9),
    }))
}

/// A rate in bytes a second.
fn show_rate(kernel: &str, shape: &str, seconds: f64, n_bytes: u64) -> io::Result<()> {
    print(&json!({
        "library": "weightvane",
        "kernel": kernel,
        "shape": shape,
        "seconds": seconds,
        "gbytes": real(n_bytes) / seconds / 1e9,
    }))
}

#[expect(clippy::cast_precision_loss, reason = "counts of operations and bytes below 2^53")]
fn real(n: u64) -> f64 {
    n as f64
}

fn flops(m: usize, n: usize, k: usize) -> f64 {
    2.0 * real((m * n * k) as u64)
}

fn uniform<T: From<f32>>(rng: &mut ChaCha8Rng, n: usize) -> Vec<T> {
    (0..n).map(|_| T::from(rng.random_range(-1.0f32..1.0))).collect()
}

fn products(rng: &mut ChaCha8Rng) -> Result<(), Error> {
    for n in [768, 2048, 4096] {
        square::<f32>("gemm f32", n, rng)?;
    }
    for n in [768, 2048] {
        square::<f64>("gemm f64", n, rng)?;
    }
    // The weight is stored by rows, the blocks by columns, as in an analysis.
    let n = 4096;
    let values: Vec<f32> = uniform(rng, n * n);
    let w = MatRef::from_row_major_slice(&values, n, n);
    for l in [16, 32, 74] {
        let x: Vec<f32> = uniform(rng, n * l);
        let mut y = vec![0.0; n * l];
        let x = MatRef::from_column_major_slice(&x, n, l);
        for (kernel, w) in [("W·X f32", w), ("Wᵀ·Y f32", w.transpose())] {
            let seconds =
                median(|| multiply(MatMut::from_column_major_slice_mut(&mut y, n, l), w, x));
            show(kernel, &format!("{n}x{n}·{l}"), seconds, Some(flops(n, n, l)))?;
        }
    }
    Ok(())
}

fn square<T: ComplexField + From<f32>>(
    kernel: &str,
    n: usize,
    rng: &mut ChaCha8Rng,
) -> Result<(), Error> {
    let (a, b): (Vec<T>, Vec<T>) = (uniform(rng, n * n), uniform(rng, n * n));
    let a = MatRef::from_row_major_slice(&a, n, n);
    let b = MatRef::from_column_major_slice(&b, n, n);
    let mut c = Mat::<T>::zeros(n, n);
    let seconds = median(|| multiply(c.as_mut(), a, b));
    Ok(show(kernel, &n.to_string(), seconds, Some(flops(n, n, n)))?)
}

fn multiply<T: ComplexField>(c: MatMut<'_, T>, a: MatRef<'_, T>, b: MatRef<'_, T>) {
    matmul(c, Accum::Replace, a, b, T::one_impl(), Par::Seq);
}

fn decompositions(rng: &mut ChaCha8Rng) -> Result<(), Error> {
    for n in [64, 128, 512, 768] {
        let values: Vec<f64> = uniform(rng, n * n);
        let a = MatRef::from_column_major_slice(&values, n, n);
        let gram = a * a.transpose();
        let shape = n.to_string();
        let seconds = median(|| drop(black_box(a.singular_values())));
        show("svd values f64", &shape, seconds, None)?;
        let seconds = median(|| drop(black_box(a.thin_svd())));
        show("svd f64", &shape, seconds, None)?;
        let seconds = median(|| drop(black_box(gram.self_adjoint_eigenvalues(Side::Lower))));
        show("eigvalsh f64", &shape, seconds, None)?;
        let seconds = median(|| drop(black_box(gram.self_adjoint_eigen(Side::Lower))));
        show("eigh f64", &shape, seconds, None)?;
    }
    for (rows, cols) in [(768, 768), (768, 3072), (2048, 2048)] {
        let values: Vec<f32> = uniform(rng, rows * cols);
        let a = MatRef::from_row_major_slice(&values, rows, cols);
        let shape = if rows == cols { rows.to_string() } else { format!("{rows}x{cols}") };
        let seconds = once(&mut || drop(black_box(a.singular_values())));
        show("svd values f32", &shape, seconds, None)?;
    }
    let values: Vec<f32> = uniform(rng, 2048 * 2048);
    let a = MatRef::from_column_major_slice(&values, 2048, 2048);
    let gram = a * a.transpose();
    let seconds = once(&mut || drop(black_box(gram.self_adjoint_eigen(Side::Lower))));
    Ok(show("eigh f32", "2048", seconds, None)?)
}

/// Reading (page cache) and hashing, alone and together; all rates are of stored bytes.
fn bytes(path: &Path) -> Result<(), Error> {
    let manifest = checkpoint::open(path)?;
    warm(&manifest)?;
    let dtype = manifest.tensors.first().map_or(String::new(), |t| format!("{:?}", t.dtype));
    let (seconds, n) = read_tensors(&manifest)?;
    show_rate("read and decode", &dtype, seconds, n)?;
    let (seconds, n) = read_pieces(&manifest, |_| {})?;
    show_rate("read", "1 MiB", seconds, n)?;
    let mut hash = Xxh3::new();
    let (seconds, n) = read_pieces(&manifest, |piece| hash.update(piece))?;
    black_box(hash.digest128());
    show_rate("read and hash", "1 MiB", seconds, n)?;
    let piece = vec![7_u8; 1 << 20];
    let seconds = median(|| {
        black_box(xxh3_128(&piece));
    });
    Ok(show_rate("xxh3", "1 MiB", seconds, 1 << 20)?)
}

/// Tensors as the analysis reads them, decoded to `f32`.
fn read_tensors(manifest: &Manifest) -> Result<(f64, u64), Error> {
    let (start, mut n) = (Reading::now(), 0);
    for tensor in &manifest.tensors {
        black_box(manifest.read(tensor)?);
        n += tensor.n_bytes;
        if n >= ENOUGH_BYTES {
            break;
        }
    }
    Ok((start.elapsed().thread, n))
}

/// The same bytes through one small buffer.
fn read_pieces(manifest: &Manifest, mut each: impl FnMut(&[u8])) -> io::Result<(f64, u64)> {
    let mut buffer = vec![0; 1 << 20];
    let (start, mut at_all) = (Reading::now(), 0);
    for file in &manifest.files {
        let (file, mut at) = (File::open(&file.path)?, 0);
        loop {
            let n = file.read_at(&mut buffer, at)?;
            each(&buffer[..n]);
            at += n as u64;
            if n == 0 || at_all + at >= ENOUGH_BYTES {
                break;
            }
        }
        at_all += at;
        if at_all >= ENOUGH_BYTES {
            break;
        }
    }
    Ok((start.elapsed().thread, at_all))
}
