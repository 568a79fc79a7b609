//! tiny_http as published, with the patches `host.patch` and `threads.patch`: it listens, accepts
//! and starts the threads. Its host serves each connection.
//!
//! The source is not in this repository. `build.rs` takes it from where cargo keeps it.
#![forbid(unsafe_code)]
// not our code
#![allow(warnings, clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/tiny_http/lib.rs"));
