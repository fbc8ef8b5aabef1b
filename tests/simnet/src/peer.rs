use std::time::Instant;

use contract::{Command, ContentKind, Discard, Engine, Input, Notice, Path, PortId, StreamId, Via};

use crate::driven::Reach;
use crate::ledger::{Arrived, Content};
use crate::{Driven, Ledger, Node, Surroundings};

/// A node that is one engine: an initiator, or a responder born elsewhere.
#[derive(Debug)]
pub struct Peer<E> {
    /// The engine and what it said.
    pub driven: Driven<E>,
    /// What the engine ordered of the data plane.
    pub ledger: Ledger,
    /// What the data plane dropped.
    pub discards: Vec<Discard>,
    surroundings: Surroundings,
    now: Option<Instant>,
    sent: Vec<(Path, Vec<u8>)>,
}

impl<E: Engine> Peer<E> {
    /// A node that runs `engine`, which was born with `port`.
    #[must_use]
    pub fn new(engine: E, port: PortId, surroundings: Surroundings) -> Self {
        Self {
            driven: Driven::new(engine, port),
            ledger: Ledger::default(),
            discards: Vec::new(),
            surroundings,
            now: None,
            sent: Vec::new(),
        }
    }

    /// Gives an order; what it causes travels when the pair next moves.
    pub fn command(&mut self, command: Command) {
        self.feed(Input::Command(command));
    }

    /// Hands over the next bytes of a stream.
    pub fn stream(&mut self, stream: StreamId, bytes: &[u8]) {
        self.feed(Input::Stream { stream, bytes });
    }

    /// Seals an IP packet as a worker would and puts it on the wire.
    ///
    /// # Errors
    ///
    /// [`Discard::NoTunnel`] if the port has no exit, or what the tunnel says.
    pub fn send_packet(&mut self, packet: &[u8]) -> Result<(), Discard> {
        let sealed = self.ledger.seal(self.driven.port, ContentKind::Packet, packet)?;
        self.sent.push(sealed);
        Ok(())
    }

    /// Feeds the engine any input, for what the methods above do not cover.
    ///
    /// # Panics
    ///
    /// If the peer is not part of a [`Pair`](crate::Pair) yet: it has no clock.
    pub fn feed(&mut self, input: Input<'_>) {
        let (driven, mut reach) = self.reach();
        driven.feed(&mut reach, input);
    }

    fn reach(&mut self) -> (&mut Driven<E>, Reach<'_>) {
        let reach = Reach {
            now: self.now.expect("a peer is driven only inside a pair, which sets its clock"),
            ledger: &mut self.ledger,
            surroundings: &mut self.surroundings,
            sent: &mut self.sent,
            discards: &mut self.discards,
        };
        (&mut self.driven, reach)
    }

    fn arrived(&mut self, path: Path, arrived: Arrived) {
        if let Some(key) = arrived.roamed {
            self.feed(Input::Notice(Notice::Roamed { key, path }));
        }
        match arrived.content {
            Content::Packet(packet) => self.driven.packets.push(packet),
            Content::Nothing => self.driven.keep_alives += 1,
            Content::Control(message) => {
                self.feed(Input::Datagram { via: Via::Port(arrived.port), payload: &message });
            }
        }
    }
}

impl<E: Engine> Node for Peer<E> {
    fn set_time(&mut self, now: Instant) {
        let first = self.now.is_none();
        self.now = Some(now);
        if first {
            // An engine may have something to say, or to wait for, from birth.
            let (driven, mut reach) = self.reach();
            driven.drain(&mut reach);
        }
    }

    fn receive(&mut self, path: Path, datagram: &mut [u8]) {
        let Some(key) = (self.surroundings.classify)(&path, datagram) else {
            self.feed(Input::Datagram { via: Via::Path(path), payload: datagram });
            return;
        };
        match self.ledger.open(path, key, datagram) {
            Ok(arrived) => self.arrived(path, arrived),
            Err(discard) => self.discards.push(discard),
        }
    }

    fn advance(&mut self) {
        let (driven, mut reach) = self.reach();
        driven.advance(&mut reach);
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        self.driven.deadline()
    }

    fn is_asking(&self) -> bool {
        self.driven.is_asking()
    }

    fn take_sent(&mut self) -> Vec<(Path, Vec<u8>)> {
        std::mem::take(&mut self.sent)
    }
}
