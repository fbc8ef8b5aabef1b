use super::*;
use crate::testing::{ACK, Blueprint, CWR, Dice, FIN, PSH, SYN, virtio};

/// A super packet as the kernel hands it over.
fn super_packet(whole: &Blueprint, size: usize) -> Vec<u8> {
    let (gso, offset) = match (whole.udp, whole.v6) {
        (true, _) => (5, 6),
        (false, false) => (1, 16),
        (false, true) => (4, 16),
    };
    let words = [whole.headers() as u16, size as u16, whole.transport() as u16, offset];
    [virtio(true, gso, words), whole.build_unsummed()].concat()
}

/// What a sender without offloads would have sent.
fn naive(whole: &Blueprint, size: usize) -> Vec<Vec<u8>> {
    let pieces = whole.payload.chunks(size).enumerate();
    let count = whole.payload.chunks(size).count();
    let segment = |(index, payload): (usize, &[u8])| {
        let mut flags = whole.flags;
        if index > 0 {
            flags &= !CWR;
        }
        if index + 1 < count {
            flags &= !(FIN | PSH);
        }
        Blueprint {
            id: whole.id.wrapping_add(index as u16),
            sequence: whole.sequence.wrapping_add((index * size) as u32),
            flags,
            payload: payload.to_vec(),
            ..whole.clone()
        }
        .build()
    };
    pieces.map(segment).collect()
}

fn split(read: &mut [u8]) -> Vec<Vec<u8>> {
    let packet = SuperPacket::parse(read).unwrap();
    let write = |index| {
        let mut out = vec![0xaa; packet.len_of(index)];
        packet.write(index, &mut out);
        out
    };
    (0..packet.count()).map(write).collect()
}

fn random(dice: &mut Dice) -> (Blueprint, usize) {
    let mut whole = if dice.roll(3) == 0 { Blueprint::udp(1, 2) } else { Blueprint::tcp(1, 2) };
    whole.v6 = dice.roll(2) == 0;
    whole.id = dice.roll(0x1_0000) as u16;
    whole.sequence = u32::MAX - dice.roll(20_000) as u32;
    whole.flags = [ACK, ACK | PSH, ACK | FIN, ACK | PSH | CWR][dice.roll(4)];
    let words = if whole.udp { 0 } else { dice.roll(11) };
    whole.options = dice.bytes(words * 4);
    let size = 1 + dice.roll(1500);
    let len = 1 + dice.roll(12_000);
    whole.payload = dice.bytes(len);
    (whole, size)
}

#[test]
fn a_super_packet_becomes_what_a_sender_without_offloads_would_send() {
    let mut dice = Dice(1);
    for round in 0..400 {
        let (whole, size) = random(&mut dice);

        let packets = split(&mut super_packet(&whole, size));

        assert!(packets == naive(&whole, size), "round {round}: {whole:?} cut at {size}");
    }
}

#[test]
fn the_totals_are_those_of_the_packets() {
    let mut dice = Dice(2);
    for _ in 0..200 {
        let (whole, size) = random(&mut dice);
        let mut read = super_packet(&whole, size);
        let total = SuperPacket::parse(&mut read).unwrap().total();

        assert_eq!(total, split(&mut read).iter().map(Vec::len).sum::<usize>());
    }
}

#[test]
fn a_checksum_left_to_the_device_is_made() {
    for whole in [Blueprint::udp(1, 2), Blueprint { v6: true, ..Blueprint::tcp(1, 2) }] {
        let offset = if whole.udp { 6 } else { 16 };
        let words = [0, 0, whole.transport() as u16, offset];
        let mut read = [virtio(true, 0, words), whole.build_unsummed()].concat();

        assert_eq!(split(&mut read), [whole.build()]);
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
    let checksum_of = |filler: u16| {
        let payload = filler.to_be_bytes().to_vec();
        let whole = Blueprint { payload, ..Blueprint::udp(1, 2) };
        let mut read = [virtio(true, 0, [0, 0, 20, 6]), whole.build_unsummed()].concat();
        let packet = split(&mut read).remove(0);
        [packet[26], packet[27]]
    };

    assert!((0..=u16::MAX).any(|filler| checksum_of(filler) == [0xff, 0xff]));
    assert!((0..=u16::MAX).all(|filler| checksum_of(filler) != [0, 0]));
}

#[test]
fn a_complete_packet_is_left_as_it_is() {
    let packet = Blueprint::tcp(1, 2).build();

    assert_eq!(split(&mut [vec![0; 10], packet.clone()].concat()), [packet]);
}

#[test]
fn a_syn_from_the_host_announces_no_more_than_fits() {
    let options = |mss: u16| [&[2, 4][..], &mss.to_be_bytes()].concat();
    let syn = Blueprint {
        flags: SYN,
        options: options(1460),
        payload: Vec::new(),
        ..Blueprint::tcp(1, 2)
    };
    let mut read = [virtio(true, 0, [0, 0, 20, 16]), syn.build_unsummed()].concat();
    let mut packet = SuperPacket::parse(&mut read).unwrap();

    packet.clamp_mss(1400);

    let mut out = vec![0; packet.len_of(0)];
    packet.write(0, &mut out);
    assert_eq!(out, Blueprint { options: options(1360), ..syn }.build());
}

#[test]
fn every_truncation_is_survived() {
    let mut dice = Dice(3);
    let (whole, size) = random(&mut dice);
    let read = super_packet(&whole, size);

    for len in 0..whole.headers() + 12 {
        assert!(SuperPacket::parse(&mut read[..len].to_vec()).is_err(), "accepted {len} bytes");
        crate::fuzz::split(&read[..len]);
    }
}

#[test]
fn every_corruption_of_a_header_is_survived() {
    for whole in
        [Blueprint::tcp(1, 2), Blueprint { v6: true, ..Blueprint::tcp(1, 2) }, Blueprint::udp(1, 2)]
    {
        let read = super_packet(&whole, 33);
        for at in 0..10 + whole.headers() {
            for value in 0..=u8::MAX {
                let mut bytes = read.clone();
                bytes[at] = value;
                crate::fuzz::split(&bytes);
            }
        }
    }
}

#[test]
fn a_virtio_header_that_contradicts_the_packet_is_refused() {
    let tcp = Blueprint::tcp(1, 2);
    let refused = |virtio: Vec<u8>, whole: &Blueprint| {
        let mut read = [virtio, whole.build_unsummed()].concat();
        SuperPacket::parse(&mut read).err() == Some(Discard::Malformed)
    };

    assert!(refused(virtio(true, 1, [40, 0, 20, 16]), &tcp), "segments of nothing");
    assert!(refused(virtio(true, 4, [40, 50, 20, 16]), &tcp), "the other IP version");
    assert!(refused(virtio(true, 5, [40, 50, 20, 16]), &tcp), "not UDP");
    assert!(refused(virtio(true, 0, [0, 0, 200, 16]), &tcp), "a checksum behind the end");
    assert!(refused(virtio(true, 3, [40, 50, 20, 16]), &tcp), "an offload nobody offered");
}
