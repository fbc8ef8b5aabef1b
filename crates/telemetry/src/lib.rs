//! Every counter of the program by name, and types that keep secrets and noise out of logs.
//!
//! [`INSTRUMENTS`] is the one list that `status`, metrics and documentation print from; whoever
//! counts keeps plain numbers and knows no names.
//!
//! ```
//! use telemetry::{Counts, INSTRUMENTS, Reading};
//!
//! let reading = |counts| match counts {
//!     Counts::RxPackets => 7,
//!     _ => 0,
//! };
//! let shown: Vec<String> = INSTRUMENTS
//!     .iter()
//!     .map(|instrument| Reading { instrument, value: reading(instrument.counts) })
//!     .filter(|reading| reading.value != 0)
//!     .map(|reading| reading.to_string())
//!     .collect();
//! assert_eq!(shown, ["rx_packets 7"]);
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod instruments;
mod once;
mod redacted;

pub use instruments::{Counts, INSTRUMENTS, Instrument, Reading, Unit};
pub use once::Once;
pub use redacted::Redacted;
