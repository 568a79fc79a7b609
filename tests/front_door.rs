//! The front door over loopback sockets: each fault of tiny_http as published, and what it lacks.
//! `front_door/README.md` says how the published crate does in each test.
#![allow(clippy::unwrap_used)] // a test may panic

#[path = "front_door/added.rs"]
mod added;
#[path = "front_door/ours.rs"]
mod door;
#[path = "front_door/published.rs"]
mod published;
#[path = "front_door/wire.rs"]
mod wire;
