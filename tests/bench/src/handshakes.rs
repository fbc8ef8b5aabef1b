//! How many new sessions a server takes per second of its processor time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::PATIENCE;
use lab::openvpn::Server;
use serde::Serialize;

use crate::Plan;
use crate::arena::{Arena, within};
use crate::fleet::{Blueprint, Fleet, Habit};
use crate::machine::cpu_seconds;
use crate::report::Spread;
use crate::tunnel::{MTU, warren_up};

/// The row's name on the command line.
pub(crate) const NAME: &str = "handshakes";

const PORT: u16 = 1194;
/// How many clients come and go at the same time.
const AT_ONCE: usize = 16;
/// How long they do so before anything is counted.
const WARM_UP: Duration = Duration::from_secs(1);

/// What was found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Handshakes {
    pub(crate) warren: Rate,
    pub(crate) openvpn: Rate,
}

/// One server's rate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rate {
    /// Completed, per second of the server's processor time.
    pub(crate) per_cpu_second: Spread,
    /// Completed, per second that passed; the clients compete for the same cores.
    pub(crate) per_second: Spread,
    /// Handshakes that did not complete.
    pub(crate) failed: u64,
}

#[derive(Debug, Default)]
struct Samples {
    per_cpu_second: Vec<f64>,
    per_second: Vec<f64>,
    failed: u64,
}

/// Alternates between the two servers.
///
/// # Errors
/// If a server does not start, or nobody gets through.
pub(crate) fn measure(arena: &Arena, plan: &Plan) -> Result<Handshakes> {
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..plan.rounds() {
        against_warren(arena, plan, &mut ours)?;
        against_openvpn(arena, plan, &mut theirs)?;
    }
    Ok(Handshakes { warren: ours.rate()?, openvpn: theirs.rate()? })
}

fn against_warren(arena: &Arena, plan: &Plan, samples: &mut Samples) -> Result<()> {
    let limits = ["handshakes_per_second = 1000000", "max_sessions = 50000"];
    let (server, profile) = warren_up(arena, &limits)?;
    come_and_go(arena, plan, &profile, server.peer().pid(), samples).context("Warren")?;
    server.stop()?;
    Ok(())
}

fn against_openvpn(arena: &Arena, plan: &Plan, samples: &mut Samples) -> Result<()> {
    // A session that said goodbye still has its place and address for five seconds here, so there
    // must be many; its limit on first packets would otherwise be what is measured.
    let pool = arena.server.folder().join("no-pool");
    let extra = [
        format!("tun-mtu {MTU}"),
        "verb 1".to_owned(),
        "duplicate-cn".to_owned(),
        "max-clients 50000".to_owned(),
        "connect-freq-initial 1000000 1".to_owned(),
        "server 10.64.0.0 255.255.0.0".to_owned(),
        "keepalive 10 60".to_owned(),
        format!("ifconfig-pool-persist {} 0", pool.display()),
    ];
    let server =
        Server { ciphers: "AES-256-GCM".to_owned(), extra: extra.into(), ..Server::default() };
    let running = server.start(&arena.server, &arena.pki)?;
    let identity = arena.pki.client(&arena.fresh_name("client"))?;
    let profile = server.profile(&arena.pki, &identity, &[(Arena::SERVER, server.port)]);
    come_and_go(arena, plan, &profile, running.pid(), samples).context("openvpn")?;
    running.stop(PATIENCE)?;
    Ok(())
}

fn come_and_go(
    arena: &Arena,
    plan: &Plan,
    profile: &str,
    server: i32,
    samples: &mut Samples,
) -> Result<()> {
    within(&arena.client, || {
        let mut fleet = Fleet::new(Blueprint::new(profile, PORT)?, Habit::Leave)?;
        for _ in 0..AT_ONCE {
            fleet.launch()?;
        }
        fleet.run(WARM_UP)?;

        let (began, cpu) = (Instant::now(), cpu_seconds(server)?);
        let (connected, lost) = (fleet.connected, fleet.lost);
        fleet.run(plan.handshake_time())?;
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds(server)? - cpu);
        let connected = fleet.connected - connected;
        ensure!(connected > 0, "nobody gets through: {}", fleet.why());
        ensure!(cpu > 0.0, "{connected} handshakes took no processor time");

        samples.per_cpu_second.push(connected as f64 / cpu);
        samples.per_second.push(connected as f64 / seconds);
        samples.failed += fleet.lost - lost;
        fleet.leave(PATIENCE)
    })
}

impl Samples {
    fn rate(&self) -> Result<Rate> {
        Ok(Rate {
            per_cpu_second: Spread::of(&self.per_cpu_second).context("no samples")?,
            per_second: Spread::of(&self.per_second).context("no samples")?,
            failed: self.failed,
        })
    }
}
