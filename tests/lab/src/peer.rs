//! Programs under test and the programs they talk to.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::namespace::Namespace;
use crate::probe::eventually;

/// A running program; killed, with its children, when dropped.
#[derive(Debug)]
pub struct Peer {
    log: Arc<Log>,
    child: Mutex<Child>,
    pid: Pid,
    // Keeps the thread that started the child, whose end would kill it.
    namespace: Namespace,
}

/// How a command ended and what it said.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit status.
    pub status: ExitStatus,
    /// Standard output, line ends as `\n`.
    pub stdout: String,
    /// Standard error, line ends as `\n`.
    pub stderr: String,
}

impl Output {
    /// Whether it exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.status, self.stdout.trim_end(), self.stderr.trim_end())
    }
}

/// A place in a peer's output, to look for what it says afterwards.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// What a peer has said.
#[derive(Debug)]
pub(crate) struct Log {
    name: String,
    said: Mutex<Said>,
    grew: Condvar,
}

#[derive(Debug)]
struct Said {
    lines: Vec<(Stream, String)>,
    open: usize,
    file: Option<File>,
}

impl Log {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn tail(&self, count: usize) -> Vec<String> {
        let said = self.said();
        let first = said.lines.len().saturating_sub(count);
        said.lines[first..].iter().map(|(_, line)| line.clone()).collect()
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(self: &Arc<Self>, stream: Stream, source: impl Read + Send + 'static) -> Result<()> {
        self.said().open += 1;
        let log = Arc::clone(self);
        thread::Builder::new().name(format!("log-{}", self.name)).spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                let mut said = log.said();
                if let Some(file) = &mut said.file {
                    let _ = writeln!(file, "{text}");
                }
                said.lines.push((stream, text));
                drop(said);
                log.grew.notify_all();
                line.clear();
            }
            log.said().open -= 1;
            log.grew.notify_all();
        })?;
        Ok(())
    }

    fn collect(&self, stream: Stream) -> String {
        let mut text = String::new();
        for (_, line) in self.said().lines.iter().filter(|(from, _)| *from == stream) {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

impl Peer {
    pub(crate) fn spawn(namespace: &Namespace, name: &str, command: Command) -> Result<Self> {
        let path = namespace.folder().join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        let peer = Self::start(namespace, name, command, Some(file))?;
        namespace.lab().register(Arc::clone(&peer.log));
        Ok(peer)
    }

    /// Starts a command whose output nobody will want to read after a failure elsewhere.
    pub(crate) fn spawn_unlisted(namespace: &Namespace, command: Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        Self::start(namespace, &name, command, None)
    }

    fn start(
        namespace: &Namespace,
        name: &str,
        command: Command,
        file: Option<File>,
    ) -> Result<Self> {
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
        wrapped.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            wrapped.current_dir(folder);
        }
        Self::start_as_is(namespace, name, wrapped, file)
    }

    fn start_as_is(
        namespace: &Namespace,
        name: &str,
        mut command: Command,
        file: Option<File>,
    ) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;

        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = namespace
            .enter(move || command.spawn())
            .with_context(|| format!("start {name} (package util-linux has setpriv)"))?;

        let said = Said { lines: Vec::new(), open: 0, file };
        let log =
            Arc::new(Log { name: name.to_owned(), said: Mutex::new(said), grew: Condvar::new() });
        let out = child.stdout.take().expect("stdout is piped");
        let err = child.stderr.take().expect("stderr is piped");
        log.read(Stream::Out, out)?;
        log.read(Stream::Err, err)?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a pid fits in an i32")?);
        Ok(Self { log, child: Mutex::new(child), pid, namespace: namespace.clone() })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Where it runs.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The end of what it has said so far.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.log.said().lines.len())
    }

    /// The beginning of what it says.
    #[must_use]
    pub fn mark_start(&self) -> Mark {
        Mark(0)
    }

    /// Waits for a line that contains `text`, said at any time, and returns it.
    ///
    /// # Errors
    /// If it is not said in time, or the peer ends first.
    pub fn wait_for(&self, text: &str, timeout: Duration) -> Result<String> {
        self.wait_from(Mark(0), text, timeout)
    }

    /// Waits for a line that contains `text`, said after `mark`, and returns it.
    ///
    /// # Errors
    /// If it is not said in time, or the peer ends first.
    pub fn wait_from(&self, mark: Mark, text: &str, timeout: Duration) -> Result<String> {
        self.wait_until(mark, text, timeout, |line| line.contains(text))
    }

    /// Waits for a line said after `mark` that satisfies `wanted`; `name` is what an error calls
    /// such a line.
    ///
    /// # Errors
    /// If it is not said in time, or the peer ends first.
    pub fn wait_until(
        &self,
        mark: Mark,
        name: &str,
        timeout: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let deadline = Instant::now() + timeout;
        let mut next = mark.0;
        let mut said = self.log.said();
        loop {
            if let Some((_, line)) = said.lines[next..].iter().find(|(_, l)| wanted(l)) {
                return Ok(line.clone());
            }
            next = said.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if said.open == 0 {
                bail!("{} ended without saying `{name}`", self.log.name);
            }
            if left.is_zero() {
                bail!("{} did not say `{name}` within {timeout:?}", self.log.name);
            }
            said = self.log.grew.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Every line said so far that contains `text`.
    #[must_use]
    pub fn said(&self, text: &str) -> Vec<String> {
        let said = self.log.said();
        said.lines.iter().filter(|(_, l)| l.contains(text)).map(|(_, l)| l.clone()).collect()
    }

    /// Everything said so far on standard output.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.log.collect(Stream::Out)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid, signal).with_context(|| format!("{signal} to {}", self.log.name))
    }

    /// Ends it at once, without a chance to clean up, and waits until it is gone.
    ///
    /// # Errors
    /// If it does not go.
    pub fn kill(&self) -> Result<()> {
        let _ = killpg(self.pid, Signal::SIGKILL);
        self.wait_exit(Duration::from_secs(10)).map(drop)
    }

    /// Asks it to end (`SIGTERM`) and waits until it has.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn stop(&self, timeout: Duration) -> Result<Output> {
        let _ = kill(self.pid, Signal::SIGTERM);
        self.wait_exit(timeout)
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn wait_exit(&self, timeout: Duration) -> Result<Output> {
        let status = eventually(timeout, || {
            self.child().try_wait()?.ok_or_else(|| anyhow!("{} still runs", self.log.name))
        })?;
        // What it wrote last may still be in the pipes; a child of its own may hold them open.
        let said = self.log.said();
        let limit = Duration::from_secs(2);
        drop(self.log.grew.wait_timeout_while(said, limit, |said| said.open > 0));
        Ok(Output {
            status,
            stdout: self.log.collect(Stream::Out),
            stderr: self.log.collect(Stream::Err),
        })
    }

    /// Memory in RAM, in KiB (`VmRSS`).
    ///
    /// # Errors
    /// If the process is gone.
    pub fn rss_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| anyhow!("{} has no VmRSS: it has ended", self.log.name))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = killpg(self.pid, Signal::SIGKILL);
            let _ = self.child().wait();
        }
    }
}
