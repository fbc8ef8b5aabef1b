//! A protocol just large enough to need everything that the simulator does.
//!
//! ```text
//! Caller                        Door, Callee
//!   hello, no cookie  ---------->
//!                     <----------  cookie
//!   hello, cookie     ---------->             (asks for a lease, installs)
//!                     <----------  welcome
//!   data, ping inside ---------->
//!   data, bye inside  ---------->
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use contract::{
    Acceptor, Answer, Arrival, Ask, AskId, AttachRequest, Claim, Command, ContentKind, DataPlaneOp,
    Discard, Engine, Event, Exit, Fatal, Frame, Input, Notice, Opened, Output, Path, PortId, Route,
    SessionFacts, SessionId, TerminateCause, Transmit, Tunnel, TunnelKey, Via,
};

pub(crate) const KEY: TunnelKey = TunnelKey::WireGuard { receiver: 1 };

/// What a tunnel inside a tunnel is called.
pub(crate) const INNER: TunnelKey = TunnelKey::L2tp { tunnel: 1, session: 1 };

const COOKIE: u8 = 0xc0;
const HELLO_LEN: usize = 8;
const RETRY: Duration = Duration::from_secs(1);
const MAX_TRIES: u32 = 5;
const PING: Duration = Duration::from_secs(5);

mod opcode {
    pub(super) const HELLO: u8 = 1;
    pub(super) const COOKIE: u8 = 2;
    pub(super) const WELCOME: u8 = 3;
    pub(super) const DATA: u8 = 4;
}

pub(crate) fn classify(_: &Path, datagram: &[u8]) -> Option<TunnelKey> {
    (datagram.first() == Some(&opcode::DATA)).then_some(KEY)
}

/// Opcode, sequence, kind; the content turned inside out; a sum.
#[derive(Debug, Default)]
pub(crate) struct ToyTunnel {
    next: AtomicU8,
    seen: [AtomicU64; 4],
}

impl ToyTunnel {
    pub(crate) fn install(port: PortId, path: Path) -> DataPlaneOp {
        let tunnel = Arc::new(Self::default());
        DataPlaneOp::Install { key: KEY, port, via: Via::Path(path), tunnel }
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(7, |sum, byte| sum.wrapping_mul(3).wrapping_add(*byte))
    }
}

impl Tunnel for ToyTunnel {
    fn frame(&self, _: ContentKind, _: usize) -> Frame {
        Frame { head: 3, tail: 1 }
    }

    fn seal(&self, kind: ContentKind, len: usize, out: &mut [u8]) -> Result<(), Discard> {
        out[0] = opcode::DATA;
        out[1] = self.next.fetch_add(1, Ordering::Relaxed);
        out[2] = kind as u8;
        out[3..3 + len].iter_mut().for_each(|byte| *byte ^= 0xff);
        out[3 + len] = Self::sum(&out[..3 + len]);
        Ok(())
    }

    fn open<'b>(&self, datagram: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
        let [head @ .., sum] = datagram else { return Err(Discard::Malformed) };
        if Self::sum(head) != *sum {
            return Err(Discard::AuthFailed);
        }
        let [_, seq, kind, content @ ..] = head else { return Err(Discard::Malformed) };
        let bit = 1 << (*seq % 64);
        if self.seen[usize::from(*seq / 64)].fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return Err(Discard::Replayed);
        }
        content.iter_mut().for_each(|byte| *byte ^= 0xff);
        match *kind {
            kind if kind == ContentKind::Packet as u8 => Ok(Opened::Packet(content)),
            kind if kind == ContentKind::Control as u8 => Ok(Opened::Control(content)),
            kind if kind == ContentKind::Inner as u8 => Ok(Opened::Inner(INNER, content)),
            _ => Err(Discard::Malformed),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) is_stuck: bool,
    path: Path,
    port: PortId,
    outputs: VecDeque<Output>,
    cookie: u8,
    tries: u32,
    deadline: Option<(Instant, &'static str)>,
    is_up: bool,
}

impl Caller {
    pub(crate) fn new(path: Path, port: PortId) -> Self {
        Self {
            is_stuck: false,
            path,
            port,
            outputs: VecDeque::new(),
            cookie: 0,
            tries: 0,
            deadline: None,
            is_up: false,
        }
    }

    fn hello(&mut self, now: Instant) {
        let mut payload = vec![0; HELLO_LEN];
        payload[0] = opcode::HELLO;
        payload[1] = self.cookie;
        self.outputs.push_back(Output::Transmit(Transmit { via: Via::Path(self.path), payload }));
        self.deadline = Some((now + RETRY, "hello"));
    }

    fn inside(&mut self, message: &[u8]) {
        let via = Via::Port(self.port);
        self.outputs.push_back(Output::Transmit(Transmit { via, payload: message.to_vec() }));
    }
}

impl Engine for Caller {
    fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), Fatal> {
        match input {
            Input::Command(Command::Connect) => {
                self.tries = 1;
                self.hello(now);
            }
            Input::Command(Command::Disconnect(_)) => {
                self.inside(b"bye");
                self.outputs.push_back(Output::DataPlane(DataPlaneOp::Remove {
                    port: self.port,
                    key: KEY,
                }));
                return Err(Fatal::Finished(TerminateCause::UserRequest));
            }
            Input::Datagram { payload: [opcode::COOKIE, cookie, ..], .. } if !self.is_up => {
                self.cookie = *cookie;
                self.hello(now);
            }
            Input::Datagram { payload: [opcode::WELCOME, ..], .. } if !self.is_up => {
                self.is_up = true;
                up(&mut self.outputs, self.port, self.path);
                self.deadline = Some((now + PING, "ping"));
            }
            Input::Tick if self.is_stuck => {}
            Input::Tick if self.is_up => {
                self.inside(b"ping");
                self.deadline = Some((now + PING, "ping"));
            }
            Input::Tick => {
                self.tries += 1;
                if self.tries > MAX_TRIES {
                    return Err(Fatal::PeerGone);
                }
                self.hello(now);
            }
            _ => {}
        }
        Ok(())
    }

    fn poll(&mut self, now: Instant) -> Output {
        let deadline = if self.is_stuck { Some((now, "stuck")) } else { self.deadline };
        self.outputs.pop_front().unwrap_or(Output::Wait(deadline))
    }
}

#[derive(Debug)]
pub(crate) struct Callee {
    path: Path,
    port: PortId,
    outputs: VecDeque<Output>,
    is_up: bool,
}

impl Engine for Callee {
    fn handle(&mut self, _: Instant, input: Input<'_>) -> Result<(), Fatal> {
        match input {
            Input::Answer { ask: AskId(1), answer: Answer::Attached(Ok(_)) } => {
                self.is_up = true;
                up(&mut self.outputs, self.port, self.path);
                self.welcome();
            }
            Input::Datagram { via: Via::Path(_), .. } if self.is_up => self.welcome(),
            Input::Datagram { via: Via::Port(_), payload: b"bye" } => {
                self.outputs.push_back(Output::DataPlane(DataPlaneOp::Remove {
                    port: self.port,
                    key: KEY,
                }));
                return Err(Fatal::Finished(TerminateCause::UserRequest));
            }
            Input::Datagram { via: Via::Port(_), payload } => {
                let remark = String::from_utf8_lossy(payload).into_owned();
                self.outputs.push_back(Output::Event(Event::Remark(remark)));
            }
            Input::Notice(Notice::Roamed { key, path }) => {
                self.path = path;
                self.outputs.push_back(Output::DataPlane(DataPlaneOp::Move { key, path }));
                self.outputs.push_back(Output::Event(Event::Moved(path)));
            }
            _ => {}
        }
        Ok(())
    }

    fn poll(&mut self, _: Instant) -> Output {
        self.outputs.pop_front().unwrap_or(Output::Wait(None))
    }
}

impl Callee {
    fn welcome(&mut self) {
        let payload = vec![opcode::WELCOME];
        self.outputs.push_back(Output::Transmit(Transmit { via: Via::Path(self.path), payload }));
    }
}

fn up(outputs: &mut VecDeque<Output>, port: PortId, path: Path) {
    outputs.push_back(Output::DataPlane(ToyTunnel::install(port, path)));
    let exit = Exit::Tunnel(KEY);
    outputs.push_back(Output::DataPlane(DataPlaneOp::SendVia { port, exit }));
    outputs.push_back(Output::Event(Event::Up(SessionFacts::default())));
}

#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) known: BTreeMap<SocketAddr, SessionId>,
    pub(crate) cookie_len: usize,
}

impl Default for Door {
    fn default() -> Self {
        Self { known: BTreeMap::new(), cookie_len: 2 }
    }
}

impl Acceptor for Door {
    type Engine = Callee;

    fn claims(&self, _: &[u8]) -> Claim {
        Claim::Yes
    }

    fn route(
        &mut self,
        _: Instant,
        path: &Path,
        datagram: &mut [u8],
        reply: &mut Vec<u8>,
    ) -> Route {
        match (self.known.get(&path.remote), &*datagram) {
            (Some(session), _) => Route::Session(*session),
            (None, [opcode::HELLO, COOKIE, ..]) => Route::New,
            (None, [opcode::HELLO, ..]) if datagram.len() == HELLO_LEN => {
                reply.resize(self.cookie_len, COOKIE);
                reply[0] = opcode::COOKIE;
                Route::Reply
            }
            _ => Route::Discard(Discard::Unwanted),
        }
    }

    fn accept(
        &mut self,
        _: Instant,
        arrival: Arrival<'_>,
        session: SessionId,
        port: PortId,
        _: [u8; 32],
    ) -> Option<Callee> {
        self.known.insert(arrival.path.remote, session);
        let request = AttachRequest {
            network: String::new(),
            user: "toy".into(),
            device: String::new(),
            is_unique: false,
            fixed: Vec::new(),
            behind: Vec::new(),
            layer: contract::Layer::Ip,
            remote: arrival.path.remote.ip(),
            mtu: None,
        };
        let question = Output::Ask { ask: AskId(1), question: Ask::Attach(request) };
        let outputs = VecDeque::from([question]);
        Some(Callee { path: arrival.path, port, outputs, is_up: false })
    }

    fn forget(&mut self, session: SessionId) {
        self.known.retain(|_, known| *known != session);
    }
}
