//! What a profile is of: a server's client, or one end of a link between two peers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::random_bytes;
use contract::{Engine, Fatal, Input, Output, Path, PortId, Secret, WallClock};
use dataplane::SocketKind;
use openvpn::{
    AuthMode, Conduct, Door, End, Family, FixedConfig, FixedSession, InitiatorConfig, LoginRefusal,
    Point, PointConfig, PointTls, Profile, Remote, ResponderConfig, Session, Tiding, Transport,
};
use pki::CallingPeerVerifier;
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use token::TokenKey;

use super::itinerary::Link;
use crate::{clock, door};

/// How often a link without `ping` is looked after.
const LOOK: Duration = Duration::from_secs(3600);
/// How long silence is borne where a profile does not say.
const FOREVER: Duration = Duration::from_secs(86_400);
/// Callers of whom it is not known yet whether they are the peer.
pub(super) const MAX_CALLERS: usize = 4;
/// Replies to strangers, per second.
const REPLIES_PER_SECOND: u32 = 20;

/// What is connected with, ready for use.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// A server that gives us a place.
    Client(Arc<InitiatorConfig>),
    /// A peer, with TLS: we call.
    Calls(Arc<PointConfig>),
    /// A peer, with TLS: it calls.
    Answers { door: Arc<ResponderConfig>, point: Arc<PointConfig> },
    /// A peer, with a static key.
    Fixed(Arc<FixedConfig>),
}

impl Way {
    /// Reads and checks what the profile names.
    pub(super) fn new(
        profile: &Profile,
        token: Option<&TokenKey>,
        device: String,
        clock: &Arc<WallClock>,
    ) -> Result<Self, String> {
        let Some(point) = &profile.point else {
            return Ok(Self::Client(Arc::new(door::initiator(profile, token, device, clock)?)));
        };
        match &point.end {
            End::Fixed { key, direction } => {
                let cipher = profile.fallback.ok_or("no \"cipher\"")?;
                Ok(Self::Fixed(Arc::new(FixedConfig {
                    key: (**key).clone(),
                    direction: *direction,
                    cipher,
                    digest: profile.digest,
                    shape: profile.shape,
                    lease: point.lease.clone(),
                    ping: point.ping,
                    silence: point.silence,
                    exits: point.exits,
                    floats: point.floats,
                    clock: Arc::clone(clock),
                    received: Arc::default(),
                })))
            }
            End::TlsClient => {
                let tls = door::initiator(profile, token, device, clock)?.tls;
                Ok(Self::Calls(Arc::new(link(profile, point, PointTls::Client(tls)))))
            }
            End::TlsServer => {
                let tls = Arc::new(server_tls(profile, token, clock)?);
                let link = link(profile, point, PointTls::Server(Arc::clone(&tls)));
                Ok(Self::Answers { door: Arc::new(guard(&link, tls)), point: Arc::new(link) })
            }
        }
    }

    /// The engine of one attempt; with a static key, there need not be a peer yet.
    pub(super) fn engine(
        &self,
        now: Instant,
        path: Path,
        port: PortId,
        conduct: Conduct,
        seed: [u8; 32],
    ) -> AnyEngine {
        match self {
            Self::Client(config) => {
                let session = Session::initiator(now, Arc::clone(config), path, port, seed);
                AnyEngine::session(session.with_conduct(conduct))
            }
            Self::Calls(config) | Self::Answers { point: config, .. } => {
                AnyEngine::session(Session::point(now, Arc::clone(config), path, port, seed))
            }
            Self::Fixed(config) => {
                let has_peer = !path.remote.ip().is_unspecified();
                let config = Arc::clone(config);
                AnyEngine::Fixed(Box::new(FixedSession::new(config, path, has_peer, port, seed)))
            }
        }
    }

    /// What is spoken on the sockets of an attempt.
    pub(super) fn kind(&self) -> SocketKind {
        match self {
            Self::Client(_) | Self::Calls(_) => SocketKind::OpenVpnInitiator,
            Self::Answers { .. } => SocketKind::OpenVpnResponder,
            Self::Fixed(_) => SocketKind::OpenVpnStatic,
        }
    }
}

/// Where a static key's end without `remote` "calls": nowhere, until it has been called.
pub(super) fn nowhere(link: Option<Link>) -> Vec<SocketAddr> {
    match link {
        Some(Link { family: Some(Family::V6) }) => vec![(Ipv6Addr::UNSPECIFIED, 0).into()],
        Some(_) => vec![(Ipv4Addr::UNSPECIFIED, 0).into()],
        None => Vec::new(),
    }
}

/// A peer that is not known yet.
pub(super) fn nobody() -> Remote {
    let transport = Transport::default();
    Remote { host: String::new(), port: 0, transport, family: None, proxy: None }
}

fn link(profile: &Profile, point: &Point, tls: PointTls) -> PointConfig {
    let silence = point.silence.unwrap_or(FOREVER);
    PointConfig {
        tls,
        key_is_slow: profile.token.is_some(),
        protection: Arc::new(profile.protection.clone()),
        ciphers: profile.ciphers.clone(),
        fallback: profile.fallback,
        digest: profile.digest,
        mtu: profile.mtu,
        shape: profile.shape,
        lease: point.lease.clone(),
        handshake: profile.handshake.max(Duration::from_secs(5)),
        renegotiate: profile.renegotiate,
        ping: point.ping.unwrap_or(LOOK).min(silence / 2).max(Duration::from_secs(1)),
        ping_restart: silence,
        exits_on_silence: point.exits,
        floats: point.floats || profile.remotes.is_empty(),
        is_before_2_6: profile.is_before_2_6,
        version: env!("CARGO_PKG_VERSION"),
        started_at: clock::now() as u32,
    }
}

/// What keeps strangers out; who is no stranger, the link itself decides.
fn guard(link: &PointConfig, tls: Arc<ServerConfig>) -> ResponderConfig {
    ResponderConfig {
        tls,
        key_is_slow: link.key_is_slow,
        protection: Arc::clone(&link.protection),
        takes_shared_key: true,
        client_keys: None,
        push: Vec::new(),
        tokens: None,
        auth: AuthMode::Certificate,
        ciphers: link.ciphers.clone(),
        digest: link.digest,
        network: String::new(),
        mtu: link.mtu,
        tap: false,
        decompresses: true,
        shape: link.shape,
        ping: link.ping,
        ping_restart: link.ping_restart,
        renegotiate: link.renegotiate,
        handshake: link.handshake,
        max_sessions: MAX_CALLERS,
        replies_per_second: REPLIES_PER_SECOND,
        started_at: link.started_at,
    }
}

/// TLS for the end that is called.
fn server_tls(
    profile: &Profile,
    token: Option<&TokenKey>,
    clock: &Arc<WallClock>,
) -> Result<ServerConfig, String> {
    let provider = crypto::tls::provider();
    let (roots, rules) = door::trust(profile)?;
    let verifier = CallingPeerVerifier::new(&roots, rules, Arc::clone(clock), &provider)
        .map_err(|error| error.to_string())?;
    let versions: &[_] = match (profile.only_tls12, profile.only_tls13) {
        (true, _) => &[&TLS12],
        (_, true) => &[&TLS13],
        _ => &[&TLS13, &TLS12],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(Arc::new(verifier));
    let key = door::own_key(profile, token, clock)?.ok_or("no \"cert\" and \"key\"")?;
    let mut tls = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    // Sessions are not resumed: each generation of keys proves the certificate again.
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.time_provider = Arc::new(pki::FixedTime::new(Arc::clone(clock)));
    Ok(tls)
}

/// The acceptor of a link whose peer calls.
pub(super) fn point_door(
    now: Instant,
    door: &Arc<ResponderConfig>,
    point: &Arc<PointConfig>,
    seed: [u8; 32],
) -> Door {
    Door::for_point(now, Arc::clone(door), Arc::clone(point), seed)
}

/// Whatever runs one attempt.
#[derive(Debug)]
pub(super) enum AnyEngine {
    /// With TLS.
    Session(Box<Session>),
    /// With a static key.
    Fixed(Box<FixedSession>),
}

impl AnyEngine {
    pub(super) fn session(session: Session) -> Self {
        Self::Session(Box::new(session))
    }

    /// What takes the password's place, if the server has given us such a thing.
    pub(super) fn token(&self) -> Option<&(String, Secret)> {
        match self {
            Self::Session(session) => session.token(),
            Self::Fixed(_) => None,
        }
    }

    /// What a user interface may want to know.
    pub(super) fn take_tidings(&mut self) -> Vec<Tiding> {
        match self {
            Self::Session(session) => session.take_tidings(),
            Self::Fixed(_) => Vec::new(),
        }
    }

    /// How the server refused us, if it did.
    pub(super) fn refusal(&self) -> Option<&LoginRefusal> {
        match self {
            Self::Session(session) => session.refusal(),
            Self::Fixed(_) => None,
        }
    }

    /// Whether the peer has answered at all, where it has to.
    pub(super) fn has_answer(&self) -> bool {
        match self {
            Self::Session(session) => session.has_answer(),
            Self::Fixed(_) => true,
        }
    }
}

impl Engine for AnyEngine {
    fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), Fatal> {
        match self {
            Self::Session(session) => session.handle(now, input),
            Self::Fixed(session) => session.handle(now, input),
        }
    }

    fn poll(&mut self, now: Instant) -> Output {
        match self {
            Self::Session(session) => session.poll(now),
            Self::Fixed(session) => session.poll(now),
        }
    }
}

/// What this device is called towards servers (IV_HWADDR): random, in the form of a locally
/// administered hardware address, made once and kept. A real one would say more than needed, and
/// differ with every cable.
pub(super) fn device_id(state: &std::path::Path) -> std::io::Result<String> {
    let file = state.join("device-id");
    match std::fs::read_to_string(&file) {
        Ok(id) if id.trim().len() == 17 => return Ok(id.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut bytes: [u8; 6] = random_bytes();
    bytes[0] = bytes[0] & 0xfc | 0x02;
    let id = bytes.map(|byte| format!("{byte:02x}")).join(":");
    std::fs::write(&file, format!("{id}\n"))?;
    Ok(id)
}
