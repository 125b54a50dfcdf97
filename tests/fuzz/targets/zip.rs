#![no_main]

#[path = "../src/targets.rs"]
mod targets;

static BENCH: std::sync::LazyLock<targets::Bench> = std::sync::LazyLock::new(targets::Bench::new);

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::feed("zip", &BENCH, data));
