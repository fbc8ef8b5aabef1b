//! Logins that a console decides about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use aaa::{Limiter, Limits};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::{
    AuthContext, AuthVerdict, Authenticator, BoxFuture, Credentials, DenyReason, Grant, Secret,
};
use dataplane::PortTotals;
use openvpn::management::Block;
use shell::SessionInfo;
use tokio::sync::watch;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::notice::{self, Environment, Notices, ServerFacts, serial};

#[cfg(test)]
mod tests;

/// Logins under judgement at once: as many as there may be handshakes, and some for the sessions
/// that renew their keys.
const MAX_LOGINS: usize = 2048;
/// Sessions that are not up and are remembered: there may be as many handshakes, twice over.
const MAX_ARRIVING: usize = 2048;

/// Which login of which session.
type Key = (u64, u32);

/// What a console decided.
#[derive(Clone, Debug)]
pub(crate) enum Decision {
    /// Come in.
    Grant(Block),
    /// Stay out; with what the client is told.
    Deny(Option<String>),
    /// It takes a while.
    Pending {
        /// For the client.
        extra: String,
        /// How long.
        timeout: Duration,
    },
}

/// Asks whoever is connected; certificates are judged by `local` first.
#[derive(Debug)]
pub(crate) struct Decisions {
    local: Arc<dyn Authenticator>,
    notices: Arc<Notices>,
    server: OnceLock<ServerFacts>,
    settings: Settings,
    limiter: Mutex<Limiter>,
    table: Mutex<Table>,
}

/// What a login needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How long a decision may take: less than the handshake that waits for it.
    pub(crate) patience: Duration,
    /// Whether there is no password to ask about after a certificate.
    pub(crate) ends_with_certificate: bool,
}

#[derive(Debug, Default)]
struct Table {
    clients: BTreeMap<u64, Client>,
    /// Those of the clients that are not up, the oldest first.
    arriving: BTreeSet<(Instant, u64)>,
    logins: BTreeMap<Key, Login>,
}

/// One session, from its first login to its end.
#[derive(Debug)]
struct Client {
    since: Instant,
    logins: u32,
    is_up: bool,
    certificate: Option<Certificate>,
}

#[derive(Clone, Debug)]
struct Certificate {
    user: String,
    serial: Option<String>,
}

#[derive(Debug)]
struct Login {
    ticket: u64,
    user: String,
    /// Whether it counts as a failure until it is granted.
    is_guess: bool,
    /// Every decision has a number; whoever waits wants one that is newer than what they know.
    decision: watch::Sender<(u64, Option<Decision>)>,
    /// The last decision that the client was told of: that it takes a while.
    told: u64,
    expires: Instant,
}

/// What waiting for a decision came to.
enum Outcome {
    Decided(Decision),
    TooLate,
    /// The session, or the login, is gone.
    Gone,
}

impl Decisions {
    pub(crate) fn new(
        local: Arc<dyn Authenticator>,
        notices: Arc<Notices>,
        settings: Settings,
    ) -> Self {
        Self {
            local,
            notices,
            server: OnceLock::new(),
            settings,
            limiter: Mutex::new(Limiter::new(Limits::default())),
            table: Mutex::default(),
        }
    }

    /// What the environment of a login says about the server, once there is one.
    pub(crate) fn describe(&self, server: ServerFacts) {
        let _ = self.server.set(server);
    }

    /// A console has decided; says whether there was such a login.
    pub(crate) fn decide(&self, key: Key, decision: Decision) -> bool {
        let table = self.table();
        let Some(login) = table.logins.get(&key) else { return false };
        login.decision.send_modify(|(number, last)| {
            *number += 1;
            *last = Some(decision);
        });
        true
    }

    /// A session came up: consoles are told.
    pub(crate) fn established(&self, info: &SessionInfo) {
        self.table().came_up(info.id);
        self.notices.tell(notice::addresses(info));
        self.notices.client(established(info, self.server.get()));
    }

    /// A session ended, or never came up: consoles are told if they knew it.
    pub(crate) fn ended(&self, id: u64, info: Option<&SessionInfo>, totals: &PortTotals) {
        let was_known = {
            let mut table = self.table();
            table.forget(id).is_some_and(|client| client.logins > 0)
        };
        if was_known {
            let mut environment = Environment::new(&format!("DISCONNECT,{id}"));
            if let Some(info) = info {
                environment.describe_session(info);
            }
            environment.describe_end(info, totals);
            self.notices.client(environment);
        }
    }

    /// News were lost: whoever is among `live` is up, and whoever is not any more has ended.
    pub(crate) fn resync(&self, live: &[u64]) {
        let gone = {
            let mut table = self.table();
            for id in live {
                table.came_up(*id);
            }
            let is_gone =
                |(id, client): (&u64, &Client)| (client.is_up && !live.contains(id)).then_some(*id);
            table.clients.iter().filter_map(is_gone).collect::<Vec<_>>()
        };
        for id in gone {
            self.ended(id, None, &PortTotals::default());
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // What is in it is whole at every step.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn judge(&self, context: &AuthContext, credentials: Credentials) -> AuthVerdict {
        match credentials {
            Credentials::Certificate { .. } => self.certificate(context, credentials).await,
            Credentials::Password { user, password, response } => {
                let password = match response {
                    None => shown(&password),
                    Some(response) => static_response(&password, &response),
                };
                self.guess(context, &user, &password).await
            }
            Credentials::Response { user, state, response } => {
                let ticket = state.as_slice().try_into().map(u64::from_be_bytes);
                let key = ticket.ok().and_then(|ticket| self.pending(context, ticket));
                if let Some(key) = key.filter(|key| self.is_of(*key, &user)) {
                    return self.respond(context, key, &response).await;
                }
                let state = String::from_utf8_lossy(&state).into_owned();
                let answer = shown(&response);
                let password = Zeroizing::new(format!("CRV1::{state}::{}", answer.as_str()));
                self.guess(context, &user, &password).await
            }
            Credentials::Known { user, .. } => {
                let state = |environment: &mut Environment| {
                    environment.set("session_state", "Authenticated");
                };
                self.ask(context, &user, false, state).await
            }
            Credentials::Pending { ticket } => match self.pending(context, ticket) {
                Some(key) => self.wait(context, key).await,
                None => AuthVerdict::Deny(DenyReason::BadCredentials),
            },
            _ => AuthVerdict::Deny(DenyReason::BadCredentials),
        }
    }

    async fn certificate(&self, context: &AuthContext, credentials: Credentials) -> AuthVerdict {
        let verdict = self.local.authenticate(context, credentials).await;
        let AuthVerdict::Grant(grant) = &verdict else { return verdict };
        let certificate =
            Certificate { user: grant.user.clone(), serial: serial(grant.certificate.as_ref()) };
        {
            let mut table = self.table();
            table.client(context.session.0, self.settings.memory()).certificate = Some(certificate);
        }
        if !self.settings.ends_with_certificate {
            return verdict;
        }
        match self.ask(context, &grant.user, false, |_| ()).await {
            AuthVerdict::Grant(decided) => {
                let certificate = grant.certificate.clone();
                AuthVerdict::Grant(Box::new(Grant { certificate, ..*decided }))
            }
            refused => refused,
        }
    }

    /// Asks about what anybody may say; too many that are wrong are not even asked about.
    async fn guess(&self, context: &AuthContext, user: &str, password: &str) -> AuthVerdict {
        self.ask(context, user, true, |environment| environment.set("password", password)).await
    }

    /// Tells the consoles of a login, and waits. Whoever has proven something that cannot be
    /// guessed must not suffer for those who guess at the same address.
    async fn ask(
        &self,
        context: &AuthContext,
        user: &str,
        is_guess: bool,
        describe: impl FnOnce(&mut Environment),
    ) -> AuthVerdict {
        if !self.notices.is_heard() {
            warn!(
                user, remote = %context.remote,
                "a login was refused: no management client is connected to decide about it"
            );
            return AuthVerdict::Deny(DenyReason::BackendUnavailable);
        }
        if is_guess && self.limiter().check(Instant::now(), context.remote, user).is_err() {
            return AuthVerdict::Deny(DenyReason::TooManyAttempts);
        }
        let Some((key, mode, certificate)) = self.register(context, user, is_guess) else {
            return AuthVerdict::Deny(DenyReason::BackendUnavailable);
        };
        let mut environment = Environment::new(&format!("{mode},{},{}", key.0, key.1));
        environment.describe_peer(context);
        describe(&mut environment);
        environment.set("username", user);
        if let Some(Certificate { user, serial }) = certificate {
            environment.describe_certificate(&user, serial.as_deref());
        }
        self.describe_server(&mut environment);
        if !self.notices.client(environment) {
            self.table().logins.remove(&key);
            return AuthVerdict::Deny(DenyReason::BackendUnavailable);
        }
        self.wait(context, key).await
    }

    fn describe_server(&self, environment: &mut Environment) {
        if let Some(server) = self.server.get() {
            environment.describe_server(server);
        }
    }

    fn register(
        &self,
        context: &AuthContext,
        user: &str,
        is_guess: bool,
    ) -> Option<(Key, &'static str, Option<Certificate>)> {
        let now = Instant::now();
        let mut table = self.table();
        table.logins.retain(|_, login| login.expires > now);
        if table.logins.len() >= MAX_LOGINS {
            return None;
        }
        let client = table.client(context.session.0, self.settings.memory());
        client.logins += 1;
        let key = (context.session.0, client.logins);
        let mode = if client.is_up { "REAUTH" } else { "CONNECT" };
        let certificate = client.certificate.clone();
        let login = Login {
            ticket: u64::from_be_bytes(backends::random_bytes()),
            user: user.to_owned(),
            is_guess,
            decision: watch::Sender::new((0, None)),
            told: 0,
            expires: now + self.settings.patience,
        };
        table.logins.insert(key, login);
        Some((key, mode, certificate))
    }

    /// The login of this session that has this ticket.
    fn pending(&self, context: &AuthContext, ticket: u64) -> Option<Key> {
        let table = self.table();
        let mut of_session =
            table.logins.range((context.session.0, 0)..=(context.session.0, u32::MAX));
        of_session.find(|(_, login)| login.ticket == ticket).map(|(key, _)| *key)
    }

    /// Whether a login is this user's.
    fn is_of(&self, key: Key, user: &str) -> bool {
        self.table().logins.get(&key).is_some_and(|login| login.user == user)
    }

    /// What a user typed while the decision was pending.
    async fn respond(&self, context: &AuthContext, key: Key, response: &Secret) -> AuthVerdict {
        let answer = Zeroizing::new(STANDARD.encode(response.expose()));
        let head = Zeroizing::new(format!("CR_RESPONSE,{},{},{}", key.0, key.1, answer.as_str()));
        let user = self.table().logins.get(&key).map(|login| login.user.clone());
        let mut environment = Environment::new(&head);
        environment.describe_peer(context);
        environment.set("username", &user.unwrap_or_default());
        self.describe_server(&mut environment);
        self.notices.client(environment);
        self.wait(context, key).await
    }

    /// Waits for the next decision about a login, and makes a verdict of it.
    async fn wait(&self, context: &AuthContext, key: Key) -> AuthVerdict {
        // Two may wait for the same decision, and only one of them finds the login still there.
        let login = self.table().logins.get(&key).map(|login| (login.user.clone(), login.is_guess));
        let Some((user, is_guess)) = login else {
            return AuthVerdict::Deny(DenyReason::BadCredentials);
        };
        let was_right = || {
            if is_guess {
                self.limiter().succeeded(Instant::now(), context.remote, &user);
            }
        };
        let outcome = self.next(key).await;
        if let Outcome::Decided(Decision::Pending { extra, timeout }) = outcome {
            let Some(ticket) = self.table().logins.get(&key).map(|login| login.ticket) else {
                return AuthVerdict::Deny(DenyReason::BadCredentials);
            };
            let info = Some(extra).filter(|extra| !extra.is_empty());
            return AuthVerdict::Pending { ticket, timeout, info };
        }
        self.table().logins.remove(&key);
        match outcome {
            Outcome::Decided(Decision::Grant(block)) => {
                was_right();
                self.grant(context, user, block).await
            }
            Outcome::Decided(Decision::Deny(told)) => match told {
                Some(told) if told.starts_with("CRV1:") => {
                    // A question is not a failure.
                    was_right();
                    challenge(&told)
                }
                Some(reason) => AuthVerdict::Refuse { reason },
                None => AuthVerdict::Deny(DenyReason::BadCredentials),
            },
            Outcome::TooLate => {
                warn!(
                    user, remote = %context.remote,
                    "a login was refused: the management client did not decide in time"
                );
                AuthVerdict::Deny(DenyReason::BackendUnavailable)
            }
            Outcome::Gone | Outcome::Decided(Decision::Pending { .. }) => {
                AuthVerdict::Deny(DenyReason::BadCredentials)
            }
        }
    }

    async fn next(&self, key: Key) -> Outcome {
        let (mut heard, told, expires) = {
            let table = self.table();
            let Some(login) = table.logins.get(&key) else { return Outcome::Gone };
            (login.decision.subscribe(), login.told, login.expires)
        };
        let is_new =
            |(number, decision): &(u64, Option<Decision>)| *number > told && decision.is_some();
        let waited = tokio::time::timeout_at(expires.into(), heard.wait_for(is_new)).await;
        let (number, decision) = match waited {
            Err(_) => return Outcome::TooLate,
            Ok(Err(_)) => return Outcome::Gone,
            Ok(Ok(decided)) => decided.clone(),
        };
        let Some(decision) = decision else { return Outcome::Gone };
        if let Decision::Pending { timeout, .. } = &decision
            && let Some(login) = self.table().logins.get_mut(&key)
        {
            login.told = number;
            login.expires = Instant::now() + *timeout;
        }
        Outcome::Decided(decision)
    }

    /// What the console grants, and what the user list adds if it knows the user.
    async fn grant(&self, context: &AuthContext, user: String, block: Block) -> AuthVerdict {
        if block.is_disabled {
            return AuthVerdict::Deny(DenyReason::AccountDisabled);
        }
        // The console has looked at the proof; only the account is in question.
        let known = Credentials::Known { user: user.clone(), since: u64::MAX };
        let mut grant = match self.local.authenticate(context, known).await {
            AuthVerdict::Grant(known) => *known,
            // Anybody may be known to the console alone.
            AuthVerdict::Deny(DenyReason::BadCredentials) => Grant { user, ..Grant::default() },
            refused => return refused,
        };
        if !block.ignored.is_empty() {
            info!(user = %grant.user, directives = block.ignored.join(", "), "of client-auth: not for this server");
        }
        if !block.addresses.is_empty() {
            grant.fixed_addresses = block.addresses;
        }
        grant.behind.extend(block.behind);
        grant.openvpn_options.extend(block.push);
        AuthVerdict::Grant(Box::new(grant))
    }
}

impl Settings {
    /// How long a session that is not up is remembered, if nobody says that it ended: a handshake,
    /// and the longest wait for a decision that there may be in one.
    fn memory(&self) -> Duration {
        self.patience * 2 + openvpn::MAX_PENDING
    }
}

impl Table {
    /// The session of this number; those that should long have been up are forgotten.
    fn client(&mut self, session: u64, memory: Duration) -> &mut Client {
        let now = Instant::now();
        let is_new = !self.clients.contains_key(&session);
        while let Some((since, oldest)) = self.arriving.first().copied() {
            let is_full = is_new && self.arriving.len() >= MAX_ARRIVING;
            if !is_full && now.saturating_duration_since(since) < memory {
                break;
            }
            self.forget(oldest);
        }
        self.clients.entry(session).or_insert_with(|| {
            self.arriving.insert((now, session));
            Client { since: now, logins: 0, is_up: false, certificate: None }
        })
    }

    fn came_up(&mut self, session: u64) {
        if let Some(client) = self.clients.get_mut(&session) {
            client.is_up = true;
            self.arriving.remove(&(client.since, session));
        }
    }

    fn forget(&mut self, session: u64) -> Option<Client> {
        self.logins.retain(|(of, _), _| *of != session);
        let client = self.clients.remove(&session)?;
        self.arriving.remove(&(client.since, session));
        Some(client)
    }
}

impl Authenticator for Decisions {
    fn authenticate<'a>(
        &'a self,
        context: &'a AuthContext,
        credentials: Credentials,
    ) -> BoxFuture<'a, AuthVerdict> {
        Box::pin(self.judge(context, credentials))
    }
}

/// `>CLIENT:ESTABLISHED`.
pub(crate) fn established(info: &SessionInfo, server: Option<&ServerFacts>) -> Environment {
    let mut environment = Environment::new(&format!("ESTABLISHED,{}", info.id));
    environment.describe_session(info);
    if let Some(server) = server {
        environment.describe_server(server);
    }
    environment
}

fn shown(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(String::from_utf8_lossy(secret.expose()).into_owned())
}

/// A password and the response to a static challenge, as clients write them.
fn static_response(password: &Secret, response: &Secret) -> Zeroizing<String> {
    let password = Zeroizing::new(STANDARD.encode(password.expose()));
    let response = Zeroizing::new(STANDARD.encode(response.expose()));
    Zeroizing::new(format!("SCRV1:{}:{}", password.as_str(), response.as_str()))
}

/// `CRV1:flags:state:base64 of the user's name:text`.
fn challenge(told: &str) -> AuthVerdict {
    let mut parts = told.splitn(5, ':');
    let (_, flags, state, _user, prompt) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
    match (flags, state, prompt) {
        (Some(flags), Some(state), Some(prompt)) => AuthVerdict::Challenge {
            state: state.as_bytes().to_vec(),
            prompt: prompt.to_owned(),
            echo: flags.split(',').any(|flag| flag == "E"),
        },
        _ => {
            warn!("client-deny: CRV1 needs flags, a state, a user and a text");
            AuthVerdict::Deny(DenyReason::BackendUnavailable)
        }
    }
}
