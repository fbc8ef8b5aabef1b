//! Drives one engine: inputs in, outputs carried out in order.

use std::collections::VecDeque;
use std::time::Instant;

use contract::{Ask, AskId, Engine, Event, Fatal, Input, Output, PortId, Via};

use crate::workers::{WorkerOp, Workers};

/// What only the driver can do for an engine.
#[derive(Debug)]
pub(crate) enum Effect {
    Ask(AskId, Ask),
    Event(Event),
}

/// One engine and what it has said that could not be done yet.
#[derive(Debug)]
pub(crate) struct Pump<E> {
    engine: E,
    port: PortId,
    outbox: VecDeque<Output>,
    /// What follows in the outbox waits until every worker has come this far.
    barrier: u64,
    deadline: Option<Instant>,
    fatal: Option<Fatal>,
}

/// How far the outputs have been carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Carried {
    /// All of them.
    All,
    /// The rest waits for this epoch.
    Until(u64),
}

impl<E: Engine> Pump<E> {
    pub(crate) fn new(engine: E, port: PortId) -> Self {
        Self { engine, port, outbox: VecDeque::new(), barrier: 0, deadline: None, fatal: None }
    }

    /// Feeds one input and collects what comes of it; an engine that ended hears nothing more.
    pub(crate) fn feed(&mut self, now: Instant, input: Input<'_>) {
        if self.fatal.is_some() {
            return;
        }
        self.fatal = self.engine.handle(now, input).err();
        loop {
            match self.engine.poll(now) {
                Output::Wait(deadline) => {
                    self.deadline = deadline.map(|(at, _)| at).filter(|_| self.fatal.is_none());
                    return;
                }
                output => self.outbox.push_back(output),
            }
        }
    }

    pub(crate) fn engine(&self) -> &E {
        &self.engine
    }

    pub(crate) fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(crate) fn fatal(&self) -> Option<Fatal> {
        self.fatal
    }

    /// Makes what follows wait for an epoch, too: for orders given on the engine's behalf.
    pub(crate) fn wait_for(&mut self, epoch: u64) {
        self.barrier = self.barrier.max(epoch);
    }

    /// Carries out the outputs, in order: nothing overtakes an order to the data plane.
    pub(crate) fn carry_out(
        &mut self,
        workers: &Workers,
        mut effect: impl FnMut(Effect),
    ) -> Carried {
        while let Some(output) = self.outbox.pop_front() {
            if let Output::DataPlane(op) = output {
                let mut ops = vec![WorkerOp::DataPlane(op)];
                while let Some(Output::DataPlane(op)) =
                    self.outbox.pop_front_if(|next| matches!(next, Output::DataPlane(_)))
                {
                    ops.push(WorkerOp::DataPlane(op));
                }
                self.barrier = workers.submit(ops);
                continue;
            }
            if workers.applied() < self.barrier {
                self.outbox.push_front(output);
                return Carried::Until(self.barrier);
            }
            match output {
                Output::Transmit(message) => match message.via {
                    // A datagram that cannot be sent is lost, as any datagram may be.
                    Via::Path(path) => {
                        let _ = workers.transmit(path, &message.payload);
                    }
                    Via::Port(port) => workers.send_control(port, message.payload),
                },
                Output::Ask { ask, question } => effect(Effect::Ask(ask, question)),
                Output::Event(event) => effect(Effect::Event(event)),
                other => {
                    tracing::error!(port = self.port.0, ?other, "an output nobody carries out")
                }
            }
        }
        self.outbox = VecDeque::new();
        Carried::All
    }
}
