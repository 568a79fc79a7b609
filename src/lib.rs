//! alvus: a key-rotating reverse proxy for OpenAI-compatible APIs, for tiny machines.
//!
//! The heart is [`relay`]. A room (module) uses only rooms of lower floors.

// floor 0
pub mod ascii;
pub mod dialect;
pub mod lock;
pub mod secret;
pub mod token;
// floor 1
pub mod body;
pub mod client;
pub mod config;
pub mod front;
pub mod headers;
pub mod mask;
pub mod metadata;
pub mod reply;
pub mod route;
pub mod sse;
pub mod state;
pub mod verdict;
// floor 1, with a side effect each
pub mod logging;
pub mod machine;
pub mod signals;
pub mod watch;
// floor 2
pub mod access;
pub mod arguments;
pub mod ask;
pub mod metrics;
pub mod pool;
pub mod retry;
pub mod stream;
// floor 3
pub mod upstream;
// floor 4
pub mod relay;
// floor 5
pub mod status;
// floor 6
pub mod check;
pub mod demo;
pub mod init;
pub mod server;
