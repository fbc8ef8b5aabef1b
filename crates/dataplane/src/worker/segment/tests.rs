use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use contract::{
    BRIDGE_PORT, Carrier, DataPlaneOp, Exit, FabricOp, Frame, Layer, Opened, Path, Plug, SocketId,
    Tunnel, TunnelKey, Via,
};
use hub::{AnyFabric, Segment, Switch, SwitchPolicy, SwitchSettings, Uplink};
use wire::ethernet::{EtherType, Mac, head};
use wire::neighbour::{Arp, ArpOperation};

use super::*;
use crate::classify::SocketKind;
use crate::egress::Batch;
use crate::io::{DatagramSink, Offloads, Punt, Punts, Received, TunIo};
use crate::testing::{Blueprint, FakeTun, SYN, now, virtio};
use crate::worker::{Op, Settings, Worker};

/// Two stations, and a member that carries packets.
const ALICE: u8 = 1;
const BOB: u8 = 2;
const CAROL: u8 = 3;
/// A station that is not there from the beginning.
const DAVE: u8 = 4;
const WORLD: u8 = 200;
/// A host of the network that the segment is joined to; the members' pool is a part of it.
const PRINTER: u8 = 150;
const OWN: Mac = Mac([2, 0, 0, 0, 0, 0xff]);
/// What every tunnel here puts in front.
const HEAD: usize = 4;

#[test]
fn frames_of_any_type_pass_between_stations() {
    let mut lab = Lab::network();
    let hello = frame(Mac::BROADCAST, mac(ALICE), EtherType(0x88b5), b"hello");
    let reply = frame(mac(ALICE), mac(BOB), EtherType(0x88b5), b"reply");

    lab.sends(ALICE, &hello);
    lab.sends(BOB, &reply);

    assert_eq!(lab.sent(), [(BOB, hello), (ALICE, reply)]);
    assert!(lab.outside.tun.written.is_empty());
}

#[test]
fn a_station_reaches_the_world_and_a_member_through_the_network() {
    let mut lab = Lab::network();
    let to_world = Blueprint::tcp(ALICE, WORLD);
    let to_carol = Blueprint::tcp(ALICE, CAROL);

    lab.sends(ALICE, &ip_frame(OWN, ALICE, &to_world));
    lab.sends(ALICE, &ip_frame(OWN, ALICE, &to_carol));

    assert_eq!(lab.outside.tun.plain(), [to_world.build()]);
    assert_eq!(lab.sent(), [(CAROL, Blueprint { ttl: 63, ..to_carol }.build())]);
}

#[test]
fn a_station_cannot_use_its_neighbours_address() {
    let mut lab = Lab::network();

    lab.sends(ALICE, &ip_frame(OWN, ALICE, &Blueprint::tcp(CAROL, WORLD)));

    assert!(lab.outside.tun.written.is_empty());
    assert_eq!(lab.discarded(Discard::SpoofedSource), 1);
}

#[test]
fn a_packet_for_a_station_is_asked_for_first_and_framed_from_then_on() {
    let mut lab = Lab::network();
    let packet = Blueprint::udp(WORLD, ALICE);

    lab.host_sends(&[0; 10], &packet.build());
    let asked = lab.sent();
    let question = Arp::parse(&asked[0].1[14..]).unwrap();
    assert_eq!((asked.len(), asked[0].0), (1, ALICE));
    assert_eq!(question.target.octets(), [10, 0, 0, ALICE]);
    assert_eq!(lab.discarded(Discard::UnknownNeighbour), 1);

    lab.answers_arp(ALICE);
    lab.host_sends(&[0; 10], &packet.build());
    lab.sends(CAROL, &Blueprint::udp(CAROL, ALICE).build());

    let framed = |packet: &Blueprint| frame(mac(ALICE), OWN, EtherType::IPV4, &packet.build());
    let forwarded = Blueprint { ttl: 63, ..Blueprint::udp(CAROL, ALICE) };
    assert_eq!(lab.sent(), [(ALICE, framed(&packet)), (ALICE, framed(&forwarded))]);
}

#[test]
fn a_super_packet_leaves_as_sealed_frames() {
    let mut lab = Lab::network();
    lab.answers_arp(ALICE);
    let whole = Blueprint { payload: vec![9; 2500], ..Blueprint::tcp(WORLD, ALICE) };

    lab.host_sends(&virtio(true, 1, [40, 1000, 20, 16]), &whole.build_unsummed());

    let sent = lab.sent();
    assert_eq!(sent.iter().map(|(_, one)| one.len()).collect::<Vec<_>>(), [1054, 1054, 554]);
    for (_, one) in sent {
        assert_eq!(one[..14], head(mac(ALICE), OWN, EtherType::IPV4));
        let ip = Head::parse(&one[14..]).unwrap();
        let payload = ip.payload(&one[14..]);
        assert!(ip.pseudo(payload.len() as u16).plus(payload).is_valid());
    }
}

#[test]
fn the_network_answers_a_question_with_no_more_than_was_asked() {
    let mut lab = Lab::network();
    let question = arp(ALICE, ArpOperation::REQUEST, 126);

    lab.sends(ALICE, &question);

    let sent = lab.sent();
    assert_eq!((sent.len(), sent[0].0, sent[0].1.len()), (1, ALICE, question.len()));
    assert_eq!(Arp::parse(&sent[0].1[14..]).unwrap().sender_mac, OWN);
}

#[test]
fn what_is_for_everybody_reaches_each_once_and_never_its_sender() {
    for from in [ALICE, CAROL] {
        let mut lab = Lab::network();
        lab.policy.set_relay_broadcast(true);
        let packet = Blueprint::udp(from, 127);

        if from == CAROL {
            lab.sends(CAROL, &packet.build());
        } else {
            lab.sends(ALICE, &ip_frame(Mac::BROADCAST, ALICE, &packet));
        }

        let own = if from == CAROL { OWN } else { mac(ALICE) };
        let framed = frame(Mac::BROADCAST, own, EtherType::IPV4, &packet.build());
        let expected = match from {
            ALICE => [(BOB, framed), (CAROL, packet.build())],
            _ => [(ALICE, framed.clone()), (BOB, framed)],
        };
        assert_eq!(lab.sent(), expected);
        assert_eq!(lab.outside.tun.plain(), [packet.build()], "with its hop limit");
    }
}

#[test]
fn what_the_host_says_to_everybody_does_not_come_back_to_it() {
    let mut lab = Lab::network();
    lab.policy.set_relay_broadcast(true);
    let packet = Blueprint::udp(126, 127);

    lab.host_sends(&[0; 10], &packet.build());

    let framed = frame(Mac::BROADCAST, OWN, EtherType::IPV4, &packet.build());
    assert_eq!(lab.sent(), [(ALICE, framed.clone()), (BOB, framed), (CAROL, packet.build())]);
    assert!(lab.outside.tun.written.is_empty());
}

#[test]
fn a_storm_is_cut_off_and_nobody_else_is() {
    let mut lab = Lab::network();
    lab.policy.set_relay_broadcast(true);
    let packet = |n: u16| Blueprint { id: n, ..Blueprint::udp(ALICE, 127) };

    for n in 0..10_000 {
        lab.sends(ALICE, &ip_frame(Mac::BROADCAST, ALICE, &packet(n)));
        lab.worker.flush(&mut lab.outside);
    }

    let copies = lab.outside.tun.written.len();
    assert!((2_600..2_800).contains(&copies), "{copies} times three copies");
    assert_eq!(lab.discarded(Discard::RateLimited) as usize, 10_000 - copies);
    lab.sent();
    lab.sends(CAROL, &Blueprint::udp(CAROL, 127).build());
    assert_eq!(lab.sent().len(), 2);
}

#[test]
fn a_frame_that_a_station_cannot_take_is_sent_to_the_others_only() {
    let mut lab = Lab::network();
    lab.plug_roomy(DAVE);
    lab.sends(BOB, &frame(Mac::BROADCAST, mac(BOB), EtherType(0x88b5), b"hello"));
    lab.sent();
    let of = |to, len: usize| frame(to, mac(ALICE), EtherType(0x88b5), &vec![7; len - HEADER]);

    // With 1500 bytes behind two tags, though packets to Bob may have 1400 only.
    lab.sends(ALICE, &of(mac(BOB), 1522));
    assert_eq!(lab.sent(), [(BOB, of(mac(BOB), 1522))]);
    for len in [1523, 60_000] {
        lab.sends(ALICE, &of(mac(BOB), len));
        assert_eq!(lab.sent(), []);
    }
    assert_eq!(lab.discarded(Discard::TooBig), 2);

    lab.sends(ALICE, &of(Mac::BROADCAST, 1523));
    assert_eq!(lab.sent(), [(DAVE, of(Mac::BROADCAST, 1523))]);
    lab.sends(ALICE, &of(Mac::BROADCAST, 9023));
    assert_eq!((lab.sent(), lab.discarded(Discard::TooBig)), (vec![], 5));
}

#[test]
fn what_goes_round_in_a_circle_goes_round_once() {
    let mut lab = Lab::network();
    let hello = frame(Mac::BROADCAST, Mac([2, 0, 0, 0, 7, 7]), EtherType(0x88b5), b"hello");
    let elsewhere = frame(Mac::BROADCAST, Mac([2, 0, 0, 0, 7, 8]), EtherType(0x88b5), b"hello");

    lab.sends(ALICE, &hello);
    lab.sends(BOB, &hello);
    assert_eq!(lab.discarded(Discard::SpoofedSource), 1, "its sender is at Alice's");
    lab.sends(BOB, &elsewhere);

    assert_eq!(lab.sent(), [(BOB, hello), (ALICE, elsewhere)]);
}

#[test]
fn a_packet_for_everybody_that_is_too_large_is_cut_or_left_out() {
    let mut lab = Lab::network();
    lab.policy.set_relay_broadcast(true);
    let large = |dont_fragment, id| Blueprint {
        dont_fragment,
        id,
        payload: vec![1; 1440],
        ..Blueprint::udp(CAROL, 127)
    };

    lab.sends(CAROL, &large(false, 1).build());
    assert_eq!(lab.sent().len(), 4, "two pieces for each station");
    lab.sends(CAROL, &large(true, 2).build());
    assert_eq!((lab.sent().len(), lab.discarded(Discard::TooBig)), (0, 2));
}

#[test]
fn connections_between_stations_are_opened_with_segments_that_fit() {
    let mut lab = Lab::network();
    let syn = |mss: u16| Blueprint {
        flags: SYN,
        options: [&[2, 4][..], &mss.to_be_bytes()].concat(),
        payload: Vec::new(),
        ..Blueprint::tcp(ALICE, BOB)
    };
    lab.sends(BOB, &frame(Mac::BROADCAST, mac(BOB), EtherType(0x88b5), b"hello"));
    lab.sent();

    lab.sends(ALICE, &ip_frame(mac(BOB), ALICE, &syn(1460)));

    assert_eq!(lab.sent(), [(BOB, ip_frame(mac(BOB), ALICE, &syn(1360)))]);
}

#[test]
fn what_comes_out_of_a_stations_tunnel_may_be_anything() {
    let mut lab = Lab::network();
    let sound = ip_frame(OWN, ALICE, &Blueprint::udp(ALICE, BOB));
    for at in 0..60 {
        lab.sends(ALICE, &sound[..at]);
        for value in 0..=u8::MAX {
            let mut bytes = sound.clone();
            bytes[at] = value;
            lab.sends(ALICE, &bytes);
        }
    }
}

#[test]
fn a_clients_frames_reach_its_device_joined_and_leave_it_cut() {
    let mut lab = Lab::uplink();
    let segment =
        |n: u32| Blueprint { sequence: n * 100, id: n as u16, ..Blueprint::tcp(BOB, ALICE) };
    let frames = [0, 1, 2].map(|n| ip_frame(mac(ALICE), BOB, &segment(n)));

    lab.arrive(ALICE, &frames);

    assert_eq!(lab.outside.tun.written.len(), 1);
    let written = &mut lab.outside.tun.written[0].clone();
    assert_eq!(written.len(), 10 + 14 + 40 + 300);
    let joined = SuperFrame::parse(written).unwrap();
    let cut = (0..joined.count()).map(|index| {
        let mut out = vec![0; joined.len_of(index)];
        joined.write(index, &mut out);
        out
    });
    assert_eq!(cut.collect::<Vec<_>>(), frames);

    let whole = Blueprint { payload: vec![9; 2500], ..Blueprint::tcp(ALICE, BOB) };
    let link = head(mac(BOB), mac(ALICE), EtherType::IPV4);
    let read = [&link[..], &whole.build_unsummed()].concat();
    lab.host_sends(&virtio(true, 1, [54, 1000, 34, 16]), &read);
    let arp = arp(ALICE, ArpOperation::REQUEST, BOB);
    lab.host_sends(&[0; 10], &arp);

    let sent = lab.sent();
    assert_eq!(sent.iter().map(|(_, one)| one.len()).collect::<Vec<_>>(), [1054, 1054, 554, 42]);
    assert_eq!(sent[3], (ALICE, arp));
}

#[test]
fn a_frame_of_another_protocol_reaches_a_client_as_it_is() {
    for ether_type in [EtherType(0x88b5), EtherType::IPV6] {
        let mut lab = Lab::uplink();
        let like_a_segment = |n: u32| {
            let packet =
                Blueprint { sequence: n * 100, id: n as u16, ..Blueprint::tcp(BOB, ALICE) };
            let payload = [&packet.build()[..], b"more of it"].concat();
            frame(mac(ALICE), mac(BOB), ether_type, &payload)
        };
        let frames = [like_a_segment(0), like_a_segment(1)];

        lab.arrive(ALICE, &frames);

        assert_eq!(lab.outside.tun.plain(), frames, "{ether_type:?}");
    }
}

#[test]
fn frames_that_do_not_fit_leave_in_parts_wherever_they_come_from() {
    let narrow = || Tagged { tag: ALICE, layer: Layer::Ethernet, most: 120 };
    let joined = |lab: &mut Lab| {
        let parts = lab.sent();
        assert!(parts.len() > 1 && parts.iter().all(|(to, _)| *to == ALICE), "{parts:?}");
        parts.into_iter().flat_map(|(_, part)| part).collect::<Vec<_>>()
    };
    let mut lab = Lab::network();
    lab.answers_arp(ALICE);
    lab.connect_through(ALICE, narrow());

    // Of 120 bytes, so that the frame's head is what does not fit.
    let packet = Blueprint { payload: vec![7; 92], ..Blueprint::udp(WORLD, ALICE) };
    let framed = |packet: &Blueprint| frame(mac(ALICE), OWN, EtherType::IPV4, &packet.build());
    lab.host_sends(&[0; 10], &packet.build());
    assert_eq!(joined(&mut lab), framed(&packet));
    let from_carol = Blueprint { payload: vec![7; 92], ..Blueprint::udp(CAROL, ALICE) };
    lab.sends(CAROL, &from_carol.build());
    assert_eq!(joined(&mut lab), framed(&Blueprint { ttl: 63, ..from_carol }));
    let from_bob = ip_frame(
        mac(ALICE),
        BOB,
        &Blueprint { payload: vec![7; 92], ..Blueprint::udp(BOB, ALICE) },
    );
    lab.sends(BOB, &from_bob);
    assert_eq!(joined(&mut lab), from_bob);

    let mut lab = Lab::uplink();
    lab.connect_through(ALICE, narrow());
    lab.host_sends(&[0; 10], &from_bob);
    assert_eq!(joined(&mut lab), from_bob);
}

#[test]
fn frames_of_different_stations_are_never_joined() {
    let mut lab = Lab::uplink();
    let segment =
        |n: u32| Blueprint { sequence: n * 100, id: n as u16, ..Blueprint::tcp(BOB, ALICE) };

    let other = frame(mac(ALICE), mac(CAROL), EtherType::IPV4, &segment(1).build());
    lab.arrive(ALICE, &[ip_frame(mac(ALICE), BOB, &segment(0)), other]);

    assert_eq!(lab.outside.tun.plain().len(), 2);
}

#[test]
fn frames_of_any_type_pass_between_stations_and_the_joined_network() {
    let mut lab = Lab::bridged();
    let hello = frame(Mac::BROADCAST, mac(PRINTER), EtherType(0x88b5), b"hello");
    let reply = frame(mac(PRINTER), mac(ALICE), EtherType(0x88b5), b"reply");
    let again = frame(mac(ALICE), mac(PRINTER), EtherType(0x88b5), b"again");

    lab.bridge_sends(&[0; 10], &hello);
    lab.sends(ALICE, &reply);
    lab.bridge_sends(&[0; 10], &again);

    assert_eq!(lab.sent(), [(ALICE, hello.clone()), (ALICE, again), (BOB, hello)]);
    assert_eq!(lab.bridged_out(), [[&[0; 10][..], &reply].concat()]);
    assert!(lab.outside.tun.written.is_empty());
}

#[test]
fn super_frames_pass_the_bridge_whole_in_and_cut_out() {
    let mut lab = Lab::bridged();
    let hello = |host| frame(Mac::BROADCAST, mac(host), EtherType(0x88b5), b"");
    lab.bridge_sends(&[0; 10], &hello(PRINTER));
    lab.sends(ALICE, &hello(ALICE));
    lab.sent();
    lab.bridged_out();
    let whole = Blueprint { payload: vec![9; 2500], ..Blueprint::tcp(PRINTER, ALICE) };
    let link = head(mac(ALICE), mac(PRINTER), EtherType::IPV4);

    lab.bridge_sends(
        &virtio(true, 1, [54, 1000, 34, 16]),
        &[&link[..], &whole.build_unsummed()].concat(),
    );
    let back = |n: u32| Blueprint {
        sequence: 1000 + n * 1000,
        payload: vec![7; 1000],
        ..Blueprint::tcp(ALICE, PRINTER)
    };
    let back = [0, 1].map(|n| ip_frame(mac(PRINTER), ALICE, &back(n)));
    lab.arrive(ALICE, &back);

    let lengths = lab.sent().iter().map(|(_, one)| one.len()).collect::<Vec<_>>();
    assert_eq!(lengths, [1054, 1054, 554]);
    let joined = lab.bridged_out();
    assert_eq!((joined.len(), joined[0].len()), (1, 10 + 14 + 40 + 2000));
    assert_eq!(joined[0][1], 1, "a TCP super packet");
}

#[test]
fn frames_that_are_too_long_for_the_joined_network_do_not_reach_it() {
    let mut lab = Lab::bridged();
    lab.plug_roomy(DAVE);
    lab.bridge_sends(&[0; 10], &frame(Mac::BROADCAST, mac(PRINTER), EtherType(0x88b5), b""));
    lab.sent();
    let segment = |n: u32, len: u32| Blueprint {
        sequence: n * len,
        payload: vec![7; len as usize],
        ..Blueprint::tcp(DAVE, PRINTER)
    };
    let segments = |len| [0, 1].map(|n| ip_frame(mac(PRINTER), DAVE, &segment(n, len)));

    lab.arrive(DAVE, &segments(8960));
    assert_eq!((lab.bridged_out(), lab.discarded(Discard::TooBig)), (vec![], 2));
    lab.arrive(DAVE, &segments(1460));
    assert_eq!(lab.bridged_out().len(), 1);
}

#[test]
fn connections_to_the_joined_network_are_opened_with_segments_that_fit_it() {
    let mut lab = Lab::bridged();
    lab.plug_roomy(DAVE);
    lab.bridge_sends(&[0; 10], &frame(Mac::BROADCAST, mac(PRINTER), EtherType(0x88b5), b""));
    lab.sent();
    let syn = |from, mss: u16| Blueprint {
        flags: SYN,
        options: [&[2, 4][..], &mss.to_be_bytes()].concat(),
        payload: Vec::new(),
        ..Blueprint::tcp(from, PRINTER)
    };
    for (from, mss) in [(DAVE, 1460), (ALICE, 1360)] {
        lab.sends(from, &ip_frame(mac(PRINTER), from, &syn(from, 8960)));

        let clamped = ip_frame(mac(PRINTER), from, &syn(from, mss));
        assert_eq!(lab.bridged_out(), [[&[0; 10][..], &clamped].concat()]);
    }
}

#[test]
fn a_host_of_the_joined_network_and_a_member_reach_each_other() {
    let mut lab = Lab::bridged();

    // The network answers for the member,
    lab.bridge_sends(&[0; 10], &arp(PRINTER, ArpOperation::REQUEST, CAROL));
    let answers = lab.bridged_out();
    let answer = Arp::parse(&answers[0][24..]).unwrap();
    assert_eq!((answers.len(), answer.sender_mac, answer.target_mac), (1, OWN, mac(PRINTER)));
    // takes what is sent to it,
    let whole = Blueprint { payload: vec![9; 2500], ..Blueprint::tcp(PRINTER, CAROL) };
    let link = head(OWN, mac(PRINTER), EtherType::IPV4);
    let read = [&link[..], &whole.build_unsummed()].concat();
    lab.bridge_sends(&virtio(true, 1, [54, 1000, 34, 16]), &read);
    let sent = lab.sent();
    assert_eq!(
        sent.iter().map(|(to, one)| (*to, one.len())).collect::<Vec<_>>(),
        [(CAROL, 1040), (CAROL, 1040), (CAROL, 540)]
    );
    assert_eq!(sent[0].1[8], 63, "one hop less");
    let unsummed = Blueprint::udp(PRINTER, CAROL);
    let read = [&link[..], &unsummed.build_unsummed()].concat();
    lab.bridge_sends(&virtio(true, 0, [0, 0, 34, 6]), &read);
    assert_eq!(lab.sent(), [(CAROL, Blueprint { ttl: 63, ..unsummed }.build())]);
    // and knows from the question who the printer is.
    let reply = Blueprint::tcp(CAROL, PRINTER);
    lab.sends(CAROL, &reply.build());
    let forwarded = Blueprint { ttl: 63, ..reply }.build();
    let framed = frame(mac(PRINTER), OWN, EtherType::IPV4, &forwarded);
    assert_eq!(lab.bridged_out(), [[&[0; 10][..], &framed].concat()]);
    // What comes together leaves together, in one frame.
    let piece = |n: u32| Blueprint {
        sequence: 1000 + n * 1000,
        payload: vec![7; 1000],
        ..Blueprint::tcp(CAROL, PRINTER)
    };
    lab.arrive(CAROL, &[0, 1].map(|n| piece(n).build()));
    let joined = lab.bridged_out();
    assert_eq!((joined.len(), joined[0].len()), (1, 10 + 14 + 40 + 2000));
    assert_eq!(joined[0][10..24], framed[..14]);
}

#[test]
fn a_host_of_the_joined_network_that_was_not_heard_is_asked_for() {
    let mut lab = Lab::bridged();

    lab.sends(CAROL, &Blueprint::udp(CAROL, PRINTER).build());

    let asked = lab.bridged_out();
    let question = Arp::parse(&asked[0][24..]).unwrap();
    assert_eq!((asked.len(), question.target.octets()), (1, [10, 0, 0, PRINTER]));
    assert_eq!(lab.discarded(Discard::UnknownNeighbour), 1);
}

#[test]
fn a_member_that_is_on_the_joined_network_too_closes_no_circle() {
    let mut lab = Lab::bridged();
    let hello = |host, text: &[u8]| frame(Mac::BROADCAST, mac(host), EtherType(0x88b5), text);
    lab.bridge_sends(&[0; 10], &hello(PRINTER, b"one"));
    assert_eq!(lab.sent().len(), 2);

    // Alice's own bridge brings the printer's words along.
    lab.sends(ALICE, &hello(PRINTER, b"one"));
    lab.bridge_sends(&[0; 10], &hello(PRINTER, b"two"));
    lab.sends(ALICE, &hello(ALICE, b"three"));
    lab.sends(BOB, &hello(BOB, b"four"));

    assert_eq!(lab.sent(), [(BOB, hello(PRINTER, b"two"))], "Alice hears nothing more");
    let four = [&[0; 10][..], &hello(BOB, b"four")].concat();
    assert_eq!(lab.bridged_out(), [four], "and says nothing more");
    assert_eq!(lab.discarded(Discard::Loop), 2);
    // By IP she is a member as before.
    lab.sends(ALICE, &ip_frame(OWN, ALICE, &Blueprint::udp(ALICE, CAROL)));
    assert_eq!(lab.sent().len(), 1);
}

struct Lab {
    worker: Worker<AnyFabric>,
    policy: Arc<SwitchPolicy>,
    outside: Outside,
    now: Instant,
}

impl Lab {
    fn network() -> Self {
        let policy = Arc::<SwitchPolicy>::default();
        let mut switch = Switch::new(SwitchSettings {
            subnets: vec!["10.0.0.0/25".parse().unwrap()],
            gateways: vec![IpAddr::from([10, 0, 0, 126])],
            host_mtu: 1500,
            policy: Arc::clone(&policy),
            on_bridge: Vec::new(),
            groups: Vec::new(),
            segment: Arc::new(Segment::new(OWN, 1, now())),
        });
        for (host, layer) in [(ALICE, Layer::Ethernet), (BOB, Layer::Ethernet), (CAROL, Layer::Ip)]
        {
            let prefixes = vec![IpAddr::from([10, 0, 0, host]).into()];
            let port = PortId(host.into());
            let user = Arc::default();
            switch.apply(&FabricOp::Plug(Plug { port, prefixes, mtu: 1400, layer, user }));
        }
        let mut lab = Self::with(AnyFabric::Switch(switch), Layer::Ip, policy);
        lab.connect(ALICE, Layer::Ethernet);
        lab.connect(BOB, Layer::Ethernet);
        lab.connect(CAROL, Layer::Ip);
        lab
    }

    /// The same, joined to the printer's network.
    fn bridged() -> Self {
        let mut lab = Self::network();
        let prefixes = vec!["10.0.0.0/24".parse().unwrap()];
        let (port, layer) = (BRIDGE_PORT, Layer::Ethernet);
        let plug = FabricOp::Plug(Plug { port, prefixes, mtu: 1500, layer, user: Arc::default() });
        lab.worker.apply(Op::Fabric(plug));
        lab.outside.bridge = Some(FakeTun::default());
        lab
    }

    /// A station whose tunnel takes large frames.
    fn plug_roomy(&mut self, host: u8) {
        let roomy = Plug {
            port: PortId(host.into()),
            prefixes: vec![IpAddr::from([10, 0, 0, host]).into()],
            mtu: 9000,
            layer: Layer::Ethernet,
            user: Arc::default(),
        };
        self.worker.apply(Op::Fabric(FabricOp::Plug(roomy)));
        self.connect(host, Layer::Ethernet);
    }

    fn bridge_sends(&mut self, virtio: &[u8], frame: &[u8]) {
        let mut read = [virtio, frame].concat();
        self.worker.on_bridge(self.now, &mut read, &mut self.outside);
    }

    /// What was written to the device of the joined network since the last time.
    fn bridged_out(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.outside.bridge.as_mut().unwrap().written)
    }

    /// A client whose tunnel is Alice's.
    fn uplink() -> Self {
        let mut uplink = Uplink::new(1500);
        let (port, layer) = (PortId(ALICE.into()), Layer::Ethernet);
        let (prefixes, user) = (Vec::new(), Arc::default());
        uplink.apply(&FabricOp::Plug(Plug { port, prefixes, mtu: 1400, layer, user }));
        let mut lab = Self::with(AnyFabric::Uplink(uplink), layer, Arc::default());
        lab.connect(ALICE, layer);
        lab
    }

    fn with(fabric: AnyFabric, layer: Layer, policy: Arc<SwitchPolicy>) -> Self {
        let offloads = Offloads { gso: true, uso: true };
        let settings = Settings { offloads, layer, ..Settings::default() };
        let mut worker = Worker::new(fabric, &settings);
        worker.apply(Op::AddSocket(SocketId(0), SocketKind::OpenVpnResponder, None));
        Self { worker, policy, outside: Outside::default(), now: now() }
    }

    fn connect(&mut self, host: u8, layer: Layer) {
        self.connect_through(host, Tagged { tag: host, layer, most: usize::MAX });
    }

    fn connect_through(&mut self, host: u8, tunnel: Tagged) {
        let (port, via) = (PortId(host.into()), Via::Path(path(host)));
        let tunnel = Arc::new(tunnel);
        self.worker.apply(Op::DataPlane(DataPlaneOp::Install {
            key: key(host),
            port,
            via,
            tunnel,
        }));
        let exit = Exit::Tunnel(key(host));
        self.worker.apply(Op::DataPlane(DataPlaneOp::SendVia { port, exit }));
    }

    fn sends(&mut self, host: u8, content: &[u8]) {
        self.arrive(host, &[content.to_vec()]);
    }

    fn arrive(&mut self, host: u8, contents: &[Vec<u8>]) {
        let tag = |content: &Vec<u8>| [&[9 << 3, 0, 0, host], &content[..]].concat();
        let mut datagrams = contents.iter().map(tag).collect::<Vec<_>>();
        let path = path(host);
        let batch = datagrams.iter_mut().map(|bytes| Received { path, stride: bytes.len(), bytes });
        self.worker.on_network(self.now, batch, &mut self.outside);
    }

    fn host_sends(&mut self, virtio: &[u8], bytes: &[u8]) {
        let mut read = [virtio, bytes].concat();
        self.worker.on_host(self.now, &mut read, &mut self.outside);
    }

    fn answers_arp(&mut self, host: u8) {
        self.sends(host, &arp(host, ArpOperation::REPLY, 126));
        self.sent();
    }

    /// Flushes and returns what was sent to whom since the last time.
    fn sent(&mut self) -> Vec<(u8, Vec<u8>)> {
        self.worker.flush(&mut self.outside);
        let cut = |(size, bytes): (usize, Vec<u8>)| {
            bytes.chunks(size).map(|one| (one[3], one[HEAD..].to_vec())).collect::<Vec<_>>()
        };
        self.outside.batches.drain(..).flat_map(cut).collect()
    }

    fn discarded(&self, why: Discard) -> u64 {
        self.worker.discards()[why as usize]
    }
}

#[derive(Default)]
struct Outside {
    tun: FakeTun,
    bridge: Option<FakeTun>,
    batches: Vec<(usize, Vec<u8>)>,
}

impl TunIo for Outside {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.tun.read(into)
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.tun.write(pieces)
    }

    fn write_frame(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.bridge.as_mut().unwrap_or(&mut self.tun).write(pieces)
    }
}

impl DatagramSink for Outside {
    fn send(&mut self, batch: &Batch) -> Result<(), Discard> {
        self.batches.push((batch.segment_size(), batch.bytes().to_vec()));
        Ok(())
    }
}

impl Punts for Outside {
    fn punt(&mut self, punt: Punt<'_>) -> Result<(), Discard> {
        panic!("nothing here is for the control plane: {punt:?}");
    }
}

/// A tunnel that only writes OpenVPN's P_DATA_V2 header, and carries one kind of content.
#[derive(Debug)]
struct Tagged {
    tag: u8,
    layer: Layer,
    /// What is longer leaves in parts of so many bytes.
    most: usize,
}

impl Tunnel for Tagged {
    fn frame(&self, _: ContentKind, _: usize) -> Frame {
        Frame { head: HEAD, tail: 0 }
    }

    fn seal(&self, kind: ContentKind, len: usize, out: &mut [u8]) -> Result<(), Discard> {
        assert!(len <= self.most, "it does not fit");
        let expected = match self.layer {
            Layer::Ip => ContentKind::Packet,
            Layer::Ethernet => ContentKind::Frame,
        };
        assert_eq!(kind, expected);
        out[..HEAD].copy_from_slice(&[9 << 3, 0, 0, self.tag]);
        Ok(())
    }

    fn open<'b>(&self, datagram: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
        let content = datagram.get_mut(HEAD..).ok_or(Discard::Malformed)?;
        Ok(match self.layer {
            Layer::Ip => Opened::Packet(content),
            Layer::Ethernet => Opened::Frame(content),
        })
    }

    fn fits(&self, len: usize) -> bool {
        len <= self.most
    }

    fn seal_in_parts(
        &self,
        kind: ContentKind,
        content: &[u8],
        room: &mut [u8],
        send: &mut dyn FnMut(&[u8]) -> Result<(), Discard>,
    ) -> Result<(), Discard> {
        content.chunks(self.most).try_for_each(|part| {
            let out = &mut room[..HEAD + part.len()];
            out[HEAD..].copy_from_slice(part);
            self.seal(kind, part.len(), out)?;
            send(out)
        })
    }
}

fn mac(host: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, host])
}

fn frame(destination: Mac, source: Mac, ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    [&head(destination, source, ether_type)[..], payload].concat()
}

fn ip_frame(destination: Mac, from: u8, packet: &Blueprint) -> Vec<u8> {
    frame(destination, mac(from), EtherType::IPV4, &packet.build())
}

fn arp(from: u8, operation: ArpOperation, target: u8) -> Vec<u8> {
    let arp = Arp {
        operation,
        sender_mac: mac(from),
        sender: [10, 0, 0, from].into(),
        target_mac: Mac([0; 6]),
        target: [10, 0, 0, target].into(),
    };
    frame(Mac::BROADCAST, mac(from), EtherType::ARP, &arp.write())
}

fn key(tag: u8) -> TunnelKey {
    TunnelKey::OpenVpn { peer: tag.into(), key_id: 0 }
}

fn path(host: u8) -> Path {
    Path {
        local: None,
        remote: ([192, 0, 2, host], 1194).into(),
        carrier: Carrier::Udp(SocketId(0)),
    }
}
