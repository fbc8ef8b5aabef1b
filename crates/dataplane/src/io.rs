//! What a worker needs from the operating system and from the control plane.

use std::io::{self, IoSlice};

use contract::{Discard, Notice, Path, PortId};

use crate::egress::Batch;

/// Datagrams that arrived together from one path, as the kernel's GRO laid them out.
#[derive(Debug)]
pub struct Received<'b> {
    /// Where they came from.
    pub path: Path,
    /// The length of every datagram except the last, which may be shorter.
    pub stride: usize,
    /// All of them, end to end.
    pub bytes: &'b mut [u8],
}

/// One queue of a TUN device that speaks virtio headers.
pub trait TunIo {
    /// Reads one (super) packet behind its virtio header; how many bytes.
    ///
    /// # Errors
    ///
    /// `WouldBlock` means empty; `EBADFD` and its like mean that the device is gone, anything else
    /// that one packet is lost.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Writes a virtio header and the pieces of one packet.
    ///
    /// # Errors
    ///
    /// `InvalidInput` says that the device does not take such a super packet.
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()>;

    /// The same for a frame, where packets and frames have devices of their own.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    fn write_frame(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.write(pieces)
    }
}

/// What a TUN device takes, as far as it has not refused yet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Offloads {
    /// TCP super packets, and checksums left to the device.
    pub gso: bool,
    /// UDP super packets.
    pub uso: bool,
}

/// Where sealed datagrams leave.
pub trait DatagramSink {
    /// Sends one batch: datagrams of [`Batch::segment_size`], the last one may be shorter. For a
    /// stream, messages of any size with their lengths in front.
    ///
    /// # Errors
    ///
    /// UDP promises nothing: the error is why the batch was dropped, for the counter.
    fn send(&mut self, batch: &Batch) -> Result<(), Discard>;

    /// Whether a packet of `len` bytes had better not be sealed for this path now, because it would
    /// only wait: on a stream whose peer does not read.
    ///
    /// Asked before sealing, because some peers want every number that was used.
    fn is_choked(&self, _path: &Path, _len: usize) -> bool {
        false
    }
}

/// What the control plane receives from a worker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Punt<'a> {
    /// A datagram that is not for any tunnel.
    Datagram {
        /// Where it came from.
        path: Path,
        /// What it says.
        bytes: &'a [u8],
    },
    /// A message for the engine that came out of a tunnel.
    Control {
        /// Whose tunnel.
        port: PortId,
        /// What it says.
        bytes: &'a [u8],
    },
    /// Something a worker noticed.
    Notice {
        /// About whom.
        port: PortId,
        /// What.
        notice: Notice,
    },
}

/// The way from a worker to the control plane: bounded, never waited for.
pub trait Punts {
    /// Takes a copy.
    ///
    /// # Errors
    ///
    /// [`Discard::NoBuffer`] if the queue is full; this is what limits a flood.
    fn punt(&mut self, punt: Punt<'_>) -> Result<(), Discard>;
}

/// Everything a worker writes to.
pub trait Surroundings: TunIo + DatagramSink + Punts {}

impl<T: TunIo + DatagramSink + Punts> Surroundings for T {}
