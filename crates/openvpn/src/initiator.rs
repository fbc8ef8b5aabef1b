//! The end that calls: shows credentials, asks for a place, brings the host into it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::{Answer, Ask, AskId, Event, Fatal, Layer, Path, PortId, Secret, TerminateCause};
use crypto::SeededRandom;
use crypto::digest::Hash;
use rustls::ClientConfig;

use crate::challenge::LoginRefusal;
use crate::cipher::Cipher;
use crate::generation::{Generation, TlsRole};
use crate::key_method::KeyRecord;
use crate::keys::KeySource;
use crate::packet::{ControlSid, KeyId, Opcode};
use crate::peer_info::{Announced, layer_of, option, options_string, our_peer_info, printable};
use crate::profile::Profile;
use crate::pull::{Judgement, Pull, Update, UpdateError, without_marks};
use crate::push::{Agreement, Pushed};
use crate::session::{Birth, Core, Session, Timing, own_record};
use crate::shape::ShapeRules;
use crate::tidings::{MAX_TIDING, Tiding, Tidings};
use crate::tls::{Tls, TlsFailure};
use crate::wrap::{Protection, Side, Stamp};

/// How often PUSH_REQUEST is repeated, as OpenVPN does.
const PUSH_REQUEST_EVERY: Duration = Duration::from_secs(5);

/// The longest ping interval that a server may ask for, in seconds: a day.
const MAX_PING: u64 = 86_400;
/// No server answers everything sooner, whatever a profile says.
const MIN_HANDSHAKE: Duration = Duration::from_secs(5);
/// The longest a server may let us wait for a confirmation, in seconds.
const MAX_PENDING: u64 = 600;
/// A push of so many messages has more options than any host has routes.
const MAX_PUSH_MESSAGES: u32 = 64;

/// One connection to one server.
#[derive(Clone, Debug)]
pub struct InitiatorConfig {
    /// TLS, with the verifier and the certificate of the profile.
    pub tls: Arc<ClientConfig>,
    /// Our private key may take its time to sign: the handshake is made by [`contract::Ask::Work`].
    pub key_is_slow: bool,
    /// What protects the control channel.
    pub protection: Arc<Protection>,
    /// `auth-user-pass`.
    pub credentials: Option<(String, Secret)>,
    /// `data-ciphers`, in the profile's order.
    pub ciphers: Vec<Cipher>,
    /// For servers that do not negotiate.
    pub fallback: Option<Cipher>,
    /// `auth`.
    pub digest: Hash,
    /// `tun-mtu`.
    pub mtu: u16,
    /// `dev tun` or `dev tap`.
    pub layer: Layer,
    /// `comp-lzo`, `compress`, `fragment`, `mssfix`.
    pub shape: ShapeRules,
    /// How long the handshake may take.
    pub handshake: Duration,
    /// `reneg-sec`; `None` leaves it to the server.
    pub renegotiate: Option<Duration>,
    /// Until the server pushes its own.
    pub ping: Duration,
    /// Until the server pushes its own.
    pub ping_restart: Duration,
    /// A server that falls silent is not called again.
    pub exits_on_silence: bool,
    /// What the profile asks of the host, and what it lets the server ask.
    pub pull: Pull,
    /// Offer nothing that versions before 2.6 do not know: keys by the PRF, goodbye in the data
    /// channel, renegotiations wrapped with the shared key.
    pub is_before_2_6: bool,
    /// Our version, for IV_VER.
    pub version: &'static str,
    /// IV_HWADDR: the same on every connect of this device.
    pub device: String,
    /// Seconds since the Unix epoch: the time in our replay stamps.
    pub started_at: u32,
}

impl InitiatorConfig {
    /// What a profile says. `tls` is made from the same profile, `device` names this device to
    /// the server, and `started_at` is the time in seconds since 1970. Credentials are not among
    /// it: each connection is told anew.
    #[must_use]
    pub fn new(profile: &Profile, tls: ClientConfig, device: String, started_at: u32) -> Self {
        Self {
            tls: Arc::new(tls),
            key_is_slow: profile.token.is_some(),
            protection: Arc::new(profile.protection.clone()),
            credentials: None,
            ciphers: profile.ciphers.clone(),
            fallback: profile.fallback,
            digest: profile.digest,
            mtu: profile.mtu,
            layer: profile.layer,
            shape: profile.shape,
            handshake: profile.handshake.max(MIN_HANDSHAKE),
            renegotiate: profile.renegotiate,
            ping: profile.ping,
            ping_restart: profile.ping_restart,
            exits_on_silence: profile.exits_on_silence,
            pull: profile.pull.clone(),
            is_before_2_6: profile.is_before_2_6,
            version: env!("CARGO_PKG_VERSION"),
            device,
            started_at,
        }
    }
}

/// How a connection deals with its user, in place of [`InitiatorConfig::credentials`].
#[derive(Debug, Default)]
pub struct Conduct {
    /// What to log in with: a password, a token, or an answer to a question.
    pub credentials: Option<(String, Secret)>,
    /// `auth-nocache`: what was shown once is forgotten; a renegotiation asks for it again, unless
    /// the server has given us a token.
    pub forgets: bool,
    /// Whether there is somebody who can be asked; servers are told.
    pub asks: bool,
}

#[derive(Debug)]
pub(crate) struct Initiator {
    config: Arc<InitiatorConfig>,
    conduct: Conduct,
    stage: Stage,
    /// Our half of the keys that are being negotiated.
    ours: Option<(KeyId, KeySource)>,
    /// Takes the place of name and password once the server has pushed it.
    token: Option<(String, Secret)>,
    /// Whom we log in as.
    user: String,
    prompt: Option<(AskId, Prompt)>,
    refusal: Option<LoginRefusal>,
    tidings: Tidings,
    /// The pushed options in force.
    options: Vec<String>,
    /// A change to them that is not complete, or not asked for yet.
    update: Option<Update>,
    /// The question about an update that the host has not answered.
    updating: Option<AskId>,
}

/// What the person at this end has been asked for.
#[derive(Clone, Copy, Debug)]
enum Prompt {
    /// The password, which a renegotiation needs again.
    Password(KeyId),
    /// An answer to the server's question while the login is pending.
    Response,
}

#[derive(Debug)]
enum Stage {
    AwaitRecord,
    AwaitPush(Box<AwaitPush>),
    AwaitConfigured { ask: AskId },
    Established,
}

#[derive(Debug)]
struct AwaitPush {
    theirs: KeySource,
    /// The cipher in the server's options string, for servers that push none.
    announced: Option<Cipher>,
    pushed: Pushed,
    messages: u32,
    ask_again: Instant,
}

impl Session {
    /// Prepares a connection; it begins with [`Command::Connect`](contract::Command::Connect).
    #[must_use]
    pub fn initiator(
        now: Instant,
        config: Arc<InitiatorConfig>,
        path: Path,
        port: PortId,
        seed: [u8; 32],
    ) -> Self {
        let core = core(now, &config, path, port, seed);
        let conduct =
            Conduct { credentials: config.credentials.clone(), forgets: false, asks: false };
        let user = conduct.credentials.as_ref().map_or(String::new(), |(user, _)| user.clone());
        let role = Initiator {
            config,
            conduct,
            stage: Stage::AwaitRecord,
            ours: None,
            token: None,
            user,
            prompt: None,
            refusal: None,
            tidings: Tidings::default(),
            options: Vec::new(),
            update: None,
            updating: None,
        };
        Self::initiator_with(core, role)
    }

    /// An initiator's way to deal with its user.
    #[must_use]
    pub fn with_conduct(mut self, conduct: Conduct) -> Self {
        if let Some(role) = self.as_initiator_mut() {
            if let Some((user, _)) = &conduct.credentials {
                role.user.clone_from(user);
            }
            role.conduct = conduct;
        }
        self
    }

    /// What the server gave an initiator to log in with next time: name and token.
    #[must_use]
    pub fn token(&self) -> Option<&(String, Secret)> {
        self.as_initiator()?.token.as_ref()
    }

    /// What a user interface may want to know of an initiator's way since it was last asked.
    pub fn take_tidings(&mut self) -> Vec<Tiding> {
        self.as_initiator_mut().map(|role| role.tidings.take()).unwrap_or_default()
    }

    /// Why the server refused an initiator's login, if it did.
    #[must_use]
    pub fn refusal(&self) -> Option<&LoginRefusal> {
        self.as_initiator()?.refusal.as_ref()
    }
}

/// What an initiator begins with.
fn core(now: Instant, config: &InitiatorConfig, path: Path, port: PortId, seed: [u8; 32]) -> Core {
    let mut random = SeededRandom::new(seed);
    let mut core = Core::new(
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
            stamp: Stamp { time: config.started_at, id: first_id(config) },
            random,
            digest: config.digest,
            shape: config.shape,
            timing: Timing {
                handshake: config.handshake,
                renegotiate: config.renegotiate,
                ping: config.ping,
                ping_restart: config.ping_restart,
                exits_on_silence: config.exits_on_silence,
            },
        },
    );
    core.layer = config.layer;
    core
}

/// The replay counter before the first packet.
fn first_id(config: &InitiatorConfig) -> u32 {
    match &*config.protection {
        Protection::TlsCryptV2(_) if !config.is_before_2_6 => Stamp::EARLY,
        _ => 0,
    }
}

/// Keep-alives as the server wants them.
fn set_timing(core: &mut Core, pushed: &Pushed) {
    if let Some(seconds) = pushed.ping.filter(|seconds| *seconds > 0) {
        core.timing.ping = Duration::from_secs(seconds.min(MAX_PING));
    }
    if let Some(seconds) = pushed.ping_restart.filter(|seconds| *seconds > 0) {
        core.timing.ping_restart = Duration::from_secs(seconds.min(MAX_PING));
        core.timing.exits_on_silence = pushed.exits_on_silence;
    }
}

pub(crate) fn random_sid(random: &mut SeededRandom) -> ControlSid {
    loop {
        let sid = ControlSid(random.array());
        if sid.is_defined() {
            return sid;
        }
    }
}

impl Initiator {
    pub(crate) fn tls(&self) -> Result<TlsRole, TlsFailure> {
        Ok(TlsRole {
            tls: Tls::initiator(&self.config.tls)?.slow(self.config.key_is_slow),
            peer: Side::Responder,
        })
    }

    pub(crate) fn connect(&self, core: &mut Core, now: Instant) -> Result<(), Fatal> {
        if core.current.is_some() {
            return Ok(());
        }
        let tls = self.tls().map_err(|failure| Fatal::Tls(failure.0))?;
        let (reset, key_len) = match &*self.config.protection {
            Protection::TlsCryptV2(client) => {
                (Opcode::P_CONTROL_HARD_RESET_CLIENT_V3, client.wrapped().len())
            }
            _ => (Opcode::P_CONTROL_HARD_RESET_CLIENT_V2, 0),
        };
        let mut generation = Generation::new(now, KeyId::FIRST, tls).with_key(key_len);
        generation.push_reset(reset);
        core.current = Some(generation);
        Ok(())
    }

    /// Forgets what a renegotiation has come to; returns how long the next may take.
    pub(crate) fn forget_negotiation(&mut self) -> Duration {
        self.ours = None;
        self.prompt = None;
        self.config.handshake
    }

    /// TLS stands: show who we are.
    pub(crate) fn on_handshaked(&mut self, core: &mut Core, key_id: KeyId) {
        if let Some(token) = self.token.clone() {
            self.show(core, key_id, Some(token));
            return;
        }
        match self.conduct.credentials.clone() {
            None if !self.user.is_empty() => {
                let user = printable(&self.user, 64);
                let ask = core.ask(Ask::Password { user });
                self.prompt = Some((ask, Prompt::Password(key_id)));
            }
            credentials => self.show(core, key_id, credentials),
        }
        if self.conduct.forgets {
            self.conduct.credentials = None;
        }
    }

    fn show(&mut self, core: &mut Core, key_id: KeyId, credentials: Option<(String, Secret)>) {
        let config = &self.config;
        let source = KeySource::random(&mut core.random);
        let cipher = config.fallback.or_else(|| config.ciphers.first().copied());
        let cipher = cipher.unwrap_or(Cipher::Aes256Gcm);
        let options = options_string(&Announced::of(core, cipher, config.mtu));
        let mut record = own_record(&source, options);
        if let Some((user, password)) = credentials {
            (record.user, record.password) = (user, password);
        }
        record.peer_info = our_peer_info(config);
        let sso = if self.conduct.asks { "openurl,webauth,crtext" } else { "openurl,webauth" };
        record.peer_info.push_str(&format!("IV_SSO={sso}\n"));
        if let Some(generation) = core.generation(key_id) {
            generation.send(&record.write(Side::Initiator));
        }
        self.ours = Some((key_id, source));
    }

    pub(crate) fn on_record(
        &mut self,
        core: &mut Core,
        now: Instant,
        key_id: KeyId,
        record: KeyRecord,
    ) -> Result<(), Fatal> {
        match self.stage {
            Stage::AwaitRecord => {
                let announced = option(&record.options, "cipher").and_then(Cipher::named);
                if layer_of(&record.options) != core.layer {
                    let (theirs, ours) = match core.layer {
                        Layer::Ip => ("frames (dev tap)", "dev tun"),
                        Layer::Ethernet => ("packets (dev tun)", "dev tap"),
                    };
                    core.event(Event::Remark(format!(
                        "the server carries {theirs}, the profile says {ours}"
                    )));
                }
                self.stage = Stage::AwaitPush(Box::new(AwaitPush {
                    theirs: record.source,
                    announced,
                    pushed: Pushed::new(&self.config.pull),
                    messages: 0,
                    ask_again: now + PUSH_REQUEST_EVERY,
                }));
                core.send_message("PUSH_REQUEST");
                self.tidings.add(Tiding::AsksForOptions);
                Ok(())
            }
            Stage::Established => {
                let (ours_id, ours) =
                    self.ours.take().ok_or(Fatal::ProtocolViolation("an early key record"))?;
                if ours_id != key_id {
                    return Err(Fatal::ProtocolViolation("a key record of another generation"));
                }
                core.timing.handshake = self.config.handshake;
                core.install(now, key_id, &ours, &record.source)
            }
            Stage::AwaitPush(_) | Stage::AwaitConfigured { .. } => {
                Err(Fatal::ProtocolViolation("a second key record"))
            }
        }
    }

    pub(crate) fn on_message(
        &mut self,
        core: &mut Core,
        now: Instant,
        message: &str,
    ) -> Result<(), Fatal> {
        let (word, rest) = message.split_once(',').unwrap_or((message, ""));
        match word {
            "PUSH_REPLY" => self.on_push(core, now, rest),
            "PUSH_UPDATE" => self.on_update(core, rest),
            "AUTH_FAILED" => {
                let (refusal, words) = LoginRefusal::parse(rest);
                self.tidings.add(Tiding::Refused(match &refusal {
                    LoginRefusal::Challenge(challenge) => challenge.text(),
                    _ => printable(rest, MAX_TIDING),
                }));
                if !words.is_empty() {
                    core.event(Event::Remark(format!("the server says: {words}")));
                }
                let comes_back = match &refusal {
                    LoginRefusal::Temporary { .. } => true,
                    // Our token has run out, or the server has forgotten how it made it: not every
                    // server says which. The password is as good as ever.
                    LoginRefusal::SessionExpired | LoginRefusal::Denied => self.token.is_some(),
                    LoginRefusal::Challenge(_) => false,
                };
                self.token = None;
                self.refusal = Some(refusal);
                if comes_back {
                    return Err(Fatal::Finished(TerminateCause::NasError));
                }
                Err(Fatal::Denied("the server refused the login (AUTH_FAILED)"))
            }
            "AUTH_PENDING" => {
                // Somebody has to confirm the login elsewhere.
                let seconds = rest.strip_prefix("timeout ").and_then(|text| text.parse().ok());
                let seconds = seconds.unwrap_or(0).min(MAX_PENDING);
                // However often it says so, no more than once.
                core.timing.handshake = self.config.handshake + Duration::from_secs(seconds);
                self.tidings.add(Tiding::Pending { seconds });
                core.event(Event::Remark("the server waits for a confirmation".to_owned()));
                Ok(())
            }
            "RESTART" => Err(Fatal::Finished(TerminateCause::AdminReboot)),
            "HALT" => Err(Fatal::Denied("the server ended the session (HALT)")),
            "EXIT" => Err(Fatal::Finished(TerminateCause::AdminReset)),
            "INFO" | "INFO_PRE" => {
                self.on_info(core, rest);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What the server wants the person at this end to know, to open, or to answer.
    fn on_info(&mut self, core: &mut Core, text: &str) {
        self.tidings.add(Tiding::Info(printable(text, MAX_TIDING)));
        let mut parts = text.splitn(3, ':');
        let remark = match (parts.next(), parts.next(), parts.next()) {
            (Some("WEB_AUTH"), Some(_), Some(url)) => {
                format!("to log in, open {} in a browser", printable(url, 1024))
            }
            (Some("OPEN_URL"), Some(url), rest) => {
                let rest = rest.map_or(String::new(), |rest| format!(":{rest}"));
                format!("to log in, open {} in a browser", printable(&format!("{url}{rest}"), 1024))
            }
            (Some("CR_TEXT"), Some(flags), Some(question)) => {
                let has = |flag| flags.split(',').any(|word| word == flag);
                let question = printable(question, 256);
                if has("R") && self.conduct.asks && self.prompt.is_none() {
                    let ask = core.ask(Ask::Prompt { text: question, echo: has("E") });
                    self.prompt = Some((ask, Prompt::Response));
                    return;
                }
                format!("the server asks: {question}")
            }
            _ => format!("the server says: {}", printable(text, 200)),
        };
        core.event(Event::Remark(remark));
    }

    fn on_prompted(
        &mut self,
        core: &mut Core,
        prompt: Prompt,
        typed: Option<Secret>,
    ) -> Result<(), Fatal> {
        let typed = typed.ok_or(Fatal::Denied("the server asks, and nobody is here to answer"))?;
        match prompt {
            Prompt::Password(key_id) => {
                let user = self.user.clone();
                self.show(core, key_id, Some((user, typed)));
            }
            Prompt::Response => {
                core.send_message(&format!("CR_RESPONSE,{}", STANDARD.encode(typed.expose())));
            }
        }
        Ok(())
    }

    fn on_push(&mut self, core: &mut Core, now: Instant, options: &str) -> Result<(), Fatal> {
        let Stage::AwaitPush(wait) = &mut self.stage else {
            // After a renegotiation, only to renew the token.
            let mut pushed = Pushed::default();
            pushed.read(options, &self.config.pull);
            self.take_token(&pushed);
            return Ok(());
        };
        wait.pushed.read(options, &self.config.pull);
        for echo in options.split(',').filter_map(|option| option.strip_prefix("echo ")) {
            self.tidings.add(Tiding::Echo(printable(echo, MAX_TIDING)));
        }
        if let Some(option) = &wait.pushed.rejected {
            core.event(Event::Remark(format!("pull-filter rejects what is pushed: {option}")));
            return Err(Fatal::ProtocolViolation("the server pushes what the profile rejects"));
        }
        wait.messages += 1;
        if wait.messages > MAX_PUSH_MESSAGES {
            return Err(Fatal::ProtocolViolation("a push without end"));
        }
        if wait.pushed.continues {
            return Ok(());
        }
        wait.pushed.finish(&self.config.pull);
        let pushed = std::mem::take(&mut wait.pushed);
        let (theirs, announced) = (wait.theirs.clone(), wait.announced);
        for remark in &pushed.remarks {
            core.event(Event::Remark(remark.clone()));
        }
        let allowed = |cipher: &Cipher| {
            self.config.ciphers.contains(cipher) || self.config.fallback == Some(*cipher)
        };
        let cipher = match &pushed.cipher {
            Some(name) => Cipher::named(name).filter(allowed),
            None => self.config.fallback.or(announced).filter(allowed),
        };
        let cipher = cipher
            .ok_or(Fatal::Denied("the server wants a cipher that the profile does not allow"))?;
        let framing = pushed.framing.unwrap_or(self.config.shape.framing);
        if let Some(framing) = pushed.framing.flatten() {
            core.event(Event::Remark(format!(
                "the server asks for \"{}\": packets are framed so, but never compressed",
                framing.name()
            )));
        }
        core.agreement = Some(Agreement {
            cipher,
            peer_id: pushed.peer_id,
            export: pushed.export,
            dynamic: pushed.dynamic,
            cc_exit: pushed.cc_exit,
            framing,
        });
        set_timing(core, &pushed);
        self.options.clone_from(&pushed.options);
        self.take_token(&pushed);
        core.timing.handshake = self.config.handshake;
        let (_, ours) =
            self.ours.take().ok_or(Fatal::ProtocolViolation("a push before the keys"))?;
        core.install(now, KeyId::FIRST, &ours, &theirs)?;
        let ask = core.ask(Ask::Configure(pushed.lease));
        self.stage = Stage::AwaitConfigured { ask };
        Ok(())
    }

    fn take_token(&mut self, pushed: &Pushed) {
        let Some(token) = &pushed.auth_token else { return };
        let user = pushed.auth_token_user.as_ref().and_then(|user| STANDARD.decode(user).ok());
        let user = user.and_then(|user| String::from_utf8(user).ok());
        let user = user.unwrap_or_else(|| self.user.clone());
        self.token = Some((user, Secret::new(token.as_str())));
    }

    /// The server changes what it pushed: the host follows, and the tunnel stays.
    fn on_update(&mut self, core: &mut Core, options: &str) -> Result<(), Fatal> {
        if !matches!(self.stage, Stage::Established) || self.updating.is_some() {
            // The server that talks into its own push, or does not wait, can say it again.
            core.event(Event::Remark("a PUSH_UPDATE at the wrong time is passed over".to_owned()));
            return Ok(());
        }
        let pull = &self.config.pull;
        let mut obeyed = Vec::new();
        for entry in options.split(',').take(512) {
            match pull.judge(without_marks(entry)) {
                Judgement::Obey => obeyed.push(entry),
                Judgement::PassOver => {}
                Judgement::Leave => {
                    return Err(Fatal::ProtocolViolation(
                        "the server pushes what the profile rejects",
                    ));
                }
            }
        }
        let mut update = self.update.take().unwrap_or_else(|| Update::new(&self.options));
        match update.read(&obeyed.join(",")) {
            Ok(true) => {}
            Ok(false) => {
                self.update = Some(update);
                return Ok(());
            }
            Err(UpdateError::TooMuch) => {
                return Err(Fatal::ProtocolViolation("a push without end"));
            }
            Err(UpdateError::Fixed(name)) => {
                // A new connection gets it from the beginning.
                core.event(Event::Remark(format!(
                    "the server changes {}, which takes a new connection",
                    printable(&name, 40)
                )));
                return Err(Fatal::Finished(TerminateCause::NasError));
            }
        }
        let mut pushed = Pushed::new(pull);
        for option in update.finish() {
            pushed.obey(&option);
        }
        pushed.finish(pull);
        for remark in &pushed.remarks {
            core.event(Event::Remark(remark.clone()));
        }
        set_timing(core, &pushed);
        self.options = pushed.options;
        self.updating = Some(core.ask(Ask::Configure(pushed.lease)));
        Ok(())
    }

    pub(crate) fn on_answer(
        &mut self,
        core: &mut Core,
        now: Instant,
        ask: AskId,
        answer: Answer,
    ) -> Result<(), Fatal> {
        if let (Some(_), Answer::Configured(result)) =
            (self.updating.take_if(|ours| *ours == ask), &answer)
        {
            if result.is_err() {
                let what = "the host could not follow the server's change: it is as it was";
                core.event(Event::Remark(what.to_owned()));
            }
            return Ok(());
        }
        match (&self.stage, answer) {
            (Stage::AwaitConfigured { ask: ours }, Answer::Configured(result)) if *ours == ask => {
                result.map_err(|()| Fatal::Local("the host's network could not be set up"))?;
                self.stage = Stage::Established;
                core.switch(now);
                core.event(Event::Up(core.facts("OpenVPN server".to_owned())));
                Ok(())
            }
            (_, Answer::Prompted(typed)) => match self.prompt.take_if(|(asked, _)| *asked == ask) {
                Some((_, prompt)) => self.on_prompted(core, prompt, typed),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    pub(crate) fn on_time(&mut self, core: &mut Core, now: Instant) {
        if let Stage::AwaitPush(wait) = &mut self.stage
            && wait.ask_again <= now
        {
            wait.ask_again = now + PUSH_REQUEST_EVERY;
            core.send_message("PUSH_REQUEST");
        }
    }

    pub(crate) fn deadline(&self) -> Option<(Instant, &'static str)> {
        match &self.stage {
            Stage::AwaitPush(wait) => Some((wait.ask_again, "push request")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
