//! What a checkpoint's tensors are: roles, adjacent pairs, heads. Names, shapes and rules only; no
//! bytes, no I/O, no clock.
