//! Places for those of whom nothing is known yet.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use contract::Path;
use tokio::sync::oneshot;

use crate::driver::{MAX_HALF_OPEN, MAX_HALF_OPEN_PER_SOURCE, source};

/// Who has a place, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    next: u64,
    places: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
    by_source: HashMap<IpAddr, usize>,
}

impl Strangers {
    /// Gives somebody a place; what is returned with its number says when somebody else needs it.
    ///
    /// A source that has its share gets no more. When all places are taken, the source that has
    /// most of them gives up its oldest: who fills the room is whom it is full for.
    pub(super) fn enter(&mut self, path: Path) -> Option<(u64, oneshot::Receiver<()>)> {
        let source = source(path);
        if self.by_source.get(&source).is_some_and(|count| *count >= MAX_HALF_OPEN_PER_SOURCE) {
            return None;
        }
        if self.places.len() >= MAX_HALF_OPEN {
            self.evict();
        }
        let number = self.next;
        self.next += 1;
        let (sender, evicted) = oneshot::channel();
        self.places.insert(number, (source, sender));
        *self.by_source.entry(source).or_default() += 1;
        Some((number, evicted))
    }

    /// A place is free again, if it was not given to somebody else before.
    pub(super) fn leave(&mut self, number: u64) {
        self.remove(number);
    }

    fn evict(&mut self) {
        let most = self.by_source.values().copied().max().unwrap_or_default();
        let fullest = self.by_source.iter().filter(|(_, count)| **count == most);
        let fullest = fullest.map(|(source, _)| *source).collect::<HashSet<_>>();
        let mut oldest_first = self.places.iter();
        let oldest = oldest_first.find(|(_, (source, _))| fullest.contains(source));
        if let Some(evicted) = oldest.map(|(number, _)| *number).and_then(|at| self.remove(at)) {
            let _ = evicted.send(());
        }
    }

    fn remove(&mut self, number: u64) -> Option<oneshot::Sender<()>> {
        let (source, sender) = self.places.remove(&number)?;
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
        Some(sender)
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> usize {
        self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use contract::{Carrier, StreamId};

    use super::*;

    fn from(address: u32) -> Path {
        let remote = (Ipv4Addr::from(address), 40_000).into();
        Path { local: None, remote, carrier: Carrier::Stream(StreamId(0)) }
    }

    #[test]
    fn in_a_full_room_the_fullest_source_makes_way() {
        let mut strangers = Strangers::default();
        let mut alone = strangers.enter(from(1)).unwrap().1;
        let mut crowd = (0..100).map(|_| strangers.enter(from(2)).unwrap().1).collect::<Vec<_>>();
        for address in 1000.. {
            if strangers.all() == MAX_HALF_OPEN {
                break;
            }
            strangers.enter(from(address)).unwrap();
        }

        let _newcomer = strangers.enter(from(3)).unwrap();

        assert_eq!(crowd[0].try_recv(), Ok(()));
        assert!(crowd[1].try_recv().is_err() && alone.try_recv().is_err());
        assert_eq!(
            (strangers.all(), strangers.by_source[&from(2).remote.ip()]),
            (MAX_HALF_OPEN, 99)
        );
    }

    #[test]
    fn a_room_full_of_single_ones_gives_up_the_oldest() {
        let mut strangers = Strangers::default();
        let mut all = (0..MAX_HALF_OPEN as u32)
            .map(|address| strangers.enter(from(address)).unwrap())
            .collect::<Vec<_>>();
        strangers.leave(all[0].0);
        strangers.enter(from(u32::MAX)).unwrap();

        strangers.enter(from(u32::MAX - 1)).unwrap();
        strangers.leave(all[1].0);

        assert_eq!(all[1].1.try_recv(), Ok(()));
        assert_eq!(strangers.all(), MAX_HALF_OPEN, "a place is given up once");
    }
}
