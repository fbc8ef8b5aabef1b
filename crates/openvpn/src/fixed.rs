//! Static keys (`secret`): two ends that have had one key from the beginning, and nothing else.
//!
//! There is no handshake, hence neither forward secrecy nor proof of who the peer is beyond having
//! the key; whoever learns it reads everything that was ever recorded. It is here for links that
//! cannot be changed yet.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use contract::{
    Answer, Ask, AskId, Command, DataPlaneOp, Engine, Event, Exit, Fatal, Input, Lease, Notice,
    Output, Path, PortId, SessionFacts, TerminateCause, Transmit, TunnelKey, Via, WallClock,
};
use crypto::SeededRandom;
use crypto::digest::Hash;
use kit::ReplayWindow;

use crate::cipher::{Cipher, digest_name};
use crate::data::{DataTunnel, OCC_EXIT, OCC_MAGIC, PING};
use crate::session::SILENT;
use crate::shape::ShapeRules;
use crate::static_key::{Half, StaticKey};

/// How often a session looks after its keys, however seldom it sends pings.
const LOOK: Duration = Duration::from_secs(10);

/// Which packets have arrived under a static key, by the time at which the sender began to count
/// and their number. It has to live as long as the key is used: a packet that arrived in one
/// session would be new to the window of the next.
#[derive(Debug, Default)]
pub struct LongWindow(Mutex<(u32, ReplayWindow<64>)>);

impl LongWindow {
    /// Marks a packet as arrived; false if it is a replay. A later time begins a new count, an
    /// earlier one is of a count that is over.
    ///
    /// Call only for an authenticated packet.
    pub(crate) fn update(&self, time: u32, id: u32) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if time < state.0 {
            return false;
        }
        if time > state.0 {
            *state = (time, ReplayWindow::default());
        }
        state.1.update(id.into())
    }
}

/// What a tunnel with fixed keys is made from.
pub(crate) struct FixedKeys<'a> {
    pub(crate) material: &'a StaticKey,
    /// `secret FILE DIRECTION`: 1 sends with the second half, none with the first both ways.
    pub(crate) direction: Option<bool>,
    pub(crate) cipher: Cipher,
    pub(crate) digest: Hash,
    /// When the count of what is sent begins.
    pub(crate) time: u32,
    pub(crate) received: &'a Arc<LongWindow>,
    pub(crate) iv_seed: [u8; 32],
}

impl FixedKeys<'_> {
    /// The halves to send and to receive with.
    pub(crate) fn halves(&self) -> (Half, Half) {
        match self.direction {
            None => (Half::K0, Half::K0),
            Some(false) => (Half::K0, Half::K1),
            Some(true) => (Half::K1, Half::K0),
        }
    }
}

/// One link with a static key.
#[derive(Debug)]
pub struct FixedConfig {
    /// `secret`.
    pub key: StaticKey,
    /// Its direction.
    pub direction: Option<bool>,
    /// `cipher`: one of the CBC ciphers.
    pub cipher: Cipher,
    /// `auth`.
    pub digest: Hash,
    /// `comp-lzo`, `compress`, `fragment`, `mssfix`.
    pub shape: ShapeRules,
    /// `ifconfig` and the like.
    pub lease: Lease,
    /// `ping`.
    pub ping: Option<Duration>,
    /// `ping-restart` or `ping-exit`: how much silence is borne.
    pub silence: Option<Duration>,
    /// `ping-exit`: silence is the end, not a reason to try again.
    pub exits: bool,
    /// `float`: the peer may move.
    pub floats: bool,
    /// The time in our packets.
    pub clock: Arc<WallClock>,
    /// What has arrived under this key, in this session and before.
    pub received: Arc<LongWindow>,
}

/// A tunnel with a static key; an [`Engine`].
#[derive(Debug)]
pub struct FixedSession {
    config: Arc<FixedConfig>,
    port: PortId,
    path: Path,
    /// Where the peer is, is known: from the configuration, or from its first packet.
    has_peer: bool,
    /// It may be elsewhere: it does not have an address in the configuration, or may change it.
    may_move: bool,
    random: SeededRandom,
    time: u32,
    stage: Stage,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Configuring,
    Up(Up),
}

#[derive(Debug)]
struct Up {
    tunnel: Arc<DataTunnel>,
    look_at: Instant,
    ping_at: Option<Instant>,
    /// When it was last looked whether a ping is due.
    sealed: u64,
    opened: u64,
    heard: Instant,
    /// Packets came from where the peer must not be.
    is_elsewhere: bool,
}

impl Up {
    fn due_at(&self) -> Instant {
        self.ping_at.map_or(self.look_at, |ping_at| ping_at.min(self.look_at))
    }
}

impl FixedSession {
    /// Prepares a link; it begins with [`Command::Connect`]. Without a peer, the remote address of
    /// `path` means nothing, and the first authentic packet decides.
    #[must_use]
    pub fn new(
        config: Arc<FixedConfig>,
        path: Path,
        has_peer: bool,
        port: PortId,
        seed: [u8; 32],
    ) -> Self {
        Self {
            port,
            path,
            has_peer,
            may_move: !has_peer || config.floats,
            random: SeededRandom::new(seed),
            time: 0,
            stage: Stage::Idle,
            outputs: VecDeque::new(),
            config,
        }
    }

    fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn key(&self) -> TunnelKey {
        TunnelKey::OpenVpnStatic { carrier: self.path.carrier }
    }

    /// A tunnel that counts from now on; packets counted before keep their numbers.
    fn install(&mut self) -> Arc<DataTunnel> {
        self.time = (self.config.clock.now() as u32).max(self.time.saturating_add(1));
        let keys = FixedKeys {
            material: &self.config.key,
            direction: self.config.direction,
            cipher: self.config.cipher,
            digest: self.config.digest,
            time: self.time,
            received: &self.config.received,
            iv_seed: self.random.array(),
        };
        let remote = self.path.remote.ip();
        let tunnel = Arc::new(DataTunnel::fixed(&keys, &self.config.shape, remote));
        self.output(Output::DataPlane(DataPlaneOp::Install {
            key: self.key(),
            port: self.port,
            via: Via::Path(self.path),
            tunnel: Arc::clone(&tunnel) as _,
        }));
        tunnel
    }

    fn on_configured(&mut self, now: Instant) {
        let tunnel = self.install();
        self.stage = Stage::Up(Up {
            tunnel,
            look_at: now + LOOK,
            ping_at: self.config.ping.map(|ping| now + ping),
            sealed: 0,
            opened: 0,
            heard: now,
            is_elsewhere: false,
        });
        if self.has_peer {
            self.go_up();
        }
    }

    fn go_up(&mut self) {
        let exit = Exit::Tunnel(self.key());
        self.output(Output::DataPlane(DataPlaneOp::SendVia { port: self.port, exit }));
        self.output(Output::Event(Event::Up(SessionFacts {
            cipher: format!("{} {}", self.config.cipher, digest_name(self.config.digest)),
            control: "static key, no forward secrecy".to_owned(),
            software: "OpenVPN peer".to_owned(),
            ..SessionFacts::default()
        })));
    }

    /// The worker has seen an authentic, new packet from elsewhere.
    fn on_roamed(&mut self, now: Instant, key: TunnelKey, path: Path) {
        let Stage::Up(up) = &mut self.stage else { return };
        if key != (TunnelKey::OpenVpnStatic { carrier: self.path.carrier })
            || path.carrier != self.path.carrier
        {
            return;
        }
        if !self.may_move {
            // Nobody answers it there: as far as this link goes, it is silent.
            up.is_elsewhere = true;
            return;
        }
        up.heard = now;
        self.path = path;
        self.output(Output::DataPlane(DataPlaneOp::Move { key, path }));
        self.output(Output::Event(Event::Moved(path)));
        if !std::mem::replace(&mut self.has_peer, true) {
            self.go_up();
        }
    }

    fn on_time(&mut self, now: Instant) -> Result<(), Fatal> {
        let Stage::Up(up) = &mut self.stage else { return Ok(()) };
        if up.due_at() > now {
            return Ok(());
        }
        let (sealed, opened) = (up.tunnel.sealed(), up.tunnel.opened());
        let is_elsewhere = std::mem::take(&mut up.is_elsewhere);
        if (opened != up.opened && !is_elsewhere) || !self.has_peer {
            up.heard = now;
        }
        up.opened = opened;
        up.look_at = now + LOOK;
        let is_time = up.ping_at.take_if(|at| *at <= now).is_some();
        let pings = is_time && sealed == up.sealed && self.has_peer;
        if is_time {
            up.ping_at = self.config.ping.map(|ping| now + ping);
            up.sealed = sealed + u64::from(pings);
        }
        let silence = now.saturating_duration_since(up.heard);
        if self.config.silence.is_some_and(|limit| silence >= limit) {
            return Err(if self.config.exits { Fatal::Denied(SILENT) } else { Fatal::PeerGone });
        }
        if up.tunnel.is_worn() {
            let (port, key) = (self.port, self.key());
            self.output(Output::DataPlane(DataPlaneOp::Remove { port, key }));
            let tunnel = self.install();
            if self.has_peer {
                let exit = Exit::Tunnel(key);
                self.output(Output::DataPlane(DataPlaneOp::SendVia { port, exit }));
            }
            if let Stage::Up(up) = &mut self.stage {
                (up.tunnel, up.sealed, up.opened) = (tunnel, u64::from(pings), 0);
            }
        }
        if pings {
            self.send(&PING);
        }
        Ok(())
    }

    fn send(&mut self, payload: &[u8]) {
        let via = Via::Port(self.port);
        self.output(Output::Transmit(Transmit { via, payload: payload.to_vec() }));
    }

    fn dispatch(&mut self, now: Instant, input: &Input<'_>) -> Result<(), Fatal> {
        match (input, &self.stage) {
            (Input::Command(Command::Connect), Stage::Idle) => {
                self.stage = Stage::Configuring;
                let question = Ask::Configure(self.config.lease.clone());
                self.output(Output::Ask { ask: AskId(1), question });
            }
            (Input::Answer { answer: Answer::Configured(result), .. }, Stage::Configuring) => {
                result.map_err(|()| Fatal::Local("the host's network could not be set up"))?;
                self.on_configured(now);
            }
            (Input::Notice(Notice::Roamed { key, path }), _) => self.on_roamed(now, *key, *path),
            (Input::Datagram { via: Via::Port(_), payload }, _) => {
                if let Some([OCC_EXIT, ..]) = payload.strip_prefix(&OCC_MAGIC) {
                    return Err(Fatal::Finished(TerminateCause::UserRequest));
                }
            }
            (Input::Command(Command::Disconnect(_)), _) => {
                if self.has_peer && matches!(self.stage, Stage::Up(_)) {
                    self.send(&[&OCC_MAGIC[..], &[OCC_EXIT]].concat());
                }
                return Err(Fatal::Finished(TerminateCause::UserRequest));
            }
            _ => {}
        }
        self.on_time(now)
    }
}

impl Engine for FixedSession {
    fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), Fatal> {
        let result = self.dispatch(now, &input);
        if let Err(fatal) = result {
            if matches!(self.stage, Stage::Up(_)) {
                let (port, key) = (self.port, self.key());
                self.output(Output::DataPlane(DataPlaneOp::Remove { port, key }));
            }
            self.stage = Stage::Idle;
            let (cause, reason) = (fatal.cause(), fatal.reason());
            self.output(Output::Event(Event::Down { cause, reason }));
        }
        result
    }

    fn poll(&mut self, _now: Instant) -> Output {
        let deadline = match &self.stage {
            Stage::Up(up) => Some((up.due_at(), "keep-alive")),
            Stage::Idle | Stage::Configuring => None,
        };
        self.outputs.pop_front().unwrap_or(Output::Wait(deadline))
    }
}

#[cfg(test)]
mod tests;
