//! Strangers on TCP: few, short, cheap, and nobody else's business.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::openvpn::Client;
use lab::warren::{GATEWAY4, Session, Warren, config};
use lab::{Lab, Namespace, PATIENCE, Ping, World, ping_every, scenario};

const PASSWORD: &str = "long enough for a test";
const CREDENTIALS: Option<(&str, &str)> = Some(("alice", PASSWORD));
/// How many connections of one source may be no session yet.
const PER_SOURCE: usize = 128;
/// What the memory in use may grow by.
const GROWTH_KIB: u64 = 8 * 1024;
/// A hard reset's length and first byte, and nothing of a key behind it.
const FORGED: [u8; 56] = {
    let mut packet = [7; 56];
    packet[0] = 0;
    packet[1] = 54;
    packet[2] = 7 << 3;
    packet
};

/// A server, and a member on TCP whose session must not notice anything.
struct House {
    world: World,
    warren: Warren,
    client: Client,
    session: Session,
    memory: u64,
}

impl House {
    fn build(lab: &Lab, door: &[&str]) -> Result<Self> {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], door))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &World::SERVER4.to_string())?;
        let profile = profile.replace("proto udp", "proto tcp").replace(" 1194 udp", " 1194 tcp");
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        ensure!(!client.peer().said("TCP connection established").is_empty(), "not on TCP");
        // What a server allocates once, it has allocated after this.
        drop(connections(world.stranger(), 50, &[0, 54])?);
        let (session, memory) = (warren.session_of("alice")?, warren.peer().rss_kib()?);
        Ok(Self { world, warren, client, session, memory })
    }

    fn pings(&self) -> Result<Ping> {
        let gateway: IpAddr = GATEWAY4.parse()?;
        ping_every(Duration::from_millis(20), &self.world.clients[0], gateway)
    }

    fn end_undisturbed(self, pings: Ping) -> Result<()> {
        let pings = pings.finish()?;
        assert!(pings.sent >= 5 && pings.lost() * 100 <= pings.sent, "{pings:?}");
        let grown = self.warren.peer().rss_kib()?.saturating_sub(self.memory);
        assert!(grown < GROWTH_KIB, "memory grew by {grown} KiB");
        assert_eq!(self.warren.session_of("alice")?.id, self.session.id);
        assert_eq!(self.client.peer().said(lab::openvpn::UP).len(), 1);
        assert_eq!(self.warren.sessions()?.len(), 1);
        Ok(())
    }
}

/// So many connections, each of which says this.
fn connections(from: &Namespace, count: usize, hello: &[u8]) -> Result<Vec<TcpStream>> {
    let hello = hello.to_vec();
    from.enter(move || {
        let connect = |_| -> Result<TcpStream> {
            let target = SocketAddr::new(World::SERVER4.into(), 1194);
            let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
            // One that is closed already is one of those that are counted.
            let _ = stream.write_all(&hello);
            Ok(stream)
        };
        (0..count).map(connect).collect()
    })
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    match stream.read(&mut [0; 64]) {
        Ok(len) => len == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// Waits until no more than `left` are open; how long that took.
fn wait_closed(streams: &mut Vec<TcpStream>, left: usize, limit: Duration) -> Result<Duration> {
    let start = Instant::now();
    loop {
        streams.retain_mut(|stream| !is_closed(stream));
        if streams.len() <= left {
            return Ok(start.elapsed());
        }
        ensure!(start.elapsed() < limit, "{} are open after {limit:?}", streams.len());
    }
}

#[test]
fn those_who_say_little_are_few_and_do_not_stay() {
    scenario("slow loris", |lab| {
        let house = House::build(lab, &["handshake_timeout = 5"])?;
        let pings = house.pings()?;

        let mut streams = connections(house.world.stranger(), 1000, &[0, 54])?;
        let soon = Duration::from_secs(15);
        wait_closed(&mut streams, PER_SOURCE, soon)?;
        wait_closed(&mut streams, 0, soon)?;

        // Whoever says half a message after a good beginning has the handshake's time, no more.
        let mut streams = connections(house.world.stranger(), 1000, &FORGED[..40])?;
        wait_closed(&mut streams, PER_SOURCE, soon)?;
        let took = wait_closed(&mut streams, 0, soon)?;
        assert!(took > Duration::from_millis(500), "they were let in: {took:?}");
        house.end_undisturbed(pings)
    });
}

#[test]
fn lengths_that_cannot_be_close_the_connection_at_once() {
    scenario("bad lengths", |lab| {
        let house = House::build(lab, &[])?;
        let pings = house.pings()?;
        let soon = Duration::from_secs(10);
        let stranger = house.world.stranger();

        // As first bytes, and behind a message that is well framed.
        let bad = [&[0, 0, 0][..], &[0xff, 0xff, 0xff], b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1]];
        for bad in bad.repeat(4) {
            let mut streams = connections(stranger, 100, bad)?;
            wait_closed(&mut streams, 0, soon)?;
            let mut streams = connections(stranger, 100, &[&FORGED[..], bad].concat())?;
            wait_closed(&mut streams, 0, soon)?;
        }
        house.end_undisturbed(pings)
    });
}

#[test]
fn a_flood_of_connections_costs_nothing_that_stays() {
    scenario("tcp flood", |lab| {
        let house = House::build(lab, &["handshake_timeout = 5"])?;
        let pings = house.pings()?;

        for _ in 0..20 {
            drop(connections(house.world.stranger(), 500, &FORGED)?);
        }
        let mut streams = connections(house.world.stranger(), 200, &FORGED)?;
        wait_closed(&mut streams, 0, Duration::from_secs(20))?;
        house.end_undisturbed(pings)
    });
}
