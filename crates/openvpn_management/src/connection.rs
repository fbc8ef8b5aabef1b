//! One console: what it says, what it is told.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use contract::Farewell;
use openvpn::management::{
    Block, BlockError, Command, Feed, Hold, LineReader, SignalName, VERSION,
};
use subtle::ConstantTimeEq as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use crate::answer::{answer, error, success, toggled, unsupported};
use crate::decisions::Decision;
use crate::notice::Notice;
use crate::seats::Stranger;
use crate::server::{Desk, Role, Shared};
use crate::status::{Snapshot, help, version};

#[cfg(test)]
mod tests;

/// How long a console may take to read what it is sent.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// How long a stranger may think about the password.
const LOGIN_TIME: Duration = Duration::from_secs(30);
/// Guesses at the password; OpenVPN's own number.
const MAX_GUESSES: u32 = 3;
/// What a wrong guess costs.
const WRONG_GUESS: Duration = Duration::from_secs(1);
/// Bytes that are read at once.
const READ: usize = 4096;

/// Why a connection ends.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It said so, or closed.
    Left,
    /// It broke the rules.
    Cut(&'static str),
    /// The server stops.
    Stopped,
    /// The network.
    Io(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Talks until the end.
pub(crate) async fn talk<S>(stream: S, shared: Arc<Shared>) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection {
        stream,
        reader: LineReader::default(),
        said: VecDeque::new(),
        notices: None,
        log: None,
        wants_state: false,
        wants_echo: false,
        ticks: None,
        block: None,
        shared,
    };
    let Err(ended) = connection.run().await;
    let _ = timeout(Duration::from_secs(1), connection.stream.shutdown()).await;
    ended
}

struct Connection<S> {
    stream: S,
    reader: LineReader,
    /// Whole lines that have not been looked at.
    said: VecDeque<Zeroizing<String>>,
    notices: Option<broadcast::Receiver<Notice>>,
    log: Option<broadcast::Receiver<Arc<str>>>,
    wants_state: bool,
    wants_echo: bool,
    ticks: Option<Interval>,
    block: Option<Following>,
    shared: Arc<Shared>,
}

/// The lines after `client-auth`, on their way.
struct Following {
    key: (u64, u32),
    block: Result<Block, BlockError>,
}

enum Happened {
    Read(usize),
    Notice(Result<Notice, RecvError>),
    Log(Result<Arc<str>, RecvError>),
    Tick,
    Stopped,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn run(&mut self) -> Result<Infallible, Ended> {
        if self.shared.password.is_some() {
            self.be_let_in().await?;
        }
        let Some(_seat) = self.shared.seats.sit(self.shared.patience).await else {
            warn!("a management client is turned away: there are enough already");
            self.say("ERROR: too many management clients are connected\n").await?;
            return Err(Ended::Cut("every seat is taken"));
        };
        // From here on it counts as somebody who can decide.
        let shared = Arc::clone(&self.shared);
        let (notices, open) = match &shared.role {
            Role::Server(_) => (shared.notices.listen(), None),
            Role::Client(attendant) => attendant.attach(),
        };
        self.notices = Some(notices);
        let result = self.converse(open).await;
        if let (Role::Client(attendant), Err(ended)) = (&shared.role, &result)
            && !matches!(ended, Ended::Stopped)
        {
            attendant.detach();
        }
        result
    }

    /// Everything from the greeting on; `open` is what is being waited for.
    async fn converse(&mut self, open: Option<String>) -> Result<Infallible, Ended> {
        let greeting = format!(
            ">INFO:OpenVPN Management Interface Version {VERSION} -- type 'help' for more info\n"
        );
        self.say(&greeting).await?;
        if let Some(open) = open {
            self.say(&format!("{open}\n")).await?;
        }
        let mut stop = self.shared.stop.subscribe();
        let mut buffer = Zeroizing::new([0; READ]);
        loop {
            while let Some(line) = self.said.pop_front() {
                self.hear(&line).await?;
            }
            let happened = tokio::select! {
                read = self.stream.read(&mut buffer[..]) => Happened::Read(read?),
                notice = next(&mut self.notices) => Happened::Notice(notice),
                line = next(&mut self.log) => Happened::Log(line),
                () = tick(&mut self.ticks) => Happened::Tick,
                _ = stop.wait_for(|is_stopping| *is_stopping) => Happened::Stopped,
            };
            match happened {
                Happened::Read(count) => {
                    self.take(buffer.get(..count).unwrap_or_default())?;
                }
                Happened::Notice(Ok(notice)) => self.pass_on(notice).await?,
                Happened::Notice(Err(RecvError::Lagged(_))) => {
                    return Err(Ended::Cut("it does not read what it is told"));
                }
                Happened::Log(Ok(line)) => self.say(&format!(">LOG:{line}\n")).await?,
                // Lines of the log may be lost; logins may not.
                Happened::Log(Err(RecvError::Lagged(count))) => {
                    let now = crate::now();
                    self.say(&format!(">LOG:{now},W,{count} lines came too fast\n")).await?;
                }
                Happened::Tick => self.report_bytes().await?,
                Happened::Stopped => {
                    let mut notices = self.notices.take();
                    while let Some(Ok(notice)) = notices.as_mut().map(|notices| notices.try_recv())
                    {
                        self.pass_on(notice).await?;
                    }
                    return Err(Ended::Stopped);
                }
                Happened::Notice(Err(RecvError::Closed))
                | Happened::Log(Err(RecvError::Closed)) => return Err(Ended::Stopped),
            }
        }
    }

    /// The password, in time, and before too many others come to say it.
    async fn be_let_in(&mut self) -> Result<(), Ended> {
        let Some((stranger, evicted)) = self.shared.seats.wait() else {
            self.say("ERROR: too many management clients are connected\n").await?;
            return Err(Ended::Cut("too many guess at the password"));
        };
        tokio::select! {
            logged_in = timeout(LOGIN_TIME, self.log_in(&stranger)) => {
                logged_in.map_err(|_| Ended::Cut("it did not say the password in time"))?
            }
            Ok(()) = evicted => Err(Ended::Cut("others come to say the password")),
        }
    }

    async fn log_in(&mut self, stranger: &Stranger) -> Result<(), Ended> {
        let mut buffer = Zeroizing::new([0; READ]);
        for _ in 0..MAX_GUESSES {
            self.say("ENTER PASSWORD:").await?;
            let guess = loop {
                if let Some(line) = self.said.pop_front() {
                    break line;
                }
                let count = self.stream.read(&mut buffer[..]).await?;
                self.take(buffer.get(..count).unwrap_or_default())?;
            };
            let password = self.shared.password.as_ref();
            let is_right =
                password.is_some_and(|password| guess.as_bytes().ct_eq(password.expose()).into());
            if is_right {
                return self.say("SUCCESS: password is correct\n").await;
            }
            stranger.pays(true);
            tokio::time::sleep(WRONG_GUESS).await;
            stranger.pays(false);
        }
        Err(Ended::Cut("it does not know the password"))
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        if bytes.is_empty() {
            return Err(Ended::Left);
        }
        let lines = self.reader.push(bytes).map_err(|_| Ended::Cut("its line is too long"))?;
        self.said.extend(lines.into_iter().map(Zeroizing::new));
        Ok(())
    }

    async fn say(&mut self, text: &str) -> Result<(), Ended> {
        let mut wire = Zeroizing::new(String::with_capacity(text.len() + text.len() / 8 + 64));
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => {
                    wire.push_str(line);
                    wire.push_str("\r\n");
                }
                None => wire.push_str(line),
            }
        }
        match timeout(WRITE_TIME, self.stream.write_all(wire.as_bytes())).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Ended::Cut("it does not read what it is told")),
        }
    }

    async fn pass_on(&mut self, notice: Notice) -> Result<(), Ended> {
        match notice {
            Notice::Client(text) => self.say(&text).await,
            Notice::State(state) if self.wants_state => {
                self.say(&format!(">STATE:{state}\n")).await
            }
            Notice::Lines(text) => self.say(&format!("{text}\n")).await,
            Notice::Echo(text) if self.wants_echo => self.say(&format!(">ECHO:{text}\n")).await,
            Notice::State(_) | Notice::Echo(_) => Ok(()),
        }
    }

    async fn hear(&mut self, line: &str) -> Result<(), Ended> {
        if let Some(following) = &mut self.block {
            if line.trim() == "END" {
                let following = self.block.take();
                let answer = following.map_or(String::new(), |following| self.grant(following));
                return self.say(&answer).await;
            }
            if let Ok(block) = &mut following.block
                && let Err(error) = block.push(line)
            {
                following.block = Err(error);
            }
            return Ok(());
        }
        let answer = match Command::parse(line) {
            Ok(None) => return Ok(()),
            Ok(Some(Command::Quit)) => return Err(Ended::Left),
            Ok(Some(command)) => self.execute(command).await,
            Err(refusal) => error(&refusal),
        };
        self.say(&answer).await
    }

    async fn execute(&mut self, command: Command) -> String {
        let shared = Arc::clone(&self.shared);
        match command {
            Command::Help => help(matches!(shared.role, Role::Client(_))),
            Command::Version(None) => version(),
            Command::Version(Some(_)) => String::new(),
            Command::Pid => success(&format!("pid={}", std::process::id())),
            Command::State(feed) => {
                let live = feed.live.map(|is_on| {
                    self.wants_state = is_on;
                    toggled("state", is_on)
                });
                answer(live, feed.show.map(|show| shared.states.last(show)), feed.is_past_first)
            }
            Command::ByteCount(seconds) => {
                self.ticks = (seconds > 0).then(|| {
                    let mut ticks = interval(Duration::from_secs(seconds.into()));
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    ticks.reset();
                    ticks
                });
                success("bytecount interval changed")
            }
            Command::Log(feed) => self.log(feed),
            Command::Verb(None) => success(&format!("verb={}", shared.log.verb())),
            Command::Verb(Some(verb)) => {
                shared.log.set_verb(verb);
                success("verb level changed")
            }
            Command::Mute(None) => success(&format!("mute={}", shared.log.mute())),
            Command::Mute(Some(mute)) => {
                shared.log.set_mute(mute);
                success("mute level changed")
            }
            Command::EnvFilter(level) => success(&format!("env_filter_level={level}")),
            Command::Quit => String::new(),
            command => match &shared.role {
                Role::Client(attendant) => {
                    if let Command::Echo(Feed { live: Some(is_on), .. }) = &command {
                        self.wants_echo = *is_on;
                    }
                    attendant.execute(command)
                }
                Role::Server(desk) => self.serve(desk, command).await,
            },
        }
    }

    /// Obeys what a server's console wants.
    async fn serve(&mut self, desk: &Desk, command: Command) -> String {
        match command {
            Command::Status(format) => {
                let sessions = desk.house.sessions().await;
                let snapshot = Snapshot {
                    now: crate::now(),
                    sessions: &sessions,
                    has_user_names: desk.has_user_names,
                };
                snapshot.status(format)
            }
            Command::Echo(feed) => {
                let live = feed.live.map(|is_on| toggled("echo", is_on));
                answer(live, feed.show.map(|_| Vec::new()), feed.is_past_first)
            }
            Command::Hold(hold) => desk.hold(hold),
            Command::KillName(name) => {
                let killed = kill(desk, |info| info.user == name).await;
                if killed == 0 {
                    return error(&"no client has this common name");
                }
                let name = openvpn::management::one_line(&name);
                success(&format!("common name '{name}' found, {killed} client(s) killed"))
            }
            Command::KillAddress(address) => {
                let killed = kill(desk, |info| info.remote == address).await;
                if killed == 0 {
                    return error(&format!("client at address {address} not found"));
                }
                success(&format!("{killed} client(s) at address {address} killed"))
            }
            Command::ClientKill { cid, is_final } => {
                let farewell = if is_final { Farewell::Dismissed } else { Farewell::Kicked };
                outcome("client-kill", desk.house.end(cid, farewell).await)
            }
            Command::LoadStats => {
                let (count, totals) = (desk.house.sessions().await.len(), desk.house.totals());
                success(&format!(
                    "nclients={count},bytesin={},bytesout={}",
                    totals.rx_bytes, totals.tx_bytes
                ))
            }
            Command::Signal(signal) => {
                throw(desk, signal).await;
                success(&format!("signal {} thrown", signal.name()))
            }
            Command::ClientAuth { cid, kid } => {
                self.block = Some(Following { key: (cid, kid), block: Ok(Block::default()) });
                String::new()
            }
            Command::ClientAuthNt { cid, kid } => {
                let granted = desk.decide((cid, kid), Decision::Grant(Block::default()));
                outcome("client-auth", granted)
            }
            Command::ClientDeny { cid, kid, reason, client_reason } => {
                let is_known = desk.decide((cid, kid), Decision::Deny(client_reason));
                if is_known {
                    info!(cid, kid, reason, "the management client refuses a login");
                }
                outcome("client-deny", is_known)
            }
            Command::ClientPendingAuth { cid, kid, extra, timeout } => {
                let decision = Decision::Pending { extra, timeout };
                outcome("client-pending-auth", desk.decide((cid, kid), decision))
            }
            Command::ForgetPasswords => success("Passwords were forgotten"),
            Command::Username { .. } => error(&"no username is currently needed at this time"),
            Command::Password { .. } => error(&"no password is currently needed at this time"),
            Command::NeedOk => error(&"no needok-confirmation is currently needed at this time"),
            Command::NeedStr => error(&"no needstr-string is currently needed at this time"),
            Command::RemoteEntryCount => unsupported("remote-entry-count"),
            Command::RemoteEntryGet { .. } => unsupported("remote-entry-get"),
            Command::Remote(_) => unsupported("remote"),
            Command::Proxy(_) => unsupported("proxy"),
            Command::CrResponse(_) => unsupported("cr-response"),
            Command::AuthRetry(_) => unsupported("auth-retry"),
            Command::Net => unsupported("net"),
            Command::Pkcs11IdCount => unsupported("pkcs11-id-count"),
            // What every role has has been answered.
            _ => String::new(),
        }
    }

    fn log(&mut self, feed: Feed) -> String {
        let tap = self.shared.log.clone();
        let past = feed.show.map(|show| tap.past(show).iter().map(ToString::to_string).collect());
        let live = feed.live.map(|is_on| {
            self.log = is_on.then(|| tap.listen());
            toggled("log", is_on)
        });
        answer(live, past, feed.is_past_first)
    }

    fn grant(&self, following: Following) -> String {
        let Some(desk) = self.shared.desk() else { return unsupported("client-auth") };
        match following.block {
            Ok(block) => outcome("client-auth", desk.decide(following.key, Decision::Grant(block))),
            Err(why) => {
                let (cid, kid) = following.key;
                warn!(cid, kid, %why, "client-auth: the login is refused");
                desk.decide(following.key, Decision::Deny(None));
                error(&why)
            }
        }
    }

    async fn report_bytes(&mut self) -> Result<(), Ended> {
        let shared = Arc::clone(&self.shared);
        let text = match &shared.role {
            Role::Client(attendant) => attendant.byte_count(),
            Role::Server(desk) => {
                let mut text = String::new();
                for (info, totals) in desk.house.sessions().await {
                    let (id, rx, tx) = (info.id, totals.rx_bytes, totals.tx_bytes);
                    text.push_str(&format!(">BYTECOUNT_CLI:{id},{rx},{tx}\n"));
                }
                text
            }
        };
        self.say(&text).await
    }
}

async fn throw(desk: &Desk, signal: SignalName) {
    match signal {
        SignalName::Hup => desk.house.signal(signal),
        SignalName::Term | SignalName::Int => {
            desk.enter("EXITING", signal.name());
            desk.house.signal(signal);
        }
        SignalName::Usr1 => {
            desk.enter("RECONNECTING", signal.name());
            for (info, _) in desk.house.sessions().await {
                desk.house.end(info.id, Farewell::Shutdown).await;
            }
            desk.enter("CONNECTED", "SUCCESS");
        }
        SignalName::Usr2 => {
            let sessions = desk.house.sessions().await;
            let snapshot = Snapshot {
                now: crate::now(),
                sessions: &sessions,
                has_user_names: desk.has_user_names,
            };
            for line in snapshot.status(1).lines() {
                info!("{line}");
            }
        }
    }
}

/// Ends the sessions that `is_meant`; returns how many there were.
async fn kill(desk: &Desk, is_meant: impl Fn(&shell::SessionInfo) -> bool) -> usize {
    let mut killed = 0;
    for (info, _) in desk.house.sessions().await {
        if is_meant(&info) && desk.house.end(info.id, Farewell::Kicked).await {
            killed += 1;
        }
    }
    debug!(killed, "sessions ended by the management client");
    killed
}

fn outcome(command: &str, is_done: bool) -> String {
    if is_done {
        success(&format!("{command} command succeeded"))
    } else {
        error(&format!("{command} command failed"))
    }
}

async fn next<T: Clone>(feed: &mut Option<broadcast::Receiver<T>>) -> Result<T, RecvError> {
    match feed {
        Some(feed) => feed.recv().await,
        None => pending().await,
    }
}

async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => pending().await,
    }
}

/// The answer to `hold`.
pub(crate) fn hold(flag: &std::sync::atomic::AtomicBool, hold: Hold) -> String {
    use std::sync::atomic::Ordering::Relaxed;
    match hold {
        Hold::Show => success(&format!("hold={}", u8::from(flag.load(Relaxed)))),
        Hold::Set(is_on) => {
            flag.store(is_on, Relaxed);
            success(&format!("hold flag set to {}", if is_on { "ON" } else { "OFF" }))
        }
        Hold::Release => success("hold release succeeded"),
    }
}
