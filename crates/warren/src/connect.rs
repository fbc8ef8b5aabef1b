//! `warren connect FILE`

mod console;
mod login;

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use backends::StateDir;
use contract::Lease;
use host::Keeper;
use mgmt::types::Password;
use openvpn_management::{Attendant, ClientEntrance, LogTap};
use shell::{Client, ClientConfig, ClientEvent, Guide, Orders, repair_clients};
use token::TokenKey;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::admin::runtime;
use crate::cli::{ConnectArgs, Global};
use crate::confine::{Confined, Confinement, Role};
use crate::failure::Usage;
use crate::output::print;
use crate::running::Running;
use crate::signals::{Signals, tell_ready};
use crate::{logging, password, pkcs11};

pub(crate) use console::ConsoleArgs;

/// Profiles hold a few certificates; nobody's is larger.
const MAX_PROFILE: u64 = 1024 * 1024;

/// Everything a client needs to start.
#[derive(Debug)]
pub(crate) struct Start {
    /// Where the profile is, for error messages.
    pub(crate) file: PathBuf,
    /// What it and the files that it names say.
    pub(crate) profile: openvpn::Profile,
    /// The key in a token, if the profile names one.
    pub(crate) token: Option<TokenKey>,
    /// User and password, if the profile wants any.
    pub(crate) login: Option<Login>,
    /// Who is asked for whatever else is wanted.
    pub(crate) desk: Arc<dyn shell::Desk>,
    /// Where to write down what is changed on this machine.
    pub(crate) state: PathBuf,
    /// What keeps root's rights, if we have given them up.
    pub(crate) keeper: Option<Keeper>,
}

/// User and password.
#[derive(Debug)]
pub(crate) struct Login {
    /// The name.
    pub(crate) user: String,
    /// The password.
    pub(crate) password: Password,
}

/// Where user and password come from.
#[derive(Clone, Debug)]
pub(crate) enum LoginSource {
    /// The first two lines of a file.
    File(PathBuf),
    /// `--user`, and the first line of stdin.
    Stdin(String),
    /// A person at the terminal, asked for what `--user` does not say.
    Terminal(Option<String>),
}

/// Reads the arguments and the profile, then stays connected until a signal.
pub(crate) fn run(global: &Global, args: &ConnectArgs) -> anyhow::Result<()> {
    let _terminal = login::Restore::terminal();
    // With the rights of whoever calls: what the profile names, and the terminal.
    let file = args.file.clone();
    let text = read_profile(&file)?;
    let place = || file.display().to_string();
    let profile = parse(&file, &text)?;
    // First: the process that keeps the module has all that we have by then.
    let warden = pkcs11::warden_of(&profile).with_context(place)?;
    let (mut profile, login, desk) = prepare(&file, profile, args)?;
    let token = warden.map(|warden| pkcs11::open(warden, args.pin_file.as_deref()));
    let token = token.transpose().with_context(place)?;
    let tap = console::tap(&profile);
    logging::start_with("info", tap.as_ref());
    let entrance = ClientEntrance::open(&mut profile)
        .map_err(|error| Usage(format!("{}: {error}", file.display())))?;
    let sockets = entrance.as_ref().and_then(ClientEntrance::socket).map(Path::to_owned);
    // Before any thread: from here on it is not root.
    let confined = Confinement {
        user: &args.run_as,
        sandbox: !args.no_sandbox,
        state: &global.state,
        role: Role::Client {
            has_low_port: profile.local_port.is_some_and(|port| port < 1024),
            sockets: sockets.into_iter().collect(),
        },
    };
    let Confined { state, keeper } = confined.enter()?;
    let desk: Arc<dyn shell::Desk> = Arc::new(desk);
    let start = Start { file, profile, token, login, desk, state, keeper };
    let console = entrance.zip(tap);
    runtime()?.block_on(async {
        let signals = Signals::listen()?.ending_with_the_terminal();
        stay_connected(start, console, signals).await
    })
}

async fn stay_connected(
    start: Start,
    console: Option<(ClientEntrance, LogTap)>,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        match console {
            Some((entrance, tap)) => console::run(start, entrance, tap, stopped).await,
            None => connect(start, None, stopped.into()).await,
        }
    });
    let running = Running { stop, task };
    running.until_told(&mut signals, async || info!("a client has nothing to reload")).await
}

/// Reads everything that the profile names.
fn parse(file: &Path, text: &str) -> anyhow::Result<openvpn::Profile> {
    let folder = file.parent().map(Path::to_owned).unwrap_or_default();
    let mut read = |name: &str| read_beside(&folder, name);
    openvpn::Profile::parse(text, &mut read)
        .map_err(|error| Usage(format!("{}:{error}", file.display())).into())
}

/// Adds what the command line says, and asks for what nobody says.
fn prepare(
    file: &Path,
    mut profile: openvpn::Profile,
    args: &ConnectArgs,
) -> anyhow::Result<(openvpn::Profile, Option<Login>, login::Desk)> {
    args.console.apply(&mut profile)?;
    let management = &profile.management;
    let is_asked_elsewhere = management.place.is_some() && management.asks_passwords;
    if profile.is_locked() && !is_asked_elsewhere {
        unlock(&mut profile).with_context(|| file.display().to_string())?;
    }
    let desk = login::Desk::new(LoginSource::new(args));
    let login = match &profile.login {
        _ if is_asked_elsewhere => None,
        openvpn::Login::None | openvpn::Login::Given(..) => None,
        openvpn::Login::Ask => Some(desk.first_login(None)?),
        openvpn::Login::AskPassword(user) => Some(desk.first_login(Some(user))?),
    };
    Ok((profile, login, desk))
}

/// Asks for the passphrase of the private key.
fn unlock(profile: &mut openvpn::Profile) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() {
        let what = "the private key has a passphrase; add \"askpass FILE\" to the profile, with a \
                    file beside it";
        return Err(Usage(what.to_owned()).into());
    }
    let passphrase = password::prompt("Passphrase of the private key: ")?.to_secret();
    profile.unlock(&passphrase).map_err(|error| Usage(error.to_string()).into())
}

/// Connects, and stays connected.
async fn connect(
    start: Start,
    attendant: Option<&Arc<Attendant>>,
    orders: Orders,
) -> anyhow::Result<()> {
    let Start { file, profile, token, login, desk, state, keeper } = start;
    // Each profile has a folder of its own, so that several can be connected at once.
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let clients = StateDir::open(StateDir::open(state)?.clients())?;
    repair_clients(clients.path(), keeper.as_ref());
    let state = clients.path().join(stem.unwrap_or_else(|| "profile".to_owned()));
    let state = StateDir::open(state)?;
    let lock = state.lock()?;
    let client = Client::start(ClientConfig {
        profile,
        token,
        login: login.map(|login| (login.user, login.password.to_secret())),
        desk: attendant.map_or(desk, |attendant| Arc::clone(attendant) as _),
        guide: attendant.map(|attendant| Arc::clone(attendant) as Arc<dyn Guide>),
        state: state.path().to_owned(),
        keeper,
    })
    .map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;

    if let Some(attendant) = attendant {
        attendant.measure(client.traffic());
    }

    let (events, mut news) = mpsc::unbounded_channel();
    let reporting = tokio::spawn(async move {
        while let Some(event) = news.recv().await {
            report(&event);
        }
    });
    let result = client.run(orders, events).await;
    let _ = reporting.await;
    drop(lock);
    Ok(result?)
}

/// Reads a file that a profile names. Profiles come from others: one that could name any file could
/// have its first lines sent to its server as user and password.
fn read_beside(folder: &Path, name: &str) -> Result<Vec<u8>, String> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let attempt = || -> io::Result<Option<Vec<u8>>> {
        let path = folder.join(name).canonicalize()?;
        if !path.starts_with(folder.canonicalize()?) {
            return Ok(None);
        }
        if name.ends_with('/') {
            return names_in(&path).map(Some);
        }
        if !path.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_PROFILE).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    };
    match attempt() {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err("not a file in the profile's own folder; copy it there".to_owned()),
        Err(error) => Err(format!("cannot read it: {error}")),
    }
}

/// The names of the files in a folder, a line each.
fn names_in(folder: &Path) -> io::Result<Vec<u8>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        if names.len() + name.len() >= MAX_PROFILE as usize {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        names.extend_from_slice(name.as_encoded_bytes());
        names.push(b'\n');
    }
    Ok(names)
}

/// Tells the person at the terminal, and the service manager, how it stands.
fn report(event: &ClientEvent) {
    let own = |lease: &Lease| {
        let ipv4 = lease.ipv4.map(|(address, _)| address.to_string());
        let ipv6 = lease.ipv6.map(|(address, _)| address.to_string());
        [ipv4, ipv6].into_iter().flatten().collect::<Vec<_>>().join(" and ")
    };
    let line = match event {
        ClientEvent::Connected { remote, lease, facts, device } => {
            tell_ready();
            format!(
                "connected to {remote} as {} on {device} ({}, {})",
                own(lease),
                facts.cipher,
                facts.control
            )
        }
        ClientEvent::Changed { lease } => {
            format!("the server changed its network; here as {}", own(lease))
        }
        ClientEvent::Step(_) => return,
        ClientEvent::Over { reason } => format!("over: {reason}"),
        ClientEvent::Disconnected { reason } => format!("disconnected: {reason}"),
    };
    if let Err(error) = print(&line) {
        warn!(%error, "nobody reads what the client prints");
    }
}

fn read_profile(file: &Path) -> anyhow::Result<String> {
    let attempt = || -> io::Result<String> {
        let mut text = String::new();
        File::open(file)?.take(MAX_PROFILE + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = attempt().map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => {
            Usage(format!("{}: not a profile: it is not text", file.display()))
        }
        _ => Usage(format!("{}: cannot read the profile: {error}", file.display())),
    })?;
    if text.len() as u64 > MAX_PROFILE {
        return Err(Usage(format!("{}: not a profile: larger than 1 MiB", file.display())).into());
    }
    Ok(text)
}

impl LoginSource {
    fn new(args: &ConnectArgs) -> Self {
        match (&args.auth_user_pass, &args.user) {
            (Some(file), _) => Self::File(file.clone()),
            (None, Some(user)) if args.password_stdin => Self::Stdin(user.clone()),
            (None, user) => Self::Terminal(user.clone()),
        }
    }

    /// The same source, with a name for whoever is asked at the terminal.
    fn or_user(self, name: &str) -> Self {
        match self {
            Self::Terminal(None) => Self::Terminal(Some(name.to_owned())),
            other => other,
        }
    }

    /// Gets user and password, for a profile that wants them.
    pub(crate) fn login(&self) -> anyhow::Result<Login> {
        match self {
            Self::File(file) => {
                let input = File::open(file).map_err(|error| {
                    Usage(format!("{}: cannot read user and password: {error}", file.display()))
                })?;
                two_lines(BufReader::new(input))
                    .with_context(|| format!("--auth-user-pass {}", file.display()))
            }
            Self::Stdin(user) => Ok(Login {
                user: user.clone(),
                password: password::first_line(io::stdin().lock())?,
            }),
            Self::Terminal(user) => {
                if !io::stdin().is_terminal() {
                    let what = "the server wants a user and a password; give --auth-user-pass \
                                FILE, or --user NAME with --password-stdin";
                    return Err(Usage(what.to_owned()).into());
                }
                let user = match user {
                    Some(user) => user.clone(),
                    None => ask_user()?,
                };
                let password = password::prompt(&format!("Password for {user}: "))?;
                Ok(Login { user, password })
            }
        }
    }
}

fn two_lines(mut input: impl BufRead) -> anyhow::Result<Login> {
    let mut user = String::new();
    input.by_ref().take(1024).read_line(&mut user).context("cannot read the user's name")?;
    let user = user.trim_end_matches(['\n', '\r']).to_owned();
    if user.is_empty() {
        return Err(Usage("the first line must be the user's name".to_owned()).into());
    }
    let password = password::first_line(input)
        .map_err(|_| Usage("the second line must be the password".to_owned()))?;
    Ok(Login { user, password })
}

fn ask_user() -> anyhow::Result<String> {
    ask_line("User: ").context("cannot read the user's name from the terminal; use --user")
}

/// Asks the person at the terminal for what everybody may see.
fn ask_line(question: &str) -> io::Result<String> {
    let mut terminal = io::stderr().lock();
    write!(terminal, "{question}")?;
    terminal.flush()?;
    let mut line = String::new();
    io::stdin().lock().take(1024).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_file_has_the_user_and_then_the_password() {
        let login = two_lines(&b"anna\r\np w\nignored\n"[..]).expect("two lines");
        assert_eq!((login.user.as_str(), login.password.expose()), ("anna", "p w"));

        for bad in [&b""[..], b"anna", b"anna\n", b"\npassword\n"] {
            let error = two_lines(bad).expect_err("it has no two lines");
            assert!(error.is::<Usage>(), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_profile_reads_no_file_but_those_beside_it() {
        let folder = std::env::temp_dir().join(format!("warren-beside-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("ca.pem"), "text").expect("a file");

        assert_eq!(read_beside(&folder, "ca.pem").expect("it is there"), b"text");
        for name in ["/etc/passwd", "../../etc/passwd", "/dev/zero", "nothing.pem", "."] {
            assert!(read_beside(&folder, name).is_err(), "{name}");
        }
        std::fs::remove_dir_all(&folder).expect("it was made above");
    }

    #[test]
    fn a_profile_that_is_not_text_is_named() {
        let error = read_profile(Path::new("/dev/zero")).expect_err("it is endless");
        assert_eq!(error.to_string(), "/dev/zero: not a profile: larger than 1 MiB");

        let error = read_profile(Path::new("/nowhere/a.ovpn")).expect_err("it is not there");
        assert!(error.to_string().starts_with("/nowhere/a.ovpn: cannot read the profile: "));
    }
}
