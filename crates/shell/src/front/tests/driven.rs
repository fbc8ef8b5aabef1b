//! Connections and the door that judges what they say.

use std::sync::atomic::AtomicU32;

use contract::{
    Acceptor, Arrival, AuthContext, AuthVerdict, Authenticator, BoxFuture, Credentials, DenyReason,
    Engine, Fatal, Input, Output, Route, SessionId,
};
use hub::{Forgetful, HubNetwork, NetworkSettings};
use tokio::sync::Notify;

use super::*;
use crate::driver::{Driver, Order, Services, Which};
use crate::kind::DoorKind;
use crate::news::Newsroom;

/// Does with a packet what its second byte says.
#[derive(Debug)]
struct Judge;

impl Acceptor for Judge {
    type Engine = Silent;

    fn claims(&self, first: &[u8]) -> Claim {
        openvpn::claims(first)
    }

    fn route(&mut self, _: Instant, _: &Path, datagram: &mut [u8], reply: &mut Vec<u8>) -> Route {
        match datagram[1] {
            b'n' => Route::New,
            b'a' => {
                reply.push(b'!');
                Route::Reply
            }
            b'l' => Route::Discard(Discard::RateLimited),
            _ => Route::Discard(Discard::AuthFailed),
        }
    }

    fn accept(
        &mut self,
        _: Instant,
        _: Arrival<'_>,
        _: SessionId,
        _: PortId,
        _: [u8; 32],
    ) -> Option<Silent> {
        Some(Silent)
    }

    fn forget(&mut self, _: SessionId) {}
}

#[derive(Debug)]
struct Silent;

impl Engine for Silent {
    fn handle(&mut self, _: Instant, _: Input<'_>) -> Result<(), Fatal> {
        Ok(())
    }

    fn poll(&mut self, _: Instant) -> Output {
        Output::Wait(None)
    }
}

#[derive(Debug)]
struct Nobody;

impl Authenticator for Nobody {
    fn authenticate<'a>(
        &'a self,
        _: &'a AuthContext,
        _: Credentials,
    ) -> BoxFuture<'a, AuthVerdict> {
        Box::pin(async { AuthVerdict::Deny(DenyReason::BadCredentials) })
    }
}

/// A hall whose connections are heard by a door.
fn drive(hall: &mut Hall) -> mpsc::Sender<Order<Judge>> {
    let settings = NetworkSettings {
        name: "warren".to_owned(),
        ipv4: "10.86.0.0/24".parse().ok(),
        ipv6: None,
        dns: Default::default(),
        routes: Vec::new(),
        excluded: Vec::new(),
        redirect4: false,
        redirect6: false,
        block4: false,
        block6: false,
        mtu: 1420,
    };
    let services = Services {
        workers: hall.front.workers.clone(),
        lobby: Arc::clone(&hall.front.lobby),
        network: Arc::new(HubNetwork::new(settings, Box::new(Forgetful)).unwrap()),
        network_name: "warren".to_owned(),
        authenticator: Arc::new(Nobody),
        ports: AtomicU32::new(1),
        sessions: AtomicU64::new(1),
        replaced: mpsc::unbounded_channel().0,
        news: Newsroom::new(),
        subnets: Notify::new(),
        seed: || [7; 32],
    };
    let events = std::mem::replace(&mut hall.events, mpsc::channel(1).1);
    let (orders, received) = mpsc::channel(4);
    let (driver, answered) = Driver::new(DoorKind::OpenVpn, Judge, Arc::new(services));
    tokio::spawn(driver.run(answered, events, received));
    orders
}

/// A packet with its length in front.
fn packet(what: u8) -> [u8; 16] {
    let mut packet = [0; 16];
    packet.copy_from_slice(HELLO);
    packet[3] = what;
    packet
}

#[tokio::test]
async fn who_never_says_anything_right_is_shown_out_at_once() {
    let mut hall = Hall::open(PATIENCE * 10, None);
    let _orders = drive(&mut hall);
    let mut peer = hall.connect().await;

    peer.write_all(&packet(b'x')).await.unwrap();

    assert!(is_closed(&mut peer).await);
    hall.wait_for_strangers(0).await;
    hall.front.workers.stop();
}

#[tokio::test]
async fn one_wrong_packet_after_a_right_one_and_one_that_we_had_no_time_for_are_forgiven() {
    let mut hall = Hall::open(PATIENCE * 10, None);
    let _orders = drive(&mut hall);
    for first in [&b"axa"[..], b"la"] {
        let mut peer = hall.connect().await;
        for what in first {
            peer.write_all(&packet(*what)).await.unwrap();
        }

        let answers = first.iter().filter(|what| **what == b'a').count();
        let mut answer = vec![0; answers * 3];
        timeout(PATIENCE, peer.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, b"\x00\x01!".repeat(answers));
        assert_eq!(hall.strangers(), 1);
        drop(peer);
        hall.wait_for_strangers(0).await;
    }
    hall.front.workers.stop();
}

#[tokio::test]
async fn who_comes_through_a_listener_that_says_goodbye_is_closed() {
    let mut hall = Hall::open(PATIENCE * 10, None);
    let orders = drive(&mut hall);
    let (mut early, mut late) = (hall.connect().await, hall.connect().await);
    hall.wait_for_strangers(2).await;
    early.write_all(&packet(b'n')).await.unwrap();
    hall.wait_for_strangers(1).await;
    let (done, _drained) = oneshot::channel();
    orders.send(Order::Drain(Which::Socket(SocketId(7)), done)).await.ok().unwrap();

    late.write_all(&packet(b'n')).await.unwrap();

    assert!(is_closed(&mut late).await);
    hall.wait_for_strangers(0).await;
    assert!(timeout(Duration::from_millis(50), early.read(&mut [0])).await.is_err());
    hall.front.workers.stop();
}
