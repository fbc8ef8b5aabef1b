use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// How often an attempt may fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// From one source: an IPv4 address, or an IPv6 /64, which is what one host has to itself.
    pub source: Rate,
    /// For one user, from all sources that the user has not come from before.
    pub user: Rate,
    /// How many sources, how many users, and how many sources known to belong to a user are
    /// remembered at most; those not heard of longest are forgotten first. About 100 bytes each.
    pub capacity: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A person who mistypes needs a handful; a whole office behind one NAT on a Monday
            // morning a few more. Then ten a minute: 14,400 guesses a day, where the weakest
            // password that anyone accepts has millions of neighbours.
            source: Rate { burst: 20, forget_every: Duration::from_secs(6) },
            // More than any one source can cause, so that it takes several strangers together to
            // slow a user down, and even then only at a place that is new to the user.
            user: Rate { burst: 60, forget_every: Duration::from_secs(2) },
            // One IPv4 /16, or the machines of a small botnet: 20 MB when all are full.
            capacity: 65_536,
        }
    }
}

/// So many failures at once, and one more for every so long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// Failures that pass before anything is refused.
    pub burst: u32,
    /// After how long one failure is forgotten.
    pub forget_every: Duration,
}

/// The attempt was refused without looking at it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooManyAttempts {
    /// When it is worth trying again.
    pub retry_after: Duration,
}

impl fmt::Display for TooManyAttempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "too many failed attempts; try again in {} s", self.retry_after.as_secs() + 1)
    }
}

impl std::error::Error for TooManyAttempts {}

/// Slows guessing down, per source and per user.
///
/// Nobody is ever locked out: failures are forgotten one by one, a single source runs into its own
/// limit long before the user's, and a source from which the user has come in before does not
/// count against the user's limit at all, unless the limiter is [strict](Self::strict).
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    sources: Debts<IpAddr>,
    users: Debts<u64>,
    /// Sources from which a user came in, by the hash of the user's name.
    known: Debts<(u64, IpAddr)>,
    /// User names are any bytes of any length, so only their keyed hash is kept. Two names that
    /// collide share a limit.
    hasher: RandomState,
    /// Whether no source is ever known.
    is_strict: bool,
}

impl Limiter {
    /// A limiter that has seen nothing.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::with(limits, false)
    }

    /// One to which no source is known, for secrets so short that a user's limit has to hold for
    /// everybody together. The price: others can keep the user out for as long as they go on.
    #[must_use]
    pub fn strict(limits: Limits) -> Self {
        Self::with(limits, true)
    }

    fn with(limits: Limits, is_strict: bool) -> Self {
        Self {
            is_strict,
            limits,
            sources: Debts::new(limits.capacity),
            users: Debts::new(limits.capacity),
            known: Debts::new(limits.capacity),
            hasher: RandomState::new(),
        }
    }

    /// Asks whether credentials may be looked at.
    ///
    /// An attempt that is admitted counts as failed until [`succeeded`](Self::succeeded) says
    /// otherwise, so a thousand at the same time are no way around the limit.
    ///
    /// # Errors
    ///
    /// [`TooManyAttempts`] if the source or the user has failed too often lately; being refused
    /// counts for nothing.
    pub fn check(
        &mut self,
        now: Instant,
        source: IpAddr,
        user: &str,
    ) -> Result<(), TooManyAttempts> {
        let (source, user) = (network_of(source), self.hasher.hash_one(user));
        let counts_for_user = !self.known.contains(&(user, source));

        self.sources.admits(now, &source, self.limits.source)?;
        if counts_for_user {
            self.users.admits(now, &user, self.limits.user)?;
            self.users.charge(now, user, self.limits.user);
        }
        self.sources.charge(now, source, self.limits.source);
        Ok(())
    }

    /// Takes back what [`check`](Self::check) counted for this attempt, and remembers that the
    /// user comes from there.
    ///
    /// Earlier failures stay: one account of one's own is not a licence to guess at others.
    pub fn succeeded(&mut self, now: Instant, source: IpAddr, user: &str) {
        let (source, user) = (network_of(source), self.hasher.hash_one(user));
        self.sources.refund(&source, self.limits.source);
        if !self.known.contains(&(user, source)) {
            self.users.refund(&user, self.limits.user);
        }
        if !self.is_strict {
            self.known.touch(now, (user, source));
        }
    }
}

/// Failures per key, each kept as the moment when all of them will have been forgotten.
#[derive(Debug)]
struct Debts<K> {
    entries: HashMap<K, Debt>,
    /// Keys by when they were last heard of.
    order: BTreeMap<u64, K>,
    touches: u64,
    capacity: usize,
}

#[derive(Clone, Copy, Debug)]
struct Debt {
    clear_at: Instant,
    touched: u64,
}

impl<K: Copy + Eq + Hash> Debts<K> {
    fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), touches: 0, capacity }
    }

    fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    fn admits(&self, now: Instant, key: &K, rate: Rate) -> Result<(), TooManyAttempts> {
        let Some(debt) = self.entries.get(key) else { return Ok(()) };
        let after = debt.clear_at.saturating_duration_since(now) + rate.forget_every;
        let most = rate.forget_every.saturating_mul(rate.burst);
        if after > most {
            return Err(TooManyAttempts { retry_after: after - most });
        }
        Ok(())
    }

    fn charge(&mut self, now: Instant, key: K, rate: Rate) {
        let debt = self.touch(now, key);
        *debt = (*debt).max(now) + rate.forget_every;
    }

    fn refund(&mut self, key: &K, rate: Rate) {
        if let Some(debt) = self.entries.get_mut(key)
            && let Some(clear_at) = debt.clear_at.checked_sub(rate.forget_every)
        {
            debt.clear_at = clear_at;
        }
    }

    /// Makes `key` the one heard of last; returns when its failures will have been forgotten.
    fn touch(&mut self, now: Instant, key: K) -> &mut Instant {
        if !self.contains(&key) && self.entries.len() >= self.capacity.max(1) {
            self.evict();
        }
        self.touches += 1;
        let touched = self.touches;
        let debt = self.entries.entry(key).or_insert(Debt { clear_at: now, touched });
        self.order.remove(&debt.touched);
        debt.touched = touched;
        self.order.insert(touched, key);
        &mut debt.clear_at
    }

    fn evict(&mut self) {
        if let Some((_, oldest)) = self.order.pop_first() {
            self.entries.remove(&oldest);
        }
    }
}

/// What one stranger controls without effort.
fn network_of(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address @ IpAddr::V4(_) => address,
    }
}
