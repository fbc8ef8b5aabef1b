use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use contract::{
    Answer, Ask, AskId, ContentKind, Discard, Engine, Event, Fatal, Input, Output, Path, PortId,
    StreamId, Via,
};

use crate::{Ledger, Surroundings};

/// An engine that says this much to one input will never say [`Output::Wait`].
const MAX_OUTPUTS: usize = 10_000;

/// One engine and everything it has said so far.
pub struct Driven<E> {
    /// The engine itself.
    pub engine: E,
    /// The port it was born with.
    pub port: PortId,
    /// Every event, in order.
    pub events: Vec<Event>,
    /// What ended it.
    pub fatal: Option<Fatal>,
    /// Inner packets, or frames, that arrived through its tunnels.
    pub packets: Vec<Vec<u8>>,
    /// Inner datagrams that carried nothing.
    pub keep_alives: usize,
    /// What it wrote to streams.
    pub written: Vec<(StreamId, Vec<u8>)>,
    deadline: Option<(Instant, &'static str)>,
    /// Answers on their way, by when they arrive; the number keeps those of one instant in order.
    answers: BTreeMap<(Instant, u64), (AskId, Answer)>,
    asked: u64,
}

/// What an engine may reach while it is driven.
pub(crate) struct Reach<'a> {
    pub(crate) now: Instant,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) surroundings: &'a mut Surroundings,
    pub(crate) sent: &'a mut Vec<(Path, Vec<u8>)>,
    pub(crate) discards: &'a mut Vec<Discard>,
}

impl<E: Engine> Driven<E> {
    pub(crate) fn new(engine: E, port: PortId) -> Self {
        Self {
            engine,
            port,
            events: Vec::new(),
            fatal: None,
            packets: Vec::new(),
            keep_alives: 0,
            written: Vec::new(),
            deadline: None,
            answers: BTreeMap::new(),
            asked: 0,
        }
    }

    /// Whether the engine is still to be driven.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.fatal.is_none()
    }

    /// Whether [`Event::Up`] has been said, and [`Event::Down`] not since.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.events.iter().fold(false, |up, event| match event {
            Event::Up(_) => true,
            Event::Down { .. } => false,
            Event::Introduced(_) | Event::Moved(_) | Event::Rekeyed | Event::Remark(_) => up,
        })
    }

    /// One input, then drain; then the answers that are there already.
    pub(crate) fn feed(&mut self, reach: &mut Reach<'_>, input: Input<'_>) {
        if self.fatal.is_some() {
            return;
        }
        self.fatal = self.engine.handle(reach.now, input).err();
        self.drain(reach);
        while let Some((ask, answer)) = self.due_answer(reach.now) {
            self.fatal = self.engine.handle(reach.now, Input::Answer { ask, answer }).err();
            self.drain(reach);
        }
    }

    /// Timers and late answers.
    pub(crate) fn advance(&mut self, reach: &mut Reach<'_>) {
        while let Some((ask, answer)) = self.due_answer(reach.now) {
            self.feed(reach, Input::Answer { ask, answer });
        }
        if self.deadline.is_some_and(|(at, _)| at <= reach.now) {
            self.feed(reach, Input::Tick);
        }
    }

    pub(crate) fn deadline(&self) -> Option<(Instant, &'static str)> {
        let answer = self.answers.first_key_value().map(|((at, _), _)| (*at, "answer"));
        [self.deadline, answer].into_iter().flatten().filter(|_| self.is_alive()).min()
    }

    pub(crate) fn is_asking(&self) -> bool {
        self.is_alive() && !self.answers.is_empty()
    }

    pub(crate) fn drain(&mut self, reach: &mut Reach<'_>) {
        for _ in 0..MAX_OUTPUTS {
            match self.engine.poll(reach.now) {
                Output::Transmit(transmit) => match transmit.via {
                    Via::Path(path) => reach.sent.push((path, transmit.payload)),
                    Via::Port(port) => {
                        match reach.ledger.seal(port, ContentKind::Control, &transmit.payload) {
                            Ok(sealed) => reach.sent.push(sealed),
                            Err(discard) => reach.discards.push(discard),
                        }
                    }
                },
                Output::Write { stream, bytes } => self.written.push((stream, bytes)),
                Output::Ask { ask, question } => {
                    let answer = match question {
                        Ask::Work(work) => Answer::Worked(work.run()),
                        question => (reach.surroundings.answer)(self.port, &question),
                    };
                    let at = reach.now + reach.surroundings.answer_delay;
                    self.answers.insert((at, self.asked), (ask, answer));
                    self.asked += 1;
                }
                Output::DataPlane(op) => reach.ledger.apply(op),
                Output::Event(event) => self.events.push(event),
                Output::Wait(deadline) => {
                    self.deadline = deadline;
                    return;
                }
                other => panic!("an output that the simulator does not know: {other:?}"),
            }
        }
        panic!("the engine of {:?} never waits", self.port);
    }

    fn due_answer(&mut self, now: Instant) -> Option<(AskId, Answer)> {
        let entry = self.answers.first_entry().filter(|entry| entry.key().0 <= now)?;
        let answer = entry.remove();
        self.is_alive().then_some(answer)
    }
}

impl<E> fmt::Debug for Driven<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driven")
            .field("port", &self.port)
            .field("events", &self.events)
            .field("fatal", &self.fatal)
            .field("deadline", &self.deadline.map(|(_, label)| label))
            .finish_non_exhaustive()
    }
}
