//! The end that answers: judges credentials through questions, leases, and pushes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::{
    Answer, Ask, AskId, AttachRequest, AuthVerdict, Credentials, DenyReason, Event, Fatal, Grant,
    Layer, Lease, NoLease, Secret, SessionLimits, TerminateCause,
};
use crypto::digest::Hash;
use rustls::ServerConfig;

use crate::challenge::{self, one_line};
use crate::cipher::{Cipher, choose};
use crate::client_key::ClientKeyRules;
use crate::generation::TlsRole;
use crate::introduction::introduction;
use crate::key_method::KeyRecord;
use crate::keys::KeySource;
use crate::packet::KeyId;
use crate::peer_info::{Announced, PeerInfo, has_word, layer_of, options_string, proto};
use crate::push::{Agreement, push_reply};
use crate::session::{Core, Timing, own_record};
use crate::shape::{Framing, ShapeRules};
use crate::tls::{Tls, TlsFailure};
use crate::token::{self, Token, TokenPolicy};
use crate::wrap::{Protection, Side};

/// How long a decision that is made elsewhere may be waited for: time to find the telephone.
pub const MAX_PENDING: Duration = Duration::from_secs(600);
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
    /// Our private key may take its time to sign: handshakes are made by [`contract::Ask::Work`].
    pub key_is_slow: bool,
    /// What protects the control channel of clients without a key of their own.
    pub protection: Arc<Protection>,
    /// Whether there may be such clients.
    pub takes_shared_key: bool,
    /// Clients with a key of their own (tls-crypt-v2), which are told from others by their first
    /// packet. They need the others' control channel to be protected, too.
    pub client_keys: Option<Arc<ClientKeyRules>>,
    /// What a client has to show.
    pub auth: AuthMode,
    /// Tokens that take the password's place, if members get any.
    pub tokens: Option<TokenPolicy>,
    /// In order of preference.
    pub ciphers: Vec<Cipher>,
    /// The HMAC of CBC ciphers.
    pub digest: Hash,
    /// The network that clients join.
    pub network: String,
    /// For the options string, before a lease says better.
    pub mtu: u16,
    /// Whether clients may carry frames (`dev tap`).
    pub tap: bool,
    /// Whether clients that are set to compress are let in; their packets are expanded, ours go
    /// out uncompressed.
    pub decompresses: bool,
    /// `fragment` and `mssfix`.
    pub shape: ShapeRules,
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
    /// The latest generation in which our key record has been sent.
    recorded: Option<KeyId>,
}

/// Credentials under judgement.
#[derive(Debug)]
struct Login {
    key_id: KeyId,
    record: Box<KeyRecord>,
    ask: AskId,
    step: Step,
    /// The token that took the password's place.
    token: Option<Token>,
    /// Our half of the keys, if it is with the client already.
    sent: Option<KeySource>,
    /// The decision that is waited for, if the client may still answer a question about it.
    waits_for: Option<u64>,
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
    /// The latest token and the name it was made for.
    token: Option<(String, Token)>,
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
            recorded: None,
        }
    }

    pub(crate) fn tls(&self) -> Result<TlsRole, TlsFailure> {
        Ok(TlsRole {
            tls: Tls::responder(&self.config.tls)?.slow(self.config.key_is_slow),
            peer: Side::Initiator,
        })
    }

    /// Forgets what a renegotiation has come to; returns how long the next may take.
    pub(crate) fn forget_negotiation(&mut self) -> Duration {
        self.login = None;
        self.config.handshake
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
            core.layer = layer_of(&record.options);
            if core.layer == Layer::Ethernet && !self.config.tap {
                let why = "this server carries packets only; use a profile with dev tun";
                let to_us = "dev tap is off (doors.openvpn.tap)";
                self.refuse(core, now, key_id, false, why, to_us);
                return Ok(());
            }
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
            let Some(framing) = self.framing(&record.options) else {
                core.event(Event::Remark(
                    "the client is set to compress (comp-lzo or compress); take that out of its \
                     profile, or set doors.openvpn.compression = \"decompress\""
                        .to_owned(),
                ));
                let why = "compression is not allowed here; remove comp-lzo and compress";
                self.refuse(core, now, key_id, false, why, "the client is set to compress");
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
                framing,
            });
        }
        if self.config.auth.wants_password()
            && (record.user.is_empty() || record.password.expose().is_empty())
        {
            let why = "this server asks for a user name and a password";
            self.refuse(core, now, key_id, false, why, "no user name or password sent");
            return Ok(());
        }
        let mut login = Login {
            key_id,
            record,
            ask: AskId(0),
            step: Step::Certificate,
            token: None,
            sent: None,
            waits_for: None,
        };
        if self.config.auth.wants_certificate() {
            let chain = core.generation(key_id).map(|g| g.peer_chain()).unwrap_or_default();
            login.ask = core.ask(Ask::Authenticate(Credentials::Certificate { chain }));
            self.login = Some(login);
        } else {
            self.ask_password(core, now, login, None);
        }
        Ok(())
    }

    /// What a client's compression comes down to; `None` if that is not allowed.
    fn framing(&self, options: &str) -> Option<Option<Framing>> {
        match (has_word(options, "comp-lzo"), self.config.decompresses) {
            (false, _) => Some(None),
            (true, false) => None,
            (true, true) if self.client.stub_v2 => Some(Some(Framing::StubV2)),
            // The options do not say which, but whoever does not know stubs has no other.
            (true, true) => Some(Some(Framing::Lzo)),
        }
    }

    fn ask_password(
        &mut self,
        core: &mut Core,
        now: Instant,
        login: Login,
        certificate: Option<Box<Grant>>,
    ) {
        let (user, field) = (&login.record.user, &login.record.password);
        let (credentials, token) = if token::is_token(field.expose()) {
            let Some(token) = self.known_by_token(user, field.expose()) else {
                self.refuse_token(core, now, login.key_id, "the token is not good any more");
                return;
            };
            (Credentials::Known { user: user.clone(), since: token.initial }, Some(token))
        } else {
            let Some(credentials) = challenge::credentials(user, field) else {
                self.deny(core, now, login.key_id, DenyReason::BadCredentials);
                return;
            };
            (credentials, None)
        };
        let ask = core.ask(Ask::Authenticate(credentials));
        self.login = Some(Login { ask, step: Step::Password { certificate }, token, ..login });
    }

    /// The token, if it is one of ours, and of the same session as any before it.
    fn known_by_token(&self, user: &str, field: &[u8]) -> Option<Token> {
        let token = self.config.tokens.as_ref()?.read(user, field)?;
        let former = self.member.as_ref().and_then(|member| member.token.as_ref());
        former.is_none_or(|(_, former)| former.session == token.session).then_some(token)
    }

    pub(crate) fn on_answer(
        &mut self,
        core: &mut Core,
        now: Instant,
        ask: AskId,
        answer: Answer,
    ) -> Result<(), Fatal> {
        let Some(mut login) = self.login.take_if(|login| login.ask == ask) else { return Ok(()) };
        let key_id = login.key_id;
        // The renegotiation that asked was given up meanwhile.
        if core.generation(key_id).is_none() {
            return Ok(());
        }
        let verdict = match answer {
            Answer::Authenticated(verdict) => verdict,
            Answer::Attached(attached) => return self.on_attached(core, now, login, attached),
            Answer::Configured(_) | Answer::Prompted(_) | Answer::Worked(_) => {
                return Err(Fatal::Local("an answer to another question"));
            }
        };
        match (login.step, verdict) {
            (Step::Certificate, AuthVerdict::Grant(grant)) => {
                login.step = Step::Certificate;
                if self.config.auth.wants_password() {
                    self.ask_password(core, now, login, Some(grant));
                    return Ok(());
                }
                self.granted(core, now, login, grant)
            }
            (Step::Password { certificate }, AuthVerdict::Grant(grant)) => {
                let grant = match certificate {
                    Some(certificate) if certificate.user != grant.user => {
                        self.deny(core, now, key_id, DenyReason::BadCredentials);
                        return Ok(());
                    }
                    // Whoever judged the password may have more to say than the certificate.
                    Some(certificate) => {
                        Box::new(Grant { certificate: certificate.certificate, ..*grant })
                    }
                    None => grant,
                };
                login.step = Step::Certificate;
                self.granted(core, now, login, grant)
            }
            (step @ Step::Password { .. }, AuthVerdict::Pending { ticket, timeout, info }) => {
                login.step = step;
                self.wait(core, login, ticket, timeout, info.as_deref());
                Ok(())
            }
            (Step::Password { .. }, AuthVerdict::Challenge { state, prompt, echo })
                if login.token.is_none() =>
            {
                match challenge::question(&login.record.user, &state, &prompt, echo) {
                    Some(why) => {
                        self.refuse(core, now, key_id, false, &why, "one more question is asked");
                    }
                    None => self.deny(core, now, key_id, DenyReason::BadCredentials),
                }
                Ok(())
            }
            (_, AuthVerdict::Deny(DenyReason::BackendUnavailable)) => {
                self.deny(core, now, key_id, DenyReason::BackendUnavailable);
                Ok(())
            }
            // Whatever became of the account, the client's user is the one to be told.
            (Step::Password { .. }, _) if login.token.is_some() => {
                self.refuse_token(core, now, key_id, "the user has to log in again");
                Ok(())
            }
            (_, AuthVerdict::Deny(reason)) => {
                self.deny(core, now, key_id, reason);
                Ok(())
            }
            (_, AuthVerdict::Refuse { reason }) => {
                let reason = one_line(&reason);
                self.refuse(core, now, key_id, false, &reason, "refused by whoever decides");
                Ok(())
            }
            _ => {
                self.deny(core, now, key_id, DenyReason::BadCredentials);
                Ok(())
            }
        }
    }

    fn on_attached(
        &mut self,
        core: &mut Core,
        now: Instant,
        mut login: Login,
        attached: Result<Lease, NoLease>,
    ) -> Result<(), Fatal> {
        let key_id = login.key_id;
        let Step::Lease { grant } = std::mem::replace(&mut login.step, Step::Certificate) else {
            return Err(Fatal::Local("an answer to another question"));
        };
        let (why, is_temporary) = match attached {
            Ok(lease) => return self.admit(core, now, login, &grant, lease),
            Err(NoLease::PoolExhausted) => ("no address is free on this server", true),
            Err(NoLease::AddressTaken) => ("the address of this user is in use", true),
            Err(NoLease::SubnetTaken) => ("a subnet of this user is in use", true),
            Err(NoLease::UnknownNetwork | NoLease::Refused) => ("no place in the network", false),
        };
        self.refuse(core, now, key_id, is_temporary, why, why);
        Ok(())
    }

    /// Somebody decides elsewhere: the client is told to be patient, and nothing else.
    fn wait(
        &mut self,
        core: &mut Core,
        mut login: Login,
        ticket: u64,
        timeout: Duration,
        info: Option<&str>,
    ) {
        let timeout = timeout.min(MAX_PENDING);
        core.timing.handshake = self.config.handshake + timeout;
        // In a renegotiation the client would use keys that are not in force yet.
        if self.member.is_none() {
            if login.sent.is_none() {
                // Clients look at control messages only once the key records are exchanged.
                let source = KeySource::random(&mut core.random);
                self.send_record(core, login.key_id, &source);
                login.sent = Some(source);
            }
            if self.client.has(proto::AUTH_PENDING) {
                core.send_message(&format!("AUTH_PENDING,timeout {}", timeout.as_secs()));
            } else {
                core.send_message("AUTH_PENDING");
            }
            if let Some(info) = info.filter(|info| self.client.understands(info)) {
                core.send_message(&format!("INFO_PRE,{}", one_line(info)));
            }
        }
        login.waits_for = Some(ticket);
        login.ask = core.ask(Ask::Authenticate(Credentials::Pending { ticket }));
        self.login = Some(login);
    }

    /// The client's user has answered a question that came with a pending decision.
    fn on_response(&mut self, core: &mut Core, text: &str) {
        let Some(login) = &mut self.login else { return };
        let Ok(response) = STANDARD.decode(text) else { return };
        // One answer to one question; the decision is asked for anew.
        let Some(ticket) = login.waits_for.take() else { return };
        login.ask = core.ask(Ask::Authenticate(Credentials::Response {
            user: login.record.user.clone(),
            state: ticket.to_be_bytes().to_vec(),
            response: Secret::new(response),
        }));
    }

    /// Who it is, is settled.
    fn granted(
        &mut self,
        core: &mut Core,
        now: Instant,
        login: Login,
        grant: Box<Grant>,
    ) -> Result<(), Fatal> {
        // Whoever says one name and is let in under another would get a token for the first.
        let is_other = self.config.auth.wants_password() && login.record.user != grant.user;
        match &self.member {
            _ if is_other => {
                self.deny(core, now, login.key_id, DenyReason::BadCredentials);
                Ok(())
            }
            Some(member) if member.user != grant.user => {
                self.deny(core, now, login.key_id, DenyReason::BadCredentials);
                Ok(())
            }
            Some(_) => {
                let source = KeySource::random(&mut core.random);
                core.install(now, login.key_id, &source, &login.record.source)?;
                core.timing.handshake = self.config.handshake;
                self.send_record(core, login.key_id, &source);
                let token = self.token(core, &login, &grant);
                if let (Some((user, token)), Some(policy)) = (&token, &self.config.tokens) {
                    let text = policy.write(user, token);
                    core.send_message(&format!("PUSH_REPLY,auth-token {}", *text));
                }
                if let Some(member) = &mut self.member {
                    member.token = token;
                }
                Ok(())
            }
            None => {
                let certificate = grant.certificate.as_ref().map(ToString::to_string);
                let device = certificate.into_iter().chain(self.client.hardware.clone());
                let device = device.collect::<Vec<_>>().join("/");
                let ask = core.ask(Ask::Attach(AttachRequest {
                    network: self.config.network.clone(),
                    user: grant.user.clone(),
                    device: if device.is_empty() { "openvpn".to_owned() } else { device },
                    is_unique: self.client.hardware.is_some(),
                    fixed: grant.fixed_addresses.clone(),
                    behind: grant.behind.clone(),
                    layer: core.layer,
                    remote: core.path.remote.ip(),
                    mtu: self.client.mtu,
                }));
                let step = Step::Lease { grant };
                self.login = Some(Login { ask, step, waits_for: None, ..login });
                Ok(())
            }
        }
    }

    /// A fresh token for who has just been let in: of the same session and as old as the one it
    /// replaces, or new with the password that was shown.
    fn token(&self, core: &mut Core, login: &Login, grant: &Grant) -> Option<(String, Token)> {
        let policy = self.config.tokens.as_ref().filter(|_| self.config.auth.wants_password())?;
        let issued = policy.now();
        let former = self.member.as_ref().and_then(|member| member.token.as_ref());
        let former = login.token.or_else(|| former.map(|(_, token)| *token));
        let token = Token {
            session: former.map_or_else(|| core.random.array(), |token| token.session),
            initial: match login.token {
                Some(token) => token.initial,
                None => issued.max(grant.proof_since.saturating_add(1)),
            },
            issued,
        };
        Some((grant.user.clone(), token))
    }

    /// The client gets its place: keys first, then the record that lets it use them.
    fn admit(
        &mut self,
        core: &mut Core,
        now: Instant,
        mut login: Login,
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
        let sent = login.sent.take();
        let is_sent = sent.is_some();
        let source = sent.unwrap_or_else(|| KeySource::random(&mut core.random));
        core.install(now, login.key_id, &source, &login.record.source)?;
        core.switch(now);
        core.timing.handshake = self.config.handshake;
        if !is_sent {
            self.send_record(core, login.key_id, &source);
        }
        let token = self.token(core, &login, grant);
        self.member =
            Some(Member { user: grant.user.clone(), lease, options, pushed: None, token });
        core.event(Event::Up(core.facts(format!("OpenVPN {}", self.client.software))));
        if self.push_requested || self.client.has(proto::REQUEST_PUSH) {
            self.push(core, now);
        }
        Ok(())
    }

    fn send_record(&mut self, core: &mut Core, key_id: KeyId, source: &KeySource) {
        self.recorded = Some(key_id);
        let cipher = core.agreement.map_or(Cipher::Aes256Gcm, |agreement| agreement.cipher);
        let mtu = self.member.as_ref().map_or(self.config.mtu, |member| member.lease.mtu);
        let options = options_string(&Announced::of(core, cipher, mtu));
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
        let token = member.token.as_ref().zip(self.config.tokens.as_ref());
        let token = token.map(|((user, token), policy)| policy.write(user, token));
        let token = token.as_ref().map(|text| text.as_str());
        for message in push_reply(lease, options, &agreement, &self.client, ping, restart, token) {
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
            _ => {
                if let Some(text) = message.strip_prefix("CR_RESPONSE,") {
                    self.on_response(core, text);
                }
                Ok(())
            }
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

    /// The client forgets its token and asks its user.
    fn refuse_token(&mut self, core: &mut Core, now: Instant, key_id: KeyId, why: &'static str) {
        self.refuse(core, now, key_id, false, &format!("SESSION: {why}"), why);
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
        if self.recorded != Some(key_id) {
            let source = KeySource::random(&mut core.random);
            self.send_record(core, key_id, &source);
        }
        // A client that knows the word tries again by itself instead of forgetting the password.
        let temporary =
            if is_temporary && self.client.has(proto::AUTH_FAIL_TEMP) { "TEMP:" } else { "" };
        core.close(now, &format!("AUTH_FAILED,{temporary}{to_peer}"), Fatal::Denied(to_us));
    }
}
