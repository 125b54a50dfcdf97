//! What stands in for the client in a program that was built without it.

use std::io;
use std::ops::Range;

use super::place::Place;
use super::{Entry, RemoteError, Stat};

fn none<T>() -> Result<T, RemoteError> {
    let words = "this program was built without object stores (cargo feature object-stores)";
    Err(RemoteError::refused(io::ErrorKind::Unsupported, words))
}

pub(super) fn head(_: &Place) -> Result<Stat, RemoteError> {
    none()
}

pub(super) fn list(_: &Place, _: usize) -> Result<Vec<Entry>, RemoteError> {
    none()
}

pub(super) fn list_all(_: &Place, _: usize) -> Result<Option<Vec<(String, Stat)>>, RemoteError> {
    none()
}

pub(super) fn read(
    _: &Place,
    _: Range<u64>,
    _: Option<&Stat>,
) -> Result<(Stat, Vec<u8>), RemoteError> {
    none()
}
