//! The process between Warren and a module: starts it, waits for it, ends it.

use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use contract::Secret;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use sys::offspring::{self, Offspring};

use crate::Place;
use crate::message::{Mechanism, Reply, Request, Trouble, receive, send};
use crate::module;

/// How long a module may take to find its tokens and to log in.
const OPEN_TIME: Duration = Duration::from_secs(10);
/// The same, if a person has to type the PIN meanwhile.
const PIN_PAD_TIME: Duration = Duration::from_secs(60);
/// How long one signature may take: the slowest cards need a second or two.
const SIGN_TIME: Duration = Duration::from_secs(5);
/// How long a module that did not answer is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// The same for one that answered that it cannot: tokens come back, and nobody should wait.
const SHORT_PAUSE: Duration = Duration::from_secs(1);
/// Beside the times above, for the warden itself.
const MARGIN: Duration = Duration::from_secs(3);

/// A process that keeps a module, and the way to ask it.
#[derive(Debug)]
pub struct Warden {
    pub(crate) line: UnixStream,
}

impl Warden {
    /// Starts it; nothing is loaded until it is asked. The process must still have one thread.
    ///
    /// It ends with the last holder of the result.
    ///
    /// # Errors
    ///
    /// Fails if there are more threads, or the system has no room for another process.
    pub fn start(place: Place) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let has_pin_pad = place.modules.iter().any(|module| module.has_pin_pad);
        let open_time = if has_pin_pad { PIN_PAD_TIME } else { OPEN_TIME };
        ours.set_read_timeout(Some(open_time + SIGN_TIME + MARGIN))?;
        ours.set_write_timeout(Some(MARGIN))?;
        let mut ours = Some(ours);
        offspring::spawn(|| {
            // As long as it is open anywhere, the line has two ends.
            drop(ours.take());
            if let Err(error) = live(theirs, place, open_time) {
                tracing::error!("the process that keeps the PKCS #11 module cannot work: {error}");
            }
        })?;
        Ok(Self { line: ours.ok_or(io::ErrorKind::BrokenPipe)? })
    }
}

/// The warden's life: until nobody is left to ask.
fn live(line: UnixStream, place: Place, open_time: Duration) -> io::Result<()> {
    let _ = prctl::set_name(c"warren-token");
    // Ctrl-C goes to everybody at the terminal; who asks us decides when it is over.
    let mut ignored = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE] {
        ignored.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ignored), None)?;
    // The PIN lives here.
    let _ = sys::limits::forbid_core_dumps();
    // The user stays, for the module's files and daemons know it; of its powers nothing does.
    sys::privileges::give_up(None, &[])?;
    Kept {
        line,
        place,
        open_time,
        pin: None,
        forget_at: None,
        worker: None,
        is_open: false,
        dying: None,
        paused: None,
        refused: None,
    }
    .serve()
}

/// The warden's memory.
#[derive(Debug)]
struct Kept {
    /// To who asks.
    line: UnixStream,
    place: Place,
    open_time: Duration,
    pin: Option<Secret>,
    forget_at: Option<Instant>,
    worker: Option<Worker>,
    /// The worker has the key open.
    is_open: bool,
    /// A worker that was killed, until the kernel has let go of it.
    dying: Option<Offspring>,
    /// The module is left alone until then.
    paused: Option<Instant>,
    /// What must not be tried again.
    refused: Option<String>,
}

#[derive(Debug)]
struct Worker {
    line: UnixStream,
    process: Offspring,
}

/// A worker that has not answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Missed {
    /// In time.
    Deadline,
    /// And never will: it is gone.
    Gone,
}

impl Kept {
    fn serve(mut self) -> io::Result<()> {
        while self.wait()? {
            let Some((kind, body)) = receive(&self.line)? else { break };
            let request = Request::parse(kind, &body).map_err(io::Error::other)?;
            let reply = match request {
                Request::Open { pin } => {
                    // A new PIN is a new chance.
                    if pin.is_some() {
                        self.refused = None;
                    }
                    self.pin = pin;
                    self.paused = None;
                    self.end_worker();
                    self.open(Instant::now() + self.open_time)
                }
                Request::Sign { how, input } => self.sign(how, &input),
                Request::List { pin } => {
                    let reply = self.exchange(&Request::List { pin }, self.open_time);
                    self.end_worker();
                    reply.unwrap_or_else(|missed| self.missed(missed, self.open_time))
                }
            };
            send(&self.line, reply.write())?;
        }
        self.end_worker();
        Ok(())
    }

    /// Waits for a question, and forgets the PIN when its time is over; false if nobody will ask.
    fn wait(&mut self) -> io::Result<bool> {
        loop {
            let left = self.forget_at.map(|at| at.saturating_duration_since(Instant::now()));
            // Rounded up, so that it is over when we look again.
            let left = left.map(|left| left.as_millis().saturating_add(1));
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
            });
            let mut fds = [PollFd::new(self.line.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => {}
                Ok(_) => return Ok(true),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if self.forget_at.is_some_and(|at| at <= Instant::now()) {
                self.forget_at = None;
                self.pin = None;
                self.end_worker();
            }
        }
    }

    /// Has the worker open the key.
    fn open(&mut self, deadline: Instant) -> Reply {
        if let Some(why) = &self.refused {
            return Reply::Failed(Trouble::Lasting, why.clone());
        }
        let time = deadline.saturating_duration_since(Instant::now()).min(self.open_time);
        let reply = match self.exchange(&Request::Open { pin: self.pin.clone() }, time) {
            Ok(reply) => reply,
            Err(missed) => return self.missed(missed, time),
        };
        match &reply {
            Reply::Opened(_) => {
                self.is_open = true;
                self.paused = None;
                if self.pin.is_some() {
                    self.forget_at = self.place.pin_cache.map(|cache| Instant::now() + cache);
                }
            }
            // Tokens count mistakes, and lock themselves: one is enough.
            Reply::Failed(Trouble::Lasting, why) => {
                self.refused = Some(why.clone());
                self.pin = None;
                self.end_worker();
            }
            Reply::WantsPin(_) | Reply::Signed(_) | Reply::Listed(_) | Reply::Failed(..) => {
                self.end_worker();
            }
        }
        reply
    }

    fn sign(&mut self, how: Mechanism, input: &[u8]) -> Reply {
        let now = Instant::now();
        if let Some(until) = self.paused.filter(|until| *until > now) {
            let seconds = (until - now).as_secs() + 1;
            let why = format!("it failed a moment ago, and is tried again in {seconds} s");
            return Reply::Failed(Trouble::Paused, why);
        }
        let deadline = now + self.open_time + SIGN_TIME;
        let mut may_be_stale = self.is_open;
        loop {
            if !self.is_open {
                let reply = self.open(deadline);
                if !matches!(reply, Reply::Opened(_)) {
                    self.pause(SHORT_PAUSE);
                    return reply;
                }
            }
            let time = deadline.saturating_duration_since(Instant::now()).min(SIGN_TIME);
            let sign = Request::Sign { how, input: input.to_vec() };
            match self.exchange(&sign, time) {
                Ok(signed @ Reply::Signed(_)) => return signed,
                // The token may have been away since the last time, or its daemon.
                Ok(_) | Err(Missed::Gone) if may_be_stale => {
                    may_be_stale = false;
                    self.end_worker();
                }
                Ok(reply) => {
                    self.end_worker();
                    self.pause(SHORT_PAUSE);
                    return reply;
                }
                Err(missed) => return self.missed(missed, time),
            }
        }
    }

    fn pause(&mut self, time: Duration) {
        let until = Instant::now() + time;
        self.paused = Some(self.paused.map_or(until, |paused| paused.max(until)));
    }

    /// One question, one answer; starts a worker if there is none.
    fn exchange(&mut self, request: &Request, time: Duration) -> Result<Reply, Missed> {
        let deadline = Instant::now() + time;
        if self.worker.is_none() {
            self.worker = Some(self.start_worker().map_err(|_| Missed::Gone)?);
        }
        let Some(worker) = &self.worker else { return Err(Missed::Gone) };
        let missed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Missed::Deadline,
            _ => Missed::Gone,
        };
        send(&worker.line, request.write()).map_err(missed)?;
        let answer = receive(Timed { line: &worker.line, deadline }).map_err(missed)?;
        let (kind, body) = answer.ok_or(Missed::Gone)?;
        // Foreign code has broken our own: that process is worth nothing any more.
        Reply::parse(kind, &body).map_err(|_| Missed::Gone)
    }

    fn missed(&mut self, missed: Missed, time: Duration) -> Reply {
        self.end_worker();
        let why = match missed {
            Missed::Deadline => {
                self.pause(PAUSE);
                let seconds = time.as_secs_f64().round();
                format!("the PKCS #11 module does not answer within {seconds} s")
            }
            Missed::Gone => {
                self.pause(SHORT_PAUSE);
                "the PKCS #11 module has crashed, or cannot be started".to_owned()
            }
        };
        Reply::Failed(Trouble::Passing, why)
    }

    fn start_worker(&mut self) -> io::Result<Worker> {
        // One that hangs inside the kernel: there must not be more and more of them.
        if let Some(process) = &self.dying
            && !process.ends_within(MARGIN)
        {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.dying = None;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_write_timeout(Some(MARGIN))?;
        let place = &self.place;
        let process = offspring::spawn_with_only(theirs, |theirs| {
            let _ = prctl::set_pdeathsig(Signal::SIGKILL);
            module::work(theirs, place);
        })?;
        Ok(Worker { line: ours, process })
    }

    fn end_worker(&mut self) {
        self.is_open = false;
        if let Some(Worker { process, .. }) = self.worker.take() {
            process.kill();
            self.dying = Some(process);
        }
    }
}

/// Reads until a deadline, however many pieces come.
struct Timed<'l> {
    line: &'l UnixStream,
    deadline: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.line.set_read_timeout(Some(left))?;
        (&*self.line).read(out)
    }
}
