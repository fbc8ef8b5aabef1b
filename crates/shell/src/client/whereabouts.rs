//! Where the peer of a link may call from, and how many of those who call are borne.

use std::future::pending;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use contract::SessionId;
use tokio::task::JoinHandle;

/// How often a peer's name is resolved while it does not call: its address may be another by now.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The same while the name has no address at all.
const RETRY: Duration = Duration::from_secs(5);

/// How long a caller may take to show that it is the peer before others from the same place get
/// their turn: several times what a handshake takes.
const TURN: Duration = Duration::from_secs(5);

/// What became of looking up each name; nothing for those that did not resolve.
pub(super) type Found = Vec<Option<Vec<IpAddr>>>;

/// Where the peer is.
#[derive(Debug)]
pub(super) struct Whereabouts {
    /// Where it may call from; `None` is anywhere.
    from: Option<Vec<IpAddr>>,
    /// It has a name, which may lead elsewhere tomorrow.
    has_name: bool,
    /// When to look up its names.
    look_at: Option<Instant>,
    looking: Option<JoinHandle<Found>>,
}

impl Whereabouts {
    /// It may be anywhere.
    pub(super) fn anywhere() -> Self {
        Self { from: None, has_name: false, look_at: None, looking: None }
    }

    /// It is where its names lead to, as soon as that is known: nobody is welcome until then.
    pub(super) fn to_be_found(now: Instant, hosts: &[&str]) -> Self {
        let has_name = hosts.iter().any(|host| host.parse::<IpAddr>().is_err());
        Self { from: Some(Vec::new()), has_name, look_at: Some(now), looking: None }
    }

    /// Whether a caller may be the peer.
    pub(super) fn may_be(&self, ip: IpAddr) -> bool {
        let is_it = |from: &IpAddr| from.to_canonical() == ip.to_canonical();
        self.from.as_ref().is_none_or(|from| from.iter().any(is_it))
    }

    /// When names have to be looked up again; while the peer is here, nobody asks where it is.
    pub(super) fn deadline(&self, is_here: bool) -> Option<Instant> {
        self.look_at.filter(|_| !is_here && self.looking.is_none())
    }

    /// Somebody looks.
    pub(super) fn begin(&mut self, looking: JoinHandle<Found>) {
        self.looking = Some(looking);
    }

    /// What they found; never, if nobody looks.
    pub(super) async fn found(&mut self) -> Found {
        match &mut self.looking {
            // Who breaks off has found nothing.
            Some(looking) => looking.await.unwrap_or_default(),
            None => pending().await,
        }
    }

    /// All that is known of where it is; of names that did not resolve this time, from before.
    pub(super) fn learn(&mut self, now: Instant, known: &[Vec<IpAddr>]) {
        let from = known.iter().flatten().copied().collect::<Vec<_>>();
        let pause = if from.is_empty() { RETRY } else { LOOK_AGAIN };
        self.look_at = self.has_name.then(|| now + pause);
        (self.from, self.looking) = (Some(from), None);
    }
}

/// Somebody who calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calling {
    pub(super) session: SessionId,
    pub(super) ip: IpAddr,
    /// It has shown that it is the peer.
    pub(super) is_proven: bool,
    /// When it called first.
    pub(super) since: Instant,
}

/// Whether a newcomer is heard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// There is room.
    Now,
    /// This one has to go first.
    InsteadOf(SessionId),
    /// Another caller from the same place has not had its time yet.
    Later,
}

/// Who of `callers`, oldest first, has to go before a newcomer is heard: who called from the same
/// place and got nowhere in its turn, or else, where there is room for `max` only, whoever has got
/// nowhere for longest. Strangers elsewhere can then delay the peer, but not lock it out; those
/// behind the peer's own address can take every other turn, or more if they call more often, but
/// not break off its own.
pub(super) fn turn(callers: &[Calling], max: usize, newcomer: IpAddr, now: Instant) -> Turn {
    let unproven = || callers.iter().filter(|caller| !caller.is_proven);
    match unproven().find(|caller| place(caller.ip) == place(newcomer)) {
        Some(same) if now.saturating_duration_since(same.since) < TURN => Turn::Later,
        Some(same) => Turn::InsteadOf(same.session),
        None if callers.len() < max => Turn::Now,
        None => unproven().next().map_or(Turn::Now, |oldest| Turn::InsteadOf(oldest.session)),
    }
}

/// What one caller can have all the addresses of.
fn place(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_peer_whose_name_does_not_resolve_is_looked_for_and_nobody_taken_for_it() {
        let now = Instant::now();
        let mut peer = Whereabouts::to_be_found(now, &["192.0.2.1", "peer.example"]);
        assert_eq!(peer.deadline(false), Some(now));
        assert!(!peer.may_be(ip("192.0.2.1")));

        peer.learn(now, &[Vec::new()]);
        assert!(!peer.may_be(ip("192.0.2.1")));
        assert_eq!(peer.deadline(false), Some(now + RETRY));

        peer.learn(now, &[vec![ip("192.0.2.1")], vec![ip("2001:db8::1")]]);
        assert!(peer.may_be(ip("::ffff:192.0.2.1")) && peer.may_be(ip("2001:db8::1")));
        assert!(!peer.may_be(ip("192.0.2.2")));
        assert_eq!(peer.deadline(false), Some(now + LOOK_AGAIN));
        assert_eq!(peer.deadline(true), None, "it is here");
    }

    #[test]
    fn a_peer_with_an_address_is_looked_for_once() {
        let now = Instant::now();
        let mut peer = Whereabouts::to_be_found(now, &["192.0.2.1", "2001:db8::1"]);
        assert_eq!(peer.deadline(false), Some(now));
        peer.learn(now, &[vec![ip("192.0.2.1")], vec![ip("2001:db8::1")]]);
        assert_eq!(peer.deadline(false), None);
        assert!(peer.may_be(ip("192.0.2.1")));
    }

    #[test]
    fn a_peer_that_may_be_anywhere_is_not_looked_for() {
        let peer = Whereabouts::anywhere();
        assert!(peer.may_be(ip("192.0.2.1")));
        assert_eq!(peer.deadline(false), None);
    }

    #[tokio::test]
    async fn names_are_looked_up_one_time_at_a_time() {
        let now = Instant::now();
        let mut peer = Whereabouts::to_be_found(now, &["peer.example", "other.example"]);
        peer.begin(tokio::spawn(async { vec![Some(vec![ip("192.0.2.1")]), None] }));
        assert_eq!(peer.deadline(false), None);
        assert_eq!(peer.found().await, [Some(vec![ip("192.0.2.1")]), None]);
    }

    fn callers(since: Instant, list: &[(&str, bool)]) -> Vec<Calling> {
        let numbered = list.iter().zip(1..);
        let caller = |(&(text, is_proven), n): (&(&str, bool), u64)| Calling {
            session: SessionId(n),
            ip: ip(text),
            is_proven,
            since,
        };
        numbered.map(caller).collect()
    }

    #[test]
    fn strangers_make_room_for_a_newcomer_and_the_peer_does_not() {
        let now = Instant::now();
        let list = [("192.0.2.1", true), ("192.0.2.2", false), ("192.0.2.3", false)];
        let full = callers(now, &list);
        assert_eq!(turn(&full, 3, ip("192.0.2.9"), now), Turn::InsteadOf(SessionId(2)));
        assert_eq!(turn(&full, 4, ip("192.0.2.9"), now), Turn::Now, "there is room");
        let proven = callers(now, &[("192.0.2.1", true), ("192.0.2.2", true)]);
        assert_eq!(turn(&proven, 2, ip("192.0.2.9"), now), Turn::Now);
    }

    #[test]
    fn a_place_has_one_attempt_at_a_time() {
        let now = Instant::now();
        let list = [("192.0.2.1", false), ("192.0.2.2", false), ("2001:db8::1", false)];
        let (some, later) = (callers(now, &list), now + TURN);
        assert_eq!(turn(&some, 9, ip("192.0.2.2"), later), Turn::InsteadOf(SessionId(2)));
        assert_eq!(turn(&some, 9, ip("2001:db8::ffff"), later), Turn::InsteadOf(SessionId(3)));
        assert_eq!(turn(&some, 9, ip("2001:db8:0:1::1"), later), Turn::Now);
        // Whoever is up may come again before it knows that it is gone.
        let up = callers(now, &[("192.0.2.1", true)]);
        assert_eq!(turn(&up, 9, ip("192.0.2.1"), now), Turn::Now);
    }

    #[test]
    fn nobody_behind_the_same_address_breaks_off_an_attempt_that_has_just_begun() {
        let now = Instant::now();
        let peer = callers(now, &[("192.0.2.1", false)]);

        let almost = now + TURN - Duration::from_millis(1);
        assert_eq!(turn(&peer, 1, ip("192.0.2.1"), almost), Turn::Later);
        assert_eq!(turn(&peer, 1, ip("192.0.2.1"), now + TURN), Turn::InsteadOf(SessionId(1)));
    }
}
