//! Dialects: what a client speaks, in terms of what the upstream speaks, and back. Pure rooms: no I/O,
//! no clock, no knowledge of keys; from bytes to bytes, or a stream's state that is bounded.
//!
//! The upstream's dialect is chat completions. Shared by all others: reading and writing JSON
//! ([`json`]), reading answers ([`chat`], [`events`], [`think`], [`calls`]), writing conversations
//! ([`conversation`]), and what is learned of models ([`lessons`], [`learned`], [`adapt`]).

pub mod adapt;
pub mod calls;
pub mod chat;
pub mod conversation;
pub mod events;
pub mod ids;
pub mod json;
pub mod learned;
#[cfg(test)]
mod learning_tests;
pub mod lessons;
pub mod measure;
pub mod messages;
pub mod models;
pub mod reasoning;
pub mod think;
