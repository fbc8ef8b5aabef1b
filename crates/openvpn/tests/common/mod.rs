//! A small world: a certificate authority, a door, clients, and the wire between them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_debug_implementations
)]

use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use contract::{
    Answer, Ask, AuthVerdict, CertificateId, Command, Credentials, DenyReason, Grant, Layer, Lease,
    PortId, Secret, TunnelKey, WallClock,
};
use crypto::digest::Hash;
use openvpn::{
    AuthMode, Cipher, ClientKeyRules, Conduct, Door, Framing, InitiatorConfig, Protection, Pull,
    ResponderConfig, Session, ShapeRules, StaticKey, TokenPolicy,
};
use pki::{ClientCertificate, ClientChainVerifier, ServerChainVerifier, ServerRules};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use simnet::{LEFT, Pair, Peer, RIGHT, Server, Surroundings, path};

/// Some time in 2026; certificates of rcgen are valid from 1975 to 4096.
const WALL_CLOCK: u64 = 1_780_000_000;

pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

pub struct World {
    pub ca: CertificateDer<'static>,
    pub server: Identity,
    pub client: Identity,
    /// Signed by somebody else.
    pub stranger: Identity,
}

pub static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (ca, issuer) = authority("Test CA");
    let (_, other) = authority("Other CA");
    World {
        ca,
        server: leaf(&issuer, "server", ExtendedKeyUsagePurpose::ServerAuth),
        client: leaf(&issuer, "ann", ExtendedKeyUsagePurpose::ClientAuth),
        stranger: leaf(&other, "ann", ExtendedKeyUsagePurpose::ClientAuth),
    }
});

fn authority(name: &str) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.der().clone(), Issuer::new(params, key))
}

fn leaf(issuer: &Issuer<'_, KeyPair>, name: &str, usage: ExtendedKeyUsagePurpose) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, issuer).unwrap();
    Identity {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}

pub fn static_key(byte: u8) -> StaticKey {
    StaticKey::from_bytes(std::array::from_fn(|n| byte ^ n as u8))
}

#[derive(Clone)]
pub struct Setup {
    pub protection: Protection,
    pub client_protection: Option<Protection>,
    pub takes_shared_key: bool,
    pub client_keys: Option<ClientKeyRules>,
    pub auth: AuthMode,
    pub server_ciphers: Vec<Cipher>,
    pub client_ciphers: Vec<Cipher>,
    pub identity: Option<Identity>,
    pub credentials: Option<(String, Secret)>,
    pub tls12: bool,
    pub digest: Hash,
    pub renegotiate: Option<Duration>,
    pub client_renegotiate: Option<Duration>,
    pub max_sessions: usize,
    pub deny: Option<DenyReason>,
    pub grant: Grant,
    pub is_before_2_6: bool,
    pub answer_delay: Duration,
    /// Options that the server pushes.
    pub push: Vec<String>,
    /// What the client was told to make of its host.
    pub configured: Arc<Mutex<Vec<Lease>>>,
    pub exits_on_silence: bool,
    pub tokens: Option<TokenPolicy>,
    /// Asked first; what it does not answer is answered as ever.
    pub judge: Arc<Judge>,
    pub forgets: bool,
    /// What the person at the client's end types.
    pub types: Option<&'static str>,
    pub layer: Layer,
    pub tap: bool,
    pub decompresses: bool,
    pub client_framing: Option<Framing>,
    pub shape: ShapeRules,
    /// Both ends' private keys take as long to sign as the other answers take.
    pub key_is_slow: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            protection: Protection::TlsCrypt { key: static_key(0) },
            client_protection: None,
            takes_shared_key: true,
            client_keys: None,
            auth: AuthMode::Both,
            server_ciphers: vec![Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305, Cipher::Aes128Cbc],
            client_ciphers: vec![Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305],
            identity: Some(WORLD.client.clone()),
            credentials: Some(("ann".to_owned(), Secret::new("secret"))),
            tls12: false,
            digest: Hash::Sha256,
            renegotiate: None,
            client_renegotiate: None,
            max_sessions: 16,
            deny: None,
            grant: Grant { user: "ann".to_owned(), ..Grant::default() },
            is_before_2_6: false,
            answer_delay: Duration::ZERO,
            push: Vec::new(),
            configured: Arc::default(),
            exits_on_silence: false,
            tokens: None,
            judge: Arc::new(|_| None),
            forgets: false,
            types: None,
            layer: Layer::Ip,
            tap: true,
            decompresses: false,
            client_framing: None,
            shape: ShapeRules { mtu: 1420, ..ShapeRules::default() },
            key_is_slow: false,
        }
    }
}

/// Answers some questions.
pub type Judge = dyn Fn(&Ask) -> Option<Answer>;

pub type Link = Pair<Peer<Session>, Server<Door>>;

impl Setup {
    pub fn responder_config(&self) -> Arc<ResponderConfig> {
        let provider = crypto::tls::provider();
        let clock = Arc::new(WallClock::new(WALL_CLOCK));
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if self.auth.wants_certificate() {
            builder.with_client_cert_verifier(Arc::new(
                ClientChainVerifier::new(
                    std::slice::from_ref(&WORLD.ca),
                    ClientCertificate::Required,
                    clock,
                    &provider,
                )
                .unwrap(),
            ))
        } else {
            builder.with_no_client_auth()
        };
        let server = WORLD.server.clone();
        let mut tls = builder.with_single_cert(server.chain, server.key).unwrap();
        tls.send_tls13_tickets = 0;
        Arc::new(ResponderConfig {
            tls: Arc::new(tls),
            key_is_slow: self.key_is_slow,
            protection: Arc::new(self.protection.clone()),
            takes_shared_key: self.takes_shared_key,
            client_keys: self.client_keys.clone().map(Arc::new),
            auth: self.auth,
            tokens: self.tokens.clone(),
            ciphers: self.server_ciphers.clone(),
            digest: self.digest,
            network: "test".to_owned(),
            mtu: 1420,
            tap: self.tap,
            decompresses: self.decompresses,
            shape: self.shape,
            ping: Duration::from_secs(10),
            ping_restart: Duration::from_secs(60),
            push: self.push.clone(),
            renegotiate: self.renegotiate,
            handshake: Duration::from_secs(60),
            max_sessions: self.max_sessions,
            replies_per_second: 100,
            started_at: 1_780_000_000,
        })
    }

    pub fn initiator_config(&self) -> Arc<InitiatorConfig> {
        let provider = crypto::tls::provider();
        let clock = Arc::new(WallClock::new(WALL_CLOCK));
        let versions: &[&rustls::SupportedProtocolVersion] =
            if self.tls12 { &[&rustls::version::TLS12] } else { rustls::ALL_VERSIONS };
        let rules = ServerRules { require_eku_server: true, ..ServerRules::default() };
        let verifier =
            ServerChainVerifier::new(std::slice::from_ref(&WORLD.ca), rules, clock, &provider)
                .unwrap();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let tls = match self.identity.clone() {
            Some(Identity { chain, key }) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let protection = self.client_protection.as_ref().unwrap_or(&self.protection).clone();
        Arc::new(InitiatorConfig {
            tls: Arc::new(tls),
            key_is_slow: self.key_is_slow,
            protection: Arc::new(protection),
            credentials: self.credentials.clone(),
            ciphers: self.client_ciphers.clone(),
            fallback: None,
            digest: self.digest,
            mtu: 1420,
            layer: self.layer,
            shape: ShapeRules { framing: self.client_framing, ..self.shape },
            handshake: Duration::from_secs(60),
            renegotiate: self.client_renegotiate,
            ping: Duration::from_secs(10),
            ping_restart: Duration::from_secs(60),
            exits_on_silence: self.exits_on_silence,
            pull: Pull::default(),
            is_before_2_6: self.is_before_2_6,
            version: "0",
            device: "02:00:00:00:00:01".to_owned(),
            started_at: 1_780_000_001,
        })
    }

    pub fn server(&self) -> Server<Door> {
        let (deny, granted, layer) = (self.deny, self.grant.clone(), self.layer);
        let first = Arc::clone(&self.judge);
        let answer = move |_, ask: &Ask| {
            if let Ask::Attach(request) = ask {
                assert_eq!(request.layer, layer);
            }
            first(ask).unwrap_or_else(|| judge(deny, &granted, ask))
        };
        let surroundings = Surroundings::new(answer)
            .answering_after(self.answer_delay)
            .classifying(|path, bytes| {
                let head = *bytes.first()?;
                match head >> 3 {
                    9 => {
                        let peer =
                            u32::from_be_bytes([0, *bytes.get(1)?, *bytes.get(2)?, *bytes.get(3)?]);
                        Some(TunnelKey::OpenVpn { peer, key_id: head & 7 })
                    }
                    6 => Some(TunnelKey::OpenVpnAddress { remote: path.remote, key_id: head & 7 }),
                    _ => None,
                }
            });
        let door = Door::new(Instant::now(), self.responder_config(), [5; 32]);
        let mut server = Server::new(door, surroundings);
        // The format's shortest answer is longer than its shortest question; only who holds the
        // pre-shared key gets it.
        server.reply_excess = 12;
        server
    }

    pub fn client(&self, seed: u8) -> Peer<Session> {
        let session = Session::initiator(
            Instant::now(),
            self.initiator_config(),
            path(LEFT, RIGHT),
            PortId(1),
            [seed; 32],
        );
        let configured = Arc::clone(&self.configured);
        let types = self.types;
        let session = session.with_conduct(Conduct {
            credentials: self.credentials.clone(),
            forgets: self.forgets,
            asks: types.is_some(),
        });
        let surroundings = Surroundings::new(move |_, ask| match ask {
            Ask::Configure(lease) => {
                configured.lock().unwrap().push(lease.clone());
                Answer::Configured(Ok(()))
            }
            Ask::Password { .. } | Ask::Prompt { .. } => Answer::Prompted(types.map(Secret::new)),
            other => panic!("an initiator asked {other:?}"),
        })
        .classifying(|path, bytes| {
            let head = *bytes.first()?;
            matches!(head >> 3, 6 | 9)
                .then_some(TunnelKey::OpenVpnAddress { remote: path.remote, key_id: head & 7 })
        });
        Peer::new(session, PortId(1), surroundings)
    }

    /// A client that has just been told to connect.
    pub fn pair(&self, seed: u8) -> Link {
        let mut pair = Pair::new(self.client(seed), self.server());
        pair.left.command(Command::Connect);
        pair
    }

    /// A pair that is up.
    pub fn connected(&self) -> Link {
        let mut pair = self.pair(1);
        assert!(pair.run_until(is_up, Duration::from_secs(30)), "{}", pair.narrate());
        pair
    }
}

pub fn is_up(pair: &Link) -> bool {
    pair.left.driven.is_up() && pair.right.sessions.values().any(simnet::Driven::is_up)
}

pub fn judge(deny: Option<DenyReason>, granted: &Grant, ask: &Ask) -> Answer {
    let grant = |serial: Option<&str>| {
        Answer::Authenticated(AuthVerdict::Grant(Box::new(Grant {
            certificate: serial.map(|serial| CertificateId::Own(serial.to_owned())),
            ..granted.clone()
        })))
    };
    match ask {
        Ask::Authenticate(_) if deny.is_some() => {
            Answer::Authenticated(AuthVerdict::Deny(deny.unwrap()))
        }
        Ask::Authenticate(Credentials::Certificate { chain }) => {
            assert_eq!(chain.len(), 1);
            grant(Some("serial"))
        }
        Ask::Authenticate(Credentials::Password { user, password, .. }) => {
            if user == "ann" && password.expose() == b"secret" {
                grant(None)
            } else {
                Answer::Authenticated(AuthVerdict::Deny(DenyReason::BadCredentials))
            }
        }
        Ask::Attach(request) => {
            assert_eq!((request.user.as_str(), request.network.as_str()), ("ann", "test"));
            Answer::Attached(Ok(lease()))
        }
        other => panic!("a responder asked {other:?}"),
    }
}

pub fn lease() -> Lease {
    Lease {
        ipv4: Some((Ipv4Addr::new(10, 86, 0, 2), 16)),
        gateway4: Some(Ipv4Addr::new(10, 86, 0, 1)),
        redirect4: true,
        mtu: 1420,
        ..Lease::default()
    }
}

pub fn packet(byte: u8) -> Vec<u8> {
    let mut packet = vec![byte; 100];
    packet[0] = 0x45;
    packet
}
