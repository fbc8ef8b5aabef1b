//! What every protocol engine needs and none should write twice: timers, retransmission delays,
//! replay windows, rate limits, and containers that refuse to grow.
//!
//! Nothing here knows a protocol, reads a clock or draws a random number: time and randomness
//! come from the caller.
//!
//! ```
//! use kit::ReplayWindow;
//!
//! let window = ReplayWindow::<64>::new();
//! assert!(window.update(7));
//! assert!(!window.update(7), "a replay");
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod backoff;
mod bounded;
mod bucket;
mod replay;
mod seen;
mod timers;

pub use backoff::Backoff;
pub use bounded::{BoundedMap, BoundedQueue, Full};
pub use bucket::TokenBucket;
pub use replay::ReplayWindow;
pub use seen::SeenFilter;
pub use timers::{TimerKey, TimerTable};
