//! Dialects: what a client speaks, in terms of what the upstream speaks, and back. Pure rooms: no I/O,
//! no clock, no knowledge of keys; from bytes to bytes, or a stream's state that is bounded.
//!
//! The upstream's dialect is chat completions. Shared by all others: reading and writing JSON
//! ([`json`], [`scan`]), reading answers ([`chat`], [`events`], [`think`], [`calls`]), writing conversations
//! ([`conversation`]), and what is learned of models ([`lessons`], [`learned`], [`adapt`]).

#[cfg(any(feature = "messages", feature = "responses"))]
pub mod adapt;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod calls;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod chat;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod clients;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod conversation;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod events;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod ids;
pub mod json;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod learned;
#[cfg(all(test, any(feature = "messages", feature = "responses")))]
mod learning_tests;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod lessons;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod measure;
#[cfg(feature = "messages")]
pub mod messages;
pub mod models;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod reader;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod reasoning;
#[cfg(feature = "responses")]
pub mod responses;
pub mod scan;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod schema;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod terms;
#[cfg(all(test, any(feature = "messages", feature = "responses")))]
mod tests;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod think;
