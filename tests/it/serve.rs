//! The built program, started as its users start it: against directories that trainers write,
//! rotate, break and remove.

mod backfill;
mod client;
mod commands;
mod confined;
mod demo;
mod discovery;
mod disk;
mod ended;
mod explains;
mod kills;
mod labels;
mod lifecycle;
mod many;
mod objects;
mod pins;
mod process;
mod reference;
mod removal;
mod restart;
mod saves;
mod service;
mod shards;
mod slurm;
mod sockets;
mod store;
mod torn;
mod trainers;
mod untouched;
mod web;
