//! The faults of tiny_http as published: the tests of `published.rs` with that crate behind them. Each
//! has to fail, so this is no part of `cargo test`: `tests/front_door/prove` runs it.
#![allow(clippy::unwrap_used, dead_code)]

#[path = "theirs.rs"]
mod door;
#[path = "published.rs"]
mod published;
#[path = "wire.rs"]
mod wire;
