//! One OpenVPN session, either end: generations of keys over one control channel.
//!
//! ```text
//! initiator                                   responder
//!   P_CONTROL_HARD_RESET_CLIENT_V2  ------------>   (acceptor, stateless)
//!     <------------  P_CONTROL_HARD_RESET_SERVER_V2
//!   P_ACK_V1, P_CONTROL_V1 (ClientHello)  ------>   a Session is born
//!     <=====  TLS handshake in P_CONTROL_V1  =====>
//!   key record  --------------------------------->  Ask::Authenticate, Ask::Attach, Install
//!     <---------------------------------  key record
//!   PUSH_REQUEST  ------------------------------->
//!     <---------------------------------  PUSH_REPLY
//!   Ask::Configure, Install, SendVia
//! ```
//!
//! A renegotiation is the same from the second line on, with P_CONTROL_SOFT_RESET_V1 from either
//! end and without the push. Each generation has its own TLS session and numbering; the data keys
//! of the old one stay installed until the new ones have proved themselves.

mod hearing;
mod timing;

pub use self::timing::SILENT;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use contract::{
    Answer, Ask, AskId, Carrier, ClientKeyFacts, Command, DataPlaneOp, Engine, Event, Exit,
    Farewell, Fatal, Input, Layer, Notice, Output, Path, PortId, SessionFacts, StreamId,
    TerminateCause, Transmit, TunnelKey, Via,
};
use crypto::SeededRandom;
use crypto::digest::Hash;

use crate::cipher::digest_name;
use crate::data::{DataKeys, DataTunnel, OCC_EXIT, OCC_MAGIC};
use crate::generation::Generation;
use crate::initiator::Initiator;
use crate::key_method::KeyRecord;
use crate::keys::{
    EXPORT_DATA_KEYS, EXPORT_DYNAMIC_TLS_CRYPT, KeySource, KeySources, derive_by_prf,
};
use crate::packet::{ControlBody, ControlSid, Head, KeyId, Opcode};
use crate::point::Point;
use crate::push::Agreement;
use crate::responder::Responder;
use crate::shape::ShapeRules;
use crate::wrap::{Protection, Side, Stamp, WrapState};

/// Acknowledgements per packet: some peers take no more.
const ACKS_PER_PACKET: usize = 4;
/// How long we stay to see that our goodbye arrived.
const FAREWELL_TIME: Duration = Duration::from_secs(2);
/// How long a refused peer is given to hear why.
const REFUSAL_TIME: Duration = Duration::from_secs(5);
/// How soon after one renegotiation a peer may ask for the next.
const MIN_RENEGOTIATION: Duration = Duration::from_secs(4);
/// How long after a renegotiation we keep sending with the old keys, unless the peer uses the new
/// ones first: by then everything it needs to have installed them has long been acknowledged.
const SWITCH_DELAY: Duration = Duration::from_secs(5);
/// How long the old keys stay good for receiving after the switch (`tran-window` is longer, but
/// nothing sent before the switch is still on its way after this).
const RETIRE_AFTER: Duration = Duration::from_secs(60);

/// Timing of one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) handshake: Duration,
    pub(crate) renegotiate: Option<Duration>,
    pub(crate) ping: Duration,
    pub(crate) ping_restart: Duration,
    /// Silence is the end, and not a reason to connect again.
    pub(crate) exits_on_silence: bool,
}

/// One session; the [`Engine`] of this crate.
#[derive(Debug)]
pub struct Session {
    pub(crate) core: Core,
    role: Role,
}

#[derive(Debug)]
enum Role {
    Responder(Box<Responder>),
    Initiator(Box<Initiator>),
    Point(Box<Point>),
}

/// What both roles share: the control channel, the generations, the clock.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) side: Side,
    pub(crate) port: PortId,
    pub(crate) path: Path,
    pub(crate) sid: ControlSid,
    pub(crate) peer_sid: Option<ControlSid>,
    pub(crate) protection: Arc<Protection>,
    /// What the peer's own key says of itself, if it has one.
    client_key: Option<ClientKeyFacts>,
    /// Told when the peer has shown that it hears us, if somebody waits for that.
    proven: Option<Arc<AtomicBool>>,
    wrap: WrapState,
    dynamic: Option<WrapState>,
    started_at: u32,
    pub(crate) random: SeededRandom,
    pub(crate) digest: Hash,
    /// As configured; the framing is agreed on.
    pub(crate) shape: ShapeRules,
    pub(crate) timing: Timing,
    /// The generation whose keys we send with; in the first handshake the only one.
    pub(crate) current: Option<Generation>,
    /// The generation that is being negotiated, or waits to be switched to.
    pub(crate) next: Option<Generation>,
    retired: Option<Retired>,
    pub(crate) agreement: Option<Agreement>,
    /// Whether the tunnel carries packets or frames.
    pub(crate) layer: Layer,
    keep_alive: Option<KeepAlive>,
    renegotiate_at: Option<Instant>,
    /// When keys that were not replaced in time stop being good.
    expire_at: Option<Instant>,
    /// When the last renegotiation began.
    renegotiated: Option<Instant>,
    last_control: Instant,
    closing: Option<(Instant, Fatal)>,
    outputs: VecDeque<Output>,
    asks: u64,
}

/// Keys that are good for receiving only.
#[derive(Debug)]
struct Retired {
    until: Instant,
    key: TunnelKey,
    tunnel: Arc<DataTunnel>,
}

#[derive(Debug)]
struct KeepAlive {
    check_at: Instant,
    sealed: u64,
    opened: u64,
    heard: Instant,
    /// Packets came from where the peer must not be.
    is_elsewhere: bool,
}

/// Where an engine begins.
pub(crate) struct Birth {
    pub(crate) side: Side,
    pub(crate) port: PortId,
    pub(crate) path: Path,
    pub(crate) sid: ControlSid,
    pub(crate) peer_sid: Option<ControlSid>,
    pub(crate) protection: Arc<Protection>,
    pub(crate) client_key: Option<ClientKeyFacts>,
    pub(crate) proven: Option<Arc<AtomicBool>>,
    /// The last replay stamp that was used already.
    pub(crate) stamp: Stamp,
    pub(crate) random: SeededRandom,
    pub(crate) digest: Hash,
    pub(crate) shape: ShapeRules,
    pub(crate) timing: Timing,
}

impl Core {
    pub(crate) fn new(now: Instant, birth: Birth) -> Self {
        let keys = birth.protection.keys(birth.side);
        Self {
            side: birth.side,
            port: birth.port,
            path: birth.path,
            sid: birth.sid,
            peer_sid: birth.peer_sid,
            wrap: WrapState::new(keys, birth.stamp),
            protection: birth.protection,
            client_key: birth.client_key,
            proven: birth.proven,
            dynamic: None,
            started_at: birth.stamp.time,
            random: birth.random,
            digest: birth.digest,
            shape: birth.shape,
            timing: birth.timing,
            current: None,
            next: None,
            retired: None,
            agreement: None,
            layer: Layer::Ip,
            keep_alive: None,
            renegotiate_at: None,
            expire_at: None,
            renegotiated: None,
            last_control: now,
            closing: None,
            outputs: VecDeque::new(),
            asks: 0,
        }
    }

    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.output(Output::Event(event));
    }

    pub(crate) fn ask(&mut self, question: Ask) -> AskId {
        self.asks += 1;
        let ask = AskId(self.asks);
        self.output(Output::Ask { ask, question });
        ask
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Says goodbye in the control channel and ends when that has arrived, or after a while.
    pub(crate) fn close(&mut self, now: Instant, message: &str, fatal: Fatal) {
        let patience = if matches!(fatal, Fatal::Denied(_)) { REFUSAL_TIME } else { FAREWELL_TIME };
        self.send_message(message);
        self.closing.get_or_insert((now + patience, fatal));
    }

    /// Sends one text message to the peer.
    pub(crate) fn send_message(&mut self, message: &str) {
        // From a soft reset on, OpenVPN listens to the new generation only.
        let generation = match (&mut self.current, &mut self.next) {
            (_, Some(next)) if next.is_handshaked() => Some(next),
            (current, _) => current.as_mut(),
        };
        if let Some(generation) = generation {
            generation.send_message(message);
        }
    }

    /// Answers to a generation that may be the one in use or the next.
    pub(crate) fn generation(&mut self, key_id: KeyId) -> Option<&mut Generation> {
        [&mut self.next, &mut self.current]
            .into_iter()
            .flatten()
            .find(|generation| generation.key_id() == key_id)
    }

    /// Derives the data keys of a generation and has them installed for receiving.
    pub(crate) fn install(
        &mut self,
        now: Instant,
        key_id: KeyId,
        ours: &KeySource,
        theirs: &KeySource,
    ) -> Result<(), Fatal> {
        let agreement = self.agreement.ok_or(Fatal::Local("no cipher agreed"))?;
        let peer_sid = self.peer_sid.ok_or(Fatal::Local("no peer"))?;
        let (initiator, responder, initiator_sid, responder_sid) = match self.side {
            Side::Initiator => (ours, theirs, self.sid, peer_sid),
            Side::Responder => (theirs, ours, peer_sid, self.sid),
        };
        let side = self.side;
        let (Path { remote, carrier, .. }, peer_id) = (self.path, agreement.peer_id);
        let iv_seed = self.random.array();
        let (digest, shape, layer) = (self.digest, self.shape, self.layer);
        // A stream has no datagrams that could be too large.
        let is_stream = matches!(self.path.carrier, Carrier::Stream(_));
        let fragment = shape.fragment.filter(|_| !is_stream);
        let generation = self.generation(key_id).ok_or(Fatal::Local("no such generation"))?;
        let material = if agreement.export {
            generation
                .export(EXPORT_DATA_KEYS)
                .ok_or(Fatal::Local("the TLS session exports no keys"))?
        } else {
            derive_by_prf(&KeySources { initiator, responder, initiator_sid, responder_sid })
        };
        let tunnel = Arc::new(DataTunnel::new(&DataKeys {
            side,
            key_id,
            peer_id,
            cipher: agreement.cipher,
            digest,
            material: &material,
            iv_seed,
            layer,
            shape: ShapeRules { framing: agreement.framing, fragment, ..shape },
            remote: remote.ip(),
        }));
        let number = key_id.number();
        let key = match (carrier, side, peer_id) {
            (Carrier::Stream(stream), ..) => TunnelKey::OpenVpnStream { stream, key_id: number },
            (_, Side::Responder, Some(peer)) => TunnelKey::OpenVpn { peer, key_id: number },
            _ => TunnelKey::OpenVpnAddress { remote, key_id: number },
        };
        generation.set_keys(now, now + SWITCH_DELAY, key, Arc::clone(&tunnel));
        if key_id == KeyId::FIRST && agreement.dynamic {
            let exported = generation
                .export(EXPORT_DYNAMIC_TLS_CRYPT)
                .ok_or(Fatal::Local("the TLS session exports no keys"))?;
            let keys = self.protection.dynamic(&exported).keys(side);
            self.dynamic = Some(WrapState::new(keys, Stamp { time: self.started_at, id: 0 }));
        }
        let install =
            DataPlaneOp::Install { key, port: self.port, via: Via::Path(self.path), tunnel };
        self.output(Output::DataPlane(install));
        Ok(())
    }

    /// Sends with the keys of the generation that waits in `next`, or for the first time at all.
    pub(crate) fn switch(&mut self, now: Instant) {
        if let Some(next) = self.next.take_if(|next| next.is_keyed()) {
            let old = self.current.replace(next);
            if let Some((key, tunnel)) = old.as_ref().and_then(Generation::keys) {
                self.remove_retired();
                self.retired = Some(Retired { until: now + RETIRE_AFTER, key, tunnel });
            }
            self.event(Event::Rekeyed);
        }
        let Some((key, tunnel)) = self.current.as_ref().and_then(Generation::keys) else {
            return;
        };
        let (sealed, opened) = (tunnel.sealed(), self.opened(&tunnel));
        self.output(Output::DataPlane(DataPlaneOp::SendVia {
            port: self.port,
            exit: Exit::Tunnel(key),
        }));
        self.keep_alive = Some(KeepAlive {
            check_at: now + self.timing.ping,
            sealed,
            opened,
            heard: now,
            is_elsewhere: false,
        });
        let period = self.timing.renegotiate;
        self.renegotiate_at = period.map(|period| now + period);
        self.expire_at = period.map(|period| now + 2 * period + 2 * self.timing.handshake);
    }

    /// Authentic packets so far, under the keys in use and those before: a peer may take its time
    /// to use new ones.
    fn opened(&self, current: &DataTunnel) -> u64 {
        current.opened() + self.retired.as_ref().map_or(0, |retired| retired.tunnel.opened())
    }

    /// What is worth showing of this session.
    pub(crate) fn facts(&self, software: String) -> SessionFacts {
        let cipher = self.agreement.map_or(String::new(), |agreement| {
            if agreement.cipher.aead().is_some() {
                agreement.cipher.name().to_owned()
            } else {
                format!("{} {}", agreement.cipher, digest_name(self.digest))
            }
        });
        let tls = self.current.as_ref().map_or("TLS", |current| current.tls_version());
        let control = format!("{tls}, {}", self.protection.name());
        let peer_id = self.agreement.and_then(|agreement| agreement.peer_id);
        SessionFacts { cipher, control, software, peer_id, client_key: self.client_key.clone() }
    }

    fn remove_retired(&mut self) {
        if let Some(Retired { key, .. }) = self.retired.take() {
            self.remove(key);
            // What the old keys received is not in the sum any more.
            let current = self.current.as_ref().and_then(Generation::keys);
            if let (Some(alive), Some((_, tunnel))) = (&mut self.keep_alive, current) {
                alive.opened = tunnel.opened();
            }
        }
    }

    fn remove(&mut self, key: TunnelKey) {
        let port = self.port;
        self.output(Output::DataPlane(DataPlaneOp::Remove { port, key }));
    }

    fn keys(&self) -> Vec<TunnelKey> {
        let retired = self.retired.iter().map(|retired| retired.key);
        let alive = [&self.current, &self.next].into_iter().flatten();
        alive.filter_map(Generation::key).chain(retired).collect()
    }

    /// Takes everything out of the data plane and reports the end.
    fn end(&mut self, fatal: Fatal) {
        for key in self.keys() {
            self.remove(key);
        }
        (self.current, self.next, self.retired) = (None, None, None);
        self.event(Event::Down { cause: fatal.cause(), reason: fatal.reason() });
    }

    fn roam(&mut self, key: TunnelKey, path: Path) {
        if path == self.path || !self.keys().contains(&key) {
            return;
        }
        self.path = path;
        for key in self.keys() {
            self.output(Output::DataPlane(DataPlaneOp::Move { key, path }));
        }
        self.event(Event::Moved(path));
    }

    /// Sends everything that is due, with acknowledgements on board where there is room.
    fn flush(&mut self, now: Instant) {
        for at_next in [false, true] {
            let slot = if at_next { &mut self.next } else { &mut self.current };
            let Some(mut generation) = slot.take() else { continue };
            generation.fill();
            let key_id = generation.key_id();
            while let Some(out) = generation.poll(now) {
                let acks = match self.peer_sid {
                    Some(_) => generation.take_acks(ACKS_PER_PACKET),
                    None => crate::packet::Acks::default(),
                };
                let body = ControlBody {
                    acks,
                    acked_sid: self.peer_sid,
                    message: Some(out.message),
                    payload: &out.payload,
                };
                self.transmit(Head::new(out.opcode, key_id), &body);
            }
            while self.peer_sid.is_some() && generation.owes() {
                let body = ControlBody {
                    acks: generation.take_acks(ACKS_PER_PACKET),
                    acked_sid: self.peer_sid,
                    message: None,
                    payload: &[],
                };
                self.transmit(Head::new(Opcode::P_ACK_V1, key_id), &body);
            }
            if at_next {
                self.next = Some(generation);
            } else {
                self.current = Some(generation);
            }
        }
    }

    fn transmit(&mut self, head: Head, body: &ControlBody<'_>) {
        let mut bytes = Vec::with_capacity(64 + body.payload.len());
        body.write(&mut bytes);
        let sid = self.sid;
        let mut payload = self.wrap_for(head.key_id).wrap(head, sid, &bytes);
        payload.extend_from_slice(self.protection.suffix(head.opcode));
        self.output(Output::Transmit(Transmit { via: Via::Path(self.path), payload }));
    }

    /// Renegotiations have their own wrapping once it is agreed: the soft reset too, for it
    /// already carries the new key id.
    fn wrap_for(&mut self, key_id: KeyId) -> &mut WrapState {
        match &mut self.dynamic {
            Some(dynamic) if key_id != KeyId::FIRST => dynamic,
            _ => &mut self.wrap,
        }
    }

    /// Sends a message of ours through the data channel.
    fn send_in_tunnel(&mut self, payload: &[u8]) {
        let via = Via::Port(self.port);
        self.output(Output::Transmit(Transmit { via, payload: payload.to_vec() }));
    }
}

impl Session {
    pub(crate) fn responder(core: Core, responder: Responder) -> Self {
        Self { core, role: Role::Responder(Box::new(responder)) }
    }

    pub(crate) fn initiator_with(core: Core, initiator: Initiator) -> Self {
        Self { core, role: Role::Initiator(Box::new(initiator)) }
    }

    pub(crate) fn point_with(core: Core, point: Point) -> Self {
        Self { core, role: Role::Point(Box::new(point)) }
    }

    /// Whether the peer has answered at all.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        self.core.peer_sid.is_some()
    }

    pub(crate) fn as_initiator(&self) -> Option<&Initiator> {
        match &self.role {
            Role::Initiator(role) => Some(role),
            Role::Responder(_) | Role::Point(_) => None,
        }
    }

    pub(crate) fn as_initiator_mut(&mut self) -> Option<&mut Initiator> {
        match &mut self.role {
            Role::Initiator(role) => Some(role),
            Role::Responder(_) | Role::Point(_) => None,
        }
    }

    /// Whether packets can flow.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.core.keep_alive.is_some()
    }

    fn dispatch(&mut self, now: Instant, input: Input<'_>) -> Result<(), Fatal> {
        match input {
            Input::Datagram { via: Via::Path(path), payload } => {
                self.on_datagram(now, path, payload)
            }
            Input::Datagram { via: Via::Port(_), payload } => Self::on_tunnel_message(payload),
            Input::Answer { ask, answer } => self.on_answer(now, ask, answer),
            Input::Notice(Notice::Roamed { key, path }) => {
                match &self.role {
                    Role::Point(role) if !role.floats() => self.core.stray(key),
                    Role::Point(_) | Role::Responder(_) | Role::Initiator(_) => {
                        self.core.roam(key, path);
                    }
                }
                Ok(())
            }
            Input::Command(Command::Connect) => match &mut self.role {
                Role::Initiator(role) => role.connect(&mut self.core, now),
                Role::Point(role) if self.core.side == Side::Initiator => {
                    role.connect(&mut self.core, now)
                }
                Role::Point(_) | Role::Responder(_) => Ok(()),
            },
            Input::Command(Command::Disconnect(farewell)) => self.disconnect(now, farewell),
            Input::StreamClosed { stream } => self.on_stream_closed(stream),
            _ => Ok(()),
        }
    }

    /// A peer does not come back on another stream: that would be another session.
    fn on_stream_closed(&self, stream: StreamId) -> Result<(), Fatal> {
        if self.core.path.carrier != Carrier::Stream(stream) {
            return Ok(());
        }
        // Whoever closes on hearing a farewell has heard it.
        Err(self.core.closing.map_or(Fatal::PeerGone, |(_, fatal)| fatal))
    }

    fn on_datagram(&mut self, now: Instant, path: Path, packet: &[u8]) -> Result<(), Fatal> {
        let core = &mut self.core;
        // The control channel follows the data channel, which proves itself with a fresh packet;
        // a captured control packet must not move anything.
        if (path.remote, path.carrier) != (core.path.remote, core.path.carrier) {
            return Ok(());
        }
        let Some(head) = packet.first().map(|byte| Head::from_byte(*byte)) else { return Ok(()) };
        let protected = core.protection.protected(core.side, head.opcode, packet);
        let Ok(packet) = protected else { return Ok(()) };
        let Ok(unwrapped) = core.wrap_for(head.key_id).open(packet) else { return Ok(()) };
        let Ok(body) = ControlBody::parse(head.opcode, &unwrapped.body) else { return Ok(()) };
        if body.acked_sid.is_some_and(|sid| sid != core.sid) {
            return Ok(());
        }
        match core.peer_sid {
            Some(sid) if sid != unwrapped.sid => return Ok(()),
            Some(_) => {}
            None if head.opcode == Opcode::P_CONTROL_HARD_RESET_SERVER_V2
                && body.acked_sid.is_some() => {}
            // A peer that calls, too, sends its first packet before it has seen ours.
            None if matches!(self.role, Role::Point(_))
                && head.opcode == Opcode::P_ACK_V1
                && body.acked_sid.is_some() => {}
            None => return Ok(()),
        }
        // Only a packet of this very session counts against replays: others that hold the shared
        // key must not be able to move the window.
        if !core.wrap_for(head.key_id).accept(unwrapped.stamp) {
            return Ok(());
        }
        if body.acked_sid.is_some()
            && let Some(proven) = core.proven.take()
        {
            proven.store(true, Ordering::Relaxed);
        }
        core.peer_sid = Some(unwrapped.sid);
        core.last_control = now;
        if head.opcode == Opcode::P_CONTROL_SOFT_RESET_V1 {
            self.on_soft_reset(now, head.key_id)?;
        }
        let Some(generation) = self.core.generation(head.key_id) else { return Ok(()) };
        let received = generation.receive(now, &body);
        self.on_received(now, head.key_id, received)
    }

    /// A failed renegotiation leaves the keys in use alone; a failed first handshake is the end.
    fn fail_generation(&mut self, now: Instant, key_id: KeyId, fatal: Fatal) -> Result<(), Fatal> {
        let core = &mut self.core;
        if core.next.as_ref().is_some_and(|next| next.key_id() == key_id && !next.is_keyed()) {
            self.abandon_renegotiation(now, fatal.reason());
            return Ok(());
        }
        Err(fatal)
    }

    fn on_soft_reset(&mut self, now: Instant, key_id: KeyId) -> Result<(), Fatal> {
        let is_busy = match &self.role {
            Role::Responder(role) => role.is_judging(),
            Role::Initiator(_) | Role::Point(_) => false,
        };
        // Each costs a TLS handshake and the judging of credentials: a peer that asks for one
        // after the other has to wait.
        let is_early = self
            .core
            .renegotiated
            .is_some_and(|at| now.saturating_duration_since(at) < MIN_RENEGOTIATION);
        if self.core.generation(key_id).is_some()
            || !self.is_established()
            || self.core.is_closing()
            || is_busy
            || is_early
        {
            return Ok(());
        }
        // The peer has gone on: what still waits to be switched to is in use at its end.
        if self.core.next.as_ref().is_some_and(Generation::is_keyed) {
            self.core.switch(now);
        }
        let expected = self.core.current.as_ref().map(|current| current.key_id().next());
        let after_failed = self.core.next.as_ref().map(|next| next.key_id().next());
        if Some(key_id) == expected || Some(key_id) == after_failed {
            self.renegotiate(now, key_id)?;
        }
        Ok(())
    }

    /// Begins a renegotiation, ours or the peer's: both ends send a soft reset either way.
    fn renegotiate(&mut self, now: Instant, key_id: KeyId) -> Result<(), Fatal> {
        let tls = match &self.role {
            Role::Initiator(role) => role.tls(),
            Role::Responder(role) => role.tls(),
            Role::Point(role) => role.tls(),
        }
        .map_err(|failure| Fatal::Tls(failure.0))?;
        let mut generation = Generation::new(now, key_id, tls);
        generation.push_reset(Opcode::P_CONTROL_SOFT_RESET_V1);
        self.forget_negotiation();
        self.core.renegotiated = Some(now);
        self.core.next = Some(generation);
        Ok(())
    }

    fn on_answer(&mut self, now: Instant, ask: AskId, answer: Answer) -> Result<(), Fatal> {
        if self.core.is_closing() {
            return Ok(());
        }
        if let Answer::Worked(done) = answer {
            return self.on_worked(now, ask, done);
        }
        match &mut self.role {
            Role::Initiator(role) => role.on_answer(&mut self.core, now, ask, answer),
            Role::Responder(role) => role.on_answer(&mut self.core, now, ask, answer),
            Role::Point(role) => role.on_answer(&mut self.core, now, ask, &answer),
        }
    }

    /// A message inside the data channel: only an old peer's goodbye means anything.
    fn on_tunnel_message(payload: &[u8]) -> Result<(), Fatal> {
        match payload.strip_prefix(&OCC_MAGIC) {
            Some([OCC_EXIT, ..]) => Err(Fatal::Finished(TerminateCause::UserRequest)),
            _ => Ok(()),
        }
    }

    fn disconnect(&mut self, now: Instant, farewell: Farewell) -> Result<(), Fatal> {
        let cause = match farewell {
            Farewell::Shutdown => TerminateCause::AdminReboot,
            Farewell::Kicked | Farewell::Dismissed | Farewell::Revoked => {
                TerminateCause::AdminReset
            }
            Farewell::Replaced => TerminateCause::LostCarrier,
            Farewell::SessionOver => TerminateCause::SessionTimeout,
            Farewell::Idle => TerminateCause::IdleTimeout,
        };
        if let Some((until, _)) = &mut self.core.closing
            && farewell != Farewell::Replaced
        {
            *until = (*until).min(now + FAREWELL_TIME);
            return Ok(());
        }
        if !self.is_established() || farewell == Farewell::Replaced {
            return Err(Fatal::Finished(cause));
        }
        let exits_in_control = self.core.agreement.is_some_and(|agreement| agreement.cc_exit);
        match (&self.role, farewell) {
            (Role::Responder(_), Farewell::Revoked) => {
                self.core.close(
                    now,
                    "AUTH_FAILED,SESSION: access was withdrawn",
                    Fatal::Finished(cause),
                );
            }
            // A client that hears HALT does not come back by itself.
            (Role::Responder(_), Farewell::SessionOver) => {
                self.core.close(now, "HALT,the session was long enough", Fatal::Finished(cause));
            }
            (Role::Responder(_), Farewell::Dismissed) => {
                self.core.close(now, "HALT,an operator ended the session", Fatal::Finished(cause));
            }
            (Role::Responder(_), Farewell::Idle) => {
                self.core.close(
                    now,
                    "HALT,the session was idle for too long",
                    Fatal::Finished(cause),
                );
            }
            (Role::Responder(_), _) => {
                // To this very remote: the next in the profile may be the slow way in.
                self.core.close(now, "RESTART,[N]", Fatal::Finished(cause));
            }
            (Role::Initiator(_) | Role::Point(_), _) if exits_in_control => {
                self.core.close(now, "EXIT", Fatal::Finished(TerminateCause::UserRequest));
            }
            (Role::Initiator(_) | Role::Point(_), _) => {
                self.core.send_in_tunnel(&[&OCC_MAGIC[..], &[OCC_EXIT]].concat());
                return Err(Fatal::Finished(TerminateCause::UserRequest));
            }
        }
        Ok(())
    }
}

impl Engine for Session {
    fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), Fatal> {
        let result = self.dispatch(now, input).and_then(|()| self.on_time(now));
        self.core.flush(now);
        if let Err(fatal) = result {
            self.core.end(fatal);
        }
        result
    }

    fn poll(&mut self, _now: Instant) -> Output {
        if let Some(output) = self.core.outputs.pop_front() {
            return output;
        }
        // Thousands of sessions idle most of the time: none keeps the room of its handshake.
        self.core.outputs = VecDeque::new();
        let role = match &self.role {
            Role::Initiator(role) => role.deadline(),
            Role::Responder(_) | Role::Point(_) => None,
        };
        Output::Wait([self.core.deadline(), role].into_iter().flatten().min())
    }
}

/// The key record of this end.
pub(crate) fn own_record(source: &KeySource, options: String) -> KeyRecord {
    KeyRecord {
        source: source.clone(),
        options,
        user: String::new(),
        password: contract::Secret::new([]),
        peer_info: String::new(),
    }
}
