//! The Ethernet segment of a network: what all workers know together of the ports that carry
//! frames, and how often everybody may be talked to.
//!
//! Everything here is `&self` and atomic, of a size that is fixed at the start, and shared by the
//! workers' copies of the fabric.

mod neighbours;
mod rate;
mod recent;
mod stations;

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Instant;

use contract::{BRIDGE_PORT, Discard, PortId};
use foldhash::quality::FixedState;
use wire::ethernet::Mac;

use neighbours::Neighbours;
use rate::{Limit, Rate};
use recent::Recent;
use stations::{MEMBERS, NotLearned, STATIONS_OF_BRIDGE, STATIONS_PER_MEMBER, Slot, Stations};

/// How long a copy may be: as a frame of most networks. What is longer counts as several.
const COPY: usize = 1536;
/// Copies that one port may cause by talking to everybody. Discovery takes a handful of packets a
/// minute; this carries a lively game server for a thousand members, and no storm.
const COPIES_PER_PORT: Limit = Limit::new(4_000, 8_000);
/// The same for all hosts together of the network that the segment is joined to.
const COPIES_OF_BRIDGE: Limit = Limit::new(20_000, 20_000);
/// Copies that all ports together may cause.
const COPIES: Limit = Limit::new(40_000, 40_000);
/// Answers to one port's questions for hardware addresses.
const ANSWERS: Limit = Limit::new(50, 100);
/// Questions to one port.
const QUESTIONS: Limit = Limit::new(5, 10);
/// Answers to, and questions for, all hosts of the network that the segment is joined to.
const BRIDGE_ANSWERS: Limit = Limit::new(500, 1_000);
const BRIDGE_QUESTIONS: Limit = Limit::new(100, 200);

/// How long a member that would close a circle is kept off the segment. Every broadcast that it
/// brings along begins the time anew, so it is over a minute after the circle is.
const APART: u64 = 60_000_000_000;
/// Frames of a member that may come back from the joined network: its neighbour may be what closes
/// the circle, and is found out sooner. More are of a circle that it closes itself.
const RETURNS: Limit = Limit::new(1, 64);

/// Where the clock starts: late enough for every burst to be there at once.
const ZERO: u64 = 1 << 40;
const _: () = assert!(
    COPIES_PER_PORT.earned_after() < ZERO
        && COPIES_OF_BRIDGE.earned_after() < ZERO
        && COPIES.earned_after() < ZERO
        && ANSWERS.earned_after() < ZERO
        && QUESTIONS.earned_after() < ZERO
        && BRIDGE_ANSWERS.earned_after() < ZERO
        && BRIDGE_QUESTIONS.earned_after() < ZERO
        && RETURNS.earned_after() < ZERO
);

/// What the workers share of a network: hardware addresses, neighbours and limits.
#[derive(Debug)]
pub struct Segment {
    mac: Mac,
    started: Instant,
    members: Box<[Member]>,
    stations: Stations,
    /// Hosts of the network that the segment is joined to.
    neighbours: Neighbours,
    /// Copies by port; ports whose numbers are far apart may share one.
    copies: Box<[Rate]>,
    copies_of_bridge: Rate,
    all_copies: Rate,
    recent: Recent,
    hash: FixedState,
}

/// One port that carries frames.
#[derive(Debug, Default)]
struct Member {
    /// 0 while the place is free: that is the host's port, which is never here.
    port: AtomicU32,
    /// Which hardware address has the port's own IPv4 and IPv6 address, in the upper 48 bits.
    neighbours: [AtomicU64; 2],
    answers: Rate,
    questions: Rate,
    /// What came back of it from the joined network.
    returns: Rate,
    /// Until when it is kept off the segment.
    apart: AtomicU64,
}

/// A port's place on the segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    slot: Slot,
    port: PortId,
}

/// Which of a port's own addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Family {
    V4 = 0,
    V6 = 1,
}

impl Segment {
    /// A segment without ports. `mac` is the network's own hardware address, `seed` keeps
    /// strangers from choosing where in the tables they are; `started` is any moment that is not
    /// in the future.
    #[must_use]
    pub fn new(mac: Mac, seed: u64, started: Instant) -> Self {
        Self {
            mac,
            started,
            members: (0..MEMBERS).map(|_| Member::default()).collect(),
            stations: Stations::new(seed),
            neighbours: Neighbours::new(seed.rotate_left(32)),
            copies: (0..MEMBERS).map(|_| Rate::default()).collect(),
            copies_of_bridge: Rate::default(),
            all_copies: Rate::default(),
            recent: Recent::default(),
            hash: FixedState::with_seed(!seed),
        }
    }

    /// The network's own hardware address.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Forgets hardware addresses that have been silent for five minutes, but for those that ports
    /// have their own addresses at; to be called every few seconds.
    pub fn age(&self, now: Instant) {
        let now = self.nanos(now);
        self.stations.age(now, |mac, slot| self.is_neighbour(mac, slot));
        self.neighbours.age(now);
    }

    /// The port's place, taken now if it has none yet; every worker gets the same answer. `None` if
    /// the segment is full.
    pub(crate) fn join(&self, port: PortId) -> Option<Place> {
        let held = |index: usize| self.members[index].port.load(SeqCst);
        let place = |index: usize| Some(Place { slot: Slot(index as u16), port });
        // Ports are numbered in order, so the first look nearly always finds it.
        let first = port.0 as usize % MEMBERS;
        let places = || (0..MEMBERS).map(|n| (first + n) % MEMBERS);
        if let Some(index) = places().find(|index| held(*index) == port.0) {
            return place(index);
        }
        places().filter(|index| held(*index) == 0).find_map(|index| {
            let taken = self.members[index].port.compare_exchange(0, port.0, SeqCst, SeqCst);
            match taken {
                Ok(_) => place(index),
                Err(holder) if holder == port.0 => place(index),
                Err(_) => None,
            }
        })
    }

    /// Gives up a port's place, and forgets what was known of it.
    pub(crate) fn leave(&self, place: Place) {
        let member = self.member(place.slot);
        if member.port.compare_exchange(place.port.0, 0, SeqCst, SeqCst).is_err() {
            return; // another worker did
        }
        self.stations.purge(place.slot);
        for neighbour in &member.neighbours {
            neighbour.store(0, SeqCst);
        }
        member.answers.reset();
        member.questions.reset();
        member.returns.reset();
        member.apart.store(0, SeqCst);
    }

    /// Remembers where `mac` was heard; nothing of a member that is kept off the segment.
    ///
    /// A port that is there has its addresses for itself: those that its own addresses are at for
    /// as long as it is there, others until they have been silent for a while, and none from a port
    /// for which `is_lost` says so.
    ///
    /// A member that speaks with an address that was heard on the joined network just now is on
    /// that network, too: what it is sent would come back there, and go round. So it is kept off,
    /// and so is one whose frames keep coming back from there. Where that network has more
    /// addresses than there is room for, its hosts are heard without being remembered.
    pub(crate) fn learn(
        &self,
        place: Place,
        mac: Mac,
        now: Instant,
        is_lost: impl Fn(PortId) -> bool,
    ) -> Result<(), Discard> {
        let (is_apart, nanos) = (self.is_apart(place, now), self.nanos(now));
        let is_bridge = place.port == BRIDGE_PORT;
        if is_apart {
            if self.find(mac) == Some(BRIDGE_PORT) {
                self.part(place.slot, nanos);
            }
            return Ok(());
        }
        let may_take = |former: Slot, is_fresh| {
            let port = self.member(former).port.load(SeqCst);
            is_lost(PortId(port)) || !(is_fresh || self.is_neighbour(mac, former))
        };
        let most = if is_bridge { STATIONS_OF_BRIDGE } else { STATIONS_PER_MEMBER };
        match self.stations.learn(mac, place.slot, most, nanos, may_take) {
            Ok(()) if self.is_present(place) => Ok(()),
            Ok(()) => {
                // The port was unplugged meanwhile, and whoever did that may have looked too soon.
                self.stations.forget(mac, place.slot);
                Err(Discard::NoRoute)
            }
            Err(NotLearned::Taken(holder))
                if self.member(holder).port.load(SeqCst) == BRIDGE_PORT.0 =>
            {
                self.part(place.slot, nanos);
                Err(Discard::Loop)
            }
            Err(NotLearned::Taken(holder)) => {
                if is_bridge && !self.member(holder).returns.take(nanos, RETURNS, 1) {
                    self.part(holder, nanos);
                }
                Err(Discard::SpoofedSource)
            }
            Err(NotLearned::Full) if is_bridge => Ok(()),
            Err(NotLearned::Full) => Err(Discard::MacLimit),
        }
    }

    /// Whether the port is kept off the segment.
    pub(crate) fn is_apart(&self, place: Place, now: Instant) -> bool {
        let until = self.member(place.slot).apart.load(Relaxed);
        until != 0 && until > self.nanos(now)
    }

    /// The ports that are kept off the segment at this moment.
    #[must_use]
    pub fn apart(&self, now: Instant) -> Vec<PortId> {
        let now = self.nanos(now);
        let is_apart = |member: &&Member| member.apart.load(Relaxed) > now;
        let apart = self.members.iter().filter(is_apart);
        apart.map(|member| PortId(member.port.load(SeqCst))).collect()
    }

    fn part(&self, slot: Slot, now: u64) {
        let until = self.member(slot).apart.swap(now + APART, Relaxed);
        if until <= now {
            self.stations.purge(slot);
        }
    }

    /// Remembers who has an address on the joined network.
    pub(crate) fn meet_neighbour(&self, address: IpAddr, mac: Mac, now: Instant) {
        if !mac.is_group() && !mac.is_unset() && mac != self.mac {
            self.neighbours.meet(address, mac, self.nanos(now));
        }
    }

    /// Who has an address on the joined network.
    pub(crate) fn find_neighbour(&self, address: IpAddr) -> Option<Mac> {
        self.neighbours.find(address)
    }

    /// The port that `mac` was heard from.
    pub(crate) fn find(&self, mac: Mac) -> Option<PortId> {
        let port = self.member(self.stations.find(mac)?).port.load(SeqCst);
        (port != 0).then_some(PortId(port))
    }

    /// Remembers which hardware address has the port's own address.
    pub(crate) fn meet(&self, place: Place, family: Family, mac: Mac) {
        if mac.is_group() || mac.is_unset() || mac == self.mac {
            return;
        }
        let entry = pack(mac);
        let neighbour = &self.member(place.slot).neighbours[family as usize];
        if neighbour.load(SeqCst) != entry && self.is_present(place) {
            neighbour.store(entry, SeqCst);
        }
    }

    /// Which hardware address has the port's own address.
    pub(crate) fn neighbour(&self, place: Place, family: Family) -> Option<Mac> {
        let entry = self.member(place.slot).neighbours[family as usize].load(SeqCst);
        let [a, b, c, d, e, f, ..] = entry.to_be_bytes();
        (entry != 0 && self.is_present(place)).then_some(Mac([a, b, c, d, e, f]))
    }

    /// Whether an own address of the port in this place is at `mac`.
    fn is_neighbour(&self, mac: Mac, slot: Slot) -> bool {
        let entry = pack(mac);
        self.member(slot).neighbours.iter().any(|neighbour| neighbour.load(SeqCst) == entry)
    }

    /// Whether the port may have one more answer.
    pub(crate) fn may_answer(&self, place: Place, now: Instant) -> bool {
        let limit = if place.port == BRIDGE_PORT { BRIDGE_ANSWERS } else { ANSWERS };
        self.member(place.slot).answers.take(self.nanos(now), limit, 1)
    }

    /// Whether the port may be asked one more question.
    pub(crate) fn may_ask(&self, place: Place, now: Instant) -> bool {
        let limit = if place.port == BRIDGE_PORT { BRIDGE_QUESTIONS } else { QUESTIONS };
        self.member(place.slot).questions.take(self.nanos(now), limit, 1)
    }

    /// Whether `content` that came in at `from` may be copied so many times.
    pub(crate) fn may_copy(
        &self,
        from: PortId,
        now: Instant,
        content: &[u8],
        copies: usize,
    ) -> Result<(), Discard> {
        let copies = copies * content.len().div_ceil(COPY).max(1);
        let (now, copies) = (self.nanos(now), copies as u64);
        if self.recent.is_echo(self.digest(content), from, now) {
            return Err(Discard::Multicast);
        }
        let (own, limit) = if from == BRIDGE_PORT {
            (&self.copies_of_bridge, COPIES_OF_BRIDGE)
        } else {
            (&self.copies[from.0 as usize % MEMBERS], COPIES_PER_PORT)
        };
        if own.take(now, limit, copies) && self.all_copies.take(now, COPIES, copies) {
            Ok(())
        } else {
            Err(Discard::RateLimited)
        }
    }

    /// The same for a packet before and after it was forwarded: hop limit and checksum are left
    /// out.
    fn digest(&self, content: &[u8]) -> u64 {
        let mut hasher = self.hash.build_hasher();
        let hops = match content.first().map(|first| first >> 4) {
            Some(4) => 8..12,
            Some(6) => 7..8,
            _ => 0..0,
        };
        hasher.write(content.get(..hops.start).unwrap_or_default());
        hasher.write(content.get(hops.end..).unwrap_or(content));
        hasher.finish()
    }

    fn member(&self, slot: Slot) -> &Member {
        &self.members[usize::from(slot.0) % MEMBERS]
    }

    fn is_present(&self, place: Place) -> bool {
        self.member(place.slot).port.load(SeqCst) == place.port.0
    }

    fn nanos(&self, now: Instant) -> u64 {
        // 64 bits of nanoseconds last for centuries.
        ZERO + now.saturating_duration_since(self.started).as_nanos() as u64
    }
}

fn pack(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([a, b, c, d, e, f, 0, 0])
}

#[cfg(test)]
mod tests;
