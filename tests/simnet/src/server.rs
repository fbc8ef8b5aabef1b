use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use contract::{
    Acceptor, Arrival, Command, ContentKind, Discard, Input, Notice, Path, PortId, Route,
    SessionId, Via,
};

use crate::driven::Reach;
use crate::ledger::Content;
use crate::{Driven, Ledger, Node, Surroundings};

/// A node with an acceptor in front and one engine for each peer behind it.
pub struct Server<A: Acceptor> {
    /// What strangers meet.
    pub acceptor: A,
    /// Sessions that are alive.
    pub sessions: BTreeMap<SessionId, Driven<A::Engine>>,
    /// Sessions that ended, in the order in which they did.
    pub ended: Vec<(SessionId, Driven<A::Engine>)>,
    /// What all sessions together ordered of the data plane.
    pub ledger: Ledger,
    /// What the data plane or the acceptor dropped.
    pub discards: Vec<Discard>,
    /// How many arrivals [`Acceptor::accept`] refused.
    pub refused: usize,
    /// By how many bytes a stateless reply may exceed its request: 0 but for protocols that answer
    /// only to holders of a key and cannot do with less.
    pub reply_excess: usize,
    surroundings: Surroundings,
    ports: BTreeMap<PortId, SessionId>,
    born: u32,
    now: Option<Instant>,
    sent: Vec<(Path, Vec<u8>)>,
}

impl<A: Acceptor> Server<A> {
    /// A node that runs `acceptor` and whatever it accepts.
    #[must_use]
    pub fn new(acceptor: A, surroundings: Surroundings) -> Self {
        Self {
            acceptor,
            sessions: BTreeMap::new(),
            ended: Vec::new(),
            ledger: Ledger::default(),
            discards: Vec::new(),
            refused: 0,
            reply_excess: 0,
            surroundings,
            ports: BTreeMap::new(),
            born: 0,
            now: None,
            sent: Vec::new(),
        }
    }

    /// The only session alive.
    ///
    /// # Panics
    ///
    /// If there is none, or more than one.
    #[must_use]
    pub fn only(&self) -> &Driven<A::Engine> {
        let mut sessions = self.sessions.values();
        let (Some(only), None) = (sessions.next(), sessions.next()) else {
            panic!("{} sessions are alive, not one", self.sessions.len());
        };
        only
    }

    /// From now on, questions are answered only after `delay` of virtual time.
    pub fn answer_after(&mut self, delay: Duration) {
        self.surroundings.answer_delay = delay;
    }

    /// Gives an order to every session alive.
    pub fn command(&mut self, command: Command) {
        for session in self.ids() {
            self.feed(session, Input::Command(command));
        }
    }

    /// Seals an IP packet for a session as a worker would and puts it on the wire.
    ///
    /// # Errors
    ///
    /// [`Discard::NoTunnel`] if its port has no exit, or what the tunnel says.
    pub fn send_packet(&mut self, to: PortId, packet: &[u8]) -> Result<(), Discard> {
        let sealed = self.ledger.seal(to, ContentKind::Packet, packet)?;
        self.sent.push(sealed);
        Ok(())
    }

    /// Feeds one session any input; one that ended is left alone.
    pub fn feed(&mut self, session: SessionId, input: Input<'_>) {
        self.drive(session, |driven, reach| driven.feed(reach, input));
    }

    fn ids(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    fn clock(&self) -> Instant {
        self.now.expect("a server is driven only inside a pair, which sets its clock")
    }

    fn drive(
        &mut self,
        session: SessionId,
        act: impl FnOnce(&mut Driven<A::Engine>, &mut Reach<'_>),
    ) {
        let now = self.clock();
        let Some(driven) = self.sessions.get_mut(&session) else { return };
        let mut reach = Reach {
            now,
            ledger: &mut self.ledger,
            surroundings: &mut self.surroundings,
            sent: &mut self.sent,
            discards: &mut self.discards,
        };
        act(driven, &mut reach);
        if !driven.is_alive()
            && let Some(driven) = self.sessions.remove(&session)
        {
            self.ports.remove(&driven.port);
            self.acceptor.forget(session);
            self.ended.push((session, driven));
        }
    }

    fn stranger(&mut self, path: Path, datagram: &mut [u8]) {
        let mut reply = Vec::new();
        match self.acceptor.route(self.clock(), &path, datagram, &mut reply) {
            Route::Session(session) => {
                self.feed(session, Input::Datagram { via: Via::Path(path), payload: datagram });
            }
            Route::New => self.accept(path, datagram),
            Route::Reply => {
                assert!(
                    reply.len() <= datagram.len() + self.reply_excess,
                    "{} bytes answered {} to a stranger: an amplifier",
                    reply.len(),
                    datagram.len(),
                );
                self.sent.push((path, reply));
            }
            Route::Discard(discard) => self.discards.push(discard),
        }
    }

    fn accept(&mut self, path: Path, datagram: &[u8]) {
        self.born += 1;
        let session = SessionId(self.born.into());
        let port = PortId(self.born);
        let mut seed = [0x5e; 32];
        seed[..4].copy_from_slice(&self.born.to_be_bytes());

        let arrival = Arrival { path, datagram };
        let now = self.clock();
        let Some(engine) = self.acceptor.accept(now, arrival, session, port, seed) else {
            self.refused += 1;
            return;
        };
        self.sessions.insert(session, Driven::new(engine, port));
        self.ports.insert(port, session);
        self.feed(session, Input::Datagram { via: Via::Path(path), payload: datagram });
    }
}

impl<A: Acceptor> Node for Server<A> {
    fn set_time(&mut self, now: Instant) {
        self.now = Some(now);
    }

    fn receive(&mut self, path: Path, datagram: &mut [u8]) {
        let Some(key) = (self.surroundings.classify)(&path, datagram) else {
            self.stranger(path, datagram);
            return;
        };
        let arrived = match self.ledger.open(path, key, datagram) {
            Ok(arrived) => arrived,
            Err(discard) => {
                self.discards.push(discard);
                return;
            }
        };
        let Some(session) = self.ports.get(&arrived.port).copied() else {
            self.discards.push(Discard::Unwanted);
            return;
        };
        if let Some(key) = arrived.roamed {
            self.feed(session, Input::Notice(Notice::Roamed { key, path }));
        }
        let port = arrived.port;
        match arrived.content {
            Content::Packet(packet) => {
                self.drive(session, |driven, _| driven.packets.push(packet));
            }
            Content::Nothing => self.drive(session, |driven, _| driven.keep_alives += 1),
            Content::Control(message) => {
                self.feed(session, Input::Datagram { via: Via::Port(port), payload: &message });
            }
        }
    }

    fn advance(&mut self) {
        for session in self.ids() {
            self.drive(session, |driven, reach| driven.advance(reach));
        }
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        self.sessions.values().filter_map(Driven::deadline).min()
    }

    fn is_asking(&self) -> bool {
        self.sessions.values().any(Driven::is_asking)
    }

    fn take_sent(&mut self) -> Vec<(Path, Vec<u8>)> {
        std::mem::take(&mut self.sent)
    }
}

impl<A: Acceptor> fmt::Debug for Server<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("sessions", &self.sessions)
            .field("ended", &self.ended)
            .field("ledger", &self.ledger)
            .field("discards", &self.discards)
            .finish_non_exhaustive()
    }
}
