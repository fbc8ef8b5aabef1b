//! The reliability layer under TLS: numbered messages, each acknowledged on its own.
//!
//! One pair of [`Sender`] and [`Receiver`] per key generation; numbering starts at 0 again with
//! each.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::packet::{Acks, Opcode};

/// Messages in flight at once: what OpenVPN 2.6 sends, and below the eight that 2.4 receives.
const SEND_WINDOW: usize = 6;
/// Messages accepted ahead of the next one in order, as OpenVPN 2.6 does.
const RECEIVE_WINDOW: u32 = 12;
/// The first wait before a message is repeated; it doubles each time.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest wait between two transmissions.
const MAX_TIMEOUT: Duration = Duration::from_secs(8);
/// This many later messages acknowledged means an earlier one is lost.
const FAST_RETRANSMIT: u8 = 3;
/// How many acknowledgements are remembered to be said again.
const TOLD: usize = 4;
/// What may wait behind the window; far more than any handshake or push reply needs.
const MAX_QUEUED: usize = 256;

/// The sending half.
#[derive(Debug)]
pub(crate) struct Sender {
    next: u32,
    waiting: VecDeque<(Opcode, Vec<u8>)>,
    in_flight: VecDeque<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    message: u32,
    opcode: Opcode,
    payload: Vec<u8>,
    /// When to send (again).
    due: Instant,
    timeout: Duration,
    later_acked: u8,
}

/// One message to put on the wire.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Outgoing {
    pub(crate) opcode: Opcode,
    pub(crate) message: u32,
    pub(crate) payload: Vec<u8>,
}

impl Sender {
    /// The first message will be number `next`.
    pub(crate) fn new(next: u32) -> Self {
        Self { next, waiting: VecDeque::new(), in_flight: VecDeque::new() }
    }

    /// Queues a message; false if the queue is full, which only a broken engine reaches.
    pub(crate) fn push(&mut self, opcode: Opcode, payload: Vec<u8>) -> bool {
        if self.waiting.len() >= MAX_QUEUED {
            return false;
        }
        self.waiting.push_back((opcode, payload));
        true
    }

    /// Takes the next message that is due, new or repeated.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Outgoing> {
        if let Some(flight) = self.in_flight.iter_mut().find(|flight| flight.due <= now) {
            flight.timeout = (flight.timeout * 2).min(MAX_TIMEOUT);
            flight.due = now + flight.timeout;
            flight.later_acked = 0;
            return Some(Outgoing {
                opcode: flight.opcode,
                message: flight.message,
                payload: flight.payload.clone(),
            });
        }
        if self.in_flight.len() >= SEND_WINDOW {
            return None;
        }
        let (opcode, payload) = self.waiting.pop_front()?;
        let message = self.next;
        self.next = self.next.wrapping_add(1);
        self.in_flight.push_back(InFlight {
            message,
            opcode,
            payload: payload.clone(),
            due: now + FIRST_TIMEOUT,
            timeout: FIRST_TIMEOUT,
            later_acked: 0,
        });
        Some(Outgoing { opcode, message, payload })
    }

    /// Takes note of acknowledgements; unknown ones are harmless.
    pub(crate) fn acknowledge(&mut self, now: Instant, acks: &Acks) {
        for &acked in acks.as_slice() {
            let Some(at) = self.in_flight.iter().position(|flight| flight.message == acked) else {
                continue;
            };
            self.in_flight.remove(at);
            for earlier in self.in_flight.iter_mut().take(at) {
                earlier.later_acked = earlier.later_acked.saturating_add(1);
                if earlier.later_acked == FAST_RETRANSMIT {
                    earlier.due = now;
                }
            }
        }
    }

    /// Whether everything pushed so far has been acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// When [`poll`](Self::poll) has something to repeat.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.in_flight.iter().map(|flight| flight.due).min()
    }
}

/// The receiving half: puts messages in order and remembers what to acknowledge.
#[derive(Debug)]
pub(crate) struct Receiver {
    expected: u32,
    early: BTreeMap<u32, Vec<u8>>,
    owed: VecDeque<u32>,
    /// Acknowledged lately, newest first: said again where there is room, for the packet that
    /// said it may be lost. A responder without state depends on it.
    told: VecDeque<u32>,
}

impl Receiver {
    /// Waits for message number `expected` first.
    pub(crate) fn new(expected: u32) -> Self {
        Self { expected, early: BTreeMap::new(), owed: VecDeque::new(), told: VecDeque::new() }
    }

    /// Takes in a message. Repeated ones are acknowledged again, ones beyond the window are
    /// forgotten without acknowledgement, so that the peer repeats them.
    pub(crate) fn receive(&mut self, message: u32, payload: &[u8]) {
        let ahead = message.wrapping_sub(self.expected);
        let is_old = ahead > u32::MAX / 2;
        if !is_old {
            if ahead >= RECEIVE_WINDOW {
                return;
            }
            self.early.entry(message).or_insert_with(|| payload.to_vec());
        }
        if !self.owed.contains(&message) {
            // Old ids beyond a window's worth are noise: the peer has long moved on.
            if self.owed.len() >= RECEIVE_WINDOW as usize {
                self.owed.pop_front();
            }
            self.owed.push_back(message);
        }
    }

    /// Takes the next message in order.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let payload = self.early.remove(&self.expected)?;
        self.expected = self.expected.wrapping_add(1);
        Some(payload)
    }

    /// Takes up to `limit` acknowledgements to send; repeats recent ones where fewer are owed.
    pub(crate) fn take_acks(&mut self, limit: usize) -> Acks {
        let mut acks = Acks::default();
        while acks.as_slice().len() < limit {
            let Some(id) = self.owed.pop_front() else { break };
            acks.push(id);
        }
        let fresh = acks;
        for id in self.told.iter().filter(|id| !fresh.as_slice().contains(id)) {
            if acks.as_slice().len() >= limit {
                break;
            }
            acks.push(*id);
        }
        for id in fresh.as_slice() {
            self.told.retain(|told| told != id);
            self.told.push_front(*id);
        }
        self.told.truncate(TOLD);
        acks
    }

    /// Whether any acknowledgement is owed.
    pub(crate) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(ids: &[u32]) -> Acks {
        let mut acks = Acks::default();
        for id in ids {
            acks.push(*id);
        }
        acks
    }

    fn filled(count: usize) -> Sender {
        let mut sender = Sender::new(0);
        for n in 0..count {
            assert!(sender.push(Opcode::P_CONTROL_V1, vec![n as u8]));
        }
        sender
    }

    fn drain(sender: &mut Sender, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| sender.poll(now)).map(|out| out.message).collect()
    }

    #[test]
    fn no_more_than_a_window_is_in_flight() {
        let now = Instant::now();
        let mut sender = filled(10);

        assert_eq!(drain(&mut sender, now), [0, 1, 2, 3, 4, 5]);
        sender.acknowledge(now, &acks(&[1, 4]));
        assert_eq!(drain(&mut sender, now), [6, 7]);
    }

    #[test]
    fn a_lost_message_is_repeated_with_growing_patience() {
        let now = Instant::now();
        let mut sender = filled(1);
        assert_eq!(drain(&mut sender, now), [0]);

        let mut at = Vec::new();
        while at.len() < 5 {
            let due = sender.deadline().unwrap();
            at.push((due - now).as_secs());
            assert_eq!(drain(&mut sender, due), [0]);
        }

        assert_eq!(at, [1, 3, 7, 15, 23]);
    }

    #[test]
    fn three_later_acknowledgements_repeat_at_once() {
        let now = Instant::now();
        let mut sender = filled(6);
        drain(&mut sender, now);

        sender.acknowledge(now, &acks(&[1, 2]));
        assert_eq!(drain(&mut sender, now), [0u32; 0]);
        sender.acknowledge(now, &acks(&[3]));
        assert_eq!(drain(&mut sender, now), [0]);
    }

    #[test]
    fn messages_come_out_in_order_once() {
        let mut receiver = Receiver::new(0);
        for id in [2, 0, 0, 1, 2] {
            receiver.receive(id, &[id as u8]);
        }

        let got = std::iter::from_fn(|| receiver.next()).collect::<Vec<_>>();
        assert_eq!(got, [[0], [1], [2]]);
        assert_eq!(receiver.take_acks(8).as_slice(), [2, 0, 1]);
        receiver.receive(1, &[1]);
        assert_eq!(receiver.next(), None);
        assert!(receiver.owes(), "a repeated message is acknowledged again");
        assert_eq!(receiver.take_acks(2).as_slice(), [1, 0], "and what was said lately, too");
    }

    #[test]
    fn a_message_beyond_the_window_costs_no_memory_and_is_not_acknowledged() {
        let mut receiver = Receiver::new(5);
        for id in 5 + RECEIVE_WINDOW..1000 {
            receiver.receive(id, &[0; 100]);
        }

        assert!(receiver.early.is_empty());
        assert!(!receiver.owes());
    }
}
