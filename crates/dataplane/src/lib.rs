//! The fast path: no system call, no lock, no allocation per packet.
//!
//! ```text
//!   UDP --Received--> classify -> Tunnel::open -> Fabric -+-> Coalescer --writev--> TUN
//!                        |                                |
//!                        +--> Punts (control)             +-> Egress (another session)
//!
//!   TUN --SuperPacket--> Fabric -> one copy per segment -> Tunnel::seal in place -> Egress --GSO--> UDP
//! ```
//!
//! Packets are never queued here: what a [`Worker`] takes in, it has handed to the [`Egress`], to
//! the [`TunIo`] or to a counter when the call returns. Who calls it, when, and with which
//! descriptors is the shell's business; [`TunIo`], [`DatagramSink`] and [`Punts`] are the seams.
//!
//! A stream is one more carrier of datagrams: [`Framing`] cuts what arrives, the same [`Egress`]
//! collects what leaves, with the lengths already in front, and a [`Backlog`] keeps what the kernel
//! has no room for.
//!
//! A peer has one sender: what another worker has for it goes there in a parcel, before it is sealed
//! ([`Handover`]).
//!
//! The halves are usable on their own: [`SuperPacket`] splits and [`Coalescer`] joins without any
//! tunnel in between.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod backlog;
mod classify;
mod coalesce;
mod counters;
mod egress;
mod fragment;
mod frame;
mod framing;
pub mod fuzz;
mod handover;
mod icmp;
mod io;
mod split;
#[cfg(test)]
mod testing;
mod virtio;
mod worker;

pub use backlog::Backlog;
pub use classify::{Class, SocketKind, StreamKind, classify, classify_stream};
pub use coalesce::Coalescer;
pub use counters::{PortCounters, PortTotals};
pub use egress::{Batch, Egress, Reservation};
pub use frame::SuperFrame;
pub use framing::{BrokenStream, Framing, Messages, Prefix, framed};
pub use handover::{Handover, Home};
pub use io::{DatagramSink, Offloads, Punt, Punts, Received, Surroundings, TunIo};
pub use split::SuperPacket;
pub use virtio::{Gso, VIRTIO_HEADER, VirtioHeader};
pub use worker::{Op, Settings, Worker};

/// The most bytes one read from a TUN or TAP device returns: a virtio header, the head of a frame
/// with two tags, and the largest IP packet.
pub const MAX_TUN_READ: usize = VIRTIO_HEADER + 22 + 65_535;
