//! People at their machines: the user of a stock client, who is asked through its management
//! interface as GUIs do it, and somebody at a terminal.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::PATIENCE;
use crate::namespace::Namespace;
use crate::peer::Peer;
use crate::probe::eventually;

/// A conversation with one client.
#[derive(Debug)]
pub struct Console {
    lines: BufReader<UnixStream>,
}

impl Console {
    /// The options that make a client ask through `socket`.
    #[must_use]
    pub fn options(socket: &Path) -> Vec<String> {
        let socket = socket.display().to_string();
        [
            "--management",
            &socket,
            "unix",
            "--management-query-passwords",
            "--auth-retry",
            "interact",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Connects, as soon as the client listens.
    ///
    /// # Errors
    /// If it does not.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = eventually(PATIENCE, || Ok(UnixStream::connect(socket)?))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { lines: BufReader::new(stream) })
    }

    /// The rest of the next line that begins so.
    ///
    /// # Errors
    /// If none comes.
    pub fn wait_for(&mut self, beginning: &str) -> Result<String> {
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line);
            let len = read.with_context(|| format!("waiting for {beginning}"))?;
            ensure!(len > 0, "the client closed its console before {beginning}");
            if let Some(rest) = line.trim_end().strip_prefix(beginning) {
                return Ok(rest.to_owned());
            }
        }
    }

    /// Answers the question for user and password.
    ///
    /// # Errors
    /// If the client is gone.
    pub fn log_in(&mut self, user: &str, password: &str) -> Result<()> {
        let stream = self.lines.get_mut();
        writeln!(stream, "username \"Auth\" \"{user}\"\npassword \"Auth\" \"{password}\"")?;
        Ok(())
    }
}

/// A file for a console's socket; the path of one in the lab's folder may be too long.
#[must_use]
pub fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("console-{}-{name}", std::process::id()))
}

/// A program with a terminal, and somebody who types.
#[derive(Debug)]
pub struct Terminal {
    peer: Peer,
    keyboard: fs::File,
    screen: PathBuf,
    /// How much of the screen has been read.
    read: usize,
}

impl Terminal {
    /// Starts `command` (for a shell) with a terminal of its own.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(namespace: &Namespace, name: &str, command: &str) -> Result<Self> {
        let fifo = namespace.folder().join(format!("keyboard-{name}"));
        mkfifo(&fifo, Mode::S_IRWXU)?;
        // Open for both, so that neither end waits for the other.
        let keyboard = fs::OpenOptions::new().read(true).write(true).open(&fifo)?;
        let mut shell = Command::new("sh");
        let screen = namespace.folder().join(format!("screen-{name}"));
        shell.args(["-c", "exec script -qefc \"$0\" \"$1\" < \"$2\"", command]);
        shell.arg(&screen).arg(fifo);
        Ok(Self { peer: namespace.spawn(name, shell)?, keyboard, screen, read: 0 })
    }

    /// Waits for a question, and types one line. What is typed before is lost where a program
    /// switches the echo off.
    ///
    /// # Errors
    /// If the question does not come.
    pub fn answer(&mut self, question: &str, line: &str) -> Result<()> {
        self.read += eventually(PATIENCE, || {
            let screen = fs::read(&self.screen)?;
            let new = String::from_utf8_lossy(screen.get(self.read..).unwrap_or_default());
            let at = new.find(question).with_context(|| format!("{question:?} is not asked"))?;
            Ok(at + question.len())
        })?;
        writeln!(self.keyboard, "{line}").context("type")
    }

    /// The process, and what the screen shows.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// The code that an authenticator app shows for a secret in base32, `later` steps of 30 seconds
/// from now.
///
/// # Errors
/// If openssl fails.
pub fn totp(secret: &str, later: u64) -> Result<String> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let (mut bits, mut held, mut key) = (0_u64, 0, String::new());
    for letter in secret.chars() {
        let value = ALPHABET.find(letter).ok_or_else(|| anyhow!("{secret:?} is not base32"))?;
        bits = bits << 5 | value as u64;
        held += 5;
        if held >= 8 {
            held -= 8;
            write!(key, "{:02x}", bits >> held & 0xff)?;
        }
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let step = (since.as_secs() / 30 + later).to_be_bytes();
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha1", "-binary", "-mac", "HMAC", "-macopt"])
        .arg(format!("hexkey:{key}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    openssl.stdin.take().context("stdin is piped")?.write_all(&step)?;
    let hash = openssl.wait_with_output()?.stdout;
    ensure!(hash.len() == 20, "openssl made no hash");
    let at = usize::from(hash[19] & 15);
    let word = u32::from_be_bytes([hash[at] & 0x7f, hash[at + 1], hash[at + 2], hash[at + 3]]);
    Ok(format!("{:06}", word % 1_000_000))
}
