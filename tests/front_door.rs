//! The front door, driven over loopback sockets: each fault that tiny_http has as published, and what
//! it lacks. What each test meets in the crate as published: `front_door/README.md`.
#![allow(clippy::unwrap_used)] // a test may panic

#[path = "front_door/added.rs"]
mod added;
#[path = "front_door/ours.rs"]
mod door;
#[path = "front_door/published.rs"]
mod published;
#[path = "front_door/wire.rs"]
mod wire;
