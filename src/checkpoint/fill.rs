//! How parsers ask for bytes.

use super::error::OpenError;

/// Fills a buffer from a place in a file.
pub(super) type Fill<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), OpenError> + 'a;
