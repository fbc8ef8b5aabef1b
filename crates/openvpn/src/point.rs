//! Two peers with TLS between them, where neither hands anything to the other (`tls-client` and
//! `tls-server` without `pull`): addresses and routes are in both configurations.
//!
//! Since 2.6 the ends tell each other what they can, and both come to the same result by
//! themselves; with an older peer everything is as it is configured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{Answer, Ask, AskId, Event, Fatal, Lease, Path, PortId, TerminateCause};
use crypto::SeededRandom;
use crypto::digest::Hash;
use rustls::{ClientConfig, ServerConfig};

use crate::cipher::Cipher;
use crate::generation::{Generation, TlsRole};
use crate::initiator::random_sid;
use crate::key_method::KeyRecord;
use crate::keys::KeySource;
use crate::packet::{KeyId, Opcode};
use crate::peer_info::{Announced, PeerInfo, option, options_string, proto};
use crate::push::Agreement;
use crate::session::{Birth, Core, Session, Timing, own_record};
use crate::shape::ShapeRules;
use crate::tls::{Tls, TlsFailure};
use crate::wrap::{Protection, Side, Stamp};

/// Label of the exporter for the peer-id.
const EXPORT_PEER_ID: &[u8] = b"EXPORTER-OpenVPN-p2p-peerid";
/// The peer-id where nothing is exported: "vpn".
const USUAL_PEER_ID: u32 = 0x0076_706e;

/// Who begins the TLS handshake.
#[derive(Clone, Debug)]
pub enum PointTls {
    /// `tls-client`: we do.
    Client(Arc<ClientConfig>),
    /// `tls-server`: the peer does.
    Server(Arc<ServerConfig>),
}

/// One link to one peer.
#[derive(Clone, Debug)]
pub struct PointConfig {
    /// TLS, with the verifier and the certificate of the profile.
    pub tls: PointTls,
    /// Our private key may take its time to sign: handshakes are made by [`contract::Ask::Work`].
    pub key_is_slow: bool,
    /// What protects the control channel.
    pub protection: Arc<Protection>,
    /// `data-ciphers`.
    pub ciphers: Vec<Cipher>,
    /// `cipher`, for peers that do not negotiate.
    pub fallback: Option<Cipher>,
    /// `auth`.
    pub digest: Hash,
    /// `tun-mtu`.
    pub mtu: u16,
    /// `comp-lzo`, `compress`, `fragment`, `mssfix`.
    pub shape: ShapeRules,
    /// `ifconfig` and the like.
    pub lease: Lease,
    /// `hand-window`.
    pub handshake: Duration,
    /// `reneg-sec`.
    pub renegotiate: Option<Duration>,
    /// `ping`.
    pub ping: Duration,
    /// `ping-restart`.
    pub ping_restart: Duration,
    /// It is `ping-exit`.
    pub exits_on_silence: bool,
    /// `float`, or no `remote`: the peer may move.
    pub floats: bool,
    /// Offer nothing that versions before 2.6 do not know: everything is as it is configured.
    pub is_before_2_6: bool,
    /// Our version, for IV_VER.
    pub version: &'static str,
    /// Seconds since the Unix epoch: the time in our replay stamps.
    pub started_at: u32,
}

impl PointConfig {
    fn timing(&self) -> Timing {
        Timing {
            handshake: self.handshake,
            renegotiate: self.renegotiate,
            ping: self.ping,
            ping_restart: self.ping_restart,
            exits_on_silence: self.exits_on_silence,
        }
    }

    fn peer_info(&self) -> String {
        // Before 2.6, peers told each other nothing.
        if self.is_before_2_6 {
            return String::new();
        }
        let proto = proto::DATA_V2
            | proto::TLS_KEY_EXPORT
            | proto::NCP_P2P
            | proto::CC_EXIT_NOTIFY
            | proto::DYN_TLS_CRYPT;
        let list = self.ciphers.iter().map(|cipher| cipher.name()).collect::<Vec<_>>().join(":");
        format!(
            "IV_VER=warren-{}\nIV_PLAT=linux\nIV_TCPNL=1\nIV_NCP=2\nIV_CIPHERS={list}\nIV_PROTO={proto}\n",
            self.version
        )
    }
}

#[derive(Debug)]
pub(crate) struct Point {
    config: Arc<PointConfig>,
    stage: Stage,
    /// Our half of the keys that are being negotiated, at the end that speaks first.
    ours: Option<(KeyId, KeySource)>,
    /// The certificate of the first handshake; who renews the keys must be the same.
    certificate: Vec<u8>,
    software: String,
}

#[derive(Debug)]
enum Stage {
    AwaitRecord,
    /// With the record that the peer still waits for, at the end that answers.
    AwaitConfigured {
        ask: AskId,
        record: Option<(KeyId, KeySource)>,
    },
    Established,
}

impl Session {
    /// Prepares a link to a peer that we call; it begins with
    /// [`Command::Connect`](contract::Command::Connect).
    #[must_use]
    pub fn point(
        now: Instant,
        config: Arc<PointConfig>,
        path: Path,
        port: PortId,
        seed: [u8; 32],
    ) -> Self {
        let mut random = SeededRandom::new(seed);
        let core = Core::new(
            now,
            Birth {
                side: Side::Initiator,
                port,
                path,
                sid: random_sid(&mut random),
                peer_sid: None,
                protection: Arc::clone(&config.protection),
                client_key: None,
                proven: None,
                stamp: Stamp { time: config.started_at, id: 0 },
                random,
                digest: config.digest,
                shape: config.shape,
                timing: config.timing(),
            },
        );
        Self::point_with(core, Point::new(config))
    }
}

impl Point {
    pub(crate) fn new(config: Arc<PointConfig>) -> Self {
        Self {
            config,
            stage: Stage::AwaitRecord,
            ours: None,
            certificate: Vec::new(),
            software: String::new(),
        }
    }

    pub(crate) fn timing(&self) -> Timing {
        self.config.timing()
    }

    pub(crate) fn floats(&self) -> bool {
        self.config.floats
    }

    pub(crate) fn shape(&self) -> ShapeRules {
        self.config.shape
    }

    pub(crate) fn tls(&self) -> Result<TlsRole, TlsFailure> {
        Ok(match &self.config.tls {
            PointTls::Client(config) => {
                let tls = Tls::initiator(config)?.slow(self.config.key_is_slow);
                TlsRole { tls, peer: Side::Responder }
            }
            PointTls::Server(config) => {
                let tls = Tls::responder(config)?.slow(self.config.key_is_slow);
                TlsRole { tls, peer: Side::Initiator }
            }
        })
    }

    pub(crate) fn connect(&self, core: &mut Core, now: Instant) -> Result<(), Fatal> {
        if core.current.is_some() {
            return Ok(());
        }
        let tls = self.tls().map_err(|failure| Fatal::Tls(failure.0))?;
        let mut generation = Generation::new(now, KeyId::FIRST, tls);
        generation.push_reset(Opcode::P_CONTROL_HARD_RESET_CLIENT_V2);
        core.current = Some(generation);
        Ok(())
    }

    /// TLS stands; who began it speaks first.
    pub(crate) fn on_handshaked(&mut self, core: &mut Core, key_id: KeyId) {
        if core.side == Side::Initiator {
            let source = KeySource::random(&mut core.random);
            self.send_record(core, key_id, &source);
            self.ours = Some((key_id, source));
        }
    }

    fn send_record(&self, core: &mut Core, key_id: KeyId, source: &KeySource) {
        let config = &self.config;
        let cipher = core.agreement.map(|agreement| agreement.cipher).or(config.fallback);
        let cipher = cipher.or_else(|| config.ciphers.first().copied());
        let cipher = cipher.unwrap_or(Cipher::Aes256Gcm);
        let options = options_string(&Announced::of(core, cipher, config.mtu));
        let mut record = own_record(source, options);
        record.peer_info = config.peer_info();
        let record = record.write(core.side);
        if let Some(generation) = core.generation(key_id) {
            generation.send(&record);
        }
    }

    pub(crate) fn on_record(
        &mut self,
        core: &mut Core,
        now: Instant,
        key_id: KeyId,
        record: KeyRecord,
    ) -> Result<(), Fatal> {
        let leaf = core.generation(key_id).map(|generation| generation.peer_chain());
        let leaf = leaf.unwrap_or_default().into_iter().next().unwrap_or_default();
        match self.stage {
            Stage::AwaitRecord => {
                core.agreement = Some(self.agree(core, key_id, &record)?);
                self.certificate = leaf;
                let source = self.source(core, key_id)?;
                core.install(now, key_id, &source, &record.source)?;
                let ask = core.ask(Ask::Configure(self.config.lease.clone()));
                let record = (core.side == Side::Responder).then_some((key_id, source));
                self.stage = Stage::AwaitConfigured { ask, record };
                Ok(())
            }
            Stage::Established if leaf == self.certificate => {
                let source = self.source(core, key_id)?;
                core.install(now, key_id, &source, &record.source)?;
                if core.side == Side::Responder {
                    self.send_record(core, key_id, &source);
                }
                Ok(())
            }
            Stage::Established => Err(Fatal::Denied("the peer came back as somebody else")),
            Stage::AwaitConfigured { .. } => Err(Fatal::ProtocolViolation("a second key record")),
        }
    }

    /// Our half of the keys: sent before, or made now.
    fn source(&mut self, core: &mut Core, key_id: KeyId) -> Result<KeySource, Fatal> {
        if core.side == Side::Responder {
            return Ok(KeySource::random(&mut core.random));
        }
        let (ours_id, ours) =
            self.ours.take().ok_or(Fatal::ProtocolViolation("an early key record"))?;
        if ours_id != key_id {
            return Err(Fatal::ProtocolViolation("a key record of another generation"));
        }
        Ok(ours)
    }

    /// What both ends come to, each for itself.
    fn agree(
        &mut self,
        core: &mut Core,
        key_id: KeyId,
        record: &KeyRecord,
    ) -> Result<Agreement, Fatal> {
        let config = &self.config;
        let info = PeerInfo::parse(&record.peer_info);
        let tells = !config.is_before_2_6;
        let has = |bit| tells && info.has(proto::NCP_P2P) && info.has(bit);
        // The cipher is agreed on wherever both lists are known.
        let theirs = info.ciphers.as_deref().filter(|_| tells).unwrap_or_default();
        let theirs = theirs.split(':').filter_map(Cipher::named).collect::<Vec<_>>();
        // The server's order decides.
        let (first, second) = match core.side {
            Side::Responder => (&config.ciphers, &theirs),
            Side::Initiator => (&theirs, &config.ciphers),
        };
        let common = first.iter().copied().find(|cipher| second.contains(cipher));
        let announced = || {
            let named = option(&record.options, "cipher").and_then(Cipher::named);
            named.filter(|cipher| config.ciphers.contains(cipher))
        };
        let cipher = common.or(config.fallback).or_else(announced).ok_or(Fatal::Denied(
            "no cipher in common with the peer: give both the same data-ciphers or cipher",
        ))?;
        let export = has(proto::TLS_KEY_EXPORT);
        let peer_id = if !has(proto::DATA_V2) {
            None
        } else if export {
            let mut id = [0; 3];
            let generation = core.generation(key_id).ok_or(Fatal::Local("no such generation"))?;
            if !generation.export_into(EXPORT_PEER_ID, &mut id) {
                return Err(Fatal::Local("the TLS session exports no keys"));
            }
            let [a, b, c] = id;
            Some(u32::from_be_bytes([0, a, b, c]))
        } else {
            Some(USUAL_PEER_ID)
        };
        self.software = info.software.clone();
        Ok(Agreement {
            cipher,
            peer_id,
            export,
            dynamic: has(proto::DYN_TLS_CRYPT),
            cc_exit: has(proto::CC_EXIT_NOTIFY),
            framing: config.shape.framing,
        })
    }

    pub(crate) fn on_message(message: &str) -> Result<(), Fatal> {
        match message.split_once(',').map_or(message, |(word, _)| word) {
            "EXIT" => Err(Fatal::Finished(TerminateCause::UserRequest)),
            "RESTART" => Err(Fatal::Finished(TerminateCause::AdminReboot)),
            _ => Ok(()),
        }
    }

    pub(crate) fn on_answer(
        &mut self,
        core: &mut Core,
        now: Instant,
        ask: AskId,
        answer: &Answer,
    ) -> Result<(), Fatal> {
        let (Stage::AwaitConfigured { ask: ours, record }, Answer::Configured(result)) =
            (&mut self.stage, answer)
        else {
            return Ok(());
        };
        if *ours != ask {
            return Ok(());
        }
        result.map_err(|()| Fatal::Local("the host's network could not be set up"))?;
        let record = record.take();
        self.stage = Stage::Established;
        if let Some((key_id, source)) = record {
            self.send_record(core, key_id, &source);
        }
        core.switch(now);
        core.event(Event::Up(core.facts(format!("OpenVPN {}", self.software))));
        Ok(())
    }
}
