use super::*;
use crate::split::SuperPacket;
use crate::testing::{ACK, Blueprint, Dice, FIN, FakeTun, PSH, virtio};

const ALL: Offloads = Offloads { gso: true, uso: true };

fn coalesce_with(packets: &[Vec<u8>], tun: &mut FakeTun, offloads: &mut Offloads) {
    let mut coalescer = Coalescer::default();
    for packet in packets {
        let head = Head::parse(packet).unwrap();
        coalescer.push(packet, &head, tun, offloads).unwrap();
    }
    coalescer.flush(tun, offloads).unwrap();
}

fn coalesce(packets: &[Vec<u8>]) -> FakeTun {
    let mut tun = FakeTun::default();
    coalesce_with(packets, &mut tun, &mut { ALL });
    tun
}

/// Consecutive segments of `sizes` payload bytes.
fn segments(first: &Blueprint, sizes: &[usize]) -> Vec<Blueprint> {
    let mut sequence = first.sequence;
    let mut segment = |(index, size): (usize, &usize)| {
        let start = sequence;
        sequence = sequence.wrapping_add(*size as u32);
        Blueprint {
            id: first.id.wrapping_add(index as u16),
            sequence: start,
            payload: Dice(index as u64).bytes(*size),
            ..first.clone()
        }
    };
    sizes.iter().enumerate().map(&mut segment).collect()
}

fn build(blueprints: &[Blueprint]) -> Vec<Vec<u8>> {
    blueprints.iter().map(Blueprint::build).collect()
}

/// What the kernel makes of every write, in order.
fn split(tun: &FakeTun) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for write in &tun.written {
        let mut read = write.clone();
        let packet = SuperPacket::parse(&mut read).unwrap();
        for index in 0..packet.count() {
            let mut out = vec![0; packet.len_of(index)];
            packet.write(index, &mut out);
            packets.push(out);
        }
    }
    packets
}

#[test]
fn segments_in_sequence_become_the_super_packet_they_were_cut_from() {
    let mut dice = Dice(5);
    for round in 0..300 {
        let mut first = if round % 3 == 0 { Blueprint::udp(1, 2) } else { Blueprint::tcp(1, 2) };
        first.v6 = dice.roll(2) == 0;
        first.sequence = u32::MAX - dice.roll(3000) as u32;
        let words = if first.udp { 0 } else { dice.roll(11) };
        first.options = dice.bytes(words * 4);
        let size = 2 + dice.roll(900);
        let mut sizes = vec![size; 1 + dice.roll(40)];
        sizes.push(1 + dice.roll(size));
        let mut parts = segments(&first, &sizes);
        if dice.roll(2) == 0 {
            parts.last_mut().unwrap().flags |= PSH;
        }

        let tun = coalesce(&build(&parts));

        let whole = Blueprint {
            flags: parts.last().unwrap().flags,
            payload: parts.iter().flat_map(|part| part.payload.clone()).collect(),
            ..first.clone()
        };
        let (gso, offset) = match (first.udp, first.v6) {
            (true, _) => (5, 6),
            (false, false) => (1, 16),
            (false, true) => (4, 16),
        };
        let words = [first.headers() as u16, size as u16, first.transport() as u16, offset];
        let expected = [virtio(true, gso, words), whole.build_unsummed()].concat();
        assert!(tun.written == [expected], "round {round}: {sizes:?}");
        assert_eq!(split(&tun), build(&parts));
    }
}

#[test]
fn whatever_arrives_leaves_complete_and_each_flow_in_order() {
    let mut dice = Dice(6);
    for _ in 0..100 {
        let mut flows = (0..20_u16)
            .map(|port| Blueprint { source_port: 1000 + port, ..Blueprint::tcp(1, 2) })
            .collect::<Vec<_>>();
        let mut packets = Vec::new();
        for id in 0..200 {
            let flow = &mut flows[dice.roll(20)];
            flow.flags = [ACK, ACK, ACK, ACK | PSH, ACK | FIN][dice.roll(5)];
            let len = [0, 300, 300, 300, 77][dice.roll(5)];
            flow.payload = dice.bytes(len);
            flow.id = id;
            packets.push(flow.build());
            flow.sequence = flow.sequence.wrapping_add(len as u32 + dice.roll(8) as u32 / 7);
        }

        let tun = coalesce(&packets);

        // The id of a joined packet is counted up from its first, so it is not compared.
        let by_flow = |packets: &[Vec<u8>]| {
            let mut packets = packets.to_vec();
            packets.iter_mut().for_each(|packet| packet[4..6].fill(0));
            packets.iter_mut().for_each(|packet| packet[10..12].fill(0));
            packets.sort_by_key(|packet| [packet[20], packet[21]]);
            packets
        };
        assert_eq!(by_flow(&split(&tun)), by_flow(&packets));
        assert!(tun.written.len() < packets.len(), "nothing was joined");
    }
}

#[test]
fn a_wrong_checksum_is_never_covered_up() {
    for broken in 0..3 {
        let mut packets = build(&segments(&Blueprint::tcp(1, 2), &[500; 3]));
        *packets[broken].last_mut().unwrap() ^= 1;

        let tun = coalesce(&packets);

        let alone = |write: &&Vec<u8>| write[10..] == packets[broken];
        assert_eq!(tun.written.iter().filter(alone).count(), 1, "packet {broken}");
    }
}

#[test]
fn a_wrong_header_checksum_is_never_covered_up() {
    let mut packets = build(&segments(&Blueprint::tcp(1, 2), &[500; 2]));
    packets[0][10] ^= 1;

    assert_eq!(coalesce(&packets).plain(), packets);
}

#[test]
fn a_gap_in_the_sequence_is_kept() {
    let mut parts = segments(&Blueprint::tcp(1, 2), &[500; 2]);
    parts[1].sequence += 1;
    let packets = build(&parts);

    assert_eq!(coalesce(&packets).plain(), packets);
}

#[test]
fn headers_that_differ_are_not_joined() {
    let differences: [fn(&mut Blueprint); 3] = [
        |part| part.ttl = 63,
        |part| part.options = vec![1, 1, 1, 2],
        |part| part.dont_fragment = false,
    ];
    for change in differences {
        let first = Blueprint { options: vec![1, 1, 1, 1], ..Blueprint::tcp(1, 2) };
        let mut parts = segments(&first, &[500; 2]);
        change(&mut parts[1]);
        let packets = build(&parts);

        assert_eq!(coalesce(&packets).plain(), packets);
    }
}

#[test]
fn a_fin_overtakes_nothing() {
    let mut parts = segments(&Blueprint::tcp(1, 2), &[500; 3]);
    parts[2].flags |= FIN;

    assert_eq!(split(&coalesce(&build(&parts))), build(&parts));
}

#[test]
fn a_fragment_overtakes_nothing() {
    let mut packets = build(&segments(&Blueprint::tcp(1, 2), &[500; 2]));
    let mut fragment = packets[0].clone();
    fragment[6] = 0x20;
    packets.push(fragment.clone());

    let tun = coalesce(&packets);

    assert_eq!(tun.written.len(), 2);
    assert_eq!(tun.written[1][10..], fragment);
}

#[test]
fn more_than_a_packet_holds_becomes_several() {
    let packets = build(&segments(&Blueprint::tcp(1, 2), &[1400; 120]));

    let tun = coalesce(&packets);

    assert_eq!(tun.written.len(), 3);
    assert_eq!(split(&tun), packets);
}

#[test]
fn a_device_that_refuses_super_packets_is_asked_only_once_and_nothing_is_lost() {
    let packets = build(&segments(&Blueprint::tcp(1, 2), &[500; 4]));
    let mut tun = FakeTun { refuses_gso: true, ..FakeTun::default() };
    let mut offloads = ALL;

    coalesce_with(&packets, &mut tun, &mut offloads);
    coalesce_with(&packets, &mut tun, &mut offloads);

    assert_eq!(offloads, Offloads { gso: false, uso: true });
    assert_eq!(tun.plain(), [&packets[..], &packets].concat());
}

#[test]
fn without_offloads_everything_is_written_as_it_came() {
    let mut packets = build(&segments(&Blueprint::tcp(1, 2), &[500; 3]));
    packets.extend(build(&segments(&Blueprint::udp(1, 2), &[500; 3])));
    let mut tun = FakeTun::default();

    coalesce_with(&packets, &mut tun, &mut Offloads::default());

    assert_eq!(tun.plain(), packets);
}

#[test]
fn every_corruption_of_a_header_is_survived() {
    for first in [Blueprint::tcp(1, 2), Blueprint { v6: true, ..Blueprint::udp(1, 2) }] {
        let packets = build(&segments(&first, &[50; 2]));
        for at in 0..first.headers() {
            for value in 0..=u8::MAX {
                let mut packets = packets.clone();
                packets[1][at] = value;
                let prefixed =
                    |packet: &Vec<u8>| [&(packet.len() as u16).to_be_bytes()[..], packet].concat();
                crate::fuzz::coalesce(&packets.iter().flat_map(prefixed).collect::<Vec<_>>());
            }
        }
    }
}
