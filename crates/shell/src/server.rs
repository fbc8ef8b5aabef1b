//! The responder's side: one network, its doors, the host around it.

mod bridge;
mod client_keys;
mod doors;
mod elsewhere;
mod openvpn;
mod outside;
mod reload;
mod segment;
mod watch;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backends::{Identity, LocalAuthenticator, Store, random_bytes};
use config::{Config, Ipv6Pool};
use contract::{Authenticator, Discard, DnsSettings, Farewell, Layer, PortId, WallClock};
use dataplane::{Offloads, PortTotals};
use host::{Journal, Keeper, ServerHost, ServerPlan, WatchedFiles};
use hub::{AnyFabric, HubNetwork, NetworkSettings, Segment, Switch, SwitchPolicy, SwitchSettings};
use ipnet::{IpNet, Ipv6Net};
use pki::Members;
use rustls::sign::CertifiedKey;
use sys::Tun;
use token::TokenKey;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tracing::{error, info, warn};

use self::bridge::Joined;
use self::doors::{Doors, EventRoutes};
use self::outside::{Followed, ReadOutside};
use self::reload::keep;
pub use self::reload::{Changed, ConfigReader, ReloadError};
use crate::clock;
use crate::driver::{Services, SessionInfo, Which};
use crate::kind::DoorKind;
use crate::leases::StoreMemory;
use crate::news::{News, Newsroom};
use crate::workers::{WorkerEvent, Workers, WorkersConfig};

/// Control datagrams on their way from the workers; a flood fills it and is counted, no more.
const MAX_EVENTS: usize = 4096;
/// How long sessions are given to hear that the server goes away.
const FAREWELL_TIME: Duration = Duration::from_secs(4);

/// What a server is started with; the state folder is locked by the caller.
#[derive(Debug)]
pub struct ServerConfig {
    /// The checked configuration.
    pub config: Config,
    /// Reads it again.
    pub config_reader: ConfigReader,
    /// What keeps root's rights, if we have given them up.
    pub keeper: Option<Keeper>,
    /// The server's key, if it is in a token.
    pub token: Option<TokenKey>,
    /// Whose certificates are accepted; known to the `authenticator`, too.
    pub members: Arc<Members>,
    /// What [`outside_files`](crate::outside_files) names in the configuration.
    pub files: WatchedFiles,
    /// The state folder.
    pub state: PathBuf,
    /// Users, certificates, settings.
    pub store: Arc<Store>,
    /// Who judges logins, if not the user list: then users need not be in it.
    pub authenticator: Option<Arc<dyn Authenticator>>,
}

/// Why a server does not start; one line for the operator.
#[derive(Debug)]
pub struct StartError(String);

impl StartError {
    pub(crate) fn new(line: String) -> Self {
        Self(line)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

fn cannot(what: &str) -> impl Fn(&dyn fmt::Display) -> StartError + '_ {
    move |error| StartError(format!("{what}: {error}"))
}

/// What a running server is.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The network's name.
    pub network: String,
    /// The TUN device.
    pub device: String,
    /// The server's own addresses with the network's prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Threads that carry packets.
    pub workers: usize,
    /// What the kernel does for the TUN device.
    pub offloads: Offloads,
    /// When it started.
    pub started: Instant,
}

/// A door as the operator sees it.
#[derive(Clone, Debug)]
pub struct DoorInfo {
    /// The protocol.
    pub name: &'static str,
    /// Whether the configuration wants it open.
    pub is_enabled: bool,
    /// Whether it is open.
    pub is_open: bool,
    /// Where.
    pub listen: Vec<Listening>,
}

/// An address that a door listens on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listening {
    /// For datagrams.
    Udp(SocketAddr),
    /// For connections.
    Tcp(SocketAddr),
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "{address}/udp"),
            Self::Tcp(address) => write!(f, "{address}/tcp"),
        }
    }
}

/// A running server; a clone is another hold on it.
#[derive(Clone, Debug)]
pub struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    services: Arc<Services>,
    policy: Arc<SwitchPolicy>,
    segment: Arc<Segment>,
    identity: Identity,
    /// The server's key, if it is in a token.
    token: Option<Arc<CertifiedKey>>,
    members: Arc<Members>,
    files: WatchedFiles,
    followed: Mutex<Followed>,
    /// Live sessions may be judged otherwise than when they came.
    has_new_rules: AtomicBool,
    clock: Arc<WallClock>,
    store: Arc<Store>,
    /// Whether sessions may be of users that the list does not know.
    knows_strangers: bool,
    config_reader: ConfigReader,
    config: Mutex<Arc<Config>>,
    summary: Summary,
    ipv6: Option<Ipv6Net>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    broken: tokio::sync::Notify,
    doors: tokio::sync::Mutex<Doors>,
    listening: Mutex<Vec<(DoorKind, Listening)>>,
    routes: Mutex<EventRoutes>,
    host: Mutex<Option<ServerHost>>,
    joined: Mutex<Option<Joined>>,
    next_socket: AtomicU32,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// Repairs what an earlier run left, then sets up device, host, workers and doors.
    ///
    /// # Errors
    ///
    /// One line; whatever had been changed is undone.
    pub async fn start(start: ServerConfig) -> Result<Self, StartError> {
        let ServerConfig {
            config, config_reader, keeper, token, state, store, authenticator, ..
        } = start;
        let (members, files) = (start.members, start.files);
        let knows_strangers = authenticator.is_some();
        let _ = sys::limits::raise_open_files();
        let journal = open_journal(&state, keeper.as_ref())?;
        let identity = Identity::load_or_create(&store)
            .map_err(|error| cannot("the server's certificate and keys")(&error))?;
        let token = token.map(|key| elsewhere::certified(&identity, &store, &key)).transpose()?;
        let ipv6 = match config.network.ipv6 {
            Ipv6Pool::Auto => {
                Some(store.unique_local_prefix().map_err(|error| cannot("network.ipv6")(&error))?)
            }
            Ipv6Pool::Prefix(net) => Some(net),
            Ipv6Pool::Off => None,
        };
        // What has become too old must not keep those out whom it does not concern.
        let (outside, too_old) = match outside::first(&config, &files, members.clock()).await {
            Ok(read) => (read, None),
            Err(unusable) if unusable.is_out_of_date => (ReadOutside::default(), Some(unusable)),
            Err(unusable) => return Err(StartError(unusable.line)),
        };
        // Ports first: a port in use must not cost a device and a firewall table.
        let workers_wanted = config.server.workers.map_or_else(default_workers, usize::from);
        let bound = openvpn::bind_first(&config, &[], workers_wanted)?;

        let memory = StoreMemory::new(Arc::clone(&store))
            .map_err(|error| cannot("a thread for leases")(&error))?;
        let network = HubNetwork::new(network_settings(&config, ipv6), Box::new(memory))
            .map_err(|error| StartError(format!("network: {error}")))?;
        let network = Arc::new(network);
        let tun =
            Tun::open("warren%d", workers_wanted).map_err(|error| StartError(error.to_string()))?;
        let (device, offloads) = (tun.name().to_owned(), tun.offloads());
        if !offloads.gso {
            info!("the kernel offers no segmentation offload on TUN devices: slower, but it works");
        }
        let gateways = network.gateways();
        let (joined, frames) =
            bridge::join(&journal, &config.network, &device, workers_wanted).await?;
        let behind = joined.iter().flat_map(Joined::behind).collect();
        let bridge = joined.as_ref().and_then(Joined::name);
        let plan = server_plan(&config, &device, &gateways, behind, bridge);
        let host = tokio::task::spawn_blocking(move || ServerHost::apply(&journal, &plan))
            .await
            .map_err(|error| cannot("the host's network")(&error))?
            .map_err(|error| StartError(error.to_string()))?;
        let undo = HostGuard(Some(host));

        let policy = Arc::new(SwitchPolicy::new(config.network.client_to_client));
        policy.set_relay_broadcast(config.network.relay_broadcast);
        let segment = segment::new(&store).map_err(|error| cannot("the segment")(&error))?;
        let switch = SwitchSettings {
            subnets: network.subnets(),
            gateways: gateways.iter().map(IpNet::addr).collect(),
            host_mtu: config.network.mtu,
            policy: Arc::clone(&policy),
            on_bridge: joined.iter().flat_map(Joined::addresses).copied().collect(),
            groups: config.network.relay_groups.clone(),
            segment: Arc::clone(&segment),
        };
        let (events, heard) = mpsc::channel(MAX_EVENTS);
        let workers = Workers::start(
            WorkersConfig {
                queues: tun.queues(),
                frames,
                without_queues: 0,
                layer: Layer::Ip,
                gateway4: gateways.iter().find_map(|net| match net.addr() {
                    IpAddr::V4(address) => Some(address),
                    IpAddr::V6(_) => None,
                }),
                gateway6: gateways.iter().find_map(|net| match net.addr() {
                    IpAddr::V4(_) => None,
                    IpAddr::V6(address) => Some(address),
                }),
                fabric: move || AnyFabric::Switch(Switch::new(switch.clone())),
            },
            events,
        )
        .map_err(|error| cannot("packet threads")(&error))?;
        if let Some(joined) = &joined {
            workers.submit(vec![joined.plug()]);
        }

        let (replaced, replaced_ports) = mpsc::unbounded_channel();
        let authenticator = authenticator.unwrap_or_else(|| {
            let (store, limits) = (Arc::clone(&store), aaa::Limits::default());
            Arc::new(LocalAuthenticator::new(store, limits, Some(Arc::clone(&members))))
        });
        let services = Arc::new(Services {
            workers,
            lobby: Arc::default(),
            network,
            network_name: config.network.name.clone(),
            authenticator,
            ports: AtomicU32::new(1),
            sessions: AtomicU64::new(1),
            replaced,
            news: Newsroom::new(),
            subnets: tokio::sync::Notify::new(),
            seed: random_bytes::<32>,
        });
        let summary = Summary {
            network: config.network.name.clone(),
            device,
            addresses: gateways,
            workers: services.workers.count(),
            offloads,
            started: Instant::now(),
        };
        let server = Self(Arc::new(Inner {
            services,
            policy,
            segment,
            identity,
            token,
            clock: Arc::clone(members.clock()),
            members,
            files,
            followed: Mutex::default(),
            has_new_rules: AtomicBool::new(false),
            store,
            knows_strangers,
            config_reader,
            config: Mutex::new(Arc::new(config)),
            summary,
            ipv6,
            reloading: tokio::sync::Mutex::new(()),
            broken: tokio::sync::Notify::new(),
            doors: tokio::sync::Mutex::default(),
            listening: Mutex::default(),
            routes: Mutex::default(),
            host: Mutex::new(undo.release()),
            joined: Mutex::new(joined),
            next_socket: AtomicU32::new(0),
            tasks: Mutex::default(),
        }));
        server.reserve_fixed();
        server.accept_outside(outside);
        if let Some(unusable) = too_old {
            server.distrust_outside(unusable.line);
        }
        server.tell_registered().await;
        let config = server.config();
        if config.doors.openvpn.enabled
            && let Err(error) = server.open_first_openvpn(&config, bound).await
        {
            server.stop().await;
            return Err(error);
        }
        server.spawn_tasks(heard, replaced_ports);
        Ok(server)
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&lock(&self.0.config))
    }

    /// What this server is.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.0.summary
    }

    /// Every door, open or not.
    #[must_use]
    pub fn doors(&self) -> Vec<DoorInfo> {
        let config = self.config();
        let info = |kind: DoorKind| {
            let listen = self.listening(kind);
            let (name, is_enabled) = (kind.name(), kind.is_enabled(&config));
            DoorInfo { name, is_enabled, is_open: !listen.is_empty(), listen }
        };
        DoorKind::ALL.into_iter().map(info).collect()
    }

    /// Whether the kernel cuts and joins datagrams for us.
    #[must_use]
    pub fn segments(&self) -> bool {
        self.0.services.workers.segments()
    }

    /// Packets and bytes of everybody, and what was dropped.
    #[must_use]
    pub fn totals(&self) -> (PortTotals, [u64; Discard::COUNT]) {
        (self.0.services.workers.totals(), self.0.services.workers.discards())
    }

    /// Every live session with its traffic, oldest first.
    pub async fn sessions(&self) -> Vec<(SessionInfo, PortTotals)> {
        let mut list = Vec::new();
        for door in self.orders().await {
            list.extend(door.list().await);
        }
        list.sort_by_key(|info| info.id);
        let workers = &self.0.services.workers;
        list.into_iter()
            .map(|info| {
                let totals = workers.counters(info.port);
                (info, totals)
            })
            .collect()
    }

    /// Sessions coming and going from now on.
    #[must_use]
    pub fn news(&self) -> News {
        self.0.services.news.listen()
    }

    /// Ends sessions; returns how many there were.
    pub async fn end_sessions(&self, which: Which, farewell: Farewell) -> u64 {
        if farewell == Farewell::Revoked {
            // Before they are told, or the quickest would come back.
            self.tell_revoked_keys().await;
        }
        self.end(which, farewell).await
    }

    async fn end(&self, which: Which, farewell: Farewell) -> u64 {
        let mut count = 0;
        for door in self.orders().await {
            count += door.end(which.clone(), farewell).await;
        }
        count
    }

    /// Users changed: fixed addresses are kept free for their owners.
    pub fn reserve_fixed(&self) {
        match self.0.store.users() {
            Ok(users) => {
                let subnets = self.0.services.network.subnets();
                for user in &users {
                    let is_inside =
                        |address: &IpAddr| subnets.iter().any(|net| net.contains(address));
                    if let Some(address) = user.fixed.iter().find(|at| !is_inside(at)) {
                        warn!(user = %user.name, %address, "the user's fixed address is not in the network: no login until `warren user address` gives another");
                    }
                }
                self.0.services.network.reserve(users.into_iter().flat_map(|user| user.fixed));
            }
            Err(error) => error!(%error, "the user list cannot be read"),
        }
    }

    /// Tells the peers, ends every session, and leaves the host as it was found. Returns what
    /// could not be undone.
    pub async fn stop(&self) -> Vec<String> {
        let doors = std::mem::take(&mut *self.0.doors.lock().await);
        let closing =
            doors.open.into_values().map(|door| tokio::spawn(door.close())).collect::<Vec<_>>();
        for door in closing {
            let _ = door.await;
        }
        for task in lock(&self.0.tasks).drain(..) {
            task.abort();
        }
        let inner = Arc::clone(&self.0);
        let undone = tokio::task::spawn_blocking(move || {
            let mut left = lock(&inner.host).take().map(ServerHost::undo).unwrap_or_default();
            left.extend(lock(&inner.joined).take().map(Joined::undo).unwrap_or_default());
            inner.services.workers.stop();
            left
        });
        undone.await.unwrap_or_else(|error| vec![error.to_string()])
    }

    /// Returns when a door, a worker or the TUN device has broken, and the server has to be stopped.
    pub async fn broken(&self) {
        tokio::select! {
            () = self.0.broken.notified() => {}
            () = self.0.services.workers.broken() => {}
        }
    }

    async fn update_host(&self, config: &Config) -> Result<(), ReloadError> {
        let (inner, config) = (Arc::clone(&self.0), config.clone());
        let updated = tokio::task::spawn_blocking(move || match &mut *lock(&inner.host) {
            Some(host) => {
                // Under the lock, so that of two updates the later one knows more.
                let members = inner.services.network.behind().into_iter();
                let joined = lock(&inner.joined);
                let behind = joined.iter().flat_map(Joined::behind).chain(members).collect();
                let bridge = joined.as_ref().and_then(Joined::name);
                let (device, addresses) = (&inner.summary.device, &inner.summary.addresses);
                let plan = server_plan(&config, device, addresses, behind, bridge);
                host.update(&plan).map_err(|error| error.to_string())
            }
            None => Ok(()),
        });
        let updated = updated.await.map_err(|error| ReloadError::Host(error.to_string()))?;
        updated.map_err(ReloadError::Host)
    }

    fn spawn_tasks(
        &self,
        heard: mpsc::Receiver<WorkerEvent>,
        mut replaced: mpsc::UnboundedReceiver<PortId>,
    ) {
        let mut tasks = lock(&self.0.tasks);
        tasks.push(tokio::spawn(clock::run(Arc::clone(&self.0.clock))));
        tasks.push(tokio::spawn(route_events(Arc::downgrade(&self.0), heard)));
        tasks.push(tokio::spawn(segment::keep_fresh(Arc::clone(&self.0.segment))));
        if let Some(bridge) = lock(&self.0.joined).as_ref().and_then(Joined::with_host) {
            tasks.push(tokio::spawn(bridge::keep_known(bridge, Arc::clone(&self.0.services))));
        }
        let server = self.clone();
        tasks.push(tokio::spawn(async move {
            while let Some(port) = replaced.recv().await {
                server.end_sessions(Which::Port(port), Farewell::Replaced).await;
            }
        }));
        let server = self.clone();
        tasks.push(tokio::spawn(async move { server.watch_users().await }));
        let server = self.clone();
        tasks.push(tokio::spawn(async move { server.follow_subnets().await }));
    }

    /// Keeps the host's routes to subnets behind members, which come and go with them.
    async fn follow_subnets(&self) {
        loop {
            self.0.services.subnets.notified().await;
            // A reload changes the host, too, and takes its configuration along.
            let _alone = self.0.reloading.lock().await;
            if let Err(error) = self.update_host(&self.config()).await {
                error!(%error, "the routes to subnets behind members cannot be changed");
            }
        }
    }

    /// Asks the store where waiting for the disk holds nobody else up.
    async fn ask_store<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> T {
        let store = Arc::clone(&self.0.store);
        let answer = tokio::task::spawn_blocking(move || question(&store)).await;
        match answer.map_err(JoinError::try_into_panic) {
            Ok(answer) => answer,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime is on its way down, and so are we.
            Err(Err(_)) => std::future::pending().await,
        }
    }
}

/// Leaves the host as it was if the start fails after it was changed.
#[derive(Debug)]
struct HostGuard(Option<ServerHost>);

impl HostGuard {
    fn release(mut self) -> Option<ServerHost> {
        self.0.take()
    }
}

impl Drop for HostGuard {
    fn drop(&mut self) {
        for line in self.0.take().map(ServerHost::undo).unwrap_or_default() {
            error!("{line}");
        }
    }
}

/// Hands what the workers say to whom it concerns.
async fn route_events(server: std::sync::Weak<Inner>, mut heard: mpsc::Receiver<WorkerEvent>) {
    while let Some(event) = heard.recv().await {
        let Some(inner) = server.upgrade() else { return };
        if let WorkerEvent::TunFailed(error) = &event {
            error!(%error, "the TUN device fails: packets of the host are lost; restart Warren");
            continue;
        }
        let door = lock(&inner.routes).of(&event);
        // The end of a stream is said once, so it has to be heard.
        if let (WorkerEvent::StreamClosed { .. }, Some(door)) = (&event, &door) {
            let _ = door.send(event).await;
            continue;
        }
        // A door that is behind loses datagrams, as a network would.
        if door.is_none_or(|door| door.try_send(event).is_err()) {
            inner.services.workers.count_discard(Discard::NoBuffer);
        }
    }
}

fn open_journal(state: &Path, keeper: Option<&Keeper>) -> Result<Journal, StartError> {
    let journal =
        Journal::open_with(state, keeper).map_err(|error| StartError(error.to_string()))?;
    let repaired = journal.repair().map_err(|error| StartError(error.to_string()))?;
    for line in repaired {
        warn!("{line}");
    }
    Ok(journal)
}

/// Leaves one core to the control plane and everybody else, where there is more than one.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

fn network_settings(config: &Config, ipv6: Option<Ipv6Net>) -> NetworkSettings {
    let network = &config.network;
    NetworkSettings {
        name: network.name.clone(),
        ipv4: network.ipv4,
        ipv6,
        dns: DnsSettings {
            servers: network.dns.clone(),
            search: network.search.clone(),
            ..DnsSettings::default()
        },
        routes: network.routes.iter().chain(&network.bridge_networks).copied().collect(),
        excluded: Vec::new(),
        redirect4: network.redirect_gateway && network.ipv4.is_some(),
        redirect6: network.redirect_gateway && ipv6.is_some(),
        block4: network.redirect_gateway && network.ipv4.is_none(),
        block6: network.redirect_gateway && ipv6.is_none(),
        mtu: network.mtu,
    }
}

fn server_plan(
    config: &Config,
    device: &str,
    gateways: &[IpNet],
    behind: Vec<IpNet>,
    bridge: Option<String>,
) -> ServerPlan {
    ServerPlan {
        tun: device.to_owned(),
        address4: gateways.iter().find_map(|net| match net {
            IpNet::V4(net) => Some(*net),
            IpNet::V6(_) => None,
        }),
        address6: gateways.iter().find_map(|net| match net {
            IpNet::V4(_) => None,
            IpNet::V6(net) => Some(*net),
        }),
        mtu: config.network.mtu,
        nat: config.network.nat,
        behind,
        table: device.to_owned(),
        bridge,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is behind these locks is whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
