use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use foldhash::quality::FixedState;
use wire::ethernet::Mac;

/// How many neighbours are known; a network of IPv4 that hosts can still talk in is smaller.
const ROOM: usize = 4096;
/// In how many places a neighbour may be.
const PROBES: usize = 8;

/// Ages are counted in so many nanoseconds, in 16 bits.
const AGE_UNIT: u64 = 1 << 30;
/// What was not heard for so many units, about five minutes, is asked for again.
const FORGOTTEN: u16 = 280;

/// Who has which address on the network that the segment is joined to.
///
/// A neighbour is two words, which are not written at once: a reader in between may take the
/// hardware address of another neighbour of the same network, and a packet gets lost.
#[derive(Debug)]
pub(super) struct Neighbours {
    entries: Box<[Entry]>,
    hash: FixedState,
}

#[derive(Debug, Default)]
struct Entry {
    /// The hash of the address, which is never 0; 0 while the place is free.
    key: AtomicU64,
    /// The hardware address in the upper 48 bits, and when it was heard.
    mac: AtomicU64,
}

impl Neighbours {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            entries: (0..ROOM).map(|_| Entry::default()).collect(),
            hash: FixedState::with_seed(seed),
        }
    }

    /// Remembers who has the address; in a full table, the one unheard for longest is forgotten.
    pub(super) fn meet(&self, address: IpAddr, mac: Mac, now: u64) {
        let (key, heard) = (self.key(address), pack(mac, now));
        let same = self.places(key).find(|entry| entry.key.load(Relaxed) == key);
        let place = same.or_else(|| {
            self.places(key).max_by_key(|entry| match entry.key.load(Relaxed) {
                0 => u16::MAX,
                _ => since(entry.mac.load(Relaxed), now),
            })
        });
        let Some(place) = place else { return };
        if place.mac.load(Relaxed) != heard {
            place.mac.store(heard, Relaxed);
        }
        if place.key.load(Relaxed) != key {
            place.key.store(key, Relaxed);
        }
    }

    /// Who has the address.
    pub(super) fn find(&self, address: IpAddr) -> Option<Mac> {
        let key = self.key(address);
        let found = self.places(key).find(|entry| entry.key.load(Relaxed) == key)?;
        let [a, b, c, d, e, f, ..] = found.mac.load(Relaxed).to_be_bytes();
        Some(Mac([a, b, c, d, e, f]))
    }

    /// Forgets who has not been heard for long; to be called every few seconds.
    pub(super) fn age(&self, now: u64) {
        for entry in &self.entries {
            let is_old = since(entry.mac.load(Relaxed), now) >= FORGOTTEN;
            if is_old && entry.key.load(Relaxed) != 0 {
                entry.key.store(0, Relaxed);
            }
        }
    }

    fn key(&self, address: IpAddr) -> u64 {
        self.hash.hash_one(address).max(1)
    }

    fn places(&self, key: u64) -> impl Iterator<Item = &Entry> {
        (0..PROBES).map(move |n| &self.entries[(key as usize).wrapping_add(n) % ROOM])
    }
}

fn pack(mac: Mac, now: u64) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([a, b, c, d, e, f, 0, 0]) | u64::from((now / AGE_UNIT) as u16)
}

fn since(heard: u64, now: u64) -> u16 {
    ((now / AGE_UNIT) as u16).wrapping_sub(heard as u16)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const START: u64 = 70_000 * AGE_UNIT;

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from(0xc0a8_0000 | n).into()
    }

    fn mac(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    #[test]
    fn a_neighbour_is_known_until_it_is_silent_for_long() {
        let neighbours = Neighbours::new(1);
        neighbours.meet(address(1), mac(1), START);
        neighbours.meet(address(2), mac(2), START);

        neighbours.meet(address(2), mac(3), START + 200 * AGE_UNIT);
        neighbours.age(START + 280 * AGE_UNIT);

        assert_eq!(neighbours.find(address(1)), None);
        assert_eq!(neighbours.find(address(2)), Some(mac(3)));
        assert_eq!(neighbours.find(address(9)), None);
    }

    #[test]
    fn nobody_is_forgotten_while_there_is_room() {
        let (neighbours, whenever) = (Neighbours::new(1), (1 << 16) * AGE_UNIT);
        for n in 0..300 {
            neighbours.meet(address(n), mac(n), whenever);
        }

        assert!((0..300).all(|n| neighbours.find(address(n)) == Some(mac(n))));
    }

    #[test]
    fn a_flood_of_addresses_pushes_the_oldest_out_and_costs_no_room() {
        let neighbours = Neighbours::new(1);
        for n in 0..20_000 {
            neighbours.meet(address(n), mac(n), START + u64::from(n) * AGE_UNIT / 100);
        }

        let known = (0..20_000).filter(|n| neighbours.find(address(*n)) == Some(mac(*n)));

        assert!(known.count() <= ROOM);
        assert_eq!(neighbours.find(address(19_999)), Some(mac(19_999)));
    }
}
