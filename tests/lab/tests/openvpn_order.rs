//! Several workers: stock clients take packet ids in order, over TCP strictly, whoever sends to them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::openvpn::{Client, without_remotes};
use lab::warren::{GATEWAY4, Warren, config};
use lab::{Namespace, PATIENCE, World, scenario};

const PASSWORD: &str = "long enough for a test";
const PORT: u16 = 9000;
/// How much of everybody's each member has to hear.
const ENOUGH: u32 = 4000;
/// Flows of the host to each member: the kernel spreads them over the TUN queues.
const FLOWS: usize = 6;
/// What each flow sends at once, and how long it then waits: more than a debug build carries would
/// only be dropped.
const BURST: (usize, Duration) = (8, Duration::from_millis(2));

fn sockets(at: &Namespace, address: Ipv4Addr, port: u16, count: usize) -> Result<Vec<UdpSocket>> {
    at.enter(move || (0..count).map(|_| Ok(UdpSocket::bind((address, port))?)).collect())
}

/// Sends to all of them until it is over.
fn fire(sockets: &[UdpSocket], to: &[IpAddr], is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        for to in to.iter().flat_map(|to| [to; BURST.0]) {
            for socket in sockets {
                // A full queue is what happens to whoever sends this much.
                let _ = socket.send_to(&[7; 400], SocketAddr::new(*to, PORT));
            }
        }
        thread::sleep(BURST.1);
    }
}

/// Listens until everybody else was heard well.
fn listen(socket: &UdpSocket, others: &[IpAddr]) -> Result<()> {
    let start = Instant::now();
    let mut heard = others.iter().map(|other| (*other, 0)).collect::<HashMap<_, _>>();
    socket.set_read_timeout(Some(PATIENCE))?;
    while heard.values().any(|count| *count < ENOUGH) {
        ensure!(start.elapsed() < PATIENCE * 3, "heard {heard:?}");
        match socket.recv_from(&mut [0; 2000]) {
            Ok((_, from)) => heard.entry(from.ip()).and_modify(|count| *count += 1),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(())
}

#[test]
fn no_member_hears_a_packet_out_of_order_whoever_sends_to_it() {
    scenario("one sender", |lab| {
        let world = World::new(lab, 3)?;
        let config = config(&[], &["renegotiate = 5"]) + "[server]\nworkers = 2\n";
        let warren = Warren::up(&world.server, "warren", &config)?;
        let mut clients = Vec::new();
        // The workers read connections in turn, so one member is heard by each of them; where the
        // third is heard, only one of the other two is.
        let members = [("alice", "tcp4"), ("bob", "tcp4"), ("carol", "udp4")];
        for (namespace, (user, protocol)) in world.clients.iter().zip(members) {
            let server = World::SERVER4.to_string();
            let profile = warren.user_with_profile(user, PASSWORD, &server)?;
            let profile =
                format!("{}\nremote {server} 1194 {protocol}\n", without_remotes(&profile));
            clients.push(Client::connect(namespace, &profile, Some((user, PASSWORD)), &[])?);
        }
        let addresses = clients.iter().map(Client::address4).collect::<Result<Vec<_>>>()?;
        let everybody = [&addresses[..], &[GATEWAY4.parse()?]].concat();

        let host = sockets(&world.server, Ipv4Addr::UNSPECIFIED, 0, FLOWS)?;
        let mut ends = Vec::new();
        for (client, own) in clients.iter().zip(&addresses) {
            let at = |port| sockets(client.namespace(), Ipv4Addr::UNSPECIFIED, port, 1);
            let others = everybody.iter().copied().filter(|other| other != own).collect::<Vec<_>>();
            ends.push((at(PORT)?.remove(0), at(0)?, others));
        }
        let is_over = AtomicBool::new(false);
        let heard = thread::scope(|scope| {
            let (addresses, over) = (&addresses, &is_over);
            scope.spawn(move || fire(&host, addresses, over));
            for (_, mouth, others) in &ends {
                // All but the gateway.
                let to = &others[..others.len() - 1];
                scope.spawn(move || fire(mouth, to, over));
            }
            let listeners =
                ends.iter().map(|(ear, _, others)| scope.spawn(move || listen(ear, others)));
            let listeners = listeners.collect::<Vec<_>>();
            let heard = listeners.into_iter().map(|listener| listener.join().unwrap());
            let heard = heard.collect::<Vec<_>>();
            is_over.store(true, Ordering::Relaxed);
            heard
        });

        for client in &clients {
            let complaints = client.peer().said("bad packet ID");
            ensure!(
                complaints.is_empty(),
                "{} of them: {:?}",
                complaints.len(),
                complaints.first()
            );
        }
        heard.into_iter().collect()
    });
}
