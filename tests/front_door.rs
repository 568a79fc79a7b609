//! The patches of `patches/`, each with the fault that it cures: the patched `tiny_http` is driven
//! over loopback sockets. What each test meets in the crate as published: `patches/README.md`.
#![allow(clippy::unwrap_used)] // a test may panic
#![cfg(unix)]

#[path = "front_door/added.rs"]
mod added;
#[path = "front_door/published.rs"]
mod published;
#[path = "front_door/wire.rs"]
mod wire;
