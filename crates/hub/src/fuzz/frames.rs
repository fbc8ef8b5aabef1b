//! Frames of any bytes among two stations, a member that carries packets, and a bridged network.

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use contract::{BRIDGE_PORT, Fabric, FabricOp, FrameVerdict, Layer, LinkHead, Plug, PortId};
use wire::ethernet::Mac;

use crate::{Segment, Switch, SwitchPolicy, SwitchSettings};

/// The network's own hardware address.
const OWN: Mac = Mac([2, 0, 0, 0, 0, 0xff]);

/// Any moment will do, as long as it is one.
#[expect(clippy::disallowed_methods, reason = "the fuzzer is the caller that owns the clock")]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Plays frames, cut from `bytes` by a byte of port and time and two of length, and asserts what
/// must hold after every one: nothing goes back to where it came from, no answer is larger than
/// its question, the network speaks for itself only, and nobody is heard where they are not.
///
/// # Panics
///
/// If the switch breaks one of these promises.
pub fn frames(bytes: &[u8]) {
    let policy = Arc::new(SwitchPolicy::default());
    policy.set_relay_broadcast(true);
    let mut switch = Switch::new(SwitchSettings {
        subnets: vec![
            "10.86.0.0/16".parse().expect("a network"),
            "fd86::/64".parse().expect("a network"),
        ],
        gateways: vec![
            "10.86.0.1".parse().expect("an address"),
            "fd86::1".parse().expect("an address"),
        ],
        host_mtu: 1500,
        policy,
        on_bridge: Vec::new(),
        groups: Vec::new(),
        segment: Arc::new(Segment::new(OWN, 1, *START)),
    });
    for (port, layer) in [(1, Layer::Ethernet), (2, Layer::Ethernet), (3, Layer::Ip)] {
        let prefixes = [format!("10.86.0.{}/32", port + 1), format!("fd86::{}/128", port + 1)];
        switch.apply(&FabricOp::Plug(Plug {
            port: PortId(port),
            prefixes: prefixes.iter().map(|net| net.parse().expect("a network")).collect(),
            mtu: 1400,
            layer,
            // Two are one user's.
            user: format!("user {}", port / 2).into(),
        }));
    }

    switch.apply(&FabricOp::Plug(Plug {
        port: BRIDGE_PORT,
        prefixes: ["10.0.0.0/8", "fd77::/64"].map(|net| net.parse().expect("a network")).to_vec(),
        mtu: 1500,
        layer: Layer::Ethernet,
        user: Arc::default(),
    }));
    let is_station = |port: PortId| port == BRIDGE_PORT || matches!(port.0, 1 | 2);

    let (mut rest, mut now) = (bytes, *START);
    while let Some(([which, high, low], tail)) = rest.split_first_chunk::<3>() {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (frame, tail) = tail.split_at(len);
        rest = tail;
        now += Duration::from_millis(u64::from(*which >> 2) * 100);
        let from = match which % 4 {
            0 => BRIDGE_PORT,
            port => PortId(port.into()),
        };
        let mut frame = frame.to_vec();
        let question = frame.clone();
        match switch.switch(from, now, &mut frame) {
            FrameVerdict::Answer(len) => {
                assert!(len <= question.len(), "an answer larger than its question");
                assert_eq!((&frame[6..12], &frame[..6]), (&OWN.0[..], &question[6..12]));
            }
            FrameVerdict::Port(to) => {
                assert!(to != from && is_station(to), "{to:?} is no other station");
                assert_eq!(frame, question);
            }
            FrameVerdict::Route => assert_eq!((&frame[..6], frame.len() > 14), (&OWN.0[..], true)),
            FrameVerdict::Flood { packet } => {
                assert!(packet.is_none_or(|at| at < frame.len()) && is_station(from));
            }
            FrameVerdict::Host => panic!("the host carries no frames"),
            FrameVerdict::Discard(_) => {}
        }
        for port in [1, 2] {
            let own = format!("10.86.0.{}", port + 1).parse().expect("an address");
            if let LinkHead::Ethernet(head) = switch.link_head(PortId(port), own) {
                assert!(head[6..12] == OWN.0 && head[..6] != OWN.0 && head[0] & 1 == 0);
            }
        }
    }
}
