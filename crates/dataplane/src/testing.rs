//! Packets for tests, built byte by byte and without the code under test, and a TUN device that
//! remembers.

use std::io::{self, IoSlice};
use std::time::Instant;

use crate::io::TunIo;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

/// A small generator whose numbers depend on nothing but its seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % sides
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.roll(256) as u8).collect()
    }
}

/// One TCP or UDP packet to be.
#[derive(Clone, Debug)]
pub(crate) struct Blueprint {
    pub(crate) v6: bool,
    pub(crate) source: u8,
    pub(crate) destination: u8,
    pub(crate) udp: bool,
    pub(crate) source_port: u16,
    pub(crate) id: u16,
    pub(crate) ttl: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Blueprint {
    pub(crate) fn tcp(source: u8, destination: u8) -> Self {
        Self {
            v6: false,
            source,
            destination,
            udp: false,
            source_port: 40_000,
            id: 1,
            ttl: 64,
            dont_fragment: true,
            sequence: 1000,
            flags: ACK,
            options: Vec::new(),
            payload: vec![7; 100],
        }
    }

    pub(crate) fn udp(source: u8, destination: u8) -> Self {
        Self { udp: true, ..Self::tcp(source, destination) }
    }

    /// Where the transport header starts.
    pub(crate) fn transport(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    /// Bytes of all headers.
    pub(crate) fn headers(&self) -> usize {
        self.transport() + if self.udp { 8 } else { 20 + self.options.len() }
    }

    /// The packet with every checksum right.
    pub(crate) fn build(&self) -> Vec<u8> {
        self.assemble(true)
    }

    /// The packet as a device with checksum offload gets it: with the pseudo header's sum only.
    pub(crate) fn build_unsummed(&self) -> Vec<u8> {
        self.assemble(false)
    }

    fn assemble(&self, summed: bool) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(self.source_port.to_be_bytes());
        transport.extend(443_u16.to_be_bytes());
        let len = self.headers() - self.transport() + self.payload.len();
        if self.udp {
            transport.extend((len as u16).to_be_bytes());
            transport.extend([0, 0]);
        } else {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend(0x0102_0304_u32.to_be_bytes());
            transport.push(((20 + self.options.len()) as u8 / 4) << 4);
            transport.push(self.flags);
            transport.extend([0x20, 0, 0, 0, 0, 0]);
            transport.extend(&self.options);
        }
        transport.extend(&self.payload);

        let (source, destination) = (self.address(self.source), self.address(self.destination));
        let protocol = if self.udp { 17 } else { 6 };
        let pseudo =
            [&source[..], &destination, &[0, protocol], &(len as u16).to_be_bytes()].concat();
        let sum = if summed { !sum(&[&pseudo[..], &transport].concat()) } else { sum(&pseudo) };
        let sum = if summed && self.udp && sum == 0 { 0xffff } else { sum };
        let field = if self.udp { 6 } else { 16 };
        transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());

        let mut packet = Vec::new();
        if self.v6 {
            packet.extend([0x60, 1, 2, 3]);
            packet.extend((transport.len() as u16).to_be_bytes());
            packet.extend([protocol, self.ttl]);
            packet.extend(source);
            packet.extend(destination);
        } else {
            packet.extend([0x45, 0]);
            packet.extend((20 + transport.len() as u16).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.ttl, protocol, 0, 0]);
            packet.extend(source);
            packet.extend(destination);
            let checksum = !self::sum(&packet);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        packet.extend(transport);
        packet
    }

    fn address(&self, host: u8) -> Vec<u8> {
        if self.v6 {
            let mut address = vec![0xfd; 15];
            address.push(host);
            address
        } else {
            vec![10, 0, 0, host]
        }
    }
}

/// RFC 1071, word by word.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A virtio header in the machine's byte order: flags, type, header length, size, start, offset.
pub(crate) fn virtio(needs_checksum: bool, gso: u8, words: [u16; 4]) -> Vec<u8> {
    let mut raw = vec![u8::from(needs_checksum), gso];
    raw.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    raw
}

/// Some moment.
#[allow(clippy::disallowed_methods, reason = "a test is the caller that owns the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Remembers every write, virtio header included; refuses super packets if told so.
#[derive(Debug, Default)]
pub(crate) struct FakeTun {
    pub(crate) written: Vec<Vec<u8>>,
    pub(crate) refuses_gso: bool,
}

impl FakeTun {
    /// What was written without virtio headers, which must all be empty.
    pub(crate) fn plain(&self) -> Vec<&[u8]> {
        let strip = |write: &'_ Vec<u8>| assert_eq!(write[..10], [0; 10], "a super packet");
        self.written.iter().inspect(|write| strip(write)).map(|write| &write[10..]).collect()
    }
}

impl TunIo for FakeTun {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        if self.refuses_gso && pieces[0][1] != 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.written.push(pieces.iter().flat_map(|piece| piece.iter().copied()).collect());
        Ok(())
    }
}
