//! tiny_http as published, with the joints of `host.patch` and `threads.patch`: it listens,
//! accepts and has the threads; what is said on a connection is its host's business.
//!
//! The source is not in this repository. `build.rs` takes it from where cargo keeps it.
#![forbid(unsafe_code)]
// It is somebody else's code.
#![allow(warnings, clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/tiny_http/lib.rs"));
