//! Questions to a running network: does it answer, how soon, and whom does it see.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::Signal;

use crate::namespace::Namespace;
use crate::peer::Peer;

/// Tries until it succeeds; after `timeout` the last error is the result.
///
/// # Errors
/// The last error of `attempt`.
pub fn eventually<T>(timeout: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    let mut pause = Duration::from_millis(2);
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("not within {timeout:?}")));
            }
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Does the same to every item at the same time.
///
/// # Errors
/// The first item's error, in the order of the items.
pub fn all<T: Send>(
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    thread::scope(|scope| {
        let running: Vec<_> = items.into_iter().map(|item| scope.spawn(|| work(item))).collect();
        running.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a check panicked")))
        })
    })
}

/// What `ping` counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Answers, duplicates not counted.
    pub received: u32,
    /// Mean round trip, if anything answered.
    pub mean: Option<Duration>,
}

impl PingReport {
    /// Requests without an answer.
    #[must_use]
    pub fn lost(&self) -> u32 {
        self.sent - self.received
    }
}

/// Sends `count` echo requests, 5 a second, and waits up to 2 seconds for the last answer.
///
/// # Errors
/// If `ping` itself fails, not if nothing answers.
pub fn ping(from: &Namespace, to: IpAddr, count: u32) -> Result<PingReport> {
    let mut command = Command::new("ping");
    command.args(["-n", "-q", "-i", "0.2", "-W", "2", "-c", &count.to_string(), &to.to_string()]);
    let output = from.output(command, Duration::from_secs(u64::from(count) / 5 + 20))?;
    parse_ping(&output.stdout).with_context(|| format!("ping {to} from {}: {output}", from.name()))
}

/// Whether three echo requests in a row are answered, now or soon: that there is a way, not that
/// nothing is lost in the first moments of a tunnel. What must not be lost is for [`ping_every`].
///
/// # Errors
/// If there is none.
pub fn reach(from: &Namespace, to: IpAddr) -> Result<()> {
    eventually(crate::PATIENCE, || {
        let report = ping(from, to, 3)?;
        anyhow::ensure!(report.lost() == 0, "{} does not reach {to}: {report:?}", from.name());
        Ok(())
    })
}

/// A ping that runs until it is asked for its report.
#[derive(Debug)]
pub struct Ping {
    peer: Peer,
}

/// Starts pinging at this interval.
///
/// # Errors
/// If `ping` cannot be started.
pub fn ping_every(interval: Duration, from: &Namespace, to: IpAddr) -> Result<Ping> {
    let mut command = Command::new("ping");
    let interval = interval.as_secs_f64().to_string();
    command.args(["-n", "-q", "-W", "2", "-i", &interval, &to.to_string()]);
    Ok(Ping { peer: from.spawn(&format!("ping-{}", from.name()), command)? })
}

impl Ping {
    /// Ends it and returns what it counted. The request in flight at the end is forgiven.
    ///
    /// # Errors
    /// If it prints no summary.
    pub fn finish(self) -> Result<PingReport> {
        self.peer.signal(Signal::SIGINT)?;
        let output = self.peer.wait_exit(Duration::from_secs(10))?;
        let mut report = parse_ping(&output.stdout).with_context(|| output.to_string())?;
        if report.lost() == 1 && !output.stdout.contains("errors") {
            report.sent -= 1;
        }
        Ok(report)
    }
}

fn parse_ping(text: &str) -> Result<PingReport> {
    let summary = text
        .lines()
        .find(|line| line.contains("packets transmitted"))
        .ok_or_else(|| anyhow!("no summary"))?;
    let number_before = |word: &str| {
        let (before, _) = summary.split_once(word)?;
        before.split([',', ' ']).rfind(|part| !part.is_empty())?.parse().ok()
    };
    let mean = text
        .lines()
        .find_map(|line| line.strip_prefix("rtt ")?.split('/').nth(4)?.parse::<f64>().ok())
        .map(|milliseconds| Duration::from_secs_f64(milliseconds / 1000.0));
    Ok(PingReport {
        sent: number_before("packets transmitted").ok_or_else(|| anyhow!("{summary}"))?,
        received: number_before("received").ok_or_else(|| anyhow!("{summary}"))?,
        mean,
    })
}

/// A TCP server that tells every client which address it came from.
#[derive(Debug)]
pub struct SourceMirror {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SourceMirror {
    /// Listens at `address` inside the namespace.
    ///
    /// # Errors
    /// If the address is taken.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = namespace
            .enter(move || TcpListener::bind(address))
            .with_context(|| format!("{}: listen on {address}", namespace.name()))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("source-mirror".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut client, from)) => drop(write!(client, "{}", from.ip())),
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for SourceMirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Asks a [`SourceMirror`] which address it sees.
///
/// # Errors
/// If it cannot be reached within 5 seconds.
pub fn source_seen(from: &Namespace, mirror: SocketAddr) -> Result<IpAddr> {
    let name = from.name().to_owned();
    from.enter(move || {
        let limit = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&mirror, limit)
            .with_context(|| format!("{name}: connect to {mirror}"))?;
        stream.set_read_timeout(Some(limit))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text.parse()?)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_ping_is_read_with_and_without_errors() {
        let good = "--- 10.0.0.1 ping statistics ---\n\
                    20 packets transmitted, 19 received, 5% packet loss, time 3812ms\n\
                    rtt min/avg/max/mdev = 0.018/0.250/0.030/0.005 ms\n";
        let bad = "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 405ms\n";

        let report = parse_ping(good).unwrap();
        assert_eq!((report.sent, report.received, report.lost()), (20, 19, 1));
        assert_eq!(report.mean, Some(Duration::from_micros(250)));
        let report = parse_ping(bad).unwrap();
        assert_eq!((report.sent, report.received, report.mean), (3, 0, None));
        assert!(parse_ping("ping: connect: Network is unreachable").is_err());
    }

    #[test]
    fn eventually_gives_up_with_the_last_error() {
        let mut attempts = 0;
        let outcome: Result<()> = eventually(Duration::from_millis(20), || {
            attempts += 1;
            Err(anyhow!("attempt {attempts}"))
        });

        let error = format!("{:#}", outcome.unwrap_err());
        assert!(attempts > 1 && error.ends_with(&format!("attempt {attempts}")), "{error}");
    }
}
