//! The initiator's side: one tunnel to one of a profile's servers, for as long as it is wanted.

mod guide;
mod itinerary;
mod login;
mod proxy;
mod rounds;
mod transport;
mod waiting;
mod way;
mod whereabouts;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::{StateDir, random_bytes};
use contract::{
    Answer, Ask, AskId, Carrier, Command, Event, FabricOp, Farewell, Fatal, Input, Layer, Lease,
    Path, Plug, PortId, Secret, Via, WallClock,
};
use host::{ClientHost, ClientPlan, Journal, Keeper};
use hub::{AnyFabric, Uplink};
use ipnet::IpNet;
use openvpn::{Conduct, Family, Profile, Remote};
use sys::Tun;
use token::TokenKey;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

pub use self::guide::{Choice, ClientEvent, Guide, Orders, Step, Traffic};
use self::guide::{Order, Prepared, Reports, again, is_name, step};
use self::itinerary::Itinerary;
use self::login::Book;
pub use self::login::Desk;
use self::rounds::{Ending, Rounds};
use self::transport::Wanted;
use crate::aside::Whose;
use crate::clock;
use crate::driver::sleep_until;
use crate::limits::Watch;
use crate::pump::{Carried, Effect, Pump};
use crate::workers::{WorkerEvent, WorkerOp, Workers, WorkersConfig};
use way::{AnyEngine, Way, device_id, nobody, nowhere};

/// Control datagrams on their way from the worker.
const MAX_EVENTS: usize = 512;
/// How long a name may take to resolve before the addresses of last time are used: with the tunnel
/// gone, its resolver may be, too.
const RESOLVE_TIME: Duration = Duration::from_secs(5);

/// Puts the host back when it goes, come what may: a client that breaks must not leave traffic on
/// its way into a tunnel that is not there.
#[derive(Debug)]
struct HostGuard(Option<ClientHost>);

impl Drop for HostGuard {
    fn drop(&mut self) {
        for line in self.0.take().map(ClientHost::undo).unwrap_or_default() {
            warn!("{line}");
        }
    }
}

/// What a client is started with.
#[derive(Debug)]
pub struct ClientConfig {
    /// The profile.
    pub profile: Profile,
    /// The key in a token, if the profile names one.
    pub token: Option<TokenKey>,
    /// User and password, if the profile asks for them.
    pub login: Option<(String, Secret)>,
    /// Who is asked for whatever else the server wants to know.
    pub desk: Arc<dyn Desk>,
    /// Who is asked before each connection, if anybody.
    pub guide: Option<Arc<dyn Guide>>,
    /// Where changes to the host are written down.
    pub state: PathBuf,
    /// What keeps root's rights, if we have given them up.
    pub keeper: Option<Keeper>,
}

/// Why a client gives up; one line for the operator.
#[derive(Debug)]
pub struct ClientFailure(String);

impl fmt::Display for ClientFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ClientFailure {}

fn cannot(what: &str) -> impl Fn(&dyn fmt::Display) -> ClientFailure + '_ {
    move |error| ClientFailure(format!("{what}: {error}"))
}

/// A client; [`run`](Self::run) is its life.
#[derive(Debug)]
pub struct Client {
    itinerary: Itinerary,
    way: Way,
    clock: Arc<WallClock>,
    journal: Journal,
    keeper: Option<Keeper>,
    device: String,
    mark: Option<u32>,
    workers: Workers,
    heard: mpsc::Receiver<WorkerEvent>,
    host: HostGuard,
    /// The addresses that each name had when it was last resolved.
    known: Vec<Vec<IpAddr>>,
    attempts: u16,
    login: Book,
    guide: Option<Arc<dyn Guide>>,
    /// Whether the guide has been asked once.
    is_begun: bool,
    /// What the next attempt logs in with, if that is known.
    ready: Option<Conduct>,
    /// What takes the place of the server that is next.
    detour: Option<Remote>,
}

/// Undoes what clients that were cut off left behind: each of them had a folder in `clients`.
///
/// Folders that somebody works with are left alone.
pub fn repair_clients(clients: &std::path::Path, keeper: Option<&Keeper>) {
    for entry in std::fs::read_dir(clients).into_iter().flatten().flatten() {
        let repaired = StateDir::open(entry.path()).ok().and_then(|folder| {
            let _lock = folder.lock().ok()?;
            let journal = Journal::open_with(folder.path(), keeper);
            Some(journal.and_then(|journal| journal.repair()))
        });
        match repaired {
            None => {}
            Some(Ok(lines)) => lines.iter().for_each(|line| warn!("{line}")),
            Some(Err(error)) => warn!("{error}"),
        }
    }
}

impl Client {
    /// Checks the profile, repairs what an earlier run left, makes the device.
    ///
    /// # Errors
    ///
    /// One line; nothing has been changed then.
    pub fn start(start: ClientConfig) -> Result<Self, ClientFailure> {
        let ClientConfig { profile, token, login, desk, guide, state, keeper } = start;
        let clock = clock::start();
        let device = device_id(&state).map_err(|error| cannot("the device's id")(&error))?;
        let way = Way::new(&profile, token.as_ref(), device, &clock).map_err(ClientFailure)?;
        for note in &profile.notes {
            info!("{note}");
        }
        for warning in &profile.warnings {
            warn!("{warning}");
        }
        let journal = Journal::open_with(&state, keeper.as_ref())
            .map_err(|error| ClientFailure(error.to_string()))?;
        let repaired = journal.repair().map_err(|error| ClientFailure(error.to_string()))?;
        for line in repaired {
            warn!("{line}");
        }
        let itinerary = Itinerary::from(&profile);
        let name = itinerary.device.as_deref().unwrap_or("warren%d");
        let layer = itinerary.layer;
        let tun = match layer {
            Layer::Ip => Tun::open(name, 1),
            Layer::Ethernet => Tun::open_tap(name, 1),
        };
        let tun = tun.map_err(|error| ClientFailure(error.to_string()))?;
        let device = tun.name().to_owned();
        let mark = nix::net::if_::if_nametoindex(device.as_str()).ok().map(host::mark_for);
        let (events, heard) = mpsc::channel(MAX_EVENTS);
        let mtu = itinerary.mtu;
        let workers = Workers::start(
            WorkersConfig {
                queues: tun.queues(),
                frames: Vec::new(),
                without_queues: 0,
                layer,
                gateway4: None,
                gateway6: None,
                fabric: move || AnyFabric::Uplink(Uplink::new(mtu)),
            },
            events,
        )
        .map_err(|error| cannot("a packet thread")(&error))?;
        let known = vec![Vec::new(); itinerary.remotes.len()];
        Ok(Self {
            login: Book::new(&profile, login, desk),
            itinerary,
            way,
            clock,
            journal,
            keeper,
            device,
            mark,
            workers,
            heard,
            host: HostGuard(None),
            known,
            attempts: 0,
            guide,
            is_begun: false,
            ready: None,
            detour: None,
        })
    }

    /// Connects, and connects again, until told to stop or refused; then puts the host back.
    ///
    /// # Errors
    ///
    /// If the server refuses us, or attempts run out.
    pub async fn run(
        mut self,
        mut orders: Orders,
        events: mpsc::UnboundedSender<ClientEvent>,
    ) -> Result<(), ClientFailure> {
        let ticking = tokio::spawn(clock::run(Arc::clone(&self.clock)));
        let workers = self.workers.clone();
        let events = Reports::new(events, self.guide.clone());
        let result = tokio::select! {
            result = self.stay_connected(&mut orders, &events) => result,
            () = workers.broken() => {
                Err(ClientFailure("the packet thread or the TUN device is gone".to_owned()))
            }
        };
        ticking.abort();
        let (host, workers) = (self.host, self.workers);
        let undone = tokio::task::spawn_blocking(move || {
            drop(host);
            workers.stop();
        });
        undone.await.map_err(|error| cannot("the host's network")(&error))?;
        result
    }

    async fn stay_connected(
        &mut self,
        orders: &mut Orders,
        events: &Reports,
    ) -> Result<(), ClientFailure> {
        if let Way::Answers { door, point } = self.way.clone() {
            return self.stay_reachable(&door, &point, orders, events).await;
        }
        let mut rounds = Rounds::new(self.itinerary.retry, self.itinerary.retry_max);
        let (mut waited, _) = self.itinerary.retry;
        loop {
            let pause = match self.round(waited, orders, events).await? {
                Ending::Told | Ending::Again => return Ok(()),
                Ending::Over(reason) => {
                    events.send(ClientEvent::Over { reason });
                    return Ok(());
                }
                Ending::Refused(why) => return Err(ClientFailure(why)),
                Ending::Restarted(reason) => {
                    again(events, reason);
                    rounds.lost()
                }
                Ending::Lost(reason) => {
                    events.send(ClientEvent::Disconnected { reason: reason.clone() });
                    again(events, reason);
                    rounds.lost()
                }
                Ending::Failed(last) => rounds.failed().map_err(|rounds| {
                    ClientFailure(format!("given up after {rounds} rounds: {last}"))
                })?,
            };
            let pause = self.login.backoff.take().unwrap_or(pause);
            waited = pause;
            debug!(seconds = pause.as_secs_f64(), "waiting before the next attempt");
            // Whoever holds the client back decides when it goes on.
            let is_held = self.guide.as_ref().is_some_and(|guide| guide.holds());
            tokio::select! {
                () = tokio::time::sleep(pause), if !is_held => {}
                order = orders.next(), if !is_held => match order {
                    Order::Stop => return Ok(()),
                    Order::Restart(_) => {}
                },
                else => {}
            }
        }
    }

    /// Tries one server after the other until an attempt does more than fail; `pause` lies before.
    async fn round(
        &mut self,
        pause: Duration,
        orders: &mut Orders,
        events: &Reports,
    ) -> Result<Ending, ClientFailure> {
        let mut last = "no server has an address".to_owned();
        let mut order = self.order().into_iter().peekable();
        while let Some(index) = order.peek().copied() {
            match self.prepare(index, pause, orders, events).await? {
                Prepared::Go => {}
                Prepared::Skip(count) => {
                    order.by_ref().take(count).for_each(drop);
                    continue;
                }
                Prepared::Told => return Ok(Ending::Told),
            }
            if self.destination(index).is_some_and(|remote| is_name(&remote.host)) {
                step(events, Step::Resolving);
            }
            let mut is_asked_again = false;
            for address in self.resolve(index).await {
                match self.attempt_until_settled(index, address, orders, events).await? {
                    Ending::Again => {
                        again(events, "auth-failure");
                        is_asked_again = true;
                        break;
                    }
                    Ending::Failed(why) => {
                        info!(server = %address, "no connection: {why}");
                        again(events, why.clone());
                        last = why;
                    }
                    ending => return Ok(ending),
                }
            }
            if !is_asked_again {
                order.next();
            }
        }
        Ok(Ending::Failed(last))
    }

    /// The order in which to try the remotes.
    fn order(&self) -> Vec<usize> {
        let mut order = (0..self.itinerary.remotes.len().max(1)).collect::<Vec<_>>();
        if self.itinerary.remote_random {
            let dice: [u8; 8] = random_bytes();
            let mut dice = u64::from_ne_bytes(dice) as usize;
            for at in (1..order.len()).rev() {
                order.swap(at, dice % (at + 1));
                dice /= at + 1;
            }
        }
        order
    }

    async fn resolve(&mut self, index: usize) -> Vec<SocketAddr> {
        let Some(remote) = self.destination(index) else {
            return nowhere(self.itinerary.link);
        };
        let (first_hop, keeper) = (FirstHop::of(remote), self.keeper.clone());
        if let Some(found) = first_hop.look_up(keeper).await {
            self.known[index] = found;
        }
        let port = first_hop.port;
        self.known[index].iter().map(|address| SocketAddr::new(*address, port)).collect()
    }

    /// Connects to one address, again if only the login has to be another.
    async fn attempt_until_settled(
        &mut self,
        index: usize,
        server: SocketAddr,
        orders: &mut Orders,
        events: &Reports,
    ) -> Result<Ending, ClientFailure> {
        loop {
            let conduct = match self.ready.take() {
                Some(conduct) => conduct,
                None => tokio::select! {
                    conduct = self.login.conduct() => conduct?,
                    order = orders.next() => return Ok(Ending::by(order)),
                },
            };
            let ending = self.attempt(index, server, conduct, orders, events).await?;
            if !matches!(ending, Ending::Again) || self.guide.is_some() {
                return Ok(ending);
            }
        }
    }

    /// One connection to one address, from first packet to last.
    async fn attempt(
        &mut self,
        index: usize,
        server: SocketAddr,
        conduct: Conduct,
        orders: &mut Orders,
        events: &Reports,
    ) -> Result<Ending, ClientFailure> {
        self.attempts = self.attempts.wrapping_add(1);
        let port = PortId(u32::from(self.attempts) + 1);
        let remote = self.destination(index).cloned().unwrap_or_else(nobody);
        let wanted = Wanted {
            number: self.attempts,
            first_hop: server,
            remote,
            local_port: self.itinerary.local_port,
            mark: self.mark,
            patience: self.itinerary.server_timeout,
        };
        if wanted.remote.transport == openvpn::Transport::Tcp {
            step(events, Step::Dialling);
        }
        let opened = tokio::select! {
            opened = transport::open(&wanted) => opened,
            order = orders.next() => return Ok(Ending::by(order)),
        };
        let kind = self.way.kind();
        let (association, (path, end)) = match opened {
            Ok(mut transport) => {
                (transport.take_association(), transport.serve(&self.workers, kind))
            }
            Err(error) => return Ok(Ending::Failed(error)),
        };
        step(events, Step::Waiting);
        let now = Instant::now();
        let session = self.way.engine(now, path, port, conduct, random_bytes());
        let (answers, answered) = mpsc::unbounded_channel();
        let mut connection = Connection {
            pump: Pump::new(session, port),
            path,
            association,
            port,
            server,
            give_up: now + self.itinerary.server_timeout,
            up: false,
            is_answered: false,
            restart: None,
            ending: None,
            over: None,
            lease: None,
            watch: None,
            answers,
            answered,
        };
        connection.pump.feed(now, Input::Command(Command::Connect));
        let ending = self.drive(&mut connection, orders, events).await.map(|ending| {
            let session = connection.pump.engine();
            match self.login.after(session.token(), session.refusal(), ending) {
                // Refused when the keys were renewed, and worth another attempt.
                Ending::Failed(why) if connection.up => Ending::Lost(why),
                ending => ending,
            }
        });
        let epoch = self.workers.submit(vec![WorkerOp::Fabric(FabricOp::Unplug(port)), end]);
        self.workers.forget(port);
        // The next attempt may want the same local port.
        self.workers.wait_applied(epoch).await;
        ending
    }

    async fn drive(
        &mut self,
        connection: &mut Connection,
        orders: &mut Orders,
        events: &Reports,
    ) -> Result<Ending, ClientFailure> {
        let mut told = false;
        loop {
            let carried = self.carry_out(connection, events).await?;
            if carried == Carried::All
                && let Some(fatal) = connection.pump.fatal()
            {
                return Ok(match connection.over {
                    _ if told => Ending::Told,
                    _ if connection.restart.is_some() => {
                        Ending::Restarted(connection.restart.unwrap_or_default())
                    }
                    Some(why) => Ending::Over(why.to_owned()),
                    None => connection.ending(fatal),
                });
            }
            let deadline = connection.pump.deadline();
            // A server that answers is given the time that its handshake takes.
            let is_silent = !connection.up && !connection.pump.engine().has_answer();
            let give_up = is_silent.then_some(connection.give_up);
            let watch = connection.watch.as_ref().and_then(Watch::deadline);
            let deadline = deadline.into_iter().chain(give_up).chain(watch).min();
            let epoch = match carried {
                Carried::All => None,
                Carried::Until(epoch) => Some(epoch),
            };
            let workers = self.workers.clone();
            tokio::select! {
                order = orders.next(), if !told => {
                    match order {
                        Order::Stop => told = true,
                        Order::Restart(reason) => connection.restart = Some(reason),
                    }
                    let farewell = Command::Disconnect(Farewell::Shutdown);
                    connection.pump.feed(Instant::now(), Input::Command(farewell));
                }
                Some(event) = self.heard.recv() => connection.hear(event),
                Some((ask, answer)) = connection.answered.recv() => {
                    connection.pump.feed(Instant::now(), Input::Answer { ask, answer });
                }
                () = proxy::ended(&mut connection.association) => {
                    let farewell = Command::Disconnect(Farewell::Replaced);
                    connection.pump.feed(Instant::now(), Input::Command(farewell));
                    connection.ending = Some("the proxy ended the relay".to_owned());
                }
                () = workers.wait_applied(epoch.unwrap_or(0)), if epoch.is_some() => {}
                () = sleep_until(deadline), if deadline.is_some() => {
                    let now = Instant::now();
                    if is_silent && now >= connection.give_up {
                        let farewell = Command::Disconnect(Farewell::Replaced);
                        connection.pump.feed(now, Input::Command(farewell));
                        connection.ending = Some("the server does not answer".to_owned());
                        continue;
                    }
                    let carried = self.workers.counters(connection.port);
                    connection.look(now, carried.rx_bytes + carried.tx_bytes);
                    connection.pump.feed(now, Input::Tick);
                }
            }
        }
    }

    async fn carry_out(
        &mut self,
        connection: &mut Connection,
        events: &Reports,
    ) -> Result<Carried, ClientFailure> {
        loop {
            // What was said on the way here, before what follows from it.
            connection.tell(events);
            let mut effects = Vec::new();
            let carried = connection.pump.carry_out(&self.workers, |effect| effects.push(effect));
            if effects.is_empty() {
                return Ok(carried);
            }
            for effect in effects {
                match effect {
                    Effect::Ask(ask, Ask::Configure(lease)) => {
                        if !connection.up {
                            step(events, Step::Assigning(Box::new(lease.clone())));
                        }
                        let configured = self.configure(connection, lease).await;
                        let has_routes = !connection.lease().routes.is_empty();
                        if !connection.up && configured.is_ok() && has_routes {
                            step(events, Step::Routing);
                        }
                        match &configured {
                            Ok(()) => {
                                let carried = self.workers.counters(connection.port);
                                connection.begin(carried.rx_bytes + carried.tx_bytes);
                                if connection.up {
                                    let lease = Box::new(connection.lease());
                                    events.send(ClientEvent::Changed { lease });
                                }
                            }
                            Err(error) if connection.up => warn!("{error}"),
                            Err(error) => connection.ending = Some(error.to_string()),
                        }
                        let answer = Answer::Configured(configured.map_err(|_| ()));
                        connection.pump.feed(Instant::now(), Input::Answer { ask, answer });
                    }
                    Effect::Ask(ask, Ask::Password { user }) => {
                        self.login.ask_password_beside(ask, user, connection.answers.clone());
                    }
                    Effect::Ask(ask, Ask::Prompt { text, echo }) => {
                        self.login.ask_beside(ask, text, echo, connection.answers.clone());
                    }
                    Effect::Ask(ask, Ask::Work(work)) => {
                        let answers = connection.answers.clone();
                        crate::aside::run(work, Whose::Members, move |done| {
                            let _ = answers.send((ask, Answer::Worked(done)));
                        });
                    }
                    Effect::Ask(_, question) => {
                        return Err(ClientFailure(format!("an initiator asks {question:?}")));
                    }
                    Effect::Event(Event::Up(facts)) => {
                        connection.up = true;
                        let lease = Box::new(connection.lease());
                        let (remote, device) = (connection.server, self.device.clone());
                        events.send(ClientEvent::Connected { remote, lease, facts, device });
                    }
                    Effect::Event(Event::Moved(path)) => {
                        info!(from = %connection.server, to = %path.remote, "the peer is elsewhere");
                        connection.server = path.remote;
                    }
                    Effect::Event(Event::Remark(text)) => {
                        info!("{text}");
                        connection.ending = Some(text);
                    }
                    Effect::Event(event) => debug!(?event, "session"),
                }
            }
        }
    }

    /// Brings the host into the server's network.
    async fn configure(
        &mut self,
        connection: &mut Connection,
        lease: Lease,
    ) -> Result<(), ClientFailure> {
        let former = connection.lease.replace(lease.clone());
        let layer = self.itinerary.layer;
        let (prefixes, user) = (Vec::new(), Arc::default());
        let plug = Plug { port: connection.port, prefixes, mtu: lease.mtu, layer, user };
        let epoch = self.workers.submit(vec![WorkerOp::Fabric(FabricOp::Plug(plug))]);
        connection.pump.wait_for(epoch);

        let mut servers = self.known.iter().flatten().copied().collect::<Vec<_>>();
        // A relay may be elsewhere than its proxy.
        servers.push(connection.path.remote.ip());
        servers.sort_unstable();
        servers.dedup();
        let (host, journal) = (self.host.0.take(), self.journal.clone());
        let (tun, mark) = (self.device.clone(), self.mark);
        let is_ethernet = layer == Layer::Ethernet;
        // What lies behind the two peers is to reach each other.
        let is_network = |route: &IpNet| route.prefix_len() < route.max_prefix_len();
        let forward = self.itinerary.link.is_some() && lease.routes.iter().any(is_network);
        let changed = tokio::task::spawn_blocking(move || match host {
            Some(mut host) => {
                let updated = host.update(lease, servers);
                (Some(host), updated)
            }
            None => {
                let plan =
                    ClientPlan { tun, is_ethernet, lease, servers, mark, set_dns: true, forward };
                match ClientHost::apply(&journal, plan) {
                    Ok(host) => (Some(host), Ok(())),
                    Err(error) => (None, Err(error)),
                }
            }
        });
        let (host, result) = changed.await.map_err(|error| cannot("the host's network")(&error))?;
        self.host.0 = host;
        if result.is_err() && former.is_some() {
            connection.lease = former;
        }
        result.map_err(|error| ClientFailure(error.to_string()))
    }
}

/// What has to be resolved before a server can be called.
#[derive(Debug)]
struct FirstHop {
    host: String,
    port: u16,
    family: Option<Family>,
}

impl FirstHop {
    fn of(remote: &Remote) -> Self {
        // A proxy finds the server itself, and the family is the server's.
        match &remote.proxy {
            Some(proxy) => Self { host: proxy.host.clone(), port: proxy.port, family: None },
            None => Self { host: remote.host.clone(), port: remote.port, family: remote.family },
        }
    }

    fn is_wanted(&self, address: IpAddr) -> bool {
        match self.family {
            None => true,
            Some(Family::V4) => address.is_ipv4(),
            Some(Family::V6) => address.is_ipv6(),
        }
    }

    /// The addresses; nothing if the name does not resolve.
    async fn look_up(&self, keeper: Option<Keeper>) -> Option<Vec<IpAddr>> {
        let host = self.host.as_str();
        if let Some(keeper) = keeper {
            // The host's name servers may be others by now.
            let _ = tokio::task::spawn_blocking(move || keeper.refresh_names()).await;
        }
        let lookup = tokio::net::lookup_host((host, self.port));
        match tokio::time::timeout(RESOLVE_TIME, lookup).await {
            Ok(Ok(found)) => {
                let mut addresses = Vec::new();
                for address in found.map(|found| found.ip()) {
                    if self.is_wanted(address) && !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                return Some(addresses);
            }
            Ok(Err(error)) => warn!(%host, %error, "the name does not resolve"),
            Err(_) => warn!(%host, "resolving the name takes too long"),
        }
        None
    }
}

/// One attempt under way.
#[derive(Debug)]
struct Connection {
    pump: Pump<AnyEngine>,
    path: Path,
    /// What keeps a relay of datagrams going.
    association: Option<tokio::net::TcpStream>,
    port: PortId,
    server: SocketAddr,
    give_up: Instant,
    up: bool,
    /// Whether it has been told that the peer answers.
    is_answered: bool,
    /// Why we were told to connect anew.
    restart: Option<&'static str>,
    /// The best words for what may end it.
    ending: Option<String>,
    /// Why it ends for good though all is well.
    over: Option<&'static str>,
    lease: Option<Lease>,
    watch: Option<Watch>,
    /// What is found out while the connection goes on, from the person at this end or a token.
    answers: mpsc::UnboundedSender<(AskId, Answer)>,
    answered: mpsc::UnboundedReceiver<(AskId, Answer)>,
}

impl Connection {
    /// Tells what the engine has to say.
    fn tell(&mut self, events: &Reports) {
        if !self.is_answered && self.pump.engine().has_answer() {
            self.is_answered = true;
            step(events, Step::Authenticating);
        }
        for tiding in self.pump.engine_mut().take_tidings() {
            step(events, Step::Told(tiding));
        }
    }

    fn lease(&self) -> Lease {
        self.lease.clone().unwrap_or_default()
    }

    /// The limits of the lease hold from now on.
    fn begin(&mut self, carried: u64) {
        let limits = self.lease.as_ref().map(|lease| lease.limits).unwrap_or_default();
        self.watch = Some(Watch::new(Instant::now(), limits, carried));
    }

    /// Ends it if a limit is reached.
    fn look(&mut self, now: Instant, carried: u64) {
        let farewell = self.watch.as_mut().and_then(|watch| watch.look(now, carried));
        self.over = match farewell {
            Some(Farewell::Idle) => Some("nothing was sent or received (inactive)"),
            Some(_) => Some("its time is over (session-timeout)"),
            None => return,
        };
        self.pump.feed(now, Input::Command(Command::Disconnect(Farewell::Shutdown)));
    }

    fn hear(&mut self, event: WorkerEvent) {
        let now = Instant::now();
        match event {
            WorkerEvent::Datagram { path, bytes } => {
                let via = Via::Path(path);
                self.pump.feed(now, Input::Datagram { via, payload: &bytes });
            }
            WorkerEvent::Control { port, bytes } if port == self.port => {
                self.pump.feed(now, Input::Datagram { via: Via::Port(port), payload: &bytes });
            }
            WorkerEvent::Notice { port, notice } if port == self.port => {
                self.pump.feed(now, Input::Notice(notice));
            }
            WorkerEvent::StreamClosed { stream, reason }
                if self.path.carrier == Carrier::Stream(stream) =>
            {
                self.ending.get_or_insert_with(|| reason.to_string());
                self.pump.feed(now, Input::StreamClosed { stream });
            }
            WorkerEvent::Control { .. }
            | WorkerEvent::Notice { .. }
            | WorkerEvent::StreamClosed { .. } => {}
            WorkerEvent::TunFailed(error) => warn!(%error, "the TUN device fails"),
        }
    }

    fn ending(&mut self, fatal: Fatal) -> Ending {
        Ending::of(fatal, self.up, self.ending.take())
    }
}
