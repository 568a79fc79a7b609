//! OpenAI's Responses dialect on an upstream that speaks chat completions.

pub mod answer;
pub mod calls;
pub mod errors;
pub mod items;
pub mod output;
pub mod request;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tools;
