use std::time::Duration;

use super::*;

const OWN: Mac = Mac([2, 0, 0, 0, 0, 0xff]);
const STATION: Mac = Mac([2, 0, 0, 0, 0, 1]);

#[expect(clippy::disallowed_methods, reason = "a test must start somewhere")]
fn start() -> Instant {
    Instant::now()
}

#[test]
fn a_port_has_one_place_however_often_it_joins() {
    let segment = Segment::new(OWN, 1, start());

    let place = segment.join(PortId(5)).unwrap();

    assert_eq!(segment.join(PortId(5)), Some(place));
    assert_ne!(segment.join(PortId(5 + MEMBERS as u32)).unwrap().slot, place.slot);
}

#[test]
fn a_segment_that_is_full_says_so() {
    let segment = Segment::new(OWN, 1, start());

    let joined = (1..=5000).filter(|port| segment.join(PortId(*port)).is_some()).count();

    assert_eq!(joined, MEMBERS);
}

#[test]
fn nothing_of_a_port_that_left_is_anybody_elses() {
    let now = start();
    let segment = Segment::new(OWN, 1, now);
    let place = segment.join(PortId(5)).unwrap();
    segment.learn(place, STATION, now, |_| false).unwrap();
    segment.meet(place, Family::V4, STATION);

    segment.leave(place);
    let heir = segment.join(PortId(5 + MEMBERS as u32)).unwrap();

    assert_eq!(heir.slot, place.slot);
    assert_eq!(segment.find(STATION), None);
    assert_eq!(segment.neighbour(heir, Family::V4), None);
    // A worker that has not heard of it yet teaches nobody anything.
    assert_eq!(segment.learn(place, STATION, now, |_| false), Err(Discard::NoRoute));
    segment.meet(place, Family::V4, STATION);
    assert_eq!((segment.find(STATION), segment.neighbour(heir, Family::V4)), (None, None));
}

#[test]
fn copies_are_limited_by_port_and_in_all() {
    let now = start();
    let segment = Segment::new(OWN, 1, now);
    let copied = |port: u32, now| {
        let same = |n: u32| segment.may_copy(PortId(port), now, &[n as u8, port as u8], 100);
        (0..1000).filter(|n| same(*n).is_ok()).count()
    };

    assert_eq!(copied(1, now), 80, "a burst of 8,000 copies");
    assert_eq!((2..20).map(|port| copied(port, now)).sum::<usize>(), 320, "40,000 in all");
    assert_eq!(copied(1, now + Duration::from_secs(1)), 40);
}

#[test]
fn a_whole_network_causes_more_copies_than_one_member_and_at_the_cost_of_none() {
    let now = start();
    let segment = Segment::new(OWN, 1, now);
    let copied = |port: PortId, now| {
        let same = |n: u32| segment.may_copy(port, now, &n.to_ne_bytes(), 100);
        (0..1000).filter(|n| same(*n).is_ok()).count()
    };

    assert_eq!(copied(BRIDGE_PORT, now), 200);
    assert_eq!(copied(PortId(BRIDGE_PORT.0 % MEMBERS as u32), now + Duration::from_secs(2)), 80);
    assert_eq!(copied(BRIDGE_PORT, now + Duration::from_secs(9)), 200);
}

#[test]
fn what_is_long_counts_as_several_copies() {
    let now = start();
    for (len, allowed) in [(0, 80), (1536, 80), (1537, 40), (60_000, 2)] {
        let segment = Segment::new(OWN, 1, now);
        let content = vec![7; len];
        let is_copied = |_: &u32| segment.may_copy(PortId(1), now, &content, 100).is_ok();
        assert_eq!((0..1000).filter(is_copied).count(), allowed, "{len} bytes");
    }
}

#[test]
fn a_packet_that_comes_back_with_fewer_hops_is_the_same() {
    let now = start();
    let segment = Segment::new(OWN, 1, now);
    let mut packet = [0x45; 60];

    assert_eq!(segment.may_copy(PortId(1), now, &packet, 1), Ok(()));
    (packet[8], packet[10]) = (1, 2);
    assert_eq!(segment.may_copy(PortId(2), now, &packet, 1), Err(Discard::Multicast));
    packet[20] = 0;
    assert_eq!(segment.may_copy(PortId(2), now, &packet, 1), Ok(()));
}
