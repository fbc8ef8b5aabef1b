//! The door: tells clients from strangers without keeping anything about either.
//!
//! The session id that the answer to a first packet offers is an HMAC over the client's address
//! and session id under a secret of this process. A client proves that it can receive at its
//! address by bringing it back; only then is there a [`Session`]. The one exception are clients of
//! before OpenVPN 2.6 that have a key of their own (tls-crypt-v2): they send it once, so a session
//! has to begin there and then; their number is bounded, and they can be refused.

mod strangers;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use contract::{Acceptor, Arrival, Claim, Discard, Path, PortId, Route, SessionId};
use crypto::SeededRandom;
use crypto::digest::{Hash, HmacKey};
use kit::{SeenFilter, TokenBucket};

use self::strangers::{Heard, Unproven, Wrapping};
use crate::client_key::{ClientKeyId, UnwrappedKey, split_wrapped};
use crate::early;
use crate::generation::Generation;
use crate::initiator::random_sid;
use crate::packet::{Acks, ControlBody, ControlSid, Head, KeyId, NO_PEER_ID, Opcode};
use crate::point::{Point, PointConfig};
use crate::responder::{Responder, ResponderConfig};
use crate::session::{Birth, Core, Session};
use crate::wrap::{Side, Stamp, Unwrapped, WrapKeys, brings_key};

/// The stamp of every stateless answer; sessions count on from it.
const ANSWER_ID: u32 = 1;

/// How many first packets are remembered: the answers of half a minute at the default rate.
const SEEN: usize = 4096;

/// The shortest hard reset, in bytes: opcode, session id, no acknowledgement, packet id.
const MIN_RESET: u16 = 14;
/// The longest: with a wrapped client key behind it (tls-crypt-v2).
const MAX_RESET: u16 = 1400;

fn answers(now: Instant, config: &ResponderConfig) -> TokenBucket {
    let rate = u64::from(config.replies_per_second);
    TokenBucket::new(rate, rate, now)
}

/// Whether a TCP connection begins as an OpenVPN initiator's does: a 16-bit length, then a hard
/// reset of the first generation. It needs nothing but the bytes, so whoever listens may ask.
#[must_use]
pub fn claims(first: &[u8]) -> Claim {
    match first {
        [] => Claim::NeedMore,
        // No hard reset is as long as this says, whatever follows.
        [high, ..] if *high > MAX_RESET.to_be_bytes()[0] => Claim::No,
        [_] | [_, _] => Claim::NeedMore,
        [high, low, head, ..] => {
            let len = u16::from_be_bytes([*high, *low]);
            let Head { opcode, key_id } = Head::from_byte(*head);
            let is_reset = opcode == Opcode::P_CONTROL_HARD_RESET_CLIENT_V2
                || opcode == Opcode::P_CONTROL_HARD_RESET_CLIENT_V3;
            let is_ours =
                is_reset && key_id == KeyId::FIRST && (MIN_RESET..=MAX_RESET).contains(&len);
            if is_ours { Claim::Yes } else { Claim::No }
        }
    }
}

/// What comes through a door.
#[allow(clippy::large_enum_variant, reason = "on the stack, once per session")]
enum Role {
    Responder(Responder),
    Point(Point),
}

/// The responder's door; one per listening process.
#[derive(Debug)]
pub struct Door {
    config: Arc<ResponderConfig>,
    /// The one peer that this door is for, where it is not a server's.
    point: Option<Arc<PointConfig>>,
    keys: WrapKeys,
    secret: HmacKey,
    epoch: Instant,
    answers: TokenBucket,
    /// First packets answered lately, so that a captured one is no source of traffic.
    seen: SeenFilter,
    by_sid: HashMap<ControlSid, SessionId>,
    sessions: BTreeMap<SessionId, Known>,
    peer_ids: HashSet<u32>,
    unproven: Unproven,
    /// Client keys that were revoked.
    refused: HashSet<ClientKeyId>,
}

/// A session, as far as the door has to know it.
#[derive(Debug)]
struct Known {
    sid: ControlSid,
    peer_id: u32,
    client_key: Option<ClientKeyId>,
    /// Its client key was revoked: it hears nothing any more.
    is_refused: bool,
}

impl Door {
    /// Opens the door; `seed` is from the operating system.
    #[must_use]
    pub fn new(now: Instant, config: Arc<ResponderConfig>, seed: [u8; 32]) -> Self {
        let mut random = SeededRandom::new(seed);
        let secret: [u8; 32] = random.array();
        Self {
            keys: config.protection.keys(Side::Responder),
            secret: HmacKey::new(Hash::Sha256, &secret),
            epoch: now,
            answers: answers(now, &config),
            seen: SeenFilter::new(SEEN),
            by_sid: HashMap::new(),
            sessions: BTreeMap::new(),
            peer_ids: HashSet::new(),
            unproven: Unproven::default(),
            refused: HashSet::new(),
            point: None,
            config,
        }
    }

    /// A door for one peer that calls us (`tls-server` without `server`): who comes through it is
    /// asked for its certificate only. Of `config`, only what protects the door counts.
    #[must_use]
    pub fn for_point(
        now: Instant,
        config: Arc<ResponderConfig>,
        point: Arc<PointConfig>,
        seed: [u8; 32],
    ) -> Self {
        Self { point: Some(point), ..Self::new(now, config, seed) }
    }

    /// Changes what applies to sessions from now on.
    pub fn reconfigure(&mut self, now: Instant, config: Arc<ResponderConfig>) {
        self.keys = config.protection.keys(Side::Responder);
        self.answers = answers(now, &config);
        self.config = config;
    }

    /// From now on these client keys, and no others, count as revoked: nothing that comes with one
    /// of them is answered, nor anything that belongs to a session that began with one.
    ///
    /// Returns those sessions, half-open ones, too; ending them is the caller's part.
    pub fn refuse_keys(&mut self, refused: HashSet<ClientKeyId>) -> Vec<SessionId> {
        self.refused = refused;
        let mut sessions = Vec::new();
        for (session, known) in &mut self.sessions {
            known.is_refused = known.client_key.is_some_and(|id| self.refused.contains(&id));
            sessions.extend(known.is_refused.then_some(*session));
        }
        sessions
    }

    /// The cookie of a time slot; slots are half as long as a handshake may take.
    fn cookie(&self, slot: u64, path: &Path, sid: ControlSid) -> ControlSid {
        let remote = path.remote.ip().to_canonical();
        let address = match remote {
            std::net::IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(address) => address.octets(),
        };
        let mut cookie = [0; 8];
        let port = path.remote.port().to_be_bytes();
        self.secret.sign_into(&[&slot.to_be_bytes(), &address, &port, &sid.0], &mut cookie);
        // All zeroes would not be a session id.
        cookie[7] |= 1;
        ControlSid(cookie)
    }

    fn slot(&self, now: Instant) -> u64 {
        let length = self.config.handshake.as_secs().div_ceil(2);
        now.saturating_duration_since(self.epoch).as_secs() / length.max(1)
    }

    fn is_our_cookie(
        &self,
        now: Instant,
        path: &Path,
        sid: ControlSid,
        cookie: ControlSid,
    ) -> bool {
        let slot = self.slot(now);
        (0..=2)
            .filter_map(|age| slot.checked_sub(age))
            .any(|slot| crypto::equal(&self.cookie(slot, path, sid).0, &cookie.0))
    }

    fn on_first(
        &mut self,
        now: Instant,
        path: &Path,
        packet: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Route, Discard> {
        let heard = self.hear(packet)?;
        self.check_first(&heard.packet)?;
        // An answer that asks for the client's key once more lets us forget it until then.
        let asks_for_key = match &heard.wrapping {
            Wrapping::Own(_) if heard.packet.stamp.is_some_and(Stamp::is_early) => true,
            Wrapping::Own(own) => {
                self.check_unproven(own)?;
                false
            }
            Wrapping::Shared => false,
        };
        let mut hash = [0; 8];
        self.secret.sign_into(&[packet], &mut hash);
        if !self.seen.insert(u64::from_be_bytes(hash)) {
            return Err(Discard::Replayed);
        }
        if !self.answers.take(now, 1) {
            return Err(Discard::RateLimited);
        }
        if heard.wrapping.own().is_some() && !asks_for_key {
            return Ok(Route::New);
        }
        let sid = heard.packet.sid;
        let cookie = self.cookie(self.slot(now), path, sid);
        let mut acks = Acks::default();
        acks.push(0);
        let payload: &[u8] = if asks_for_key { &early::ASK_FOR_KEY } else { &[] };
        let mut answer = Vec::with_capacity(32);
        ControlBody { acks, acked_sid: Some(sid), message: Some(0), payload }.write(&mut answer);
        let head = Head::new(Opcode::P_CONTROL_HARD_RESET_SERVER_V2, KeyId::FIRST);
        let stamp = Stamp { time: self.config.started_at, id: ANSWER_ID };
        *reply = heard.wrapping.keys(&self.keys).wrap(head, cookie, stamp, &answer);
        Ok(Route::Reply)
    }

    fn check_first(&self, packet: &Unwrapped) -> Result<(), Discard> {
        let body =
            ControlBody::parse(packet.head.opcode, &packet.body).map_err(|_| Discard::Malformed)?;
        let is_first = body.message == Some(0)
            && body.acks.as_slice().is_empty()
            && body.payload.is_empty()
            && packet.head.key_id == KeyId::FIRST;
        if is_first { Ok(()) } else { Err(Discard::Malformed) }
    }

    /// Whether a client may begin a session with its first packet.
    fn check_unproven(&mut self, own: &UnwrappedKey) -> Result<(), Discard> {
        if self.config.client_keys.as_ref().is_none_or(|rules| rules.cookie_required) {
            return Err(Discard::Unwanted);
        }
        if self.unproven.has_room(&own.mark) { Ok(()) } else { Err(Discard::RateLimited) }
    }

    fn on_third(&self, now: Instant, path: &Path, packet: &[u8]) -> Result<Route, Discard> {
        let heard = self.hear(packet)?;
        self.proof(now, path, &heard.packet).map(|_| Route::New)
    }

    /// The cookie that a packet brings back.
    fn proof(
        &self,
        now: Instant,
        path: &Path,
        unwrapped: &Unwrapped,
    ) -> Result<ControlSid, Discard> {
        let body = ControlBody::parse(unwrapped.head.opcode, &unwrapped.body)
            .map_err(|_| Discard::Malformed)?;
        // A lost acknowledgement may be made good by the first TLS packet, nothing later.
        let is_third = unwrapped.head.key_id == KeyId::FIRST
            && body.acks.as_slice().iter().all(|id| *id <= 1)
            && body.message.is_none_or(|id| id <= 1);
        let cookie = body.acked_sid.filter(|_| is_third).ok_or(Discard::Unwanted)?;
        if !self.is_our_cookie(now, path, unwrapped.sid, cookie) {
            return Err(Discard::Unwanted);
        }
        Ok(cookie)
    }

    /// Removes the wrapping of a packet that belongs to no session.
    fn hear(&self, packet: &[u8]) -> Result<Heard, Discard> {
        let head = Head::from_byte(*packet.first().ok_or(Discard::Malformed)?);
        if !brings_key(head.opcode) {
            if !self.config.takes_shared_key {
                return Err(Discard::Unwanted);
            }
            return Ok(Heard { packet: self.keys.unwrap(packet)?, wrapping: Wrapping::Shared });
        }
        let rules = self.config.client_keys.as_ref().ok_or(Discard::Unwanted)?;
        let (protected, wrapped) = split_wrapped(packet)?;
        let own = Box::new(rules.server_key.unwrap(wrapped)?);
        let is_revoked = own.metadata.id.is_some_and(|id| self.refused.contains(&id));
        if is_revoked || !rules.is_young(own.metadata.issued) {
            return Err(Discard::KeyRefused);
        }
        let packet = WrapKeys::tls_crypt(&own.key, Side::Responder).unwrap(protected)?;
        Ok(Heard { packet, wrapping: Wrapping::Own(own) })
    }

    fn free_peer_id(&self, port: PortId) -> Option<u32> {
        let first = port.0 % NO_PEER_ID;
        (0..=self.config.max_sessions as u32)
            .map(|n| (first + n) % NO_PEER_ID)
            .find(|id| !self.peer_ids.contains(id))
    }
}

impl Acceptor for Door {
    type Engine = Session;

    fn claims(&self, first: &[u8]) -> Claim {
        claims(first)
    }

    fn route(
        &mut self,
        now: Instant,
        path: &Path,
        datagram: &mut [u8],
        reply: &mut Vec<u8>,
    ) -> Route {
        let Some((&first, rest)) = datagram.split_first() else {
            return Route::Discard(Discard::Malformed);
        };
        let Some(sid) = rest.first_chunk::<8>() else {
            return Route::Discard(Discard::Malformed);
        };
        if let Some(session) = self.by_sid.get(&ControlSid(*sid)) {
            return match self.sessions.get(session) {
                Some(known) if known.is_refused => Route::Discard(Discard::KeyRefused),
                _ => Route::Session(*session),
            };
        }
        let route = match Head::from_byte(first).opcode {
            Opcode::P_CONTROL_HARD_RESET_CLIENT_V2 | Opcode::P_CONTROL_HARD_RESET_CLIENT_V3 => {
                self.on_first(now, path, datagram, reply)
            }
            Opcode::P_ACK_V1 | Opcode::P_CONTROL_V1 | Opcode::P_CONTROL_WKC_V1 => {
                self.on_third(now, path, datagram)
            }
            _ => Err(Discard::Unwanted),
        };
        route.unwrap_or_else(Route::Discard)
    }

    fn accept(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        session: SessionId,
        port: PortId,
        seed: [u8; 32],
    ) -> Option<Session> {
        if self.sessions.len() >= self.config.max_sessions {
            return None;
        }
        let Heard { packet, wrapping } = self.hear(arrival.datagram).ok()?;
        let mut random = SeededRandom::new(seed);
        let peer_id = self.free_peer_id(port)?;
        let role = match &self.point {
            Some(point) => Role::Point(Point::new(Arc::clone(point))),
            None => Role::Responder(Responder::new(Arc::clone(&self.config), peer_id)),
        };
        let (tls, shape, timing) = match &role {
            Role::Point(point) => (point.tls(), point.shape(), point.timing()),
            Role::Responder(role) => (role.tls(), self.config.shape, self.config.timing()),
        };
        let tls = tls.ok()?;
        let started_at = self.config.started_at;
        let (sid, stamp, generation, proven) = match wrapping.own() {
            Some(own) if packet.head.opcode == Opcode::P_CONTROL_HARD_RESET_CLIENT_V3 => {
                self.check_first(&packet).ok()?;
                self.check_unproven(own).ok()?;
                let mut generation = Generation::new(now, KeyId::FIRST, tls);
                generation.push_reset(Opcode::P_CONTROL_HARD_RESET_SERVER_V2);
                let proven = self.unproven.insert(session, own.mark);
                (
                    random_sid(&mut random),
                    Stamp { time: started_at, id: 0 },
                    generation,
                    Some(proven),
                )
            }
            _ => {
                let sid = self.proof(now, &arrival.path, &packet).ok()?;
                let stamp = Stamp { time: started_at, id: ANSWER_ID };
                (sid, stamp, Generation::after_resets(now, tls), None)
            }
        };
        let own = wrapping.own().map(|own| own.metadata);
        let mut core = Core::new(
            now,
            Birth {
                side: Side::Responder,
                port,
                path: arrival.path,
                sid,
                peer_sid: Some(packet.sid),
                protection: wrapping.protection(&self.config.protection),
                client_key: own.map(|metadata| metadata.facts()),
                proven,
                stamp,
                random,
                digest: self.config.digest,
                shape,
                timing,
            },
        );
        core.current = Some(generation);
        self.by_sid.insert(packet.sid, session);
        let client_key = own.and_then(|metadata| metadata.id);
        let known = Known { sid: packet.sid, peer_id, client_key, is_refused: false };
        self.sessions.insert(session, known);
        self.peer_ids.insert(peer_id);
        Some(match role {
            Role::Point(point) => Session::point_with(core, point),
            Role::Responder(responder) => Session::responder(core, responder),
        })
    }

    fn forget(&mut self, session: SessionId) {
        if let Some(known) = self.sessions.remove(&session) {
            self.by_sid.remove(&known.sid);
            self.peer_ids.remove(&known.peer_id);
            self.unproven.remove(session);
        }
    }
}
