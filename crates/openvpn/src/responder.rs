//! The end that answers: judges credentials through questions, leases, and pushes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{
    Answer, Ask, AskId, AttachRequest, AuthVerdict, Credentials, DenyReason, Event, Fatal, Grant,
    Layer, Lease, NoLease, SessionLimits, TerminateCause,
};
use crypto::digest::Hash;
use rustls::ServerConfig;

use crate::cipher::{Cipher, choose};
use crate::client_key::ClientKeyRules;
use crate::generation::TlsRole;
use crate::introduction::introduction;
use crate::key_method::KeyRecord;
use crate::keys::KeySource;
use crate::packet::KeyId;
use crate::peer_info::{PeerInfo, options_string, proto};
use crate::push::{Agreement, push_reply};
use crate::session::{Core, Timing, own_record};
use crate::tls::{Tls, TlsFailure};
use crate::wrap::{Protection, Side};

/// A client that repeats PUSH_REQUEST faster than this has merely not read the reply yet.
const PUSH_AGAIN: Duration = Duration::from_secs(10);

/// What a client has to show.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuthMode {
    /// A certificate of ours.
    Certificate,
    /// User name and password.
    Password,
    /// Both, of the same user.
    Both,
}

impl AuthMode {
    /// Whether TLS asks for a certificate.
    #[must_use]
    pub fn wants_certificate(self) -> bool {
        matches!(self, Self::Certificate | Self::Both)
    }

    /// Whether the key record must hold a password.
    #[must_use]
    pub fn wants_password(self) -> bool {
        matches!(self, Self::Password | Self::Both)
    }
}

/// Everything the responders of one door share.
#[derive(Clone, Debug)]
pub struct ResponderConfig {
    /// TLS, with the verifier that fits [`auth`](Self::auth).
    pub tls: Arc<ServerConfig>,
    /// What protects the control channel of clients without a key of their own.
    pub protection: Arc<Protection>,
    /// Whether there may be such clients.
    pub takes_shared_key: bool,
    /// Clients with a key of their own (tls-crypt-v2), which are told from others by their first
    /// packet. They need the others' control channel to be protected, too.
    pub client_keys: Option<Arc<ClientKeyRules>>,
    /// What a client has to show.
    pub auth: AuthMode,
    /// In order of preference.
    pub ciphers: Vec<Cipher>,
    /// The HMAC of CBC ciphers.
    pub digest: Hash,
    /// The network that clients join.
    pub network: String,
    /// For the options string, before a lease says better.
    pub mtu: u16,
    /// Told to clients, and kept by us.
    pub ping: Duration,
    /// Told to clients; we wait twice as long, so that they notice first.
    pub ping_restart: Duration,
    /// `None`: never on our own account.
    pub renegotiate: Option<Duration>,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// Options for every client, besides those of its network ([`check_option`]).
    ///
    /// [`check_option`]: crate::check_option
    pub push: Vec<String>,
    /// More sessions than this are refused.
    pub max_sessions: usize,
    /// Replies per second to first packets; more are dropped.
    pub replies_per_second: u32,
    /// Seconds since the Unix epoch when the door was opened: the time in our replay stamps.
    pub started_at: u32,
}

impl ResponderConfig {
    pub(crate) fn timing(&self) -> Timing {
        Timing {
            handshake: self.handshake,
            renegotiate: self.renegotiate,
            ping: self.ping,
            ping_restart: self.ping_restart * 2,
            exits_on_silence: false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Responder {
    config: Arc<ResponderConfig>,
    peer_id: u32,
    client: PeerInfo,
    login: Option<Login>,
    member: Option<Member>,
    push_requested: bool,
}

/// Credentials under judgement.
#[derive(Debug)]
struct Login {
    key_id: KeyId,
    record: Box<KeyRecord>,
    ask: AskId,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Certificate,
    Password { certificate: Option<Box<Grant>> },
    Lease { grant: Box<Grant> },
}

/// A client that is in.
#[derive(Debug)]
struct Member {
    user: String,
    lease: Lease,
    /// Options for this client besides those of the lease.
    options: Vec<String>,
    pushed: Option<Instant>,
}

impl Responder {
    pub(crate) fn new(config: Arc<ResponderConfig>, peer_id: u32) -> Self {
        Self {
            config,
            peer_id,
            client: PeerInfo::default(),
            login: None,
            member: None,
            push_requested: false,
        }
    }

    pub(crate) fn tls(&self) -> Result<TlsRole, TlsFailure> {
        Ok(TlsRole { tls: Tls::responder(&self.config.tls)?, peer: Side::Initiator })
    }

    /// Whether credentials are under judgement.
    pub(crate) fn is_judging(&self) -> bool {
        self.login.is_some()
    }

    pub(crate) fn on_record(
        &mut self,
        core: &mut Core,
        now: Instant,
        key_id: KeyId,
        record: KeyRecord,
    ) -> Result<(), Fatal> {
        let record = Box::new(record);
        core.event(Event::Introduced(introduction(&record.peer_info)));
        if self.member.is_none() {
            self.client = PeerInfo::parse(&record.peer_info);
            let offer = self.client.offer(&record.options);
            let Some(cipher) = choose(&self.config.ciphers, &offer) else {
                let ours =
                    self.config.ciphers.iter().map(|c| c.name()).collect::<Vec<_>>().join(":");
                core.event(Event::Remark(format!(
                    "no cipher in common with the client; ours are {ours} (doors.openvpn.ciphers)"
                )));
                let why = "Data channel cipher negotiation failed (no shared cipher)";
                self.refuse(core, now, key_id, false, why, "no cipher in common");
                return Ok(());
            };
            let has = |bit| self.client.has(bit);
            core.agreement = Some(Agreement {
                cipher,
                peer_id: has(proto::DATA_V2).then_some(self.peer_id),
                export: has(proto::TLS_KEY_EXPORT),
                // The wrapping of renegotiations is told by the same flags as cc-exit.
                dynamic: has(proto::DYN_TLS_CRYPT) && has(proto::CC_EXIT_NOTIFY),
                cc_exit: has(proto::CC_EXIT_NOTIFY),
            });
        }
        if self.config.auth.wants_password()
            && (record.user.is_empty() || record.password.expose().is_empty())
        {
            let why = "this server asks for a user name and a password";
            self.refuse(core, now, key_id, false, why, "no user name or password sent");
            return Ok(());
        }
        if self.config.auth.wants_certificate() {
            let chain = core.generation(key_id).map(|g| g.peer_chain()).unwrap_or_default();
            let ask = core.ask(Ask::Authenticate(Credentials::Certificate { chain }));
            self.login = Some(Login { key_id, record, ask, step: Step::Certificate });
        } else {
            self.ask_password(core, key_id, record, None);
        }
        Ok(())
    }

    fn ask_password(
        &mut self,
        core: &mut Core,
        key_id: KeyId,
        record: Box<KeyRecord>,
        certificate: Option<Box<Grant>>,
    ) {
        let (user, password) = (record.user.clone(), record.password.clone());
        let ask =
            core.ask(Ask::Authenticate(Credentials::Password { user, password, response: None }));
        self.login = Some(Login { key_id, record, ask, step: Step::Password { certificate } });
    }

    pub(crate) fn on_answer(
        &mut self,
        core: &mut Core,
        now: Instant,
        ask: AskId,
        answer: Answer,
    ) -> Result<(), Fatal> {
        let Some(login) = self.login.take_if(|login| login.ask == ask) else { return Ok(()) };
        let Login { key_id, record, step, .. } = login;
        // The renegotiation that asked was given up meanwhile.
        if core.generation(key_id).is_none() {
            return Ok(());
        }
        match (step, answer) {
            (_, Answer::Authenticated(AuthVerdict::Deny(reason))) => {
                self.deny(core, now, key_id, reason);
                Ok(())
            }
            (Step::Certificate, Answer::Authenticated(AuthVerdict::Grant(grant))) => {
                if self.config.auth.wants_password() {
                    self.ask_password(core, key_id, record, Some(grant));
                    return Ok(());
                }
                self.granted(core, now, key_id, record, grant)
            }
            (Step::Password { certificate }, Answer::Authenticated(AuthVerdict::Grant(grant))) => {
                let grant = match certificate {
                    Some(certificate) if certificate.user != grant.user => {
                        self.deny(core, now, key_id, DenyReason::BadCredentials);
                        return Ok(());
                    }
                    // Whoever judged the password may have more to say than the certificate.
                    Some(certificate) => Box::new(Grant { device: certificate.device, ..*grant }),
                    None => grant,
                };
                self.granted(core, now, key_id, record, grant)
            }
            (Step::Lease { grant }, Answer::Attached(Ok(lease))) => {
                self.admit(core, now, key_id, &record, &grant, lease)
            }
            (Step::Lease { .. }, Answer::Attached(Err(no_lease))) => {
                let (why, is_temporary) = match no_lease {
                    NoLease::PoolExhausted => ("no address is free on this server", true),
                    NoLease::AddressTaken => ("the address of this user is in use", true),
                    NoLease::SubnetTaken => ("a subnet of this user is in use", true),
                    NoLease::UnknownNetwork | NoLease::Refused => {
                        ("no place in the network", false)
                    }
                };
                self.refuse(core, now, key_id, is_temporary, why, why);
                Ok(())
            }
            _ => Err(Fatal::Local("an answer to another question")),
        }
    }

    /// Who it is, is settled.
    fn granted(
        &mut self,
        core: &mut Core,
        now: Instant,
        key_id: KeyId,
        record: Box<KeyRecord>,
        grant: Box<Grant>,
    ) -> Result<(), Fatal> {
        match &self.member {
            Some(member) if member.user != grant.user => {
                self.deny(core, now, key_id, DenyReason::BadCredentials);
                Ok(())
            }
            Some(_) => {
                let source = KeySource::random(&mut core.random);
                core.install(now, key_id, &source, &record.source)?;
                self.send_record(core, key_id, &source);
                Ok(())
            }
            None => {
                let device = [grant.device.as_deref(), self.client.hardware.as_deref()];
                let device = device.into_iter().flatten().collect::<Vec<_>>().join("/");
                let ask = core.ask(Ask::Attach(AttachRequest {
                    network: self.config.network.clone(),
                    user: grant.user.clone(),
                    device: if device.is_empty() { "openvpn".to_owned() } else { device },
                    is_unique: self.client.hardware.is_some(),
                    fixed: grant.fixed_addresses.clone(),
                    behind: grant.behind.clone(),
                    layer: Layer::Ip,
                    remote: core.path.remote.ip(),
                    mtu: self.client.mtu,
                }));
                self.login = Some(Login { key_id, record, ask, step: Step::Lease { grant } });
                Ok(())
            }
        }
    }

    /// The client gets its place: keys first, then the record that lets it use them.
    fn admit(
        &mut self,
        core: &mut Core,
        now: Instant,
        key_id: KeyId,
        record: &KeyRecord,
        grant: &Grant,
        mut lease: Lease,
    ) -> Result<(), Fatal> {
        lease.limits = SessionLimits {
            session: grant.session_limit,
            idle: grant.idle_limit,
            ..SessionLimits::default()
        };
        let options = [&self.config.push, &grant.openvpn_options].into_iter().flatten().cloned();
        let options = options.collect();
        let source = KeySource::random(&mut core.random);
        core.install(now, key_id, &source, &record.source)?;
        core.switch(now);
        self.send_record(core, key_id, &source);
        self.member = Some(Member { user: grant.user.clone(), lease, options, pushed: None });
        core.event(Event::Up(core.facts(format!("OpenVPN {}", self.client.software))));
        if self.push_requested || self.client.has(proto::REQUEST_PUSH) {
            self.push(core, now);
        }
        Ok(())
    }

    fn send_record(&self, core: &mut Core, key_id: KeyId, source: &KeySource) {
        let cipher = core.agreement.map_or(Cipher::Aes256Gcm, |agreement| agreement.cipher);
        let mtu = self.member.as_ref().map_or(self.config.mtu, |member| member.lease.mtu);
        let options = options_string(Side::Responder, core.path.carrier, cipher, core.digest, mtu);
        let record = own_record(source, options).write(Side::Responder);
        if let Some(generation) = core.generation(key_id) {
            generation.send(&record);
        }
    }

    fn push(&mut self, core: &mut Core, now: Instant) {
        let (Some(member), Some(agreement)) = (&mut self.member, core.agreement) else { return };
        if member.pushed.is_some_and(|at| now.saturating_duration_since(at) < PUSH_AGAIN) {
            return;
        }
        member.pushed = Some(now);
        let (ping, restart) = (self.config.ping.as_secs(), self.config.ping_restart.as_secs());
        let (lease, options) = (&member.lease, &member.options);
        for message in push_reply(lease, options, &agreement, &self.client, ping, restart) {
            core.send_message(&message);
        }
    }

    pub(crate) fn on_message(
        &mut self,
        core: &mut Core,
        now: Instant,
        message: &str,
    ) -> Result<(), Fatal> {
        match message {
            "PUSH_REQUEST" => {
                self.push_requested = true;
                self.push(core, now);
                Ok(())
            }
            "EXIT" => Err(Fatal::Finished(TerminateCause::UserRequest)),
            _ => Ok(()),
        }
    }

    fn deny(&mut self, core: &mut Core, now: Instant, key_id: KeyId, reason: DenyReason) {
        let (to_peer, to_us) = match reason {
            // One sentence for both, so that nobody learns which names exist.
            DenyReason::BadCredentials => ("wrong user name or password", "wrong credentials"),
            DenyReason::AccountDisabled => ("this account is disabled", "the account is disabled"),
            DenyReason::Revoked => ("this certificate was revoked", "the certificate is revoked"),
            DenyReason::TooManyAttempts => {
                ("too many attempts; wait a minute", "too many failed attempts")
            }
            DenyReason::BackendUnavailable => {
                ("the server cannot check passwords now", "the user list cannot be read")
            }
        };
        let is_temporary =
            matches!(reason, DenyReason::TooManyAttempts | DenyReason::BackendUnavailable);
        self.refuse(core, now, key_id, is_temporary, to_peer, to_us);
    }

    /// Clients look at AUTH_FAILED only once the key records have been exchanged.
    fn refuse(
        &mut self,
        core: &mut Core,
        now: Instant,
        key_id: KeyId,
        is_temporary: bool,
        to_peer: &str,
        to_us: &'static str,
    ) {
        self.login = None;
        let source = KeySource::random(&mut core.random);
        self.send_record(core, key_id, &source);
        // A client that knows the word tries again by itself instead of forgetting the password.
        let temporary =
            if is_temporary && self.client.has(proto::AUTH_FAIL_TEMP) { "TEMP:" } else { "" };
        core.close(now, &format!("AUTH_FAILED,{temporary}{to_peer}"), Fatal::Denied(to_us));
    }
}
