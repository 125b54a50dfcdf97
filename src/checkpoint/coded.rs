//! From stored elements to those of the tensor's type, whatever the coding.

use super::error::ReadError;
use super::inflate::{InflateError, Inflater};
use super::place::{BLOCK_Q8_0, Coding, Deflated, N_BLOCK_Q8_0, Stored};
use super::stretches::Stretches;

/// What reading leaves behind for the next read: a stream that was inflated so far.
#[derive(Default)]
pub(super) struct Decoder {
    inflater: Option<(usize, Inflater)>,
}

impl Decoder {
    /// Stored elements from number `first` on, as the tensor's type has them: `width` bytes each,
    /// the least significant first.
    pub(super) fn read(
        &mut self,
        stretches: &mut Stretches<'_>,
        stored: Stored,
        (first, width): (usize, usize),
        bytes: &mut [u8],
    ) -> Result<(), ReadError> {
        let at = (first as u64).saturating_mul(width as u64);
        match stored.coding {
            Coding::Little | Coding::Big => {
                stretches.read_exact_at(stored.file, bytes, stored.offset.saturating_add(at))?;
            }
            Coding::Q8_0 => q8_0(stretches, stored, first, bytes)?,
            Coding::Deflated(Deflated { n_before, .. }) => {
                self.inflate(stretches, stored, n_before.saturating_add(at), bytes)?;
            }
        }
        if matches!(stored.coding, Coding::Big | Coding::Deflated(Deflated { is_big: true, .. })) {
            bytes.chunks_mut(width.max(1)).for_each(<[u8]>::reverse);
        }
        Ok(())
    }

    fn inflate(
        &mut self,
        stretches: &mut Stretches<'_>,
        stored: Stored,
        at: u64,
        bytes: &mut [u8],
    ) -> Result<(), ReadError> {
        let Stored { file, offset, n_bytes, .. } = stored;
        let known = self.inflater.take();
        let known = known.filter(|(of, stream)| *of == file && stream.is_of(offset, n_bytes));
        let (_, inflater) =
            self.inflater.insert(known.unwrap_or((file, Inflater::new(offset, n_bytes))));
        let mut fill = |at, buf: &mut [u8]| stretches.read_exact_at(file, buf, at);
        inflater.read(&mut fill, at, bytes).map_err(|error| match error {
            InflateError::Source(error) => error,
            InflateError::Broken => {
                let path = stretches.path(file);
                ReadError::Broken { path, offset }
            }
        })
    }
}

/// Elements of blocks of a scale and 32 signed bytes. The product of 11 and 8 bits is exact.
fn q8_0(
    stretches: &mut Stretches<'_>,
    stored: Stored,
    first: usize,
    bytes: &mut [u8],
) -> Result<(), ReadError> {
    let n_elements = bytes.len() / 4;
    let (block, end) = (first / BLOCK_Q8_0, first.saturating_add(n_elements));
    let n_blocks = end.div_ceil(BLOCK_Q8_0).saturating_sub(block);
    let mut blocks = vec![0; n_blocks.saturating_mul(N_BLOCK_Q8_0)];
    let at = (block as u64).saturating_mul(N_BLOCK_Q8_0 as u64);
    stretches.read_exact_at(stored.file, &mut blocks, stored.offset.saturating_add(at))?;
    let values = blocks.as_chunks::<N_BLOCK_Q8_0>().0.iter().flat_map(|[low, high, codes @ ..]| {
        let scale = half::f16::from_le_bytes([*low, *high]).to_f32();
        codes.iter().map(move |code| scale * f32::from(code.cast_signed()))
    });
    let into = bytes.as_chunks_mut().0;
    for (value, into) in values.skip(first % BLOCK_Q8_0).zip(into) {
        *into = value.to_le_bytes();
    }
    Ok(())
}
