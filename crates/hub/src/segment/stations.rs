use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};

use foldhash::quality::FixedState;
use wire::ethernet::Mac;

/// How many hardware addresses a segment knows.
const ROOM: usize = 16_384;
/// In how many places an address may be.
const PROBES: usize = 8;
/// How many members a segment has; a member's number has 12 bits in an entry.
pub(super) const MEMBERS: usize = 4096;
/// How many hardware addresses one member may have: a whole network behind a bridge, but not a
/// table full of them.
pub(super) const STATIONS_PER_MEMBER: u16 = 256;
/// The same for the network that the segment is joined to: half of what there is room for.
pub(super) const STATIONS_OF_BRIDGE: u16 = 8192;

/// Ages are counted in so many nanoseconds, modulo 16.
const AGE_UNIT: u64 = 20_000_000_000;
const AGES: u64 = 16;
/// An address unheard for so many units is forgotten: five minutes (802.1Q, 8.8.3).
const FORGOTTEN: u64 = 15;
/// An address heard so many units ago, or fewer, was heard just now: in the last 40 seconds surely,
/// and in the last minute perhaps.
const FRESH: u64 = 2;

/// The number of a member of the segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Slot(pub(super) u16);

/// Which member has which hardware address: learned from what they send, forgotten with time.
///
/// One word per address, so that no reader sees half of an entry: 48 bits of address, 12 of
/// member, 4 of age. Zero is an empty place; nobody has the address zero.
#[derive(Debug)]
pub(super) struct Stations {
    entries: Box<[AtomicU64]>,
    /// How many addresses each member has.
    counts: Box<[AtomicU16]>,
    hash: FixedState,
}

/// Why an address was not learned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NotLearned {
    /// This other member has it, and keeps it.
    Taken(Slot),
    /// The member has too many, or there is no place left.
    Full,
}

impl Stations {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            entries: (0..ROOM).map(|_| AtomicU64::new(0)).collect(),
            counts: (0..MEMBERS).map(|_| AtomicU16::new(0)).collect(),
            hash: FixedState::with_seed(seed),
        }
    }

    /// Remembers that `mac` was heard from the member `slot`, which may have `most` of them. If
    /// another one had it, `may_take` is asked, and told who and whether that was just now.
    pub(super) fn learn(
        &self,
        mac: Mac,
        slot: Slot,
        most: u16,
        now: u64,
        may_take: impl Fn(Slot, bool) -> bool,
    ) -> Result<(), NotLearned> {
        let age = age(now);
        let entry = pack(mac, slot, age);
        let mut free = None;
        for place in self.places(mac) {
            let old = place.load(SeqCst);
            if old == entry {
                return Ok(());
            }
            if old == 0 {
                free = free.or(Some(place));
                continue;
            }
            if mac_of(old) != mac {
                continue;
            }
            let former = slot_of(old);
            if former == slot {
                // Whoever was faster has told the same.
                let _ = place.compare_exchange(old, entry, SeqCst, SeqCst);
                return Ok(());
            }
            if !may_take(former, since(old, age) <= FRESH) {
                return Err(NotLearned::Taken(former));
            }
            self.count(slot, most)?;
            self.replace(place, old, entry);
            return Ok(());
        }
        let place = free.ok_or(NotLearned::Full)?;
        self.count(slot, most)?;
        if place.compare_exchange(0, entry, SeqCst, SeqCst).is_err() {
            // The next frame finds another place.
            self.discount(slot);
        }
        Ok(())
    }

    /// Which member has `mac`.
    pub(super) fn find(&self, mac: Mac) -> Option<Slot> {
        let entries = self.places(mac).map(|place| place.load(SeqCst));
        entries.filter(|entry| mac_of(*entry) == mac && *entry != 0).map(slot_of).next()
    }

    /// Forgets the addresses that have not been heard for long, unless `is_kept` says otherwise; to
    /// be called more often than ages change.
    pub(super) fn age(&self, now: u64, is_kept: impl Fn(Mac, Slot) -> bool) {
        let age = age(now);
        // One that is kept seems to have been heard anew now and then, which only delays the end.
        self.forget_if(|entry| {
            since(entry, age) >= FORGOTTEN && !is_kept(mac_of(entry), slot_of(entry))
        });
    }

    /// Forgets one member's addresses.
    pub(super) fn purge(&self, slot: Slot) {
        self.forget_if(|entry| slot_of(entry) == slot);
    }

    /// Forgets one address, if it is this member's.
    pub(super) fn forget(&self, mac: Mac, slot: Slot) {
        for place in self.places(mac) {
            let entry = place.load(SeqCst);
            if entry != 0 && mac_of(entry) == mac && slot_of(entry) == slot {
                self.replace(place, entry, 0);
            }
        }
    }

    fn forget_if(&self, is_old: impl Fn(u64) -> bool) {
        for place in &self.entries {
            let entry = place.load(SeqCst);
            if entry != 0 && is_old(entry) {
                self.replace(place, entry, 0);
            }
        }
    }

    /// Puts `new` in the place of `old`, whose member has one address less then.
    fn replace(&self, place: &AtomicU64, old: u64, new: u64) {
        if place.compare_exchange(old, new, SeqCst, SeqCst).is_ok() {
            self.discount(slot_of(old));
        } else if new != 0 {
            self.discount(slot_of(new));
        }
    }

    /// One address more, if that is allowed.
    fn count(&self, slot: Slot, most: u16) -> Result<(), NotLearned> {
        let more = |count: u16| (count < most).then_some(count + 1);
        let counter = &self.counts[usize::from(slot.0) % MEMBERS];
        counter.fetch_update(SeqCst, SeqCst, more).map(|_| ()).map_err(|_| NotLearned::Full)
    }

    fn discount(&self, slot: Slot) {
        let counter = &self.counts[usize::from(slot.0) % MEMBERS];
        let _ = counter.fetch_update(SeqCst, SeqCst, |count| count.checked_sub(1));
    }

    #[cfg(test)]
    pub(super) fn count_of(&self, slot: Slot) -> u16 {
        self.counts[usize::from(slot.0)].load(SeqCst)
    }

    fn places(&self, mac: Mac) -> impl Iterator<Item = &AtomicU64> {
        let first = self.hash.hash_one(mac.0) as usize;
        (0..PROBES).map(move |n| &self.entries[first.wrapping_add(n) % ROOM])
    }
}

fn age(now: u64) -> u64 {
    now / AGE_UNIT % AGES
}

fn since(entry: u64, age: u64) -> u64 {
    age.wrapping_sub(entry) % AGES
}

fn pack(mac: Mac, slot: Slot, age: u64) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([a, b, c, d, e, f, 0, 0]) | u64::from(slot.0 & 0x0fff) << 4 | age
}

fn mac_of(entry: u64) -> Mac {
    let [a, b, c, d, e, f, ..] = entry.to_be_bytes();
    Mac([a, b, c, d, e, f])
}

fn slot_of(entry: u64) -> Slot {
    Slot(entry as u16 >> 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Slot = Slot(7);
    const BOB: Slot = Slot(4095);
    const START: u64 = 1000 * AGE_UNIT;

    fn mac(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    fn learn(stations: &Stations, mac: Mac, slot: Slot, now: u64) -> Result<(), NotLearned> {
        stations.learn(mac, slot, STATIONS_PER_MEMBER, now, |_, is_fresh| !is_fresh)
    }

    #[test]
    fn an_address_is_found_where_it_was_heard_last() {
        let stations = Stations::new(1);

        assert_eq!(stations.find(mac(1)), None);
        assert_eq!(learn(&stations, mac(1), ALICE, START), Ok(()));
        assert_eq!(learn(&stations, mac(2), BOB, START), Ok(()));

        assert_eq!(stations.find(mac(1)), Some(ALICE));
        assert_eq!(stations.find(mac(2)), Some(BOB));
        assert_eq!((stations.count_of(ALICE), stations.count_of(BOB)), (1, 1));
    }

    #[test]
    fn nobody_takes_an_address_that_is_in_use() {
        let stations = Stations::new(1);
        learn(&stations, mac(1), ALICE, START).unwrap();

        let taken = Err(NotLearned::Taken(ALICE));
        assert_eq!(learn(&stations, mac(1), BOB, START + 2 * AGE_UNIT), taken);
        assert_eq!(stations.find(mac(1)), Some(ALICE));

        assert_eq!(learn(&stations, mac(1), BOB, START + 3 * AGE_UNIT), Ok(()));
        assert_eq!(stations.find(mac(1)), Some(BOB));
        assert_eq!((stations.count_of(ALICE), stations.count_of(BOB)), (0, 1));
    }

    #[test]
    fn what_is_heard_stays_and_what_is_silent_goes() {
        let stations = Stations::new(1);
        learn(&stations, mac(1), ALICE, START).unwrap();
        learn(&stations, mac(2), ALICE, START).unwrap();

        for tick in 1..=15 {
            let now = START + tick * AGE_UNIT;
            learn(&stations, mac(1), ALICE, now).unwrap();
            stations.age(now, |_, _| false);
        }

        assert_eq!((stations.find(mac(1)), stations.find(mac(2))), (Some(ALICE), None));
        assert_eq!(stations.count_of(ALICE), 1);
    }

    #[test]
    fn a_flood_of_addresses_costs_the_one_who_sends_it() {
        let stations = Stations::new(1);
        learn(&stations, mac(1_000_000), BOB, START).unwrap();

        let learned = (0..100_000).filter(|n| learn(&stations, mac(*n), ALICE, START).is_ok());

        assert_eq!(learned.count(), usize::from(STATIONS_PER_MEMBER));
        assert_eq!(stations.find(mac(1_000_000)), Some(BOB));
        assert_eq!(learn(&stations, mac(1_000_001), BOB, START), Ok(()));
        assert_eq!(stations.find(mac(1_000_001)), Some(BOB));
    }

    #[test]
    fn a_member_that_goes_takes_its_addresses_along() {
        let stations = Stations::new(1);
        for n in 0..100 {
            learn(&stations, mac(n), if n % 2 == 0 { ALICE } else { BOB }, START).unwrap();
        }

        stations.purge(ALICE);

        assert!((0..100).all(|n| stations.find(mac(n)) == (n % 2 == 1).then_some(BOB)));
        assert_eq!((stations.count_of(ALICE), stations.count_of(BOB)), (0, 50));
    }

    #[test]
    fn a_full_table_refuses_and_goes_on() {
        let stations = Stations::new(1);

        let refused = (0..40_000_u32)
            .filter(|n| learn(&stations, mac(*n), Slot((n % 400) as u16), START).is_err())
            .count();

        assert!(refused >= 40_000 - ROOM, "{refused}");
        stations.age(START + 15 * AGE_UNIT, |_, _| false);
        assert_eq!(learn(&stations, mac(1), ALICE, START + 15 * AGE_UNIT), Ok(()));
    }
}
