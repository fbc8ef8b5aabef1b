//! What a port has carried, counted by one worker and read by anybody.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

/// One worker's counters of one port, or of everything.
///
/// Only the worker that owns it writes, with a plain load and store; a cache line of its own keeps
/// the workers from slowing each other down. Bytes are those of inner IP packets.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCounters {
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    heard: AtomicU64,
}

/// A reading of [`PortCounters`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PortTotals {
    /// Packets from the peer that the hub took.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets sealed for the peer.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Authentic datagrams from the peer, with or without a packet in them: a sign of life.
    pub heard: u64,
}

impl PortCounters {
    /// Counts packets from the peer.
    pub(crate) fn received(&self, packets: u64, bytes: u64) {
        add(&self.rx_packets, packets);
        add(&self.rx_bytes, bytes);
    }

    /// Counts packets to the peer.
    pub(crate) fn sent(&self, packets: u64, bytes: u64) {
        add(&self.tx_packets, packets);
        add(&self.tx_bytes, bytes);
    }

    /// Counts an authentic datagram.
    pub(crate) fn heard(&self) {
        add(&self.heard, 1);
    }

    /// Reads the counters; each is exact, the set is not one instant.
    #[must_use]
    pub fn read(&self) -> PortTotals {
        PortTotals {
            rx_packets: self.rx_packets.load(Ordering::Relaxed),
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
            tx_packets: self.tx_packets.load(Ordering::Relaxed),
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
            heard: self.heard.load(Ordering::Relaxed),
        }
    }
}

impl AddAssign for PortTotals {
    fn add_assign(&mut self, other: Self) {
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
        self.heard += other.heard;
    }
}

/// One writer, so no read-modify-write instruction is needed.
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}
