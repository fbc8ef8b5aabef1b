use std::collections::{BTreeMap, VecDeque, btree_map};
use std::fmt;

/// There is no room; gives back what did not fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Full<T>(pub T);

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no room left")
    }
}

impl<T: fmt::Debug> std::error::Error for Full<T> {}

/// A map that holds at most so many entries; for whatever a peer can make us remember.
///
/// Ordered, so that walking it is the same in every run.
#[derive(Clone, Debug)]
pub struct BoundedMap<K, V> {
    entries: BTreeMap<K, V>,
    capacity: usize,
}

impl<K: Ord, V> BoundedMap<K, V> {
    /// An empty map with room for `capacity` entries; takes the memory as they come.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self { entries: BTreeMap::new(), capacity }
    }

    /// Inserts or replaces; returns the value that was replaced.
    ///
    /// # Errors
    ///
    /// [`Full`] with the value if `key` is new and the map holds as much as it may.
    pub fn insert(&mut self, key: K, value: V) -> Result<Option<V>, Full<V>> {
        let is_full = self.is_full();
        match self.entries.entry(key) {
            btree_map::Entry::Occupied(mut entry) => Ok(Some(entry.insert(value))),
            btree_map::Entry::Vacant(_) if is_full => Err(Full(value)),
            btree_map::Entry::Vacant(entry) => {
                entry.insert(value);
                Ok(None)
            }
        }
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    /// The value of `key`, to change it.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    /// Whether `key` is there.
    #[must_use]
    pub fn contains_key(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// Takes `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key)
    }

    /// Takes the entry with the smallest key out.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        self.entries.pop_first()
    }

    /// Keeps only the entries that `keep` approves.
    pub fn retain(&mut self, keep: impl FnMut(&K, &mut V) -> bool) {
        self.entries.retain(keep);
    }

    /// Every entry, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is no room for another one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.capacity
    }
}

/// A queue that holds at most so many items, first in, first out.
#[derive(Clone, Debug)]
pub struct BoundedQueue<T> {
    items: VecDeque<T>,
    capacity: usize,
}

impl<T> BoundedQueue<T> {
    /// An empty queue with room for `capacity` items; takes the memory as they come.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self { items: VecDeque::new(), capacity }
    }

    /// Appends an item.
    ///
    /// # Errors
    ///
    /// [`Full`] with the item if the queue holds as much as it may.
    pub fn push(&mut self, item: T) -> Result<(), Full<T>> {
        if self.is_full() {
            return Err(Full(item));
        }
        self.items.push_back(item);
        Ok(())
    }

    /// Takes the oldest item out.
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    /// The oldest item.
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.items.front()
    }

    /// Every item, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether there is no room for another one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.items.len() >= self.capacity
    }

    /// Drops every item.
    pub fn clear(&mut self) {
        self.items.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_map_refuses_new_keys_and_still_replaces_old_ones() {
        let mut map = BoundedMap::new(2);
        assert_eq!(map.insert(1, 'a'), Ok(None));
        assert_eq!(map.insert(2, 'b'), Ok(None));

        assert_eq!(map.insert(3, 'c'), Err(Full('c')));
        assert_eq!(map.insert(2, 'd'), Ok(Some('b')));

        assert_eq!(map.len(), 2);
        assert_eq!(map.remove(&1), Some('a'));
        assert_eq!(map.insert(3, 'c'), Ok(None));
    }

    #[test]
    fn a_full_queue_refuses_and_keeps_its_order() {
        let mut queue = BoundedQueue::new(2);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Ok(()));

        assert_eq!(queue.push(3), Err(Full(3)));

        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(1), Some(2), None));
    }

    #[test]
    fn no_capacity_means_no_entries() {
        assert!(BoundedMap::new(0).insert(1, 1).is_err());
        assert!(BoundedQueue::new(0).push(1).is_err());
    }
}
