//! Datagrams that nobody should answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::namespace::Namespace;
use crate::relay::Random;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// 1 to 1,500 random bytes.
    Garbage,
    /// Every OpenVPN opcode with the layout of its packet, authenticated with a key the server
    /// does not have.
    OpenVpnWrongKey,
}

/// A flood under way.
#[derive(Debug)]
pub struct Flood {
    thread: JoinHandle<FloodReport>,
}

/// What went out and what came back, UDP payload only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FloodReport {
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Datagrams that came back.
    pub answered: u64,
    /// Bytes that came back.
    pub answered_bytes: u64,
}

impl Flood {
    /// Sends `count` datagrams at `per_second`.
    ///
    /// # Errors
    /// If no socket can be had.
    pub fn start(
        from: &Namespace,
        target: SocketAddr,
        noise: Noise,
        count: u64,
        per_second: u32,
    ) -> Result<Self> {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = from
            .enter(move || {
                let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.connect(target)?;
                socket.set_nonblocking(true)?;
                std::io::Result::Ok(socket)
            })
            .with_context(|| format!("{}: socket towards {target}", from.name()))?;
        let thread = thread::Builder::new()
            .name("flood".into())
            .spawn(move || send(&socket, noise, count, f64::from(per_second)))?;
        Ok(Self { thread })
    }

    /// Waits for the end and for late answers.
    ///
    /// # Errors
    /// If the flood's thread panicked.
    pub fn finish(self) -> Result<FloodReport> {
        self.thread.join().map_err(|_| anyhow!("the flood's thread panicked"))
    }
}

fn send(socket: &UdpSocket, noise: Noise, count: u64, per_second: f64) -> FloodReport {
    let mut random = Random(count);
    let mut report = FloodReport::default();
    let mut buffer = vec![0; 1500];
    let began = Instant::now();
    while report.sent < count {
        let owed = (began.elapsed().as_secs_f64() * per_second) as u64;
        while report.sent < owed.min(count) {
            let len = match noise {
                Noise::Garbage => garbage(&mut random, &mut buffer),
                Noise::OpenVpnWrongKey => wrong_key(&mut random, &mut buffer),
            };
            // Refused or no room is as good as sent: a flood does not care.
            let _ = socket.send(&buffer[..len]);
            report.sent += 1;
            report.sent_bytes += len as u64;
        }
        drain(socket, &mut report);
        thread::sleep(Duration::from_millis(1));
    }
    let quiet = Instant::now() + Duration::from_millis(500);
    while Instant::now() < quiet {
        drain(socket, &mut report);
        thread::sleep(Duration::from_millis(5));
    }
    report
}

fn drain(socket: &UdpSocket, report: &mut FloodReport) {
    let mut answer = [0; 2048];
    // An ICMP error is reported here once and says nothing about later datagrams.
    while let Ok(len) = socket.recv(&mut answer) {
        report.answered += 1;
        report.answered_bytes += len as u64;
    }
}

fn garbage(random: &mut Random, buffer: &mut [u8]) -> usize {
    let len = 1 + random.below(buffer.len() as u64) as usize;
    random.fill(&mut buffer[..len]);
    len
}

fn wrong_key(random: &mut Random, buffer: &mut [u8]) -> usize {
    /// Opcode, and the packet's shortest and longest plausible length with tls-crypt.
    const SHAPES: [(u8, u64, u64); 8] = [
        (7, 54, 54),     // hard reset: wrapping, empty acknowledgement list, packet id
        (10, 350, 700),  // hard reset with a wrapped client key
        (4, 62, 1250),   // control with an acknowledgement: the third packet of a handshake
        (5, 58, 80),     // acknowledgement
        (3, 54, 62),     // soft reset
        (9, 40, 1450),   // data with a peer id
        (6, 40, 1450),   // data without
        (11, 350, 1250), // control with a wrapped client key
    ];
    let (opcode, min, max) = SHAPES[random.below(SHAPES.len() as u64) as usize];
    let len = (min + random.below(max - min + 1)) as usize;
    random.fill(&mut buffer[..len]);
    let key_id = if opcode == 7 || opcode == 10 { 0 } else { random.below(8) as u8 };
    buffer[0] = opcode << 3 | key_id;
    if opcode == 9 {
        // Peer ids are small: this one is likely to be somebody's.
        buffer[1..4].copy_from_slice(&[0, 0, random.below(4) as u8]);
    } else if opcode != 6 {
        // The replay field: a first packet, of a process started at a plausible time.
        buffer[9..13].copy_from_slice(&1_u32.to_be_bytes());
        buffer[13..17].copy_from_slice(&1_800_000_000_u32.to_be_bytes());
    }
    len
}
