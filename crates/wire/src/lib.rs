//! Reads and writes wire formats without trusting a single length field.
//!
//! Nothing here knows a protocol. [`Reader`] is a slice that can only shrink, [`code_point!`]
//! makes numbers that survive values nobody has assigned yet, [`ip`] holds the accessors that the
//! fast path uses on packets whose headers were validated once.
//!
//! ```
//! use wire::Reader;
//!
//! let mut reader = Reader::new(&[0, 3, b'a', b'b', b'c']);
//! let len = reader.u16("name length")?;
//! let name = reader.bytes(usize::from(len), "name")?;
//! reader.finish("message")?;
//! assert_eq!(name, b"abc");
//! # Ok::<(), wire::Malformed>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod checksum;
mod code_point;
pub mod ethernet;
pub mod ip;
mod malformed;
pub mod neighbour;
mod reader;

pub use malformed::Malformed;
pub use reader::Reader;
