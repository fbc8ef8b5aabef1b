//! Whoever stands beside a client: holds it back, chooses its server, has it connect anew, and hears
//! how far it has come.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use contract::{BoxFuture, Lease, SessionFacts};
use dataplane::PortTotals;
use openvpn::{Proxy, Remote, Tiding};
use tokio::sync::{mpsc, oneshot};

use super::{Client, ClientFailure};
use crate::workers::Workers;

/// Whoever is asked on the way to a connection; each answer may take for ever.
pub trait Guide: fmt::Debug + Send + Sync {
    /// Hears of everything, in order, and before it is asked what follows from that.
    fn hear(&self, event: &ClientEvent);

    /// Whether the next attempt has to be let go.
    fn holds(&self) -> bool;

    /// Waits until it is let go; by itself it would begin after `pause`.
    fn release(&self, pause: Duration) -> BoxFuture<'_, ()>;

    /// What becomes of the server that is next.
    fn remote<'a>(&'a self, remote: &'a Remote) -> BoxFuture<'a, Choice>;

    /// What to go through; the server is number `index`, from 0. `None` leaves it as the profile
    /// has it.
    fn proxy<'a>(&'a self, index: usize, remote: &'a Remote) -> BoxFuture<'a, Option<Proxy>>;
}

/// What becomes of a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Choice {
    /// It is the one.
    Accept,
    /// Another takes its place.
    Other {
        /// Name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// This many are passed over, the one that was asked about first.
    Skip(usize),
}

/// What a client reports while it runs.
#[derive(Clone, Debug)]
pub enum ClientEvent {
    /// Packets flow.
    Connected {
        /// To whom.
        remote: SocketAddr,
        /// What we were given.
        lease: Box<Lease>,
        /// Cipher and so on.
        facts: SessionFacts,
        /// The TUN device.
        device: String,
    },
    /// The server changed what it gave.
    Changed {
        /// What we have now.
        lease: Box<Lease>,
    },
    /// They do not any more; another attempt follows.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// An attempt has come this far.
    Step(Step),
    /// They do not any more, and that is the end.
    Over {
        /// Why.
        reason: String,
    },
}

/// How far an attempt has come.
#[derive(Clone, Debug)]
pub enum Step {
    /// The server's name is looked up.
    Resolving,
    /// A TCP connection is made.
    Dialling,
    /// The server has been called.
    Waiting,
    /// It has answered.
    Authenticating,
    /// What the server says on the way.
    Told(Tiding),
    /// The host gets its addresses.
    Assigning(Box<Lease>),
    /// And its routes; if there are none, this is left out.
    Routing,
    /// It came to nothing, or is over; another attempt follows.
    Again {
        /// Why: one of OpenVPN's words, or a line.
        reason: String,
    },
}

/// What a client is told while it runs.
#[derive(Debug)]
pub struct Orders {
    stop: oneshot::Receiver<()>,
    restarts: mpsc::UnboundedReceiver<&'static str>,
}

pub(super) enum Order {
    Stop,
    /// Connect anew, for this reason.
    Restart(&'static str),
}

impl Orders {
    /// `stop` ends the client, also when it is dropped; what comes by `restarts` is why to connect
    /// anew.
    #[must_use]
    pub fn new(
        stop: oneshot::Receiver<()>,
        restarts: mpsc::UnboundedReceiver<&'static str>,
    ) -> Self {
        Self { stop, restarts }
    }

    /// The next one. Cancelling it loses none; nothing follows [`Order::Stop`].
    pub(super) async fn next(&mut self) -> Order {
        tokio::select! {
            biased;
            _ = &mut self.stop => Order::Stop,
            Some(reason) = self.restarts.recv() => Order::Restart(reason),
        }
    }
}

impl From<oneshot::Receiver<()>> for Orders {
    fn from(stop: oneshot::Receiver<()>) -> Self {
        Self { stop, restarts: mpsc::unbounded_channel().1 }
    }
}

/// Who is told what happens.
#[derive(Debug)]
pub(super) struct Reports {
    events: mpsc::UnboundedSender<ClientEvent>,
    guide: Option<Arc<dyn Guide>>,
}

impl Reports {
    pub(super) fn new(
        events: mpsc::UnboundedSender<ClientEvent>,
        guide: Option<Arc<dyn Guide>>,
    ) -> Self {
        Self { events, guide }
    }

    /// Steps are for the guide alone.
    pub(super) fn send(&self, event: ClientEvent) {
        if let Some(guide) = &self.guide {
            guide.hear(&event);
        }
        if !matches!(event, ClientEvent::Step(_)) {
            let _ = self.events.send(event);
        }
    }
}

/// What a client has carried.
#[derive(Clone, Debug)]
pub struct Traffic(Workers);

impl Traffic {
    /// Over all its connections.
    #[must_use]
    pub fn totals(&self) -> PortTotals {
        self.0.totals()
    }
}

/// What is to be done about a server.
pub(super) enum Prepared {
    Go,
    Skip(usize),
    Told,
}

impl Client {
    /// What the client carries from now on; also while it runs.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic(self.workers.clone())
    }

    /// Asks the guide whether, where and through what, and for the login before all of that.
    pub(super) async fn prepare(
        &mut self,
        index: usize,
        pause: Duration,
        orders: &mut Orders,
        events: &Reports,
    ) -> Result<Prepared, ClientFailure> {
        let Some(guide) = self.guide.clone() else { return Ok(Prepared::Go) };
        // Whoever started the client has waited for the first.
        let mut is_another = std::mem::replace(&mut self.is_begun, true);
        loop {
            let asking = async {
                if is_another && guide.holds() {
                    guide.release(pause).await;
                }
                if self.ready.is_none() {
                    self.ready = Some(self.login.conduct().await?);
                }
                self.detour = None;
                let Some(mut remote) = self.itinerary.remotes.get(index).cloned() else {
                    return Ok(Prepared::Go);
                };
                match guide.remote(&remote).await {
                    Choice::Accept => {}
                    Choice::Other { host, port } => {
                        (remote.host, remote.port) = (host, port);
                        // Not where another server was found.
                        if let Some(known) = self.known.get_mut(index) {
                            known.clear();
                        }
                    }
                    Choice::Skip(count) => return Ok(Prepared::Skip(count)),
                }
                if let Some(proxy) = guide.proxy(index, &remote).await {
                    remote.proxy = Some(Arc::new(proxy));
                }
                self.detour = Some(remote);
                Ok(Prepared::Go)
            };
            tokio::select! {
                prepared = asking => return prepared,
                order = orders.next() => match order {
                    Order::Stop => return Ok(Prepared::Told),
                    Order::Restart(reason) => again(events, reason),
                },
            }
            // What it was to log in with may have to be forgotten.
            self.ready = None;
            is_another = true;
        }
    }

    /// The server of this number, or what the guide has put in its place.
    pub(super) fn destination(&self, index: usize) -> Option<&Remote> {
        self.detour.as_ref().or_else(|| self.itinerary.remotes.get(index))
    }
}

/// Tells of a step.
pub(super) fn step(events: &Reports, step: Step) {
    events.send(ClientEvent::Step(step));
}

/// Tells that another attempt follows.
pub(super) fn again(events: &Reports, reason: impl Into<String>) {
    step(events, Step::Again { reason: reason.into() });
}

/// Whether a name has to be looked up.
pub(super) fn is_name(host: &str) -> bool {
    host.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn orders_come_until_the_last() {
        let (stop, stopped) = oneshot::channel();
        let (restart, restarts) = mpsc::unbounded_channel();
        let mut orders = Orders::new(stopped, restarts);

        restart.send("SIGUSR1").unwrap();
        assert!(matches!(orders.next().await, Order::Restart("SIGUSR1")));
        drop(restart);
        let waiting = tokio::time::timeout(Duration::from_millis(20), orders.next());
        assert!(waiting.await.is_err(), "an order out of nothing");
        drop(stop);
        assert!(matches!(orders.next().await, Order::Stop));
    }
}
