//! A small network trained here, so that the daemon has real checkpoints to watch.
//!
//! Nothing is staged: digit-like images, a bias-free multilayer perceptron, plain gradient descent
//! in f64, and saves in the layout of the Hugging Face Trainer. What theory says of such a training
//! (DIAGNOSTICS §3.e) therefore holds in its checkpoints, and `tests/it/physics.rs` measures it.

pub mod data;
pub mod fault;
pub mod job;
pub mod network;
pub mod pace;
pub mod save;
pub mod train;
