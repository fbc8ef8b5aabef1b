//! The end of a link that is called: strangers get a cookie, callers a handshake, the peer the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::random_bytes;
use contract::{
    Acceptor, Arrival, Command, Discard, FabricOp, Farewell, Fatal, Input, Path, PortId, Route,
    SessionId, SocketId, Via,
};
use openvpn::{Door, Family, PointConfig, ResponderConfig, SILENT};
use sys::{UdpIo, UdpOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{debug, info};

use super::guide::{ClientEvent, Order, Orders, Reports};
use super::way::{AnyEngine, MAX_CALLERS, point_door};
use super::whereabouts::{Calling, Found, Turn, Whereabouts, turn};
use super::{Client, ClientFailure, Connection, FirstHop};
use crate::driver::sleep_until;
use crate::limits::Watch;
use crate::pump::{Carried, Pump};
use crate::workers::{WorkerEvent, WorkerOp};

/// The sockets of both families.
const SOCKETS: [SocketId; 2] = [SocketId(0), SocketId(1)];
/// How long farewells may take.
const STOP_TIME: Duration = Duration::from_secs(3);

/// Everyone who calls.
struct Waiting {
    door: Door,
    peer: Whereabouts,
    callers: Vec<Caller>,
    /// Sessions so far.
    count: u32,
    reply: Vec<u8>,
}

struct Caller {
    session: SessionId,
    connection: Connection,
    waits_for: Option<u64>,
    since: Instant,
}

impl Client {
    /// Answers the peer, again and again, until told to stop.
    ///
    /// # Errors
    ///
    /// If the port cannot be had, or the host cannot be set up.
    pub(super) async fn stay_reachable(
        &mut self,
        door: &Arc<ResponderConfig>,
        point: &Arc<PointConfig>,
        orders: &mut Orders,
        events: &Reports,
    ) -> Result<(), ClientFailure> {
        self.listen()?;
        let now = Instant::now();
        let peer = if point.floats {
            Whereabouts::anywhere()
        } else {
            let hosts = self.itinerary.remotes.iter().map(|remote| remote.host.as_str());
            Whereabouts::to_be_found(now, &hosts.collect::<Vec<_>>())
        };
        let mut waiting = Waiting {
            door: point_door(now, door, point, random_bytes()),
            peer,
            callers: Vec::new(),
            count: 0,
            reply: Vec::new(),
        };
        let (mut stop_at, mut over) = (None, None);
        loop {
            self.carry_out_all(&mut waiting, events).await?;
            if stop_at.is_some_and(|at| waiting.callers.is_empty() || at <= Instant::now()) {
                break;
            }
            let is_here = waiting.callers.iter().any(|caller| caller.connection.up);
            let look_at = waiting.peer.deadline(is_here);
            let due = waiting.callers.iter().filter_map(Caller::due_at);
            let deadline = due.chain(stop_at).chain(look_at).min();
            let epoch = waiting.callers.iter().filter_map(|caller| caller.waits_for).min();
            let workers = self.workers.clone();
            tokio::select! {
                order = orders.next(), if stop_at.is_none() => {
                    let at = waiting.dismiss_all();
                    stop_at = matches!(order, Order::Stop).then_some(at);
                }
                Some(event) = self.heard.recv() => self.hear(&mut waiting, event, stop_at),
                found = waiting.peer.found() => {
                    for (known, found) in self.known.iter_mut().zip(found) {
                        *known = found.unwrap_or_else(|| std::mem::take(known));
                    }
                    waiting.peer.learn(Instant::now(), &self.known);
                }
                () = workers.wait_applied(epoch.unwrap_or(0)), if epoch.is_some() => {}
                () = sleep_until(deadline), if deadline.is_some() => {
                    let now = Instant::now();
                    if look_at.is_some_and(|at| at <= now) {
                        waiting.peer.begin(self.look_for_peer());
                    }
                    for caller in &mut waiting.callers {
                        if caller.due_at().is_some_and(|at| at <= now) {
                            let carried = self.workers.counters(caller.connection.port);
                            caller.connection.look(now, carried.rx_bytes + carried.tx_bytes);
                            caller.connection.pump.feed(now, Input::Tick);
                        }
                    }
                    over = over.or_else(|| waiting.over());
                    if over.is_some() && stop_at.is_none() {
                        stop_at = Some(waiting.dismiss_all());
                    }
                }
            }
        }
        if let Some(reason) = over {
            events.send(ClientEvent::Over { reason: reason.to_owned() });
        }
        for caller in waiting.callers.drain(..) {
            self.forget(caller.connection.port);
        }
        self.workers.submit(SOCKETS.map(WorkerOp::RemoveSocket).into());
        Ok(())
    }

    /// Looks up where the peer is, without keeping anybody waiting.
    fn look_for_peer(&self) -> JoinHandle<Found> {
        let remotes = self.itinerary.remotes.iter().map(FirstHop::of).collect::<Vec<_>>();
        let keeper = self.keeper.clone();
        tokio::spawn(async move {
            let mut found = Vec::new();
            for remote in remotes {
                found.push(remote.look_up(keeper.clone()).await);
            }
            found
        })
    }

    /// Opens the profile's port, for IPv4 and IPv6 unless it names one.
    fn listen(&self) -> Result<(), ClientFailure> {
        let family = self.itinerary.link.and_then(|link| link.family);
        let any: [(IpAddr, Family); 2] = [
            (Ipv4Addr::UNSPECIFIED.into(), Family::V4),
            (Ipv6Addr::UNSPECIFIED.into(), Family::V6),
        ];
        for ((ip, of), id) in any.into_iter().zip(SOCKETS) {
            if family.is_some_and(|family| family != of) {
                continue;
            }
            let local = SocketAddr::new(ip, self.itinerary.local_port.unwrap_or(0));
            let options = UdpOptions { reuse_port: false, mark: self.mark };
            let io = sys::udp::bind(local, options).and_then(|bound| UdpIo::new(id, bound));
            match io {
                Ok(io) => {
                    let kind = self.way.kind();
                    self.workers.submit(vec![WorkerOp::AddSocket {
                        id,
                        kind,
                        sockets: vec![io],
                        prefix: None,
                    }]);
                }
                // A kernel without IPv6 is no reason to fail.
                Err(error) if family.is_none() && of == Family::V6 => debug!(%error, "no IPv6"),
                Err(error) => return Err(ClientFailure(error.to_string())),
            }
        }
        info!(port = self.itinerary.local_port.unwrap_or(0), "waiting for the peer");
        Ok(())
    }

    async fn carry_out_all(
        &mut self,
        waiting: &mut Waiting,
        events: &Reports,
    ) -> Result<(), ClientFailure> {
        let mut index = 0;
        while let Some(caller) = waiting.callers.get_mut(index) {
            let was_up = caller.connection.up;
            let carried = self.carry_out(&mut caller.connection, events).await?;
            caller.waits_for = match carried {
                Carried::All => None,
                Carried::Until(epoch) => Some(epoch),
            };
            let (session, is_up) = (caller.session, caller.connection.up);
            let ended = caller.connection.pump.fatal().filter(|_| carried == Carried::All);
            if is_up && !was_up {
                // Whoever is here by the same right and later has lost the earlier session.
                for other in &mut waiting.callers {
                    if other.session != session && other.connection.up {
                        other.tell(Farewell::Replaced);
                    }
                }
                index = 0;
                continue;
            }
            match ended {
                None => index += 1,
                Some(fatal) => self.end(waiting, session, fatal, events)?,
            }
        }
        Ok(())
    }

    fn end(
        &self,
        waiting: &mut Waiting,
        session: SessionId,
        fatal: Fatal,
        events: &Reports,
    ) -> Result<(), ClientFailure> {
        waiting.door.forget(session);
        let at = waiting.callers.iter().position(|caller| caller.session == session);
        let Some(caller) = at.map(|at| waiting.callers.remove(at)) else { return Ok(()) };
        let Connection { port, server, up, ending, .. } = caller.connection;
        self.forget(port);
        if let Fatal::Local(reason) = fatal {
            let words =
                ending.map_or_else(|| reason.to_owned(), |words| format!("{reason}; {words}"));
            return Err(ClientFailure(words));
        }
        let is_replaced = waiting.callers.iter().any(|caller| caller.connection.up);
        if up && !is_replaced {
            if fatal == Fatal::Denied(SILENT) {
                return Err(ClientFailure(SILENT.to_owned()));
            }
            let reason = fatal.reason().to_owned();
            events.send(ClientEvent::Disconnected { reason });
        } else {
            info!(peer = %server, "no connection: {}", fatal.reason());
        }
        Ok(())
    }

    /// Makes room for a newcomer; false if it is not its turn.
    fn make_room(&self, waiting: &mut Waiting, path: Path, now: Instant) -> bool {
        let calling = waiting.callers.iter().map(Caller::calling).collect::<Vec<_>>();
        let session = match turn(&calling, MAX_CALLERS, path.remote.ip(), now) {
            Turn::Now => return true,
            Turn::Later => return false,
            Turn::InsteadOf(session) => session,
        };
        let Some(at) = calling.iter().position(|calling| calling.session == session) else {
            return true;
        };
        let caller = waiting.callers.remove(at);
        debug!(peer = %caller.connection.server, "another caller takes its place");
        waiting.door.forget(session);
        self.forget(caller.connection.port);
        true
    }

    fn forget(&self, port: PortId) {
        self.workers.submit(vec![WorkerOp::Fabric(FabricOp::Unplug(port))]);
        self.workers.forget(port);
    }

    fn hear(&self, waiting: &mut Waiting, event: WorkerEvent, stop_at: Option<Instant>) {
        let WorkerEvent::Datagram { path, mut bytes } = event else {
            let port = match &event {
                WorkerEvent::Control { port, .. } | WorkerEvent::Notice { port, .. } => *port,
                WorkerEvent::Datagram { .. }
                | WorkerEvent::StreamClosed { .. }
                | WorkerEvent::TunFailed(_) => return,
            };
            let is_its = |caller: &&mut Caller| caller.connection.port == port;
            if let Some(caller) = waiting.callers.iter_mut().find(is_its) {
                caller.connection.hear(event);
            }
            return;
        };
        let now = Instant::now();
        waiting.reply.clear();
        match waiting.door.route(now, &path, &mut bytes, &mut waiting.reply) {
            Route::Session(session) => {
                let is_its = |caller: &&mut Caller| caller.session == session;
                if let Some(caller) = waiting.callers.iter_mut().find(is_its) {
                    caller.connection.hear(WorkerEvent::Datagram { path, bytes });
                }
            }
            Route::New | Route::Reply if stop_at.is_some() || !waiting.is_welcome(path) => {
                self.workers.count_discard(Discard::Unwanted);
            }
            Route::Reply => {
                let _ = self.workers.transmit(path, &waiting.reply);
            }
            Route::New if self.make_room(waiting, path, now) => waiting.accept(now, path, bytes),
            Route::New => self.workers.count_discard(Discard::RateLimited),
            Route::Discard(why) => self.workers.count_discard(why),
        }
    }
}

impl Waiting {
    /// Says goodbye to everybody; returns when to wait for it no longer.
    fn dismiss_all(&mut self) -> Instant {
        for caller in &mut self.callers {
            caller.tell(Farewell::Shutdown);
        }
        Instant::now() + STOP_TIME
    }

    /// Why no more calls are wanted, if the profile says so.
    fn over(&self) -> Option<&'static str> {
        self.callers.iter().find_map(|caller| caller.connection.over)
    }

    fn is_welcome(&self, path: Path) -> bool {
        self.peer.may_be(path.remote.ip())
    }

    fn accept(&mut self, now: Instant, path: Path, bytes: Vec<u8>) {
        self.count = self.count.wrapping_add(1);
        let (session, port) = (SessionId(self.count.into()), PortId(self.count.max(1)));
        let arrival = Arrival { path, datagram: &bytes };
        let Some(engine) = self.door.accept(now, arrival, session, port, random_bytes()) else {
            return;
        };
        // Nobody is asked anything on a link.
        let (answers, answered) = mpsc::unbounded_channel();
        let mut connection = Connection {
            pump: Pump::new(AnyEngine::session(engine), port),
            path,
            association: None,
            port,
            server: path.remote,
            give_up: now,
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
        connection.pump.feed(now, Input::Datagram { via: Via::Path(path), payload: &bytes });
        self.callers.push(Caller { session, connection, waits_for: None, since: now });
    }
}

impl Caller {
    /// When something has to be done for it.
    fn due_at(&self) -> Option<Instant> {
        let engine = self.connection.pump.deadline().filter(|_| self.waits_for.is_none());
        let watch = self.connection.watch.as_ref().and_then(Watch::deadline);
        engine.into_iter().chain(watch).min()
    }

    fn calling(&self) -> Calling {
        Calling {
            session: self.session,
            ip: self.connection.server.ip(),
            // The data plane has keys of peers only.
            is_proven: self.connection.up || self.waits_for.is_some(),
            since: self.since,
        }
    }

    fn tell(&mut self, farewell: Farewell) {
        self.connection.pump.feed(Instant::now(), Input::Command(Command::Disconnect(farewell)));
    }
}
