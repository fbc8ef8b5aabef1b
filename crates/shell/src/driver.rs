//! One task per door: its acceptor, its engines, their timers and their questions.

mod half_open;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use contract::{
    Acceptor, Answer, Arrival, Ask, AskId, AuthContext, AuthVerdict, Authenticator, Carrier,
    CertificateId, Command, Discard, Event, FabricOp, Farewell, Input, Lease, Network, Path,
    PortId, Route, SessionFacts, SessionId, SessionLimits, SocketId, StreamId, Via,
};
use hub::HubNetwork;
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{debug, info, warn};

pub(crate) use self::half_open::{HalfOpen, MAX_HALF_OPEN, MAX_HALF_OPEN_PER_SOURCE, source};
use crate::aside::Whose;
use crate::clock;
use crate::front::Lobby;
use crate::kind::DoorKind;
use crate::limits::Watch;
use crate::news::{Newsroom, SessionNews};
use crate::pump::{Carried, Effect, Pump};
use crate::workers::{WorkerEvent, WorkerOp, Workers};

/// How long sessions may take to say goodbye when the door closes.
const STOP_TIME: Duration = Duration::from_secs(3);

/// What every door works with.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) workers: Workers,
    /// Connections that are nobody's session yet.
    pub(crate) lobby: Arc<Lobby>,
    pub(crate) network: Arc<HubNetwork>,
    pub(crate) network_name: String,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) ports: AtomicU32,
    pub(crate) sessions: AtomicU64,
    /// Ports whose place went to a newer session; somebody tells their doors.
    pub(crate) replaced: mpsc::UnboundedSender<PortId>,
    /// Sessions coming and going, for whoever listens.
    pub(crate) news: Newsroom,
    /// Subnets behind members have come or gone.
    pub(crate) subnets: Notify,
    /// Fresh randomness from the operating system.
    pub(crate) seed: fn() -> [u8; 32],
}

/// A session as the operator sees it.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Unique while the server runs.
    pub id: u64,
    /// Which door it came through.
    pub door: &'static str,
    /// Its place in the hub.
    pub port: PortId,
    /// Who.
    pub user: String,
    /// Which device.
    pub device: String,
    /// The certificate, if it proved itself with one.
    pub certificate: Option<CertificateId>,
    /// Where the peer is.
    pub remote: SocketAddr,
    /// What it was given.
    pub lease: Lease,
    /// When it came up, in seconds since 1970.
    pub since: u64,
    /// Cipher and so on.
    pub facts: SessionFacts,
}

/// Which sessions are meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Which {
    /// All of them.
    All,
    /// The one with this id.
    Id(u64),
    /// This user's.
    User(String),
    /// Those with the certificate that [`CertificateId`] writes like this.
    Certificate(String),
    /// Those that came with this client key.
    ClientKey(String),
    /// The one at this place in the hub.
    Port(PortId),
    /// Those that came through this socket, or through the listener of that number.
    Socket(SocketId),
}

/// A change to an acceptor, carried out between two datagrams; returns sessions that must not come
/// up any more.
pub(crate) type Change<A> = Box<dyn FnOnce(Instant, &mut A) -> Vec<SessionId> + Send>;

/// Orders to a driver.
pub(crate) enum Order<A> {
    /// End sessions; answers how many.
    End(Which, Farewell, oneshot::Sender<u64>),
    /// End sessions, and answer when they have said goodbye.
    Drain(Which, oneshot::Sender<()>),
    /// List sessions.
    List(oneshot::Sender<Vec<SessionInfo>>),
    /// Change the acceptor.
    Change(Change<A>),
    /// End everything, and answer when it is over.
    Stop(oneshot::Sender<()>),
}

/// What a door's task owns.
pub(crate) struct Driver<A: Acceptor> {
    kind: DoorKind,
    /// Its name.
    door: &'static str,
    acceptor: A,
    services: Arc<Services>,
    sessions: HashMap<SessionId, Running<A::Engine>>,
    by_port: HashMap<PortId, SessionId>,
    by_stream: HashMap<StreamId, SessionId>,
    deadlines: BTreeSet<(Instant, SessionId)>,
    /// Sessions whose outputs wait for the workers.
    waiting: BTreeSet<(u64, SessionId)>,
    half_open: HalfOpen,
    /// Sockets that take no new sessions any more.
    closing: HashSet<SocketId>,
    /// One open question per engine at most, so the queue is as long as the list of sessions.
    answers: mpsc::UnboundedSender<Answered>,
    stopping: Option<(Instant, oneshot::Sender<()>)>,
    leaving: Vec<Leaving>,
    reply: Vec<u8>,
}

/// Sessions that somebody waits to see gone.
#[derive(Debug)]
struct Leaving {
    left: BTreeSet<SessionId>,
    done: oneshot::Sender<()>,
}

type Answered = (SessionId, AskId, Answer);

#[derive(Debug)]
struct Running<E> {
    pump: Pump<E>,
    port: PortId,
    /// Where it is.
    path: Path,
    /// Where it began.
    origin: Path,
    /// Which listener its connection came through, if it has one.
    listener: Option<SocketId>,
    /// What it says about itself.
    introduction: Arc<str>,
    /// Whether somebody was asked to judge it.
    was_judged: bool,
    user: String,
    device: String,
    certificate: Option<CertificateId>,
    lease: Option<Lease>,
    /// Whether there are any behind it.
    has_subnets: bool,
    limits: SessionLimits,
    watch: Option<Watch>,
    up: Option<(u64, SessionFacts)>,
    deadline: Option<Instant>,
    waits_for: Option<u64>,
}

impl<E> Running<E> {
    /// The client key that a session which is up came with.
    fn client_key(&self) -> Option<&String> {
        self.up.as_ref()?.1.client_key.as_ref()?.id.as_ref()
    }

    /// What the operator sees of it, once it is up.
    fn info(&self, door: &'static str, id: SessionId) -> Option<SessionInfo> {
        let (since, facts) = self.up.as_ref()?;
        Some(SessionInfo {
            id: id.0,
            door,
            port: self.port,
            user: self.user.clone(),
            device: self.device.clone(),
            certificate: self.certificate.clone(),
            remote: canonical(self.path.remote),
            lease: self.lease.clone().unwrap_or_default(),
            since: *since,
            facts: facts.clone(),
        })
    }
}

impl<A> Driver<A>
where
    A: Acceptor + Send + 'static,
    A::Engine: Send,
{
    pub(crate) fn new(
        kind: DoorKind,
        acceptor: A,
        services: Arc<Services>,
    ) -> (Self, mpsc::UnboundedReceiver<Answered>) {
        let (answers, answered) = mpsc::unbounded_channel();
        let driver = Self {
            kind,
            door: kind.name(),
            acceptor,
            services,
            sessions: HashMap::new(),
            by_port: HashMap::new(),
            by_stream: HashMap::new(),
            deadlines: BTreeSet::new(),
            waiting: BTreeSet::new(),
            half_open: HalfOpen::default(),
            closing: HashSet::new(),
            answers,
            stopping: None,
            leaving: Vec::new(),
            reply: Vec::new(),
        };
        (driver, answered)
    }

    /// Runs until it is told to stop and every session has ended.
    pub(crate) async fn run(
        mut self,
        mut answered: mpsc::UnboundedReceiver<Answered>,
        mut events: mpsc::Receiver<WorkerEvent>,
        mut orders: mpsc::Receiver<Order<A>>,
    ) {
        let workers = self.services.workers.clone();
        loop {
            if let Some((until, _)) = &self.stopping {
                if *until <= Instant::now() {
                    self.abandon();
                }
                if self.sessions.is_empty()
                    && let Some((_, done)) = self.stopping.take()
                {
                    let _ = done.send(());
                    return;
                }
            }
            let deadline = self.deadlines.first().map(|(at, _)| *at);
            let stop_at = self.stopping.as_ref().map(|(until, _)| *until);
            let deadline = deadline.into_iter().chain(stop_at).min();
            let epoch = self.waiting.first().map(|(epoch, _)| *epoch);
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.order(order),
                    // Nobody is left to give orders: no session may outlive its driver.
                    None => return self.abandon(),
                },
                Some((session, ask, answer)) = answered.recv() => self.answer(session, ask, answer),
                Some(event) = events.recv() => self.event(event),
                () = sleep_until(deadline), if deadline.is_some() => self.tick(),
                () = workers.wait_applied(epoch.unwrap_or(0)), if epoch.is_some() => self.release(),
            }
        }
    }

    fn order(&mut self, order: Order<A>) {
        match order {
            Order::End(which, farewell, done) => {
                let meant = self.select(&which);
                for session in &meant {
                    self.feed(*session, Input::Command(Command::Disconnect(farewell)));
                }
                let _ = done.send(meant.len() as u64);
            }
            Order::Drain(which, done) => {
                if let Which::Socket(socket) = which {
                    self.closing.insert(socket);
                }
                let left = self.select(&which).into_iter().collect::<BTreeSet<_>>();
                self.leaving.push(Leaving { left: left.clone(), done });
                for session in left {
                    self.feed(session, Input::Command(Command::Disconnect(Farewell::Shutdown)));
                }
                self.tell_drained();
            }
            Order::List(list) => {
                let _ = list.send(self.list());
            }
            Order::Change(change) => {
                for session in change(Instant::now(), &mut self.acceptor) {
                    let running = self.sessions.get(&session);
                    if running.is_some_and(|running| running.up.is_none()) {
                        let farewell = Command::Disconnect(Farewell::Revoked);
                        self.feed(session, Input::Command(farewell));
                    }
                }
            }
            Order::Stop(done) => {
                self.stopping = Some((Instant::now() + STOP_TIME, done));
                for session in self.select(&Which::All) {
                    let farewell = Command::Disconnect(Farewell::Shutdown);
                    self.feed(session, Input::Command(farewell));
                }
            }
        }
    }

    fn select(&self, which: &Which) -> Vec<SessionId> {
        let is_meant = |id: &SessionId, running: &Running<A::Engine>| match which {
            Which::All => true,
            Which::Id(wanted) => id.0 == *wanted && running.up.is_some(),
            Which::User(user) => running.user == *user,
            Which::Certificate(wanted) => {
                running.certificate.as_ref().is_some_and(|id| id.to_string() == *wanted)
            }
            Which::ClientKey(key) => running.client_key() == Some(key),
            Which::Port(port) => running.port == *port,
            Which::Socket(socket) => {
                running.path.carrier == Carrier::Udp(*socket) || running.listener == Some(*socket)
            }
        };
        self.sessions
            .iter()
            .filter(|(id, running)| is_meant(id, running))
            .map(|(id, _)| *id)
            .collect()
    }

    fn list(&self) -> Vec<SessionInfo> {
        let mut list = Vec::new();
        for (id, running) in &self.sessions {
            list.extend(running.info(self.door, *id));
        }
        list.sort_by_key(|info| info.id);
        list
    }

    fn event(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::Datagram { path, mut bytes } => self.datagram(path, &mut bytes),
            WorkerEvent::Control { port, bytes } => {
                if let Some(session) = self.by_port.get(&port) {
                    let input = Input::Datagram { via: Via::Port(port), payload: &bytes };
                    self.feed(*session, input);
                }
            }
            WorkerEvent::Notice { port, notice } => {
                if let Some(session) = self.by_port.get(&port) {
                    self.feed(*session, Input::Notice(notice));
                }
            }
            WorkerEvent::StreamClosed { stream, reason } => match self.by_stream.get(&stream) {
                Some(session) => {
                    debug!(door = self.door, id = session.0, "{reason}");
                    self.feed(*session, Input::StreamClosed { stream });
                }
                None => self.services.lobby.leave(stream),
            },
            WorkerEvent::TunFailed(_) => {}
        }
    }

    fn datagram(&mut self, path: Path, bytes: &mut [u8]) {
        let now = Instant::now();
        self.reply.clear();
        match self.acceptor.route(now, &path, bytes, &mut self.reply) {
            Route::Session(session) => {
                self.feed(session, Input::Datagram { via: Via::Path(path), payload: bytes });
            }
            // A client that comes back too early must not be led on by a door that is about to
            // close: it would wait for an answer that never comes.
            Route::New | Route::Reply if self.is_closing(path) => {
                self.services.workers.count_discard(Discard::Unwanted);
            }
            Route::New => self.accept(now, path, bytes),
            Route::Reply => {
                let _ = self.services.workers.transmit(path, &self.reply);
                if let Some(stream) = stream_of(path) {
                    self.services.lobby.answered(stream);
                }
            }
            Route::Discard(why) => {
                self.services.workers.count_discard(why);
                // Those two are our trouble, everything else the peer's.
                if !matches!(why, Discard::RateLimited | Discard::NoBuffer)
                    && let Some(stream) = stream_of(path)
                {
                    self.services.lobby.reject(stream);
                }
            }
        }
    }

    fn is_closing(&self, path: Path) -> bool {
        let is_socket_closing = match path.carrier {
            Carrier::Udp(socket) => self.closing.contains(&socket),
            // What a listener let in leaves with it.
            Carrier::Stream(_) | Carrier::Ip { .. } => false,
        };
        self.stopping.is_some() || is_socket_closing
    }

    fn accept(&mut self, now: Instant, path: Path, bytes: &[u8]) {
        let stream = stream_of(path);
        if stream.is_some_and(|stream| self.by_stream.contains_key(&stream)) {
            // A connection has one session, however often it says hello.
            self.services.workers.count_discard(Discard::Unwanted);
            return;
        }
        if !self.half_open.has_room(path) {
            self.services.workers.count_discard(Discard::RateLimited);
            return;
        }
        let session = SessionId(self.services.sessions.fetch_add(1, Ordering::Relaxed));
        let port = self.kind.port(self.services.ports.fetch_add(1, Ordering::Relaxed));
        let arrival = Arrival { path, datagram: bytes };
        let seed = (self.services.seed)();
        let Some(engine) = self.acceptor.accept(now, arrival, session, port, seed) else {
            self.services.workers.count_discard(Discard::RateLimited);
            debug!(door = self.door, remote = %path.remote, "no room for another session");
            return;
        };
        let listener = match stream.map(|stream| self.services.lobby.take(stream)) {
            // Its time was over just now, and the connection is being closed.
            Some(None) => {
                self.acceptor.forget(session);
                return;
            }
            // Its listener said goodbye to everybody else while this one was on its way.
            Some(Some(listener)) if self.closing.contains(&listener) => {
                self.acceptor.forget(session);
                self.services.workers.count_discard(Discard::Unwanted);
                self.services
                    .workers
                    .submit(stream.map(WorkerOp::RemoveStream).into_iter().collect());
                return;
            }
            Some(Some(listener)) => Some(listener),
            None => None,
        };
        self.half_open.begin(path);
        self.by_port.insert(port, session);
        if let Some(stream) = stream {
            self.by_stream.insert(stream, session);
        }
        self.sessions.insert(
            session,
            Running {
                pump: Pump::new(engine, port),
                port,
                path,
                origin: path,
                listener,
                introduction: "".into(),
                was_judged: false,
                user: String::new(),
                device: String::new(),
                certificate: None,
                lease: None,
                has_subnets: false,
                limits: SessionLimits::default(),
                watch: None,
                up: None,
                deadline: None,
                waits_for: None,
            },
        );
        self.feed(session, Input::Datagram { via: Via::Path(path), payload: bytes });
    }

    fn answer(&mut self, session: SessionId, ask: AskId, answer: Answer) {
        if let Some(running) = self.sessions.get_mut(&session)
            && let Answer::Authenticated(AuthVerdict::Grant(grant)) = &answer
        {
            running.user.clone_from(&grant.user);
            let (session, idle) = (grant.session_limit, grant.idle_limit);
            running.limits = SessionLimits { session, idle, ..SessionLimits::default() };
            if grant.certificate.is_some() {
                running.certificate.clone_from(&grant.certificate);
            }
        }
        self.feed(session, Input::Answer { ask, answer });
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let later = self.deadlines.split_off(&(now, SessionId(u64::MAX)));
        // Each once, whatever it says of its next deadline: others wait for their turn, too.
        for (_, session) in std::mem::replace(&mut self.deadlines, later) {
            let Some(running) = self.sessions.get_mut(&session) else { continue };
            running.deadline = None;
            let carried = self.services.workers.counters(running.port);
            let carried = carried.rx_bytes + carried.tx_bytes;
            match running.watch.as_mut().and_then(|watch| watch.look(now, carried)) {
                Some(farewell) => self.feed(session, Input::Command(Command::Disconnect(farewell))),
                None => self.feed(session, Input::Tick),
            }
        }
    }

    /// The workers have caught up.
    fn release(&mut self) {
        let applied = self.services.workers.applied();
        while let Some((epoch, session)) = self.waiting.first().copied() {
            if epoch > applied {
                return;
            }
            self.waiting.pop_first();
            if let Some(running) = self.sessions.get_mut(&session) {
                running.waits_for = None;
            }
            self.carry_out(session);
        }
    }

    fn feed(&mut self, session: SessionId, input: Input<'_>) {
        if let Some(running) = self.sessions.get_mut(&session) {
            running.pump.feed(Instant::now(), input);
            self.carry_out(session);
        }
    }

    fn carry_out(&mut self, session: SessionId) {
        loop {
            let Some(running) = self.sessions.get_mut(&session) else { return };
            let mut effects = Vec::new();
            let carried =
                running.pump.carry_out(&self.services.workers, |effect| effects.push(effect));
            let watch = running.watch.as_ref().and_then(Watch::deadline);
            let deadline = running.pump.deadline().into_iter().chain(watch).min();
            if deadline != running.deadline {
                if let Some(at) = running.deadline {
                    self.deadlines.remove(&(at, session));
                }
                if let Some(at) = deadline {
                    self.deadlines.insert((at, session));
                }
                running.deadline = deadline;
            }
            if let Carried::Until(epoch) = carried
                && running.waits_for != Some(epoch)
            {
                if let Some(former) = running.waits_for.replace(epoch) {
                    self.waiting.remove(&(former, session));
                }
                self.waiting.insert((epoch, session));
            }
            let is_over = carried == Carried::All && running.pump.fatal().is_some();
            let mut again = false;
            for effect in effects {
                again |= self.effect(session, effect);
            }
            if again {
                continue;
            }
            if is_over {
                self.finish(session);
            }
            return;
        }
    }

    /// Does one thing for an engine; says whether that gave it something new to say.
    fn effect(&mut self, session: SessionId, effect: Effect) -> bool {
        let Some(running) = self.sessions.get_mut(&session) else { return false };
        match effect {
            Effect::Ask(ask, Ask::Authenticate(credentials)) => {
                let context = AuthContext {
                    protocol: self.door,
                    network: self.services.network_name.clone(),
                    remote: running.path.remote.ip().to_canonical(),
                    port: running.path.remote.port(),
                    session,
                    introduction: Arc::clone(&running.introduction),
                };
                running.was_judged = true;
                let authenticator = Arc::clone(&self.services.authenticator);
                let answers = self.answers.clone();
                tokio::spawn(async move {
                    let verdict = authenticator.authenticate(&context, credentials).await;
                    let _ = answers.send((session, ask, Answer::Authenticated(verdict)));
                });
                false
            }
            Effect::Ask(ask, Ask::Attach(request)) => {
                running.device.clone_from(&request.device);
                let attached = self.services.network.attach(running.port, &request);
                match &attached {
                    Ok(lease) => {
                        running.lease = Some(lease.clone());
                        running.has_subnets = !request.behind.is_empty();
                        if running.has_subnets {
                            self.services.subnets.notify_one();
                        }
                        if let Some(plug) = self.services.network.plug(running.port) {
                            let plug = WorkerOp::Fabric(FabricOp::Plug(plug));
                            running.pump.wait_for(self.services.workers.submit(vec![plug]));
                        }
                    }
                    Err(no_lease) => {
                        warn!(door = self.door, user = %running.user, remote = %running.path.remote, ?no_lease, "no place for a member: see network.ipv4, and the users' fixed addresses and subnets");
                    }
                }
                for port in self.services.network.take_replaced() {
                    let _ = self.services.replaced.send(port);
                }
                let answer = Answer::Attached(attached);
                running.pump.feed(Instant::now(), Input::Answer { ask, answer });
                true
            }
            Effect::Ask(ask, Ask::Work(work)) => {
                let answers = self.answers.clone();
                let whose = if running.up.is_some() { Whose::Members } else { Whose::Newcomers };
                crate::aside::run(work, whose, move |done| {
                    let _ = answers.send((session, ask, Answer::Worked(done)));
                });
                false
            }
            Effect::Ask(
                _,
                question @ (Ask::Configure(_) | Ask::Password { .. } | Ask::Prompt { .. }),
            ) => {
                tracing::error!(
                    door = self.door,
                    ?question,
                    "a responder asks what an initiator may"
                );
                false
            }
            Effect::Event(event) => {
                self.report(session, event);
                false
            }
        }
    }

    fn report(&mut self, session: SessionId, event: Event) {
        let Some(running) = self.sessions.get_mut(&session) else { return };
        let (door, id, user, remote) =
            (self.door, session.0, &running.user, canonical(running.path.remote));
        match event {
            Event::Up(facts) => {
                self.half_open.end(running.origin);
                let lease = running.lease.as_ref();
                let ipv4 =
                    lease.and_then(|lease| lease.ipv4).map(|(address, _)| address.to_string());
                let ipv6 =
                    lease.and_then(|lease| lease.ipv6).map(|(address, _)| address.to_string());
                info!(door, id, %user, %remote, ipv4, ipv6, cipher = facts.cipher, control = facts.control, software = facts.software, "session up");
                running.up = Some((clock::now(), facts));
                let info = running.info(door, session);
                self.services.news.tell(|| info.map(|info| SessionNews::Up(info.into())));
                let carried = self.services.workers.counters(running.port);
                let carried = carried.rx_bytes + carried.tx_bytes;
                running.watch = Some(Watch::new(Instant::now(), running.limits, carried));
            }
            Event::Down { reason, cause } if running.up.is_some() || !user.is_empty() => {
                info!(door, id, %user, %remote, ?cause, reason, "session ended");
            }
            Event::Down { reason, .. } => debug!(door, id, %remote, reason, "handshake ended"),
            Event::Moved(path) => {
                info!(door, id, %user, from = %remote, to = %canonical(path.remote), "session moved");
                running.path = path;
                let info = running.info(door, session);
                self.services.news.tell(|| info.map(|info| SessionNews::Moved(info.into())));
            }
            Event::Introduced(text) => running.introduction = text.into(),
            Event::Rekeyed => debug!(door, id, %user, "fresh keys"),
            Event::Remark(text) => info!(door, id, %user, %remote, "{text}"),
        }
    }

    /// Ends every session without a word, and takes it out of the data plane.
    fn abandon(&mut self) {
        for session in self.select(&Which::All) {
            self.feed(session, Input::Command(Command::Disconnect(Farewell::Replaced)));
            self.finish(session);
        }
    }

    /// Tells whoever waits for sessions that are all gone.
    fn tell_drained(&mut self) {
        for leaving in self.leaving.extract_if(.., |leaving| leaving.left.is_empty()) {
            let _ = leaving.done.send(());
        }
    }

    fn finish(&mut self, session: SessionId) {
        let Some(running) = self.sessions.remove(&session) else { return };
        if let Some(at) = running.deadline {
            self.deadlines.remove(&(at, session));
        }
        if let Some(epoch) = running.waits_for {
            self.waiting.remove(&(epoch, session));
        }
        if running.up.is_none() {
            self.half_open.end(running.origin);
        }
        for leaving in &mut self.leaving {
            leaving.left.remove(&session);
        }
        self.tell_drained();
        self.by_port.remove(&running.port);
        if let Some(stream) = stream_of(running.path) {
            self.by_stream.remove(&stream);
            // Behind the farewell, which has been handed over by now.
            self.services.workers.submit(vec![WorkerOp::RemoveStream(stream)]);
        }
        self.acceptor.forget(session);
        if running.lease.is_some() {
            self.services.workers.submit(vec![WorkerOp::Fabric(FabricOp::Unplug(running.port))]);
            self.services.network.detach(running.port);
            if running.has_subnets {
                self.services.subnets.notify_one();
            }
        }
        let totals = self.services.workers.forget(running.port);
        if running.was_judged {
            self.services.news.tell(|| {
                let info = running.info(self.door, session).map(Into::into);
                Some(SessionNews::Ended { id: session.0, info, totals })
            });
        }
        if running.up.is_some() {
            debug!(
                door = self.door,
                id = session.0,
                rx_bytes = totals.rx_bytes,
                tx_bytes = totals.tx_bytes,
                "session's traffic"
            );
        }
    }
}

/// The connection that a path is.
fn stream_of(path: Path) -> Option<StreamId> {
    match path.carrier {
        Carrier::Stream(stream) => Some(stream),
        Carrier::Udp(_) | Carrier::Ip { .. } => None,
    }
}

/// IPv4 as IPv4, also where the socket sees it as IPv6.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => tokio::time::sleep(Duration::MAX).await,
    }
}

impl<A: Acceptor> std::fmt::Debug for Driver<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("door", &self.door).finish_non_exhaustive()
    }
}
