//! Fuzz targets: each takes any bytes and must return, whatever they are.

use std::io::{self, IoSlice};

use wire::ip::{self, Head};

use crate::coalesce::Coalescer;
use crate::framing::Framing;
use crate::io::{Offloads, TunIo};
use crate::split::SuperPacket;

/// IP headers: parsed, and changed in every way that the fast path changes them.
pub fn ip(bytes: &[u8]) {
    let mut packet = bytes.to_vec();
    let Ok(head) = Head::parse(&packet) else { return };
    assert!(head.transport <= head.total_len && head.total_len <= packet.len());
    ip::decrement_ttl(&mut packet, &head);
    ip::clamp_mss(&mut packet, &head, 1280);
}

/// What a TUN device might return: every packet of it is as long as announced and parses.
pub fn split(bytes: &[u8]) {
    let mut read = bytes.to_vec();
    let Ok(mut packet) = SuperPacket::parse(&mut read) else { return };
    packet.clamp_mss(1280);
    let mut total = 0;
    let mut room = vec![0; usize::from(u16::MAX)];
    for index in 0..packet.count() {
        let out = &mut room[..packet.len_of(index)];
        packet.write(index, out);
        total += out.len();
    }
    assert_eq!(total, packet.total());
}

/// Packets that came out of a tunnel, cut from `bytes` by length prefixes: no payload byte is
/// lost or made up.
pub fn coalesce(bytes: &[u8]) {
    let mut packets = Vec::new();
    let mut rest = bytes;
    while let Some((len, tail)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(tail.len());
        let (packet, tail) = tail.split_at(len);
        if let Ok(head) = Head::parse(packet) {
            packets.push((&packet[..head.total_len], head));
        }
        rest = tail;
    }

    let mut tun = Splitting::default();
    let mut offloads = Offloads { gso: true, uso: true };
    let mut coalescer = Coalescer::default();
    for (packet, head) in &packets {
        let pushed = coalescer.push(packet, head, &mut tun, &mut offloads);
        assert_eq!(pushed, Ok(()));
    }
    assert_eq!(coalescer.flush(&mut tun, &mut offloads), Ok(()));
    assert_eq!(tun.0, packets.iter().map(|(packet, _)| packet.len()).sum::<usize>());
}

/// A stream that arrives in two parts: the messages are the same wherever it is cut, and what is
/// kept of the first part is never more than a message. The first two bytes say where.
pub fn deframe(bytes: &[u8]) {
    let Some((at, stream)) = bytes.split_first_chunk::<2>() else { return };
    let framing = Framing::Length16 { limit: 1600 };
    let cut = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let mut messages = framing.cut(&mut bytes);
        let whole = messages.by_ref().map(|message| message.to_vec()).collect::<Vec<_>>();
        (whole, messages.rest().map(<[u8]>::to_vec))
    };
    let whole = cut(stream);
    let (first, second) = stream.split_at(usize::from(u16::from_be_bytes(*at)).min(stream.len()));

    let (mut messages, mut rest) = cut(first);
    if let Ok(tail) = &rest {
        assert!(tail.len() < framing.max_partial());
        let (more, last) = cut(&[tail, second].concat());
        messages.extend(more);
        rest = last;
    }
    assert_eq!((messages, rest), whole);
}

/// Counts the bytes of the packets that each write is worth.
#[derive(Default)]
struct Splitting(usize);

impl TunIo for Splitting {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let mut bytes = pieces.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<_>>();
        let packet = SuperPacket::parse(&mut bytes).expect("what we write is well formed");
        self.0 += packet.total();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Blueprint, Dice};

    /// Bytes that get past the first checks, with a few of them wrong.
    fn nearly_right(dice: &mut Dice, prefix: &[u8]) -> Vec<u8> {
        let v6 = dice.roll(2) == 0;
        let base = if dice.roll(2) == 0 { Blueprint::tcp(1, 2) } else { Blueprint::udp(1, 2) };
        let len = dice.roll(300);
        let packet = Blueprint { v6, payload: dice.bytes(len), ..base }.build();
        let mut bytes = [prefix, &packet].concat();
        for _ in 0..dice.roll(4) {
            let at = dice.roll(bytes.len().min(60));
            bytes[at] = dice.roll(256) as u8;
        }
        bytes
    }

    #[test]
    fn nearly_right_packets_are_survived() {
        let mut dice = Dice(11);
        for _ in 0..20_000 {
            ip(&nearly_right(&mut dice, &[]));
            let gso = [0, 1, 4, 5][dice.roll(4)];
            let mut virtio = vec![dice.roll(2) as u8, gso];
            virtio.extend(dice.bytes(8));
            split(&nearly_right(&mut dice, &virtio));
        }
    }

    #[test]
    fn streams_of_nearly_right_packets_are_survived() {
        let mut dice = Dice(12);
        for _ in 0..2_000 {
            let mut bytes = Vec::new();
            for _ in 0..8 {
                let packet = nearly_right(&mut dice, &[]);
                bytes.extend((packet.len() as u16).to_be_bytes());
                bytes.extend(packet);
            }
            coalesce(&bytes);
        }
    }
}
