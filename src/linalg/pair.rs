//! A writer and a reader, checked, scaled, and what is exact of them at any size.

use faer::MatRef;

use super::LinalgError;
use super::dense::{Scaled, exponent, max_abs, pow2, ratio};

/// A writer and a reader that share the space R^m.
#[derive(Debug, Clone, Copy)]
pub struct PairMatrices<'a> {
    /// `W1`, m × n.
    pub writer: MatRef<'a, f32>,
    /// `W2`, p × m.
    pub reader: MatRef<'a, f32>,
    /// Bias on the writer's side of the conservation law: one or more columns of length m, one
    /// after the other, that count as further columns of `W1`.
    pub writer_bias: Option<&'a [f32]>,
    /// The same for the reader: further rows of `W2`.
    pub reader_bias: Option<&'a [f32]>,
}

/// The pair, checked and scaled, with what every route needs exactly.
pub(super) struct Prepared<'a> {
    /// Transposed writer, n × m, so that both Grams are `WᵀW`.
    pub(super) writer: Scaled<'a>,
    pub(super) reader: Scaled<'a>,
    /// What A and B are multiplied with to stand in the common unit.
    pub(super) unit_a: f64,
    pub(super) unit_b: f64,
    /// Exponent of the common unit of gaps: they are in units of 4^exponent.
    pub(super) exponent: i32,
    pub(super) writer_diagonal: Vec<f64>,
    pub(super) reader_diagonal: Vec<f64>,
    pub(super) trace_a: f64,
    pub(super) trace_b: f64,
    pub(super) writer_bias: Vec<Vec<f64>>,
    pub(super) reader_bias: Vec<Vec<f64>>,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(pair: &PairMatrices<'a>) -> Result<Self, LinalgError> {
        let m = pair.writer.nrows();
        let expect = |what, found: usize, fits: bool| {
            if fits { Ok(()) } else { Err(LinalgError::Shape { what, found, expected: m }) }
        };
        expect("reader's input", pair.reader.ncols(), pair.reader.ncols() == m)?;
        let writer_bias = pair.writer_bias.unwrap_or_default();
        let reader_bias = pair.reader_bias.unwrap_or_default();
        let fits = |bias: &[f32]| bias.is_empty() || (m > 0 && bias.len().is_multiple_of(m));
        expect("writer's bias", writer_bias.len(), fits(writer_bias))?;
        expect("reader's bias", reader_bias.len(), fits(reader_bias))?;

        let writer = Scaled::new(pair.writer)?.transpose();
        let reader = Scaled::new(pair.reader)?;
        let mut common = writer.exponent.max(reader.exponent);
        let bias_max = max_abs(writer_bias.iter().chain(reader_bias))?;
        if bias_max > 0.0 {
            common = common.max(exponent(bias_max));
        }
        let columns = |bias: &[f32]| -> Vec<Vec<f64>> {
            let unit = pow2(-common);
            bias.chunks(m.max(1))
                .map(|c| c.iter().map(|b| f64::from(*b) * unit).collect())
                .collect()
        };
        let (reader_diagonal, writer_diagonal) = (reader.column_squares(), writer.column_squares());
        Ok(Self {
            unit_a: pow2(2 * (reader.exponent - common)),
            unit_b: pow2(2 * (writer.exponent - common)),
            exponent: common,
            trace_a: reader_diagonal.iter().sum(),
            trace_b: writer_diagonal.iter().sum(),
            writer_bias: columns(writer_bias),
            reader_bias: columns(reader_bias),
            writer,
            reader,
            writer_diagonal,
            reader_diagonal,
        })
    }

    pub(super) fn dim(&self) -> usize {
        self.reader.cols()
    }

    /// Factors that normalise the traces; 0 keeps a zero Gram zero.
    pub(super) fn shape_units(&self) -> (f64, f64) {
        (ratio(1.0, self.trace_a).unwrap_or(0.0), ratio(1.0, self.trace_b).unwrap_or(0.0))
    }

    /// Diagonal of A − B in the common unit, with or without the bias terms.
    pub(super) fn diagonal_gap(&self, with_bias: bool) -> Vec<f64> {
        let squares = |bias: &[Vec<f64>], i: usize| -> f64 {
            if with_bias { bias.iter().map(|b| b[i] * b[i]).sum() } else { 0.0 }
        };
        (0..self.dim())
            .map(|i| {
                self.unit_a * self.reader_diagonal[i] - self.unit_b * self.writer_diagonal[i]
                    + squares(&self.reader_bias, i)
                    - squares(&self.writer_bias, i)
            })
            .collect()
    }

    /// What the bias terms add to ‖A − B‖², in the common unit:
    /// `2⟨A − B, R − W⟩ + ‖R − W‖²` with `R = b_r b_rᵀ`, `W = b_w b_wᵀ`.
    pub(super) fn bias_terms(&self) -> f64 {
        let signed = || {
            let reader = self.reader_bias.iter().map(|b| (1.0, b));
            reader.chain(self.writer_bias.iter().map(|b| (-1.0, b)))
        };
        signed()
            .map(|(sign, b)| {
                let column = MatRef::from_column_major_slice(b.as_slice(), b.len(), 1);
                let along_a = self.unit_a * self.reader.times(column).squared_norm_l2();
                let along_b = self.unit_b * self.writer.times(column).squared_norm_l2();
                let mutual: f64 = signed().map(|(other, c)| other * dot(b, c).powi(2)).sum();
                sign * (2.0 * (along_a - along_b) + mutual)
            })
            .sum()
    }

    /// The gap of the scaled moments in the unit of the input.
    pub(super) fn unscale_gap(&self, gap: f64) -> f64 {
        gap.sqrt() * pow2(2 * self.exponent)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

pub(super) fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}
