//! Many clients in one thread: the project's own initiators on plain sockets.
//!
//! Each has a socket, an engine and the tunnels that its engine installs; there is no TUN device,
//! so nothing but control messages and keep-alives travels.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use contract::{
    Answer, Ask, AskId, Carrier, Command, ContentKind, DataPlaneOp, Engine as _, Event, Exit,
    Farewell, Fatal, Input, Output, Path, PortId, SocketId, Tunnel, TunnelKey, Via, WallClock,
};
use crypto::SeededRandom;
use openvpn::{InitiatorConfig, Opcode, Profile, Session};
use pki::{ServerChainVerifier, ServerRules};
use rustls::ClientConfig;
use sys::Poller;

use crate::arena::Arena;

/// Larger than any datagram here: control packets and keep-alives.
const LARGEST: usize = 2048;
/// The longest that one turn waits, so that whoever drives the fleet can look at the time.
const TURN: Duration = Duration::from_millis(100);

/// The ports that clients use in turn. Not the kernel's choice, which is random: some servers take a
/// client on the port of one that left a moment ago for that one, and do not let it in.
const FIRST_PORT: u16 = 10_000;
const PORTS: u16 = 50_000;

/// What all clients have in common.
#[derive(Debug)]
pub(crate) struct Blueprint {
    config: InitiatorConfig,
    server: SocketAddr,
}

impl Blueprint {
    /// Reads a profile that needs no password.
    ///
    /// # Errors
    /// If it cannot be connected with.
    pub(crate) fn new(profile: &str, port: u16) -> Result<Self> {
        let mut no_files = |name: &str| Err(format!("{name}: profiles here are inline"));
        let profile = Profile::parse(profile, &mut no_files)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let started_at = u32::try_from(now).unwrap_or(u32::MAX);
        let tls = tls(&profile, now)?;
        let config = InitiatorConfig::new(&profile, tls, String::new(), started_at);
        Ok(Self { config, server: SocketAddr::new(Arena::SERVER, port) })
    }

    /// The configuration of one device: servers tell devices apart by their hardware address.
    fn device(&self, index: usize) -> Arc<InitiatorConfig> {
        let [.., a, b, c] = index.to_be_bytes();
        let device = format!("02:00:00:{a:02x}:{b:02x}:{c:02x}");
        Arc::new(InitiatorConfig { device, ..self.config.clone() })
    }
}

fn tls(profile: &Profile, now: u64) -> Result<ClientConfig> {
    let provider = crypto::tls::provider();
    let roots = pki::certificates(&profile.ca)?;
    let clock = Arc::new(WallClock::new(now));
    let rules = ServerRules {
        require_eku_server: profile.requires_server_usage,
        name: profile.name.clone(),
        ..ServerRules::default()
    };
    let verifier = ServerChainVerifier::new(&roots, rules, clock, &provider)?;
    let certificate = profile.certificate.as_ref().context("the profile has no certificate")?;
    let key = profile.key.as_ref().context("the profile has no key")?;
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(pki::certificates(certificate)?, pki::private_key(key.expose())?)?;
    tls.enable_sni = false;
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(tls)
}

/// What clients do once they are connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Habit {
    /// Stay, silent but for keep-alives.
    Stay,
    /// Leave at once, and come again as a new connection.
    Leave,
}

/// Clients and what became of them.
#[derive(Debug)]
pub(crate) struct Fleet {
    blueprint: Blueprint,
    habit: Habit,
    poller: Poller,
    random: SeededRandom,
    next_port: u16,
    members: Vec<Member>,
    /// Handshakes that reached PUSH_REPLY.
    pub(crate) connected: u64,
    /// Connections that ended without being told to.
    pub(crate) lost: u64,
    /// Why the latest of them did.
    pub(crate) last_loss: Option<String>,
}

impl Fleet {
    /// A fleet without members; call it in the clients' namespace.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub(crate) fn new(blueprint: Blueprint, habit: Habit) -> Result<Self> {
        sys::limits::raise_open_files()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&now.to_be_bytes());
        Ok(Self {
            blueprint,
            habit,
            poller: Poller::new()?,
            random: SeededRandom::new(seed),
            next_port: 0,
            members: Vec::new(),
            connected: 0,
            lost: 0,
            last_loss: None,
        })
    }

    fn newcomer(&mut self, config: Arc<InitiatorConfig>, index: usize) -> Result<Member> {
        let socket = self.socket()?;
        self.poller.add(&socket, index as u64)?;
        Member::new(config, socket, self.blueprint.server, index, self.random.array())
    }

    fn socket(&mut self) -> Result<UdpSocket> {
        for _ in 0..PORTS {
            let local = SocketAddr::new(Arena::CLIENT, FIRST_PORT + self.next_port);
            self.next_port = (self.next_port + 1) % PORTS;
            match UdpSocket::bind(local) {
                Ok(socket) => {
                    socket.connect(self.blueprint.server)?;
                    socket.set_nonblocking(true)?;
                    return Ok(socket);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(anyhow!(error).context("a client's socket")),
            }
        }
        bail!("no port is free");
    }

    /// How many members are connected at this moment.
    pub(crate) fn present(&self) -> usize {
        self.members.iter().filter(|member| member.stage == Stage::Connected).count()
    }

    /// Lets one more client connect.
    ///
    /// # Errors
    /// If there is no socket for it.
    pub(crate) fn launch(&mut self) -> Result<()> {
        let index = self.members.len();
        let config = self.blueprint.device(index);
        let member = self.newcomer(config, index)?;
        self.members.push(member);
        self.feed(index, Instant::now(), Input::Command(Command::Connect))
    }

    /// Lets this many clients connect, at most `at_once` at the same time, and waits for all.
    ///
    /// # Errors
    /// If one fails, or all together take longer than `limit`.
    pub(crate) fn connect(&mut self, count: usize, at_once: usize, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        while self.present() < count {
            while self.members.len() < count && self.members.len() < self.present() + at_once {
                self.launch()?;
            }
            self.turn()?;
            ensure!(self.lost == 0, "a client failed: {}", self.why());
            ensure!(Instant::now() < until, "{} of {count} in {limit:?}", self.present());
        }
        Ok(())
    }

    /// Runs for this long.
    ///
    /// # Errors
    /// If the operating system fails.
    pub(crate) fn run(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn()?;
        }
        Ok(())
    }

    /// Lets everybody say goodbye.
    ///
    /// # Errors
    /// If they do not get it done in time.
    pub(crate) fn leave(&mut self, limit: Duration) -> Result<()> {
        self.habit = Habit::Stay;
        for index in 0..self.members.len() {
            self.part(index)?;
        }
        let until = Instant::now() + limit;
        while self.members.iter().any(|member| member.stage != Stage::Gone) {
            ensure!(Instant::now() < until, "clients do not get away");
            self.turn()?;
        }
        Ok(())
    }

    /// Why the latest client was lost.
    pub(crate) fn why(&self) -> &str {
        self.last_loss.as_deref().unwrap_or("unknown")
    }

    /// Waits for something to happen, then lets it.
    fn turn(&mut self) -> Result<()> {
        let now = Instant::now();
        let next = self.members.iter().filter_map(|member| member.deadline).min();
        let wait = next.map_or(TURN, |at| at.saturating_duration_since(now).min(TURN));
        let ready = self.poller.wait(Some(wait))?;
        for token in ready {
            let index = usize::try_from(token)?;
            let mut buffer = [0; LARGEST];
            while let Some(len) = self.members[index].receive(&mut buffer)? {
                self.hear(index, &mut buffer[..len])?;
            }
        }
        let now = Instant::now();
        for index in 0..self.members.len() {
            if self.members[index].deadline.is_some_and(|at| at <= now) {
                self.feed(index, now, Input::Tick)?;
            }
        }
        Ok(())
    }

    fn hear(&mut self, index: usize, datagram: &mut [u8]) -> Result<()> {
        let member = &mut self.members[index];
        let Some(first) = datagram.first() else { return Ok(()) };
        let opcode = first >> 3;
        if opcode == Opcode::P_DATA_V1.0 || opcode == Opcode::P_DATA_V2.0 {
            // The engine sees by the tunnel's counter that its peer is alive.
            if let Some((_, tunnel)) = member.tunnels.iter().find(|(id, _)| *id == first & 7) {
                let _ = tunnel.open(datagram);
            }
            return Ok(());
        }
        let via = Via::Path(member.path);
        self.feed(index, Instant::now(), Input::Datagram { via, payload: datagram })
    }

    fn part(&mut self, index: usize) -> Result<()> {
        let member = &mut self.members[index];
        if member.stage == Stage::Connected {
            member.stage = Stage::Leaving;
        }
        let farewell = Input::Command(Command::Disconnect(Farewell::Shutdown));
        self.feed(index, Instant::now(), farewell)
    }

    fn feed(&mut self, index: usize, now: Instant, input: Input<'_>) -> Result<()> {
        let member = &mut self.members[index];
        match member.feed(now, input) {
            Ok(false) => Ok(()),
            Ok(true) => {
                self.connected += 1;
                if self.habit == Habit::Leave { self.part(index) } else { Ok(()) }
            }
            Err(fatal) => {
                if member.stage != Stage::Leaving {
                    self.lost += 1;
                    let remark = member.remark.take().unwrap_or_default();
                    self.last_loss = Some(format!("{} {remark}", fatal.reason()));
                }
                member.stage = Stage::Gone;
                member.deadline = None;
                if self.habit == Habit::Leave { self.relaunch(index) } else { Ok(()) }
            }
        }
    }

    /// A new connection of the same device, from a port of its own.
    fn relaunch(&mut self, index: usize) -> Result<()> {
        let old = &self.members[index];
        self.poller.remove(&old.socket)?;
        let config = Arc::clone(&old.config);
        self.members[index] = self.newcomer(config, index)?;
        self.feed(index, Instant::now(), Input::Command(Command::Connect))
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Connecting,
    Connected,
    Leaving,
    Gone,
}

/// One client.
#[derive(Debug)]
struct Member {
    config: Arc<InitiatorConfig>,
    session: Session,
    socket: UdpSocket,
    path: Path,
    stage: Stage,
    deadline: Option<Instant>,
    /// By key id.
    tunnels: Vec<(u8, Arc<dyn Tunnel>)>,
    /// The key id to send with.
    exit: Option<u8>,
    remark: Option<String>,
}

impl Member {
    fn new(
        config: Arc<InitiatorConfig>,
        socket: UdpSocket,
        server: SocketAddr,
        index: usize,
        seed: [u8; 32],
    ) -> Result<Self> {
        let path = Path { local: None, remote: server, carrier: Carrier::Udp(SocketId(0)) };
        let port = PortId(u32::try_from(index + 1)?);
        let session = Session::initiator(Instant::now(), Arc::clone(&config), path, port, seed);
        Ok(Self {
            config,
            session,
            socket,
            path,
            stage: Stage::Connecting,
            deadline: None,
            tunnels: Vec::new(),
            exit: None,
            remark: None,
        })
    }

    /// Receives one datagram, if there is one.
    fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match self.socket.recv(buffer) {
            Ok(len) => Ok(Some(len)),
            // A server that is gone is found out by the engine's timers.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(anyhow!(error).context("receive")),
        }
    }

    /// Feeds one input; whether that completed the connection.
    fn feed(&mut self, now: Instant, input: Input<'_>) -> Result<bool, Fatal> {
        if self.stage == Stage::Gone {
            return Ok(false);
        }
        let mut result = self.session.handle(now, input);
        let mut completed = false;
        while let Some(ask) = self.carry_out(now) {
            result?;
            (self.stage, completed) = (Stage::Connected, true);
            result =
                self.session.handle(now, Input::Answer { ask, answer: Answer::Configured(Ok(())) });
        }
        result.map(|()| completed)
    }

    /// Does what the engine wants; its question, if it has one.
    fn carry_out(&mut self, now: Instant) -> Option<AskId> {
        let mut question = None;
        loop {
            match self.session.poll(now) {
                // A datagram that cannot be sent is lost, as any datagram may be.
                Output::Transmit(message) => match message.via {
                    Via::Path(_) => drop(self.socket.send(&message.payload)),
                    Via::Port(_) => self.send_inside(&message.payload),
                },
                Output::Ask { ask, question: Ask::Configure(_) } => question = Some(ask),
                Output::DataPlane(op) => self.obey(op),
                Output::Event(Event::Remark(text)) => self.remark = Some(text),
                Output::Wait(deadline) => {
                    self.deadline = deadline.map(|(at, _)| at);
                    return question;
                }
                _ => {}
            }
        }
    }

    fn obey(&mut self, op: DataPlaneOp) {
        match op {
            DataPlaneOp::Install { key, tunnel, .. } => {
                if let Some(id) = key_id(key) {
                    self.tunnels.retain(|(old, _)| *old != id);
                    self.tunnels.push((id, tunnel));
                }
            }
            DataPlaneOp::SendVia { exit: Exit::Tunnel(key), .. } => self.exit = key_id(key),
            DataPlaneOp::Remove { key, .. } => {
                let id = key_id(key);
                self.tunnels.retain(|(old, _)| Some(*old) != id);
            }
            _ => {}
        }
    }

    fn send_inside(&self, message: &[u8]) {
        let tunnel = self.tunnels.iter().find(|(id, _)| Some(*id) == self.exit);
        let Some((_, tunnel)) = tunnel else { return };
        let frame = tunnel.frame(ContentKind::Control, message.len());
        let mut out = vec![0; frame.head + message.len() + frame.tail];
        out[frame.head..][..message.len()].copy_from_slice(message);
        if tunnel.seal(ContentKind::Control, message.len(), &mut out).is_ok() {
            let _ = self.socket.send(&out);
        }
    }
}

fn key_id(key: TunnelKey) -> Option<u8> {
    match key {
        TunnelKey::OpenVpn { key_id, .. } | TunnelKey::OpenVpnAddress { key_id, .. } => {
            Some(key_id)
        }
        _ => None,
    }
}
