//! What a session costs while nothing happens.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::PATIENCE;
use serde::Serialize;

use crate::Plan;
use crate::arena::{Arena, within};
use crate::fleet::{Blueprint, Fleet, Habit};
use crate::machine::cpu_seconds;
use crate::tunnel::warren_up;

/// The row's name on the command line.
pub(crate) const NAME: &str = "idle";

const PORT: u16 = 1194;
/// How many clients connect at the same time.
const AT_ONCE: usize = 16;
/// How many connect and leave again before anything is measured: what the server makes once, such
/// as its buffers, is no session's.
const WARM_UP: usize = 16;
/// How long the server may tidy up after the last handshake.
const SETTLE: Duration = Duration::from_secs(6);

/// What was found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) sessions: usize,
    /// The server's memory before the sessions.
    pub(crate) rss_before_kib: u64,
    /// And with them.
    pub(crate) rss_after_kib: u64,
    pub(crate) kib_per_session: f64,
    pub(crate) seconds: f64,
    /// Processor time of the server in that time.
    pub(crate) cpu_seconds: f64,
    pub(crate) percent_of_a_core: f64,
}

/// Connects the sessions, leaves them alone, looks at the server.
///
/// # Errors
/// If not all of them connect, or one is lost.
pub(crate) fn measure(arena: &Arena, plan: &Plan) -> Result<Idle> {
    let (server, profile) =
        warren_up(arena, &["handshakes_per_second = 100000", "handshake_timeout = 20"])?;
    let pid = server.peer().pid();
    let sessions = plan.idle_sessions();

    let found = within(&arena.client, || {
        let mut visitors = Fleet::new(Blueprint::new(&profile, PORT)?, Habit::Stay)?;
        visitors.connect(WARM_UP, AT_ONCE, PATIENCE)?;
        visitors.leave(PATIENCE)?;
        visitors.run(SETTLE)?;
        let rss_before_kib = server.peer().rss_kib()?;

        let mut fleet = Fleet::new(Blueprint::new(&profile, PORT)?, Habit::Stay)?;
        fleet.connect(sessions, AT_ONCE, PATIENCE * 4)?;
        fleet.run(SETTLE)?;
        let rss_after_kib = server.peer().rss_kib()?;

        let (began, cpu) = (Instant::now(), cpu_seconds(pid)?);
        fleet.run(plan.idle_time())?;
        let (seconds, cpu_seconds) = (began.elapsed().as_secs_f64(), cpu_seconds(pid)? - cpu);
        ensure!(fleet.lost == 0, "{} sessions lost: {}", fleet.lost, fleet.why());
        let alive = server.sessions()?.len();
        ensure!(alive == sessions, "the server counts {alive} sessions instead of {sessions}");

        let grown = rss_after_kib.saturating_sub(rss_before_kib);
        Ok(Idle {
            sessions,
            rss_before_kib,
            rss_after_kib,
            kib_per_session: grown as f64 / sessions as f64,
            seconds,
            cpu_seconds,
            percent_of_a_core: cpu_seconds / seconds * 100.0,
        })
    })?;
    server.stop()?;
    Ok(found)
}
