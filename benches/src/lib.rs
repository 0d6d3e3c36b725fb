//! Benchmarks of the stores: `cargo bench -p pgqrs-bench`.
//!
//! This package depends on every backend, so the code of the README is compiled here too.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
