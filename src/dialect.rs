//! Translates the dialects of clients to the upstream's, and back. Pure: no I/O, no clock, no keys. From bytes to
//! bytes, or a stream's bounded state.
//!
//! The upstream's dialect is chat completions. The other dialects share rooms that read and write JSON ([`json`],
//! [`scan`]), read answers ([`chat`], [`events`], [`think`], [`calls`]), write conversations ([`conversation`]), and
//! learn about models ([`lessons`], [`learned`], [`adapt`]).

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
pub mod find;
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
