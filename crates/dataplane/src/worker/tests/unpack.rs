//! Content that a tunnel has to unpack, or to send in parts.

use contract::Unpacked;

use super::*;

/// Opens what begins with `P` as packed: what follows is the packet. Sends at most 100 bytes in
/// one datagram.
#[derive(Debug)]
struct Packing;

impl Tunnel for Packing {
    fn frame(&self, kind: ContentKind, len: usize) -> Frame {
        Tagged(ALICE).frame(kind, len)
    }

    fn seal(&self, kind: ContentKind, len: usize, out: &mut [u8]) -> Result<(), Discard> {
        assert!(len <= 100, "it does not fit");
        Tagged(ALICE).seal(kind, len, out)
    }

    fn open<'b>(&self, datagram: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
        match datagram.get(HEAD) {
            Some(b'P') => Ok(Opened::Packed(&mut datagram[HEAD..])),
            _ => Tagged(ALICE).open(datagram),
        }
    }

    fn unpack(&self, packed: &[u8], out: &mut [u8]) -> Result<Unpacked, Discard> {
        let content = &packed[1..];
        out.get_mut(..content.len()).ok_or(Discard::TooBig)?.copy_from_slice(content);
        match content.first() {
            None => Ok(Unpacked::Nothing),
            Some(b'!') => Err(Discard::TooBig),
            Some(b'C') => Ok(Unpacked::Control(content.len())),
            Some(_) => Ok(Unpacked::Packet(content.len())),
        }
    }

    fn fits(&self, len: usize) -> bool {
        len <= 100
    }

    fn seal_in_parts(
        &self,
        kind: ContentKind,
        content: &[u8],
        room: &mut [u8],
        send: &mut dyn FnMut(&[u8]) -> Result<(), Discard>,
    ) -> Result<(), Discard> {
        content.chunks(100).try_for_each(|part| {
            let out = &mut room[..HEAD + part.len()];
            out[HEAD..].copy_from_slice(part);
            self.seal(kind, part.len(), out)?;
            send(out)
        })
    }
}

fn packing() -> Lab {
    let mut lab = two_sessions();
    lab.install(ALICE, ALICE, Via::Path(path(ALICE)), Packing);
    lab
}

fn packed(content: &[u8]) -> Vec<u8> {
    tagged(ALICE, &[b"P", content].concat())
}

#[test]
fn what_is_unpacked_is_forwarded_like_any_packet() {
    let mut lab = packing();

    lab.arrive(path(ALICE), &packed(&packet(ALICE, WORLD)));
    lab.arrive(path(ALICE), &packed(&packet(ALICE, BOB)));
    lab.arrive(path(ALICE), &packed(b"C for the engine"));
    lab.arrive(path(ALICE), &packed(b""));

    assert_eq!(lab.outside.tun.plain(), [packet(ALICE, WORLD)]);
    assert_eq!(lab.sent()[0].0, path(BOB));
    assert_eq!(lab.outside.punts, [format!("control of {ALICE}: {:?}", b"C for the engine")]);
    assert_eq!(lab.counted(ALICE), (2, 240, 0, 0));
}

#[test]
fn what_is_unpacked_is_as_suspicious_as_any_packet() {
    let mut lab = packing();

    lab.arrive(path(ALICE), &packed(&packet(BOB, WORLD)));
    lab.arrive(path(ALICE), &packed(b"!"));
    lab.arrive(path(ALICE), &packed(b"no packet at all"));

    assert!(lab.outside.tun.written.is_empty());
    assert_eq!(lab.discarded(Discard::SpoofedSource), 1);
    assert_eq!(lab.discarded(Discard::TooBig), 1);
    assert_eq!(lab.discarded(Discard::Malformed), 1);
}

#[test]
fn packed_and_plain_packets_of_a_flow_stay_in_order() {
    let mut lab = packing();
    let segment = |n: u32| {
        Blueprint { sequence: n * 100, id: n as u16, ..Blueprint::tcp(ALICE, WORLD) }.build()
    };

    let datagrams = [
        tagged(ALICE, &segment(0)),
        tagged(ALICE, &segment(1)),
        packed(&segment(2)),
        tagged(ALICE, &segment(3)),
    ];
    lab.arrive_many(path(ALICE), &datagrams);

    let lens = lab.outside.tun.written.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lens, [10 + 40 + 200, 10 + 140, 10 + 140]);
    assert_eq!(lab.outside.tun.written[1][10..], segment(2));
}

#[test]
fn what_does_not_fit_leaves_in_parts_from_the_host_and_from_a_session() {
    let mut lab = packing();
    let from_host = packet(WORLD, ALICE);
    let parts = |packet: &[u8]| {
        packet.chunks(100).map(|part| (path(ALICE), tagged(ALICE, part))).collect::<Vec<_>>()
    };

    lab.host_sends(vec![0; 10], from_host.clone());
    assert_eq!(lab.sent(), parts(&from_host));
    lab.sends(BOB, &[packet(BOB, ALICE)]);

    let forwarded =
        Blueprint { ttl: 63, payload: vec![7; 80], ..Blueprint::tcp(BOB, ALICE) }.build();
    let sent = lab.sent();
    assert_eq!(sent[sent.len() - 2..], parts(&forwarded));
    assert_eq!(lab.counted(ALICE), (0, 0, 2, 240));
}
