use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::memory::{LeaseMemory, StoredLease};
use crate::plan::{FIRST, Plan};

/// How many leases of absent devices are kept while there are addresses never used: the whole of
/// the default network. About 200 bytes each, and a user who makes up device names drives no more
/// than this.
const MAX_IDLE: usize = 65_536;

/// Whose lease it is: the user, and the device with its slot.
pub(crate) type Holder = (String, String);

/// Who gets which host part.
///
/// An address goes to the device that had it; else one that nobody ever had; else the one that has
/// been without its device longest. So a device keeps its address for as long as there is room.
#[derive(Debug)]
pub(crate) struct Pool {
    plan: Plan,
    leases: HashMap<Holder, Held>,
    holders: HashMap<u32, Holder>,
    /// Leases without a session, the one idle longest first.
    idle: BTreeMap<u64, Holder>,
    /// The first host part never looked at.
    fresh: u32,
    /// Host parts that were passed over or given back; used when there are no fresh ones.
    spare: BTreeSet<u32>,
    /// Counts up with every release, to order `idle`.
    released: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    index: u32,
    /// The key in [`Pool::idle`]; `None` while a session has it.
    idle_since: Option<u64>,
}

impl Pool {
    /// A pool that starts with what `stored` remembers, the least recently used first.
    pub(crate) fn new(plan: Plan, stored: Vec<StoredLease>) -> Self {
        let mut pool = Self {
            plan,
            leases: HashMap::new(),
            holders: HashMap::new(),
            idle: BTreeMap::new(),
            fresh: FIRST,
            spare: BTreeSet::new(),
            released: 0,
        };
        for lease in stored {
            pool.recall(lease);
        }
        pool
    }

    fn recall(&mut self, lease: StoredLease) {
        let index = lease.ipv4.and_then(|address| self.plan.index_of(address.into()));
        let index =
            index.or_else(|| lease.ipv6.and_then(|address| self.plan.index_of(address.into())));
        let Some(index) = index else { return };

        // Where memories contradict each other, the later one is right.
        if let Some(earlier) = self.holders.get(&index).cloned() {
            self.forget(&earlier);
        }
        let holder = (lease.user, lease.device);
        self.forget(&holder);
        self.hold(holder.clone(), index);
        self.release(&holder);
    }

    /// Finds a host part for one more session of this user's device.
    ///
    /// `is_free` says whether a host part's addresses are not in use otherwise.
    pub(crate) fn lease(
        &mut self,
        user: &str,
        device: &str,
        is_free: impl Fn(u32) -> bool,
        memory: &dyn LeaseMemory,
    ) -> Option<(Holder, u32)> {
        let holder = self.slot(user, device);
        let index = match self.returning(&holder, &is_free) {
            Some(index) => index,
            None => self.allocate(&is_free, memory)?,
        };
        self.hold(holder.clone(), index);
        memory.remember(&StoredLease {
            user: holder.0.clone(),
            device: holder.1.clone(),
            ipv4: self.plan.address4(index),
            ipv6: self.plan.address6(index),
        });
        Some((holder, index))
    }

    /// Keeps the lease for the device's return.
    pub(crate) fn release(&mut self, holder: &Holder) {
        if let Some(held) = self.leases.get_mut(holder)
            && held.idle_since.is_none()
        {
            held.idle_since = Some(self.released);
            self.idle.insert(self.released, holder.clone());
            self.released += 1;
        }
    }

    /// The first of the device's slots without a session.
    fn slot(&self, user: &str, device: &str) -> Holder {
        let mut holder = (user.to_owned(), device.to_owned());
        let mut slot = 0_u32;
        while self.leases.get(&holder).is_some_and(|held| held.idle_since.is_none()) {
            slot += 1;
            holder.1 = format!("{device}#{slot}");
        }
        holder
    }

    /// The host part that the holder had before, if it can have it again.
    fn returning(&mut self, holder: &Holder, is_free: &impl Fn(u32) -> bool) -> Option<u32> {
        let index = self.forget(holder)?;
        if is_free(index) {
            self.spare.remove(&index);
            return Some(index);
        }
        None
    }

    fn allocate(
        &mut self,
        is_free: &impl Fn(u32) -> bool,
        memory: &dyn LeaseMemory,
    ) -> Option<u32> {
        if self.idle.len() < MAX_IDLE
            && let Some(index) = self.never_used(is_free)
        {
            return Some(index);
        }
        let longest = self
            .idle
            .values()
            .find(|holder| self.leases.get(*holder).is_some_and(|held| is_free(held.index)));
        let Some(evicted) = longest.cloned() else { return self.never_used(is_free) };
        memory.forget(&evicted.0, &evicted.1);
        let index = self.forget(&evicted)?;
        self.spare.remove(&index);
        Some(index)
    }

    fn never_used(&mut self, is_free: &impl Fn(u32) -> bool) -> Option<u32> {
        while self.fresh <= self.plan.last() {
            let index = self.fresh;
            // The range ends at `u32::MAX` at the latest, which is left unused then.
            self.fresh = self.fresh.checked_add(1)?;
            if self.holders.contains_key(&index) {
                continue;
            }
            if is_free(index) {
                return Some(index);
            }
            self.spare.insert(index);
        }
        let index = self.spare.iter().copied().find(|index| is_free(*index))?;
        self.spare.remove(&index);
        Some(index)
    }

    fn hold(&mut self, holder: Holder, index: u32) {
        self.holders.insert(index, holder.clone());
        self.leases.insert(holder, Held { index, idle_since: None });
    }

    /// Takes a lease without a session off the books; its host part is spare then.
    fn forget(&mut self, holder: &Holder) -> Option<u32> {
        let held = self.leases.remove(holder)?;
        if let Some(since) = held.idle_since {
            self.idle.remove(&since);
        }
        self.holders.remove(&held.index);
        // A host part ahead of `fresh` will be looked at anyway.
        if held.index < self.fresh {
            self.spare.insert(held.index);
        }
        Some(held.index)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::Forgetful;

    #[derive(Debug, Default)]
    struct Diary(Mutex<Vec<String>>);

    impl LeaseMemory for Diary {
        fn load(&self) -> Vec<StoredLease> {
            Vec::new()
        }

        fn remember(&self, lease: &StoredLease) {
            let ipv4 = lease.ipv4.map(|address| address.to_string()).unwrap_or_default();
            self.0.lock().unwrap().push(format!("{}/{} has {ipv4}", lease.user, lease.device));
        }

        fn forget(&self, user: &str, device: &str) {
            self.0.lock().unwrap().push(format!("{user}/{device} forgotten"));
        }
    }

    /// Host parts 2 to 6.
    fn small(stored: Vec<StoredLease>) -> Pool {
        Pool::new(Plan::new(Some("10.0.0.0/29".parse().unwrap()), None).unwrap(), stored)
    }

    fn lease(pool: &mut Pool, user: &str) -> Option<(Holder, u32)> {
        pool.lease(user, "phone", |_| true, &Forgetful)
    }

    fn stored(user: &str, ipv4: &str) -> StoredLease {
        StoredLease {
            user: user.into(),
            device: "phone".into(),
            ipv4: Some(ipv4.parse().unwrap()),
            ipv6: None,
        }
    }

    #[test]
    fn a_device_that_comes_back_gets_its_address_again() {
        let mut pool = small(Vec::new());
        let (alice, index) = lease(&mut pool, "alice").unwrap();
        pool.release(&alice);
        lease(&mut pool, "bob").unwrap();

        assert_eq!(lease(&mut pool, "alice"), Some((alice, index)));
    }

    #[test]
    fn when_all_were_used_the_one_idle_longest_goes_and_the_memory_hears_of_it() {
        let mut pool = small(Vec::new());
        let diary = Diary::default();
        let holders: Vec<Holder> =
            ["a", "b", "c", "d", "e"].map(|user| lease(&mut pool, user).unwrap().0).into();
        for holder in [&holders[2], &holders[0], &holders[4]] {
            pool.release(holder);
        }

        let (_, index) = pool.lease("new", "phone", |_| true, &diary).unwrap();

        assert_eq!(index, 4, "c has been away longest");
        assert_eq!(*diary.0.lock().unwrap(), ["c/phone forgotten", "new/phone has 10.0.0.4"]);
    }

    #[test]
    fn an_address_that_went_back_to_its_device_is_evicted_like_any_other() {
        let mut pool = small(Vec::new());
        let diary = Diary::default();
        for _ in 0..2 {
            let (alice, _) = lease(&mut pool, "alice").unwrap();
            pool.release(&alice);
        }
        for user in ["b", "c", "d", "e"] {
            lease(&mut pool, user).unwrap();
        }

        pool.lease("new", "phone", |_| true, &diary).unwrap();

        assert_eq!(*diary.0.lock().unwrap(), ["alice/phone forgotten", "new/phone has 10.0.0.2"]);
    }

    #[test]
    fn it_is_exhausted_only_when_every_address_has_a_session() {
        let mut pool = small(Vec::new());
        let first = lease(&mut pool, "a").unwrap().0;
        for user in ["b", "c", "d", "e"] {
            lease(&mut pool, user).unwrap();
        }
        assert_eq!(lease(&mut pool, "f"), None);

        pool.release(&first);

        assert_eq!(lease(&mut pool, "f").unwrap().1, 2);
        assert_eq!(lease(&mut pool, "a"), None);
    }

    #[test]
    fn an_address_passed_over_is_used_once_it_is_free() {
        let mut pool = small(Vec::new());
        for user in ["a", "b", "c", "d"] {
            pool.lease(user, "phone", |index| index != 3, &Forgetful).unwrap();
        }
        assert_eq!(pool.lease("e", "phone", |index| index != 3, &Forgetful), None);

        assert_eq!(lease(&mut pool, "e").unwrap().1, 3);
    }

    #[test]
    fn a_device_whose_address_is_taken_gets_another_and_the_old_one_is_not_lost() {
        let mut pool = small(Vec::new());
        let (alice, index) = lease(&mut pool, "alice").unwrap();
        pool.release(&alice);

        let (_, other) = pool.lease("alice", "phone", |i| i != index, &Forgetful).unwrap();

        assert_ne!(other, index);
        let rest: BTreeSet<u32> =
            ["b", "c", "d", "e"].map(|user| lease(&mut pool, user).unwrap().1).into();
        assert!(rest.contains(&index) && rest.len() == 4);
    }

    #[test]
    fn sessions_of_one_device_have_a_slot_each() {
        let mut pool = small(Vec::new());
        let (first, one) = lease(&mut pool, "alice").unwrap();
        let (second, two) = lease(&mut pool, "alice").unwrap();
        assert_eq!((first.1.as_str(), second.1.as_str()), ("phone", "phone#1"));

        pool.release(&first);
        pool.release(&second);

        assert_eq!(lease(&mut pool, "alice").unwrap().1, one);
        assert_eq!(lease(&mut pool, "alice").unwrap().1, two);
    }

    #[test]
    fn memories_survive_a_restart_and_the_later_one_wins() {
        let mut pool = small(vec![
            stored("old", "10.0.0.5"),
            stored("alice", "10.0.0.4"),
            stored("alice", "10.0.0.5"),
            stored("elsewhere", "192.0.2.1"),
            stored("gateway", "10.0.0.1"),
        ]);

        assert_eq!(lease(&mut pool, "bob").unwrap().1, 2);
        assert_eq!(lease(&mut pool, "alice").unwrap().1, 5);
        let rest: BTreeSet<u32> =
            ["old", "gateway", "x"].map(|user| lease(&mut pool, user).unwrap().1).into();
        assert_eq!(rest, BTreeSet::from([3, 4, 6]));
    }

    #[test]
    fn made_up_devices_do_not_fill_the_memory() {
        let plan = Plan::new(Some("10.0.0.0/8".parse().unwrap()), None).unwrap();
        let mut pool = Pool::new(plan, Vec::new());

        for n in 0..MAX_IDLE + 1000 {
            let (holder, _) = pool.lease("mallory", &n.to_string(), |_| true, &Forgetful).unwrap();
            pool.release(&holder);
        }

        assert_eq!(pool.leases.len(), MAX_IDLE);
        assert_eq!(pool.holders.len(), MAX_IDLE);
        assert!(pool.spare.is_empty());
    }
}
