//! Dialects: what a client speaks, in terms of what the upstream speaks, and back. Pure rooms: no I/O,
//! no clock, no knowledge of keys; from bytes to bytes, or a stream's state that is bounded.
//!
//! The upstream's dialect is chat completions. Shared by all others: reading and writing JSON
//! ([`json`], [`scan`]), reading answers ([`chat`], [`events`], [`think`], [`calls`]), writing conversations
//! ([`conversation`]), and what is learned of models ([`lessons`], [`learned`], [`adapt`]).

#[cfg(feature = "messages")]
pub mod adapt;
#[cfg(feature = "messages")]
pub mod calls;
#[cfg(feature = "messages")]
pub mod chat;
#[cfg(feature = "messages")]
pub mod conversation;
#[cfg(feature = "messages")]
pub mod events;
#[cfg(feature = "messages")]
pub mod ids;
pub mod json;
#[cfg(feature = "messages")]
pub mod learned;
#[cfg(all(test, feature = "messages"))]
mod learning_tests;
#[cfg(feature = "messages")]
pub mod lessons;
#[cfg(feature = "messages")]
pub mod measure;
#[cfg(feature = "messages")]
pub mod messages;
pub mod models;
#[cfg(feature = "messages")]
pub mod reasoning;
pub mod scan;
#[cfg(feature = "messages")]
pub mod think;
