//! Bulk traffic: how fast, and whether it arrives unchanged.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::PATIENCE;
use crate::namespace::Namespace;
use crate::peer::Peer;
use crate::relay::Random;

/// One iperf3 measurement.
#[derive(Clone, Debug)]
pub struct Iperf {
    /// Where the client connects to.
    pub server: IpAddr,
    /// The server's port.
    pub port: u16,
    /// How long to send, whole seconds.
    pub seconds: u32,
    /// Parallel streams.
    pub streams: u32,
    /// The server sends.
    pub reverse: bool,
    /// UDP at this many bits per second, if set; TCP otherwise.
    pub udp_bps: Option<u64>,
}

/// What an iperf3 client reported.
#[derive(Clone, Debug)]
pub struct IperfReport {
    /// What arrived, in bits per second.
    pub bps: f64,
    /// UDP: share of datagrams lost, in percent.
    pub lost_percent: f64,
    /// The whole report.
    pub json: serde_json::Value,
}

impl Iperf {
    /// One TCP stream for `seconds`.
    #[must_use]
    pub fn tcp(server: IpAddr, seconds: u32) -> Self {
        Self { server, port: 5201, seconds, streams: 1, reverse: false, udp_bps: None }
    }

    /// Runs server and client to the end.
    ///
    /// # Errors
    /// If either fails.
    pub fn run(&self, server: &Namespace, client: &Namespace) -> Result<IperfReport> {
        self.start(server, client)?.finish()
    }

    /// Starts both; the report is in [`RunningIperf::finish`].
    ///
    /// # Errors
    /// If the server does not listen.
    pub fn start(&self, server: &Namespace, client: &Namespace) -> Result<RunningIperf> {
        let (address, port) = (self.server.to_string(), self.port.to_string());
        let mut command = Command::new("iperf3");
        command.args(["-s", "-1", "--forceflush", "-p", &port, "-B", &address]);
        let listener = server.spawn(&format!("iperf3-{}", server.name()), command)?;
        listener.wait_for("Server listening", PATIENCE)?;

        let mut command = Command::new("iperf3");
        command.args(["-J", "-c", &address, "-p", &port, "-t", &self.seconds.to_string()]);
        command.args(["-P", &self.streams.to_string()]);
        if self.reverse {
            command.arg("-R");
        }
        if let Some(bps) = self.udp_bps {
            command.args(["-u", "-b", &bps.to_string()]);
        }
        let sender = Peer::spawn_unlisted(client, command)?;
        let limit = Duration::from_secs(u64::from(self.seconds)) + PATIENCE;
        Ok(RunningIperf { sender, limit, _listener: listener })
    }
}

/// An iperf3 measurement under way.
#[derive(Debug)]
pub struct RunningIperf {
    sender: Peer,
    limit: Duration,
    _listener: Peer,
}

impl RunningIperf {
    /// Waits for the end.
    ///
    /// # Errors
    /// If iperf3 failed.
    pub fn finish(self) -> Result<IperfReport> {
        let output = self.sender.wait_exit(self.limit)?;
        ensure!(output.success(), "iperf3: {output}");
        let json: serde_json::Value = serde_json::from_str(&output.stdout)?;
        let sum = |name: &str| json["end"].get(name).cloned();
        let end = sum("sum_received")
            .or_else(|| sum("sum"))
            .ok_or_else(|| anyhow!("iperf3 reported no sum"))?;
        Ok(IperfReport {
            bps: end["bits_per_second"].as_f64().unwrap_or_default(),
            lost_percent: end["lost_percent"].as_f64().unwrap_or_default(),
            json,
        })
    }
}

/// Sends `len` bytes by TCP to a listener at `address` and compares every byte on arrival.
///
/// # Errors
/// If the connection fails, stalls for 20 seconds, or a byte differs.
pub fn transfer(from: &Namespace, to: &Namespace, address: SocketAddr, len: u64) -> Result<()> {
    const CHUNK: u64 = 64 * 1024;
    let limit = Some(Duration::from_secs(20));
    let listener = to
        .enter(move || TcpListener::bind(address))
        .with_context(|| format!("{}: listen on {address}", to.name()))?;
    let mut sender = from
        .enter(move || TcpStream::connect_timeout(&address, Duration::from_secs(10)))
        .with_context(|| format!("{}: connect to {address}", from.name()))?;
    sender.set_write_timeout(limit)?;
    let (mut receiver, _) = listener.accept()?;
    receiver.set_read_timeout(limit)?;

    let sending = thread::spawn(move || -> Result<()> {
        let mut random = Random(len);
        let mut chunk = vec![0; CHUNK as usize];
        for at in (0..len).step_by(CHUNK as usize) {
            let chunk = &mut chunk[..CHUNK.min(len - at) as usize];
            random.fill(chunk);
            sender.write_all(chunk).with_context(|| format!("send at byte {at}"))?;
        }
        Ok(())
    });
    let mut random = Random(len);
    let mut expected = vec![0; CHUNK as usize];
    let mut arrived = vec![0; CHUNK as usize];
    for at in (0..len).step_by(CHUNK as usize) {
        let size = CHUNK.min(len - at) as usize;
        random.fill(&mut expected[..size]);
        receiver
            .read_exact(&mut arrived[..size])
            .with_context(|| format!("receive at byte {at} of {len}"))?;
        ensure!(arrived[..size] == expected[..size], "bytes differ between {at} and {size} later");
    }
    sending.join().map_err(|_| anyhow!("the sending thread panicked"))?
}
