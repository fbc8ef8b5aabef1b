//! The user of a client, as the client sees them: somebody at a console, who is asked what the
//! profile leaves open, holds the client back, and is told how far it has come.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use contract::{BoxFuture, Lease, Secret};
use dataplane::PortTotals;
use openvpn::management::{Command, Feed, Hold, ProxyAnswer, RemoteAnswer, SignalName};
use openvpn::{AuthRetry, Proxy, ProxyKind, Remote, StaticChallenge, Tiding, Transport};
use shell::{Choice, ClientEvent, Desk, Guide, Step};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::answer::{answer, error, last, success, unsupported};
use crate::notice::{self, Notice, Notices, Place};
use crate::process::{self, Process};
use crate::states::States;
use crate::status::statistics;

#[cfg(test)]
mod tests;

/// Texts for user interfaces that are remembered; OpenVPN's own number.
const MAX_ECHOES: usize = 100;

/// What the profile says of the console.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) holds: bool,
    pub(crate) asks_passwords: bool,
    pub(crate) asks_remote: bool,
    pub(crate) asks_proxy: bool,
    pub(crate) restarts_alone: bool,
    pub(crate) forgets_alone: bool,
    pub(crate) tells_up_down: bool,
    /// The console was called: without it, there is no client.
    pub(crate) ends_alone: bool,
    pub(crate) retry: AuthRetry,
    /// The user, where the profile leaves only the password open.
    pub(crate) user: Option<String>,
    /// The servers of the profile, as they are shown.
    pub(crate) remotes: Vec<String>,
}

/// The user of a client, at the other end of a management connection.
#[derive(Debug)]
pub struct Attendant {
    rules: Rules,
    notices: Arc<Notices>,
    states: Arc<States>,
    /// Who is asked what the console is not asked.
    other: Arc<dyn Desk>,
    process: Arc<dyn Process>,
    restart: mpsc::UnboundedSender<&'static str>,
    traffic: OnceLock<Box<dyn Meter>>,
    table: Mutex<Table>,
}

/// What has been carried.
pub(crate) trait Meter: std::fmt::Debug + Send + Sync {
    fn totals(&self) -> PortTotals;
}

impl Meter for shell::Traffic {
    fn totals(&self) -> PortTotals {
        Self::totals(self)
    }
}

#[derive(Debug, Default)]
struct Table {
    holds: bool,
    retry: Option<AuthRetry>,
    forgotten: u64,
    question: Option<Question>,
    /// Waits for `cr-response`.
    response: Option<oneshot::Sender<Secret>>,
    /// What it will bring, until the client waits for it.
    responded: Option<oneshot::Receiver<Secret>>,
    proxy_login: Option<(String, Secret)>,
    /// Whether a proxy may be what an attempt fails at.
    is_dialling: bool,
    /// Whether the last attempt failed at the login.
    is_refused: bool,
    /// The connection that is up.
    up: Option<Up>,
    echoes: VecDeque<String>,
}

#[derive(Clone, Debug)]
struct Up {
    remote: SocketAddr,
    lease: Lease,
    device: String,
}

/// What the client waits for; there is one question at a time.
#[derive(Debug)]
struct Question {
    /// As it is told, also to a console that comes later.
    text: String,
    asked: Asked,
}

#[derive(Debug)]
enum Asked {
    Hold(oneshot::Sender<()>),
    Login {
        /// `Auth`, `Private Key` or `HTTP Proxy`.
        kind: &'static str,
        wants_user: bool,
        user: Option<String>,
        password: Option<Secret>,
        answer: oneshot::Sender<(String, Secret)>,
    },
    Remote(oneshot::Sender<Choice>),
    Proxy {
        transport: Transport,
        answer: oneshot::Sender<ProxyAnswer>,
    },
}

impl Question {
    /// Whether nobody waits for the answer any more.
    fn is_void(&self) -> bool {
        match &self.asked {
            Asked::Hold(sender) => sender.is_closed(),
            Asked::Login { answer, .. } => answer.is_closed(),
            Asked::Remote(sender) => sender.is_closed(),
            Asked::Proxy { answer, .. } => answer.is_closed(),
        }
    }
}

impl Attendant {
    pub(crate) fn new(
        rules: Rules,
        notices: Arc<Notices>,
        states: Arc<States>,
        other: Arc<dyn Desk>,
        process: Arc<dyn Process>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<&'static str>) {
        let (restart, restarts) = mpsc::unbounded_channel();
        let table = Table { holds: rules.holds, ..Table::default() };
        let attendant = Arc::new(Self {
            rules,
            notices,
            states,
            other,
            process,
            restart,
            traffic: OnceLock::new(),
            table: Mutex::new(table),
        });
        attendant.enter("CONNECTING", "", &Place::default());
        (attendant, restarts)
    }

    /// Where traffic is counted from now on.
    pub fn measure(&self, traffic: shell::Traffic) {
        let _ = self.traffic.set(Box::new(traffic));
    }

    /// Waits, if the client is to be held back, until the console lets it start.
    pub async fn start(&self) {
        if self.holds() {
            self.release(Duration::ZERO).await;
        }
    }

    /// The passphrase of the private key, from the console; `None` if that is not asked.
    pub async fn passphrase(&self) -> Option<Secret> {
        if !self.rules.asks_passwords {
            return None;
        }
        let asked = self.ask_login("Private Key", Some(""), "");
        asked.await.ok().map(|(_, passphrase)| passphrase)
    }

    /// The passphrase does not open the key; whether it is to be asked for again.
    #[must_use]
    pub fn is_wrong_passphrase(&self) -> bool {
        self.tell(">PASSWORD:Verification Failed: 'Private Key'");
        let again = self.retry(self.rules.retry) != AuthRetry::None;
        if again {
            self.enter("RECONNECTING", "private-key-password-failure", &Place::default());
        }
        again
    }

    /// The client ends, for this reason.
    pub fn exiting(&self, reason: &str) {
        self.down();
        if !self.states.is_in("EXITING") {
            self.enter("EXITING", reason, &Place::default());
        }
    }

    /// The client has come to an end by itself.
    pub fn failed(&self, reason: &str) {
        if self.table().is_refused {
            return self.exiting("auth-failure");
        }
        self.tell(&format!(">FATAL:{}", openvpn::management::one_line(reason)));
        self.exiting("error");
    }

    fn hear_server(&self, tiding: &Tiding) {
        let nowhere = Place::default();
        if matches!(tiding, Tiding::Refused(_)) {
            self.table().is_refused = true;
        }
        match tiding {
            Tiding::AsksForOptions => self.enter("GET_CONFIG", "", &nowhere),
            Tiding::Refused(text) if text.is_empty() => {
                self.tell(">PASSWORD:Verification Failed: 'Auth'");
            }
            Tiding::Refused(text) => {
                self.tell(&format!(">PASSWORD:Verification Failed: 'Auth' ['{text}']"));
            }
            Tiding::Pending { seconds } => {
                self.enter("AUTH_PENDING", &format!("timeout {seconds}"), &nowhere);
            }
            Tiding::Info(text) => {
                if is_question(text) && self.rules.asks_passwords {
                    // The answer may be there before the client waits for it.
                    let (waiting, response) = oneshot::channel();
                    let mut table = self.table();
                    (table.response, table.responded) = (Some(waiting), Some(response));
                }
                self.tell(&format!(">INFOMSG:{text}"));
            }
            Tiding::Echo(text) => {
                let line = format!("{},{text}", crate::now());
                let mut table = self.table();
                if table.echoes.len() == MAX_ECHOES {
                    table.echoes.pop_front();
                }
                table.echoes.push_back(line.clone());
                self.notices.tell(Notice::Echo(line.into()));
            }
        }
    }

    fn down(&self) {
        let up = self.table().up.take();
        if let Some(up) = up {
            self.up_down("DOWN", &up);
        }
    }

    fn up_down(&self, what: &str, up: &Up) {
        if !self.rules.tells_up_down {
            return;
        }
        let mut text = format!(">UPDOWN:{what}\n");
        let mut set = |name: &str, value: &dyn std::fmt::Display| {
            text.push_str(&format!(">UPDOWN:ENV,{name}={value}\n"));
        };
        set("dev", &up.device);
        set("tun_mtu", &up.lease.mtu);
        if let Some((address, _)) = up.lease.ipv4 {
            set("ifconfig_local", &address);
        }
        if let Some((address, bits)) = up.lease.ipv6 {
            set("ifconfig_ipv6_local", &address);
            set("ifconfig_ipv6_netbits", &bits);
        }
        set(if up.remote.is_ipv4() { "trusted_ip" } else { "trusted_ip6" }, &up.remote.ip());
        set("trusted_port", &up.remote.port());
        set("daemon_pid", &std::process::id());
        text.push_str(">UPDOWN:ENV,END");
        self.tell(&text);
    }

    fn enter(&self, name: &str, why: &str, place: &Place) {
        self.states.enter(notice::client_state(crate::now(), name, why, place));
    }

    fn tell(&self, text: &str) {
        self.notices.tell(Notice::Lines(text.into()));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn totals(&self) -> PortTotals {
        self.traffic.get().map(|traffic| traffic.totals()).unwrap_or_default()
    }

    /// A console has come: what it will be told, and what the client waits for.
    pub(crate) fn attach(&self) -> (broadcast::Receiver<Notice>, Option<String>) {
        let table = self.table();
        let open = table.question.as_ref().filter(|question| !question.is_void());
        (self.notices.listen(), open.map(|question| question.text.clone()))
    }

    /// The console has gone.
    pub(crate) fn detach(&self) {
        if self.rules.forgets_alone {
            self.forget();
        }
        if self.rules.ends_alone {
            self.process.signal(SignalName::Term);
        } else if self.rules.restarts_alone {
            let _ = self.restart.send("SIGUSR1");
        }
    }

    fn forget(&self) {
        let mut table = self.table();
        table.forgotten += 1;
        table.proxy_login = None;
    }

    /// Puts a question; an earlier one is void then.
    fn ask(&self, text: String, asked: Asked) {
        let mut table = self.table();
        // Under the lock, so that a console that comes now hears it once.
        self.notices.tell(Notice::Lines(text.as_str().into()));
        table.question = Some(Question { text, asked });
    }

    fn ask_login(
        &self,
        kind: &'static str,
        user: Option<&str>,
        addition: &str,
    ) -> oneshot::Receiver<(String, Secret)> {
        let (answer, answered) = oneshot::channel();
        let what = if user.is_some() { "password" } else { "username/password" };
        let text = format!(">PASSWORD:Need '{kind}' {what}{addition}");
        let user = user.map(str::to_owned);
        let wants_user = user.is_none();
        self.ask(text, Asked::Login { kind, wants_user, user, password: None, answer });
        answered
    }

    /// Obeys what a client's console wants.
    pub(crate) fn execute(&self, command: Command) -> String {
        match command {
            Command::Status(_) => statistics(crate::now(), &self.totals()),
            Command::LoadStats => {
                let PortTotals { rx_bytes, tx_bytes, .. } = self.totals();
                success(&format!("nclients=0,bytesin={rx_bytes},bytesout={tx_bytes}"))
            }
            Command::Echo(feed) => self.echoes(feed),
            Command::Hold(hold) => self.hold(hold),
            Command::Signal(signal) => self.signal(signal),
            Command::AuthRetry(None) => {
                let word = match self.retry(self.rules.retry) {
                    AuthRetry::None => "none",
                    AuthRetry::Same => "nointeract",
                    AuthRetry::Ask => "interact",
                };
                success(&format!("auth-retry={word}"))
            }
            Command::AuthRetry(retry) => {
                self.table().retry = retry;
                success("auth-retry parameter changed")
            }
            Command::ForgetPasswords => {
                self.forget();
                success("Passwords were forgotten")
            }
            Command::Username { kind, value } => self.username(&kind, value),
            Command::Password { kind, value } => self.password(&kind, value),
            Command::NeedOk => error(&"no needok-confirmation is currently needed at this time"),
            Command::NeedStr => error(&"no needstr-string is currently needed at this time"),
            Command::RemoteEntryCount => format!("{}\nEND\n", self.rules.remotes.len()),
            Command::RemoteEntryGet { from, to } => {
                let to = to.unwrap_or(usize::MAX);
                let entries = self.rules.remotes.iter().enumerate().take(to).skip(from);
                let entries = entries.map(|(index, entry)| format!("{index},{entry}"));
                answer(None, Some(entries.collect()), false)
            }
            Command::Remote(_) if !self.rules.asks_remote => unsupported("remote"),
            Command::Remote(answer) => self.choose(answer),
            Command::Proxy(_) if !self.rules.asks_proxy => unsupported("proxy"),
            Command::Proxy(answer) => self.choose_proxy(answer),
            Command::CrResponse(response) => {
                let waiting = self.table().response.take();
                match waiting.map(|waiting| waiting.send(response)) {
                    Some(Ok(())) => success("command succeeded"),
                    Some(Err(_)) | None => error(&"the server waits for no response"),
                }
            }
            Command::Pkcs11IdCount => ">PKCS11ID-COUNT:0\n".to_owned(),
            Command::KillName(_) | Command::KillAddress(_) => unsupported("kill"),
            Command::ClientKill { .. } => unsupported("client-kill"),
            Command::ClientAuth { .. } | Command::ClientAuthNt { .. } => unsupported("client-auth"),
            Command::ClientDeny { .. } => unsupported("client-deny"),
            Command::ClientPendingAuth { .. } => unsupported("client-pending-auth"),
            Command::Net => unsupported("net"),
            // What every role has has been answered.
            _ => String::new(),
        }
    }

    /// `>BYTECOUNT`.
    pub(crate) fn byte_count(&self) -> String {
        let PortTotals { rx_bytes, tx_bytes, .. } = self.totals();
        format!(">BYTECOUNT:{rx_bytes},{tx_bytes}\n")
    }

    fn echoes(&self, feed: Feed) -> String {
        let live = feed.live.map(|is_on| crate::answer::toggled("echo", is_on));
        let past = feed.show.map(|show| last(&self.table().echoes, show));
        answer(live, past, feed.is_past_first)
    }

    fn hold(&self, hold: Hold) -> String {
        let mut table = self.table();
        match hold {
            Hold::Show => success(&format!("hold={}", u8::from(table.holds))),
            Hold::Set(is_on) => {
                table.holds = is_on;
                success(&format!("hold flag set to {}", if is_on { "ON" } else { "OFF" }))
            }
            Hold::Release => {
                if matches!(&table.question, Some(Question { asked: Asked::Hold(_), .. }))
                    && let Some(Question { asked: Asked::Hold(held), .. }) = table.question.take()
                {
                    let _ = held.send(());
                }
                success("hold release succeeded")
            }
        }
    }

    fn signal(&self, signal: SignalName) -> String {
        let name = signal.name();
        let is_held = {
            let table = self.table();
            table.question.as_ref().is_some_and(|question| {
                !question.is_void() && matches!(question.asked, Asked::Hold(_))
            })
        };
        match signal {
            SignalName::Usr1 | SignalName::Hup if is_held => {
                return error(&format!("signal '{name}' is currently ignored"));
            }
            SignalName::Usr1 => drop(self.restart.send(name)),
            SignalName::Hup => {
                self.forget();
                let _ = self.restart.send(name);
            }
            SignalName::Usr2 => {
                for line in statistics(crate::now(), &self.totals()).lines() {
                    tracing::info!("{line}");
                }
            }
            SignalName::Term | SignalName::Int => {
                self.exiting(name);
                self.process.signal(signal);
            }
        }
        success(&format!("signal {name} thrown"))
    }

    fn username(&self, kind: &str, value: String) -> String {
        self.log_in("username", kind, |asked| {
            let Asked::Login { wants_user: true, user, .. } = asked else { return false };
            *user = Some(value);
            true
        })
    }

    fn password(&self, kind: &str, value: Secret) -> String {
        self.log_in("password", kind, |asked| {
            let Asked::Login { password, .. } = asked else { return false };
            *password = Some(value);
            true
        })
    }

    /// Takes a part of a login; when it is whole, the question is answered.
    fn log_in(&self, part: &str, given: &str, take: impl FnOnce(&mut Asked) -> bool) -> String {
        let mut table = self.table();
        let not_needed = || error(&format!("no {part} is currently needed at this time"));
        let Some(question) = table.question.as_mut().filter(|question| !question.is_void()) else {
            return not_needed();
        };
        let Asked::Login { kind, .. } = &question.asked else { return not_needed() };
        let kind = *kind;
        if kind != given {
            let given = openvpn::management::one_line(given);
            return error(&format!(
                "{part} of type '{given}' entered, but we need one of type '{kind}'"
            ));
        }
        if !take(&mut question.asked) {
            return not_needed();
        }
        let is_whole =
            matches!(&question.asked, Asked::Login { user: Some(_), password: Some(_), .. });
        if is_whole
            && let Some(Question {
                asked: Asked::Login { user: Some(user), password: Some(password), answer, .. },
                ..
            }) = table.question.take()
        {
            let _ = answer.send((user, password));
        }
        success(&format!("'{kind}' {part} entered, but not yet verified"))
    }

    fn choose(&self, answer: RemoteAnswer) -> String {
        let choice = match answer {
            RemoteAnswer::Accept => Choice::Accept,
            RemoteAnswer::Mod { host, port } => Choice::Other { host, port },
            RemoteAnswer::Skip(count) => Choice::Skip(count),
        };
        let mut table = self.table();
        let question =
            table.question.take_if(|question| matches!(question.asked, Asked::Remote(_)));
        let Some(Question { asked: Asked::Remote(waiting), .. }) = question else {
            return error(&"remote command failed");
        };
        match waiting.send(choice) {
            Ok(()) => success("remote command succeeded"),
            Err(_) => error(&"remote command failed"),
        }
    }

    fn choose_proxy(&self, answer: ProxyAnswer) -> String {
        let mut table = self.table();
        let question = table.question.take_if(|question| match &question.asked {
            // HTTP carries no datagrams.
            Asked::Proxy { transport: Transport::Udp, .. } => {
                !matches!(answer, ProxyAnswer::Proxy { is_socks: false, .. })
            }
            Asked::Proxy { .. } => true,
            _ => false,
        });
        let Some(Question { asked: Asked::Proxy { answer: waiting, .. }, .. }) = question else {
            return match answer {
                ProxyAnswer::None => success("proxy command succeeded"),
                ProxyAnswer::Proxy { .. } => error(&"proxy command failed"),
            };
        };
        match waiting.send(answer) {
            Ok(()) => success("proxy command succeeded"),
            Err(_) => error(&"proxy command failed"),
        }
    }

    /// A login for the proxy, if it may ask for one that the profile does not have.
    async fn log_in_at_proxy(&self, mut proxy: Proxy) -> Proxy {
        let may_ask = match &proxy.kind {
            ProxyKind::Http { allowed, .. } => *allowed != ::proxy::Authentication::None,
            ProxyKind::Socks => false,
        };
        if !may_ask || proxy.login.is_some() || !self.rules.asks_passwords {
            return proxy;
        }
        let known = self.table().proxy_login.clone();
        let login = match known {
            Some(login) => Some(login),
            None => self.ask_login("HTTP Proxy", None, "").await.ok(),
        };
        self.table().proxy_login.clone_from(&login);
        proxy.login = login.map(|(user, password)| ::proxy::Login { user, password });
        proxy
    }
}

/// Whether what the server says wants a response.
fn is_question(text: &str) -> bool {
    let flags = text.strip_prefix("CR_TEXT:").and_then(|rest| rest.split(':').next());
    flags.is_some_and(|flags| flags.split(',').any(|flag| flag == "R"))
}

/// OpenVPN's word for a reason, where user interfaces look for one.
fn word(reason: &str) -> &str {
    match reason {
        "the server does not answer" => "server_poll",
        "the peer fell silent" => "ping-restart",
        other => other,
    }
}

/// A server as `>REMOTE` and `remote-entry-get` show it.
pub(crate) fn shown(remote: &Remote) -> String {
    let family = match remote.family {
        None => "",
        Some(openvpn::Family::V4) => "4",
        Some(openvpn::Family::V6) => "6",
    };
    let protocol = match remote.transport {
        Transport::Udp => format!("udp{family}"),
        Transport::Tcp => format!("tcp{family}-client"),
    };
    format!("{},{},{protocol}", openvpn::management::one_line(&remote.host), remote.port)
}

impl Guide for Attendant {
    fn hear(&self, event: &ClientEvent) {
        let nowhere = Place::default();
        match event {
            ClientEvent::Step(Step::Resolving) => self.enter("RESOLVE", "", &nowhere),
            ClientEvent::Step(Step::Dialling) => {
                self.table().is_dialling = true;
                self.enter("TCP_CONNECT", "", &nowhere);
            }
            ClientEvent::Step(Step::Waiting) => {
                let mut table = self.table();
                (table.is_dialling, table.is_refused) = (false, false);
                drop(table);
                self.enter("WAIT", "", &nowhere);
            }
            ClientEvent::Step(Step::Authenticating) => self.enter("AUTH", "", &nowhere),
            ClientEvent::Step(Step::Told(tiding)) => self.hear_server(tiding),
            ClientEvent::Step(Step::Assigning(lease)) => {
                self.enter("ASSIGN_IP", "", &Place { remote: None, ..Place::of(lease) });
            }
            ClientEvent::Step(Step::Routing) => self.enter("ADD_ROUTES", "", &nowhere),
            ClientEvent::Step(Step::Again { reason }) => {
                self.down();
                let mut table = self.table();
                let is_dialling = std::mem::take(&mut table.is_dialling);
                if is_dialling {
                    // The proxy may not have liked it.
                    table.proxy_login = None;
                }
                drop(table);
                let word = if is_dialling { "connection-failed" } else { word(reason) };
                self.enter("RECONNECTING", word, &nowhere);
            }
            ClientEvent::Connected { remote, lease, device, .. } => {
                let up = Up { remote: *remote, lease: Lease::clone(lease), device: device.clone() };
                let place = Place { remote: Some(*remote), ..Place::of(lease) };
                self.table().up = Some(up.clone());
                self.up_down("UP", &up);
                self.enter("CONNECTED", "SUCCESS", &place);
            }
            ClientEvent::Changed { lease } => {
                if let Some(up) = &mut self.table().up {
                    up.lease = Lease::clone(lease);
                }
            }
            ClientEvent::Disconnected { .. } | ClientEvent::Over { .. } => self.down(),
        }
    }

    fn holds(&self) -> bool {
        self.table().holds
    }

    fn release(&self, pause: Duration) -> BoxFuture<'_, ()> {
        let (held, released) = oneshot::channel();
        let text = format!(">HOLD:Waiting for hold release:{}", pause.as_secs());
        self.ask(text, Asked::Hold(held));
        Box::pin(async {
            let _ = released.await;
        })
    }

    fn remote<'a>(&'a self, remote: &'a Remote) -> BoxFuture<'a, Choice> {
        if !self.rules.asks_remote {
            return Box::pin(async { Choice::Accept });
        }
        let (waiting, chosen) = oneshot::channel();
        self.ask(format!(">REMOTE:{}", shown(remote)), Asked::Remote(waiting));
        Box::pin(async { chosen.await.unwrap_or(Choice::Accept) })
    }

    fn proxy<'a>(&'a self, index: usize, remote: &'a Remote) -> BoxFuture<'a, Option<Proxy>> {
        Box::pin(async move {
            let profiles = remote.proxy.as_ref().map(|proxy| Proxy::clone(proxy));
            if !self.rules.asks_proxy {
                return Some(self.log_in_at_proxy(profiles?).await);
            }
            let transport = remote.transport;
            let protocol = if transport == Transport::Udp { "UDP" } else { "TCP" };
            let host = openvpn::management::one_line(&remote.host);
            let text = format!(">PROXY:{},{protocol},{host}", index + 1);
            let (answer, chosen) = oneshot::channel();
            self.ask(text, Asked::Proxy { transport, answer });
            let proxy = match chosen.await.unwrap_or(ProxyAnswer::None) {
                ProxyAnswer::None => profiles?,
                ProxyAnswer::Proxy { is_socks, host, port, is_careful } => {
                    let allowed = match is_careful {
                        true => ::proxy::Authentication::Digest,
                        false => ::proxy::Authentication::Basic,
                    };
                    let options = ::proxy::HttpOptions::default();
                    let kind = match is_socks {
                        true => ProxyKind::Socks,
                        false => ProxyKind::Http { allowed, options },
                    };
                    Proxy { host, port, login: None, kind, timeout: None }
                }
            };
            Some(self.log_in_at_proxy(proxy).await)
        })
    }
}

impl Desk for Attendant {
    fn login(&self, user: Option<&str>) -> Result<(String, Secret), String> {
        self.other.login(user)
    }

    fn answer(&self, question: &str, echo: bool) -> Result<Secret, String> {
        if !self.rules.asks_passwords {
            return self.other.answer(question, echo);
        }
        // The console has been told by >INFOMSG.
        let responded = self.table().responded.take();
        let response = responded.and_then(|responded| responded.blocking_recv().ok());
        response.ok_or_else(|| "nobody answers".to_owned())
    }

    fn is_attended(&self) -> bool {
        self.rules.asks_passwords || self.other.is_attended()
    }

    fn asks_for_login(&self) -> bool {
        self.rules.asks_passwords || self.other.asks_for_login()
    }

    fn packed_login(
        &self,
        question: Option<&StaticChallenge>,
    ) -> Option<Result<(String, Secret), String>> {
        if !self.rules.asks_passwords {
            return self.other.packed_login(question);
        }
        let addition =
            question.map_or(String::new(), |StaticChallenge { text, echo, is_appended }| {
                let flags = u8::from(*echo) | u8::from(*is_appended) << 1;
                format!(" SC:{flags},{text}")
            });
        let answered = self.ask_login("Auth", self.rules.user.as_deref(), &addition);
        Some(answered.blocking_recv().map_err(|_| "nobody answers".to_owned()))
    }

    fn retry(&self, profile: AuthRetry) -> AuthRetry {
        self.table().retry.unwrap_or(profile)
    }

    fn forgotten(&self) -> u64 {
        self.table().forgotten
    }
}

/// The signals of the process that the client runs in.
#[must_use]
pub(crate) fn this_process() -> Arc<dyn Process> {
    Arc::new(process::This)
}
