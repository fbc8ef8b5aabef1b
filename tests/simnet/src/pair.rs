use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::{LEFT, Link, Node, RIGHT, path};

/// Steps without the clock moving; two engines that need more talk in circles.
const MAX_STEPS_AT_ONCE: usize = 10_000;

/// How many datagrams a failure shows.
const NARRATED: usize = 20;

/// Which end of the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Usually the initiator; the one that can be rebound.
    Left,
    /// Usually the responder.
    Right,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

type Filter = Box<dyn FnMut(&Captured) -> bool>;

/// A datagram as it was sent.
#[derive(Clone, Debug)]
pub struct Captured {
    /// When, since the start of the run.
    pub at: Duration,
    /// By whom.
    pub from: Side,
    /// The sender's address as the network sees it.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
    /// What, before the link damaged it.
    pub bytes: Vec<u8>,
    /// What became of it.
    pub fate: Fate,
}

/// What the network did to a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It arrives as it was sent.
    Whole,
    /// It arrives damaged.
    Damaged,
    /// It arrives twice.
    Twice,
    /// The link lost it.
    Lost,
    /// The test's filter took it.
    Filtered,
    /// Nobody has its destination.
    Unreachable,
}

/// Two nodes, one virtual clock and a wire that misbehaves on purpose.
pub struct Pair<L, R> {
    /// The left node.
    pub left: L,
    /// The right node.
    pub right: R,
    /// The wire between them.
    pub link: Link,
    /// Every datagram that was sent, in order.
    pub capture: Vec<Captured>,
    filter: Option<Filter>,
    left_address: SocketAddr,
    start: Instant,
    now: Instant,
    /// By arrival; the number keeps datagrams of one instant in the order they were sent.
    in_flight: BTreeMap<(Instant, u64), InFlight>,
    launched: u64,
}

#[derive(Debug)]
struct InFlight {
    to: Side,
    source: SocketAddr,
    bytes: Vec<u8>,
}

impl<L: Node, R: Node> Pair<L, R> {
    /// Joins two nodes by a perfect link; the clock starts here and moves only when told to.
    #[must_use]
    pub fn new(left: L, right: R) -> Self {
        let start = Instant::now();
        let mut pair = Self {
            left,
            right,
            link: Link::perfect(),
            capture: Vec::new(),
            filter: None,
            left_address: LEFT,
            start,
            now: start,
            in_flight: BTreeMap::new(),
            launched: 0,
        };
        pair.set_time(start);
        pair
    }

    /// Replaces the link.
    #[must_use]
    pub fn with_link(mut self, link: Link) -> Self {
        self.link = link;
        self
    }

    /// Lets a datagram through only if `filter` approves: to lose exactly the third one, or
    /// everything from one side.
    pub fn filter(&mut self, filter: impl FnMut(&Captured) -> bool + 'static) {
        self.filter = Some(Box::new(filter));
    }

    /// Lets everything through again.
    pub fn unfilter(&mut self) {
        self.filter = None;
    }

    /// Gives the left side a new address, as a NAT that forgot it does: from here on what it sends
    /// comes from there, and what is sent to the old address is lost.
    pub fn rebind_left(&mut self, address: SocketAddr) {
        self.collect();
        self.left_address = address;
    }

    /// The left side's address as the network sees it.
    #[must_use]
    pub fn left_address(&self) -> SocketAddr {
        self.left_address
    }

    /// Puts a datagram on the wire that neither side sent; it arrives whole, after the latency.
    pub fn inject(&mut self, to: Side, source: SocketAddr, bytes: Vec<u8>) {
        self.launch(self.link.latency, InFlight { to, source, bytes });
    }

    /// The present, on the virtual clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How much virtual time has passed.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// The datagrams that one side sent, in order.
    pub fn sent_by(&self, side: Side) -> impl Iterator<Item = &Captured> {
        self.capture.iter().filter(move |captured| captured.from == side)
    }

    /// Delivers exactly `n` datagrams, passing idle time but doing what falls due on the way.
    ///
    /// # Panics
    ///
    /// If nothing is left to deliver, or nothing is delivered for an hour.
    pub fn deliver(&mut self, n: usize) {
        let limit = self.now + Duration::from_secs(3600);
        for nth in 1..=n {
            let delivered = self.step_until(limit, |step| step == Step::Delivered);
            assert!(delivered, "no datagram {nth} of {n}:\n{}", self.narrate());
        }
        self.collect();
    }

    /// Runs both nodes for `span` of virtual time.
    ///
    /// # Panics
    ///
    /// If the nodes talk in circles without time passing.
    pub fn run(&mut self, span: Duration) {
        self.step_until(self.now + span, |_| false);
    }

    /// Runs until `reached`, for at most `limit` of virtual time; says whether it was reached.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    #[must_use]
    pub fn run_until(&mut self, reached: impl Fn(&Self) -> bool, limit: Duration) -> bool {
        let end = self.now + limit;
        self.collect();
        let mut steps = Steps::new(self.now);
        while !reached(self) {
            let step = self.step(end);
            if step == Step::Idle {
                return reached(self);
            }
            self.guard(&mut steps);
        }
        true
    }

    /// Whether nothing is on the wire and no question is open. Timers may still be armed: see
    /// [`deadlines`](Self::deadlines).
    #[must_use]
    pub fn is_quiet(&mut self) -> bool {
        self.collect();
        self.in_flight.is_empty() && !self.left.is_asking() && !self.right.is_asking()
    }

    /// Whose deadlines are next, left and right.
    #[must_use]
    pub fn deadlines(&self) -> [Option<&'static str>; 2] {
        [self.left.deadline(), self.right.deadline()].map(|next| next.map(|(_, label)| label))
    }

    /// The last datagrams in words, for a failure that must be understood.
    #[must_use]
    pub fn narrate(&self) -> String {
        let mut story = String::new();
        for captured in &self.capture[self.capture.len().saturating_sub(NARRATED)..] {
            let arrow = match captured.from {
                Side::Left => "-->",
                Side::Right => "<--",
            };
            let head: String =
                captured.bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            let (at, len, fate) = (captured.at, captured.bytes.len(), captured.fate);
            // Writing to a string cannot fail.
            let _ = writeln!(story, "{at:>12.3?} {arrow} {len:>5} bytes {head:<32} {fate:?}");
        }
        let _ = writeln!(story, "waiting for {:?}", self.deadlines());
        story
    }

    fn step_until(&mut self, end: Instant, done: impl Fn(Step) -> bool) -> bool {
        let mut steps = Steps::new(self.now);
        loop {
            let step = self.step(end);
            if done(step) {
                return true;
            }
            if step == Step::Idle {
                return false;
            }
            self.guard(&mut steps);
        }
    }

    /// Does the next thing that falls due before `end`.
    fn step(&mut self, end: Instant) -> Step {
        self.collect();
        let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
        let timer = [self.left.deadline(), self.right.deadline()];
        let timer = timer.into_iter().flatten().map(|(at, _)| at).min();

        let Some(at) = [arrival, timer].into_iter().flatten().min().filter(|at| *at <= end) else {
            self.set_time(end);
            return Step::Idle;
        };
        self.set_time(at.max(self.now));
        let step = if arrival.is_some_and(|arrival| arrival <= self.now)
            && let Some((_, datagram)) = self.in_flight.pop_first()
        {
            self.hand_over(datagram);
            Step::Delivered
        } else {
            self.left.advance();
            self.right.advance();
            Step::Advanced
        };
        self.collect();
        step
    }

    fn hand_over(&mut self, mut datagram: InFlight) {
        let path_of = |local| path(local, datagram.source);
        match datagram.to {
            Side::Left => self.left.receive(path_of(LEFT), &mut datagram.bytes),
            Side::Right => self.right.receive(path_of(RIGHT), &mut datagram.bytes),
        }
    }

    /// Moves what the nodes sent onto the wire.
    fn collect(&mut self) {
        for from in [Side::Left, Side::Right] {
            let (sent, source, home) = match from {
                Side::Left => (self.left.take_sent(), self.left_address, RIGHT),
                Side::Right => (self.right.take_sent(), RIGHT, self.left_address),
            };
            for (path, bytes) in sent {
                let mut captured = Captured {
                    at: self.elapsed(),
                    from,
                    source,
                    destination: path.remote,
                    bytes,
                    fate: Fate::Whole,
                };
                if self.filter.as_mut().is_some_and(|approves| !approves(&captured)) {
                    captured.fate = Fate::Filtered;
                } else if path.remote != home {
                    captured.fate = Fate::Unreachable;
                } else {
                    captured.fate = self.carry(from.other(), source, captured.bytes.clone());
                }
                self.capture.push(captured);
            }
        }
    }

    fn carry(&mut self, to: Side, source: SocketAddr, mut bytes: Vec<u8>) -> Fate {
        if self.link.loses() {
            return Fate::Lost;
        }
        let mut fate = Fate::Whole;
        if self.link.repeats() {
            let after = self.link.travel_time();
            self.launch(after, InFlight { to, source, bytes: bytes.clone() });
            fate = Fate::Twice;
        }
        if self.link.damages(&mut bytes) {
            fate = Fate::Damaged;
        }
        let after = self.link.travel_time();
        self.launch(after, InFlight { to, source, bytes });
        fate
    }

    fn launch(&mut self, after: Duration, datagram: InFlight) {
        self.in_flight.insert((self.now + after, self.launched), datagram);
        self.launched += 1;
    }

    fn set_time(&mut self, now: Instant) {
        self.now = now;
        self.left.set_time(now);
        self.right.set_time(now);
    }

    fn guard(&self, steps: &mut Steps) {
        if steps.at == self.now {
            steps.taken += 1;
        } else {
            *steps = Steps::new(self.now);
        }
        assert!(
            steps.taken < MAX_STEPS_AT_ONCE,
            "time stands still at {:?}:\n{}",
            self.elapsed(),
            self.narrate(),
        );
    }
}

impl<L: fmt::Debug, R: fmt::Debug> fmt::Debug for Pair<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("left", &self.left)
            .field("right", &self.right)
            .field("link", &self.link)
            .field("elapsed", &(self.now - self.start))
            .field("in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// A datagram arrived.
    Delivered,
    /// Timers fired or answers arrived.
    Advanced,
    /// Nothing is due before the end.
    Idle,
}

/// How long time has stood still.
struct Steps {
    at: Instant,
    taken: usize,
}

impl Steps {
    fn new(at: Instant) -> Self {
        Self { at, taken: 0 }
    }
}
