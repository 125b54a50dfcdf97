//! A writer and a reader, checked, scaled, and what is exact of them at any size.

use faer::MatRef;

use super::dense::{Scaled, exponent, max_abs, pow2, ratio};
use super::{LinalgError, Linear, Panels, Side};

/// ‖A₀‖²‖B₀‖² must exceed this fraction of ‖A‖²‖B‖²; below, one Gram is a multiple of the identity
/// up to rounding and has no orientation.
const ISOTROPIC: f64 = 1e-28;

/// The same of products in `f32`.
const ISOTROPIC_PRODUCTS: f64 = 1e-24;

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

/// A writer and a reader known by their products with vectors, however large.
#[derive(Debug, Clone, Copy)]
pub struct PairOperators<'a> {
    /// `W1`, m × n.
    pub writer: &'a Linear<'a>,
    /// `W2`, p × m.
    pub reader: &'a Linear<'a>,
    /// As [`PairMatrices::writer_bias`], in the units of the stored weights.
    pub writer_bias: Option<&'a [f32]>,
    /// As [`PairMatrices::reader_bias`].
    pub reader_bias: Option<&'a [f32]>,
    /// Leading left singular vectors of the writer, m × a, the first ones first. The better they
    /// are, the smaller the standard errors; the estimates stay unbiased whatever stands here.
    pub writer_leading: MatRef<'a, f32>,
    /// Singular values of the writer, descending, in any unit: those of the leading vectors and, if
    /// known, what follows.
    pub writer_values: &'a [f64],
    /// Leading right singular vectors of the reader, m × b.
    pub reader_leading: MatRef<'a, f32>,
    /// Singular values of the reader.
    pub reader_values: &'a [f64],
}

/// The pair's matrices, checked and scaled.
pub(super) struct Prepared<'a> {
    /// Transposed writer, n × m, so that both Grams are `WᵀW`.
    pub(super) writer: Scaled<'a>,
    pub(super) reader: Scaled<'a>,
    pub(super) known: Known,
}

/// What is exact of a pair on every route, without a Gram.
pub(super) struct Known {
    /// Powers of two the scaled matrices leave out.
    pub(super) reader_exponent: i32,
    pub(super) writer_exponent: i32,
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
    /// ‖A₀‖²‖B₀‖²/(‖A‖²‖B‖²) from which on the Grams have an orientation.
    pub(super) isotropic: f64,
}

fn expect(what: &'static str, found: usize, expected: usize) -> Result<(), LinalgError> {
    if found == expected { Ok(()) } else { Err(LinalgError::Shape { what, found, expected }) }
}

impl<'a> Prepared<'a> {
    pub(super) fn new(pair: &PairMatrices<'a>) -> Result<Self, LinalgError> {
        expect("reader's input", pair.reader.ncols(), pair.writer.nrows())?;
        let writer = Scaled::new(pair.writer)?.transpose();
        let reader = Scaled::new(pair.reader)?;
        let known = Known::new(
            (writer.exponent, writer.column_squares()),
            (reader.exponent, reader.column_squares()),
            pair.writer_bias.unwrap_or_default(),
            pair.reader_bias.unwrap_or_default(),
        )?;
        Ok(Self { writer, reader, known })
    }

    /// What the bias terms add to ‖A − B‖², in the common unit:
    /// `2⟨A − B, R − W⟩ + ‖R − W‖²` with `R = b_r b_rᵀ`, `W = b_w b_wᵀ`.
    pub(super) fn bias_terms(&self) -> f64 {
        self.known
            .signed_biases()
            .map(|(sign, b)| {
                let column = MatRef::from_column_major_slice(b, b.len(), 1);
                let along_a = self.known.unit_a * self.reader.times(column).squared_norm_l2();
                let along_b = self.known.unit_b * self.writer.times(column).squared_norm_l2();
                let others = self.known.signed_biases();
                let mutual: f64 = others.map(|(other, c)| other * dot(b, c).powi(2)).sum();
                sign * (2.0 * (along_a - along_b) + mutual)
            })
            .sum()
    }
}

impl Known {
    /// From the exponents of writer and reader, the diagonals of their scaled Grams and the biases.
    fn new(
        (writer_exponent, writer_diagonal): (i32, Vec<f64>),
        (reader_exponent, reader_diagonal): (i32, Vec<f64>),
        writer_bias: &[f32],
        reader_bias: &[f32],
    ) -> Result<Self, LinalgError> {
        let m = writer_diagonal.len();
        let fits = |bias: &[f32]| bias.is_empty() || (m > 0 && bias.len().is_multiple_of(m));
        for (what, bias) in [("writer's bias", writer_bias), ("reader's bias", reader_bias)] {
            if !fits(bias) {
                return Err(LinalgError::Shape { what, found: bias.len(), expected: m });
            }
        }
        let mut common = writer_exponent.max(reader_exponent);
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
        Ok(Self {
            reader_exponent,
            writer_exponent,
            unit_a: pow2(2 * (reader_exponent - common)),
            unit_b: pow2(2 * (writer_exponent - common)),
            exponent: common,
            trace_a: reader_diagonal.iter().sum(),
            trace_b: writer_diagonal.iter().sum(),
            writer_bias: columns(writer_bias),
            reader_bias: columns(reader_bias),
            writer_diagonal,
            reader_diagonal,
            isotropic: ISOTROPIC,
        })
    }

    /// The same of a pair known by products; shapes are checked.
    pub(super) fn of_operators(pair: &PairOperators<'_>) -> Result<Self, LinalgError> {
        let m = pair.writer.rows();
        expect("reader's input", pair.reader.cols(), m)?;
        expect("writer's leading vectors", pair.writer_leading.nrows(), m)?;
        expect("reader's leading vectors", pair.reader_leading.nrows(), m)?;
        let known = Self::new(
            (pair.writer.exponent(), pair.writer.gram_diagonal(Side::Left)?),
            (pair.reader.exponent(), pair.reader.gram_diagonal(Side::Right)?),
            pair.writer_bias.unwrap_or_default(),
            pair.reader_bias.unwrap_or_default(),
        )?;
        Ok(Self { isotropic: ISOTROPIC_PRODUCTS, ..known })
    }

    pub(super) fn dim(&self) -> usize {
        self.reader_diagonal.len()
    }

    /// Columns of the biases in the common unit, the reader's with +1, the writer's with −1.
    pub(super) fn signed_biases(&self) -> impl Iterator<Item = (f64, &[f64])> {
        let reader = self.reader_bias.iter().map(|b| (1.0, b.as_slice()));
        reader.chain(self.writer_bias.iter().map(|b| (-1.0, b.as_slice())))
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

    /// The gap of the scaled moments in the unit of the input.
    pub(super) fn unscale_gap(&self, gap: f64) -> f64 {
        gap.sqrt() * pow2(2 * self.exponent)
    }
}

/// A matrix at hand, scaled: its products then go the way of those that are read.
impl Panels for Scaled<'_> {
    fn rows(&self) -> usize {
        Scaled::rows(self)
    }

    fn cols(&self) -> usize {
        Scaled::cols(self)
    }

    fn for_panels(
        &self,
        n_rows: usize,
        each: &mut dyn FnMut(usize, MatRef<'_, f32>),
    ) -> Result<(), LinalgError> {
        let mut rows: Vec<f32> = Vec::new();
        Scaled::for_panels(self, n_rows, |first, panel| {
            rows.clear();
            rows.extend(panel.row_iter().flat_map(|row| row.iter().map(|x| narrow(*x))));
            each(first, MatRef::from_row_major_slice(&rows, panel.nrows(), panel.ncols()));
        });
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an f32 times a power of two")]
fn narrow(x: f64) -> f32 {
    x as f32
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

pub(super) fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}
