//! Translates the dialects of clients to the upstream's, and back. Pure: no I/O, no clock, no keys. Bytes in,
//! bytes out; a stream has a bounded state.
//!
//! The upstream's dialect is chat completions. The other dialects share rooms that read and write JSON ([`json`]),
//! read answers ([`chat`], [`events`], [`think`], [`calls`]), write conversations ([`conversation`]), and
//! learn about models ([`lessons`], [`learned`], [`adapt`]).

pub mod adapt;
pub mod calls;
pub mod chat;
pub mod conversation;
pub mod events;
pub mod ids;
#[cfg(any(feature = "messages", feature = "responses"))]
pub mod interface;
pub mod json;
pub mod learned;
#[cfg(all(test, any(feature = "messages", feature = "responses")))]
mod learning_tests;
pub mod lessons;
pub mod measure;
#[cfg(feature = "messages")]
pub mod messages;
pub mod models;
pub mod reader;
pub mod reasoning;
#[cfg(feature = "responses")]
pub mod responses;
pub mod schema;
pub mod settings;
pub mod terms;
#[cfg(all(test, any(feature = "messages", feature = "responses")))]
mod tests;
pub mod think;
