//! One piece of a distributed tensor, inside of a rank's file.

use std::path::Path;

use super::{Chunk, plain};
use crate::checkpoint::Dtype;
use crate::checkpoint::error::OpenError;
use crate::checkpoint::place::Piece;
use crate::checkpoint::stretches::Stretches;
use crate::checkpoint::torch::{self, Found, TorchError};

/// Why a piece cannot be read, with what it is a piece of told by the caller.
pub(super) struct PieceError(TorchError);

impl PieceError {
    pub(super) fn at(self, path: &Path, piece: &str) -> OpenError {
        let about = |text: String| format!("{piece}: {text}");
        let error = match self.0 {
            TorchError::Short(text) => TorchError::Short(about(text)),
            TorchError::Malformed(text) => TorchError::Malformed(about(text)),
            TorchError::NotWeights(text) => TorchError::NotWeights(about(text)),
            TorchError::Open(error) => TorchError::Open(error),
        };
        error.at(path)
    }
}

/// Where the elements of a piece lie, or why its tensor is left out.
pub(super) fn of(
    stretches: &mut Stretches<'_>,
    file: usize,
    chunk: &Chunk,
    dtype: Dtype,
) -> Result<Result<Piece, String>, PieceError> {
    if chunk.is_transformed {
        return Ok(Err("its pieces are compressed, expected them as torch.save writes".to_owned()));
    }
    let end = chunk.offset.saturating_add(chunk.n_bytes);
    let mut fill =
        |at, buf: &mut [u8]| stretches.read_exact_at(file, buf, at).map_err(OpenError::of_read);
    let saved = torch::read(&mut fill, chunk.offset, end).map_err(PieceError)?;
    let malformed = |text: String| Err(PieceError(TorchError::Malformed(text)));
    let stated = match torch::lone_tensor(&saved) {
        Found::Tensor(stated) => stated,
        Found::LeftOut(why) => return Ok(Err(why)),
        Found::Contradiction(why) => return malformed(format!("found a tensor {why}")),
        Found::NoTensor => return malformed("found no tensor, expected one".to_owned()),
    };
    if stated.dtype != dtype || stated.shape != chunk.size {
        return malformed(format!(
            "found {:?} of {}, expected {:?} of {}",
            stated.shape,
            stated.dtype.name(),
            chunk.size,
            dtype.name()
        ));
    }
    let strides = match stated.strides.as_slice() {
        [] => plain(&chunk.size),
        strides => strides.into(),
    };
    let (corner, size) = (chunk.corner.clone().into(), chunk.size.clone().into());
    Ok(Ok(Piece { corner, size, strides, stored: stated.stored(file) }))
}
