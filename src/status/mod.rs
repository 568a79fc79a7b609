//! What alvus shows of itself, as text made from a snapshot. Pure: nothing here locks or asks.

pub mod health;
