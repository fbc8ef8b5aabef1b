//! How long a session may last, and how long it may carry nothing.

use std::time::{Duration, Instant};

use contract::{Farewell, SessionLimits};

/// How often, in the time of an idle limit, traffic is looked at: that much later than it should
/// a session may end.
const LOOKS: u32 = 8;
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// Watches over one session.
#[derive(Debug)]
pub(crate) struct Watch {
    over_at: Option<Instant>,
    idle: Option<IdleWatch>,
}

#[derive(Debug)]
struct IdleWatch {
    limit: Duration,
    /// Fewer bytes than this between two looks are nothing.
    least: u64,
    every: Duration,
    look_at: Instant,
    /// Bytes carried at the last look.
    carried: u64,
    active_at: Instant,
}

impl Watch {
    /// Begins now; `carried` is what the session has carried so far, in bytes.
    pub(crate) fn new(now: Instant, limits: SessionLimits, carried: u64) -> Self {
        let idle = limits.idle.map(|limit| {
            // Where it is a matter of bytes in that time, the whole time is one look.
            let every = match limits.idle_bytes {
                0 | 1 => (limit / LOOKS).clamp(Duration::from_millis(100), LONGEST_LOOK),
                _ => limit,
            };
            let least = limits.idle_bytes.max(1);
            IdleWatch { limit, least, every, look_at: now + every, carried, active_at: now }
        });
        Self { over_at: limits.session.map(|limit| now + limit), idle }
    }

    /// When to look again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.over_at.into_iter().chain(self.idle.as_ref().map(|idle| idle.look_at)).min()
    }

    /// Looks; says how the session has to end, once.
    pub(crate) fn look(&mut self, now: Instant, carried: u64) -> Option<Farewell> {
        if self.over_at.is_some_and(|at| at <= now) {
            (self.over_at, self.idle) = (None, None);
            return Some(Farewell::SessionOver);
        }
        let idle = self.idle.as_mut().filter(|idle| idle.look_at <= now)?;
        if carried.saturating_sub(idle.carried) >= idle.least {
            idle.active_at = now;
        }
        (idle.carried, idle.look_at) = (carried, now + idle.every);
        if now.saturating_duration_since(idle.active_at) < idle.limit {
            return None;
        }
        (self.over_at, self.idle) = (None, None);
        Some(Farewell::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(session: u64, idle: u64, idle_bytes: u64) -> (Watch, Instant) {
        let now = Instant::now();
        let limit = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
        let limits = SessionLimits { session: limit(session), idle: limit(idle), idle_bytes };
        (Watch::new(now, limits, 500), now)
    }

    /// Looks whenever it wants to; `carried` says how much there was by then.
    fn end(watch: &mut Watch, begin: Instant, carried: impl Fn(u64) -> u64) -> (u64, Farewell) {
        loop {
            let now = watch.deadline().unwrap();
            let seconds = (now - begin).as_secs();
            assert!(seconds < 100_000, "it never ends");
            if let Some(farewell) = watch.look(now, carried(seconds)) {
                return (seconds, farewell);
            }
        }
    }

    #[test]
    fn a_session_ends_when_its_time_is_over_however_busy_it_is() {
        let (mut watch, begin) = watch(60, 20, 0);
        let ended = end(&mut watch, begin, |seconds| 500 + seconds);
        assert_eq!(ended, (60, Farewell::SessionOver));
        assert_eq!(watch.deadline(), None);
    }

    #[test]
    fn an_idle_session_ends_soon_after_its_limit() {
        let (mut watch, begin) = watch(0, 80, 0);
        let (seconds, farewell) = end(&mut watch, begin, |seconds| 500 + seconds.min(100));
        assert_eq!(farewell, Farewell::Idle);
        assert!((180..=190).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_trickle_is_nothing_if_it_is_less_than_was_asked_for() {
        let (mut few, begin) = watch(0, 80, 1000);
        assert_eq!(end(&mut few, begin, |seconds| 500 + seconds * 10), (80, Farewell::Idle));
        let (mut enough, begin) = watch(800, 80, 1000);
        let ended = end(&mut enough, begin, |seconds| 500 + seconds * 20);
        assert_eq!(ended, (800, Farewell::SessionOver));
    }

    #[test]
    fn without_limits_there_is_nothing_to_watch() {
        let (watch, _) = watch(0, 0, 0);
        assert_eq!(watch.deadline(), None);
    }
}
