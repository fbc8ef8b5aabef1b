//! One generation of keys: its reliable channel, its TLS session, and the data keys that came of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{AskId, TunnelKey, Work};
use wire::Malformed;
use zeroize::Zeroizing;

use crate::data::DataTunnel;
use crate::early;
use crate::key_method::KeyRecord;
use crate::packet::{Acks, ControlBody, KeyId, Opcode};
use crate::push::Messages;
use crate::reliable::{Outgoing, Receiver, Sender};
use crate::static_key::StaticKey;
use crate::tls::{Step, Tls, TlsFailure};
use crate::wrap::Side;

/// TLS bytes per control packet: with every header around it, below 1250 bytes on the wire.
const FRAGMENT: usize = 1100;
/// How often to look whether the peer uses the new keys: the fast path does not tell.
const SWITCH_POLL: Duration = Duration::from_secs(1);
/// The longest key record: two credentials of 4 KiB and a generous `peer_info`.
const MAX_RECORD: usize = 16 * 1024;

/// A generation under negotiation or in use.
#[derive(Debug)]
pub(crate) struct Generation {
    key_id: KeyId,
    started: Instant,
    sender: Sender,
    receiver: Receiver,
    /// The first message in order is the peer's reset, which carries nothing for TLS.
    awaits_reset: bool,
    /// Length of the wrapped key that the first message after the reset can bring along.
    key_len: usize,
    /// The peer wants it brought along.
    brings_key: bool,
    tls: Tls,
    aside: Aside,
    handshaked: bool,
    inbox: Inbox,
    data: Option<Data>,
}

/// The step of the handshake that is made elsewhere, if one is.
#[derive(Debug, Default)]
struct Aside {
    work: Option<Work>,
    ask: Option<AskId>,
    /// Gone with the generation, for steps whose turn has not come by then.
    wanted: Arc<()>,
}

/// What is read from inside TLS: one binary record, then text.
#[derive(Debug)]
enum Inbox {
    AwaitRecord { sender: Side, bytes: Zeroizing<Vec<u8>> },
    Text(Messages),
}

#[derive(Debug)]
struct Data {
    key: TunnelKey,
    tunnel: Arc<DataTunnel>,
    switch_at: Instant,
    look_at: Instant,
}

/// What came out of the control channel, in order.
#[derive(Debug)]
pub(crate) enum Heard {
    Handshaked,
    Record(Box<KeyRecord>),
    Message(String),
}

/// A TLS session and who speaks first in it.
#[derive(Debug)]
pub(crate) struct TlsRole {
    pub(crate) tls: Tls,
    /// Whose key record we wait for.
    pub(crate) peer: Side,
}

impl Generation {
    /// A generation whose resets are still to be exchanged.
    pub(crate) fn new(now: Instant, key_id: KeyId, tls: TlsRole) -> Self {
        Self {
            key_id,
            started: now,
            sender: Sender::new(0),
            receiver: Receiver::new(0),
            awaits_reset: true,
            key_len: 0,
            brings_key: false,
            tls: tls.tls,
            aside: Aside::default(),
            handshaked: false,
            inbox: Inbox::AwaitRecord { sender: tls.peer, bytes: Zeroizing::default() },
            data: None,
        }
    }

    /// Lets the peer ask for our wrapped client key, of this length, once more.
    pub(crate) fn with_key(self, key_len: usize) -> Self {
        Self { key_len, ..self }
    }

    /// A responder's first generation: the acceptor has dealt with the resets.
    pub(crate) fn after_resets(now: Instant, tls: TlsRole) -> Self {
        Self {
            sender: Sender::new(1),
            receiver: Receiver::new(1),
            awaits_reset: false,
            ..Self::new(now, KeyId::FIRST, tls)
        }
    }

    pub(crate) fn key_id(&self) -> KeyId {
        self.key_id
    }

    pub(crate) fn push_reset(&mut self, opcode: Opcode) {
        self.sender.push(opcode, Vec::new());
    }

    /// Whether messages can be sent.
    pub(crate) fn is_handshaked(&self) -> bool {
        self.handshaked
    }

    /// Takes in one packet; returns what it completed.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        body: &ControlBody<'_>,
    ) -> Result<Vec<Heard>, TlsFailure> {
        self.sender.acknowledge(now, &body.acks);
        if let Some(message) = body.message {
            self.receiver.receive(message, body.payload);
        }
        self.read_on()
    }

    fn read_on(&mut self) -> Result<Vec<Heard>, TlsFailure> {
        let mut heard = Vec::new();
        let mut held = Vec::new();
        while !self.tls.is_away()
            && let Some(payload) = self.receiver.next()
        {
            if std::mem::take(&mut self.awaits_reset) {
                self.brings_key = self.key_len > 0 && early::wants_key(&payload);
                continue;
            }
            if self.tls.steps_aside() {
                held.push(payload);
                continue;
            }
            let records = self.tls.receive(&payload)?;
            self.take_in(records, &mut heard)?;
        }
        if !held.is_empty() {
            self.aside.work = self.tls.step(held, Arc::downgrade(&self.aside.wanted));
        }
        Ok(heard)
    }

    fn take_in(&mut self, records: Vec<Vec<u8>>, heard: &mut Vec<Heard>) -> Result<(), TlsFailure> {
        if !self.handshaked && !self.tls.is_handshaking() {
            self.handshaked = true;
            heard.push(Heard::Handshaked);
        }
        for plaintext in records {
            self.read(&Zeroizing::new(plaintext), heard)?;
        }
        Ok(())
    }

    /// The step that is to be made elsewhere before anything else is read.
    pub(crate) fn take_work(&mut self) -> Option<Work> {
        self.aside.work.take()
    }

    /// The step will be the answer to this question.
    pub(crate) fn awaits(&mut self, ask: AskId) {
        self.aside.ask = Some(ask);
    }

    /// Whether a step was made in answer to this question.
    pub(crate) fn has_asked(&self, ask: AskId) -> bool {
        self.aside.ask == Some(ask)
    }

    /// Goes on after a step, with all that has arrived meanwhile.
    pub(crate) fn resume(&mut self, step: Step) -> Result<Vec<Heard>, TlsFailure> {
        self.aside.ask = None;
        let records = self.tls.back(step)?;
        let mut heard = Vec::new();
        self.take_in(records, &mut heard)?;
        heard.extend(self.read_on()?);
        Ok(heard)
    }

    fn read(&mut self, plaintext: &[u8], heard: &mut Vec<Heard>) -> Result<(), TlsFailure> {
        match &mut self.inbox {
            Inbox::AwaitRecord { sender, bytes } => {
                bytes.extend_from_slice(plaintext);
                match KeyRecord::parse(*sender, bytes) {
                    Ok(record) => {
                        self.inbox = Inbox::Text(Messages::default());
                        heard.push(Heard::Record(Box::new(record)));
                    }
                    Err(Malformed::Truncated { .. }) if bytes.len() < MAX_RECORD => {}
                    Err(_) => return Err(TlsFailure("the peer's key record is malformed")),
                }
            }
            Inbox::Text(messages) => {
                if !messages.push(plaintext) {
                    return Err(TlsFailure("the peer sent an endless control message"));
                }
                while let Some(message) = messages.next() {
                    heard.push(Heard::Message(message));
                }
            }
        }
        Ok(())
    }

    /// Encrypts bytes as one record, in packets of its own: OpenVPN 3 reads one record when a
    /// packet arrives, and leaves what else was in it until the next does.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.fill();
        self.tls.send(bytes);
        self.fill();
    }

    /// Encrypts text as one NUL-terminated record.
    pub(crate) fn send_message(&mut self, message: &str) {
        let mut bytes = Vec::with_capacity(message.len() + 1);
        bytes.extend_from_slice(message.as_bytes());
        bytes.push(0);
        self.send(&bytes);
    }

    /// Moves what TLS wants to say into the reliable channel.
    pub(crate) fn fill(&mut self) {
        // An initiator speaks only after the peer has answered its reset.
        if self.awaits_reset {
            return;
        }
        let output = self.tls.take_output();
        let mut rest = output.as_slice();
        while !rest.is_empty() {
            // Whoever keeps nothing about us between the first packet and this one needs the key
            // again, and room for it.
            let (opcode, room) = if std::mem::take(&mut self.brings_key) {
                let room = FRAGMENT.saturating_sub(self.key_len).max(1);
                (Opcode::P_CONTROL_WKC_V1, room)
            } else {
                (Opcode::P_CONTROL_V1, FRAGMENT)
            };
            let (fragment, after) = rest.split_at(rest.len().min(room));
            self.sender.push(opcode, fragment.to_vec());
            rest = after;
        }
    }

    pub(crate) fn poll(&mut self, now: Instant) -> Option<Outgoing> {
        self.sender.poll(now)
    }

    pub(crate) fn take_acks(&mut self, limit: usize) -> Acks {
        self.receiver.take_acks(limit)
    }

    pub(crate) fn owes(&self) -> bool {
        self.receiver.owes()
    }

    /// Whether the peer has everything we sent.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.sender.is_empty() && !self.tls.wants_write()
    }

    pub(crate) fn export(&self, label: &[u8]) -> Option<StaticKey> {
        self.tls.export(label)
    }

    /// Exports keying material of any length; false if there is none.
    pub(crate) fn export_into(&self, label: &[u8], out: &mut [u8]) -> bool {
        self.tls.export_into(label, out)
    }

    pub(crate) fn peer_chain(&self) -> Vec<Vec<u8>> {
        self.tls.peer_chain()
    }

    pub(crate) fn tls_version(&self) -> &'static str {
        self.tls.version()
    }

    pub(crate) fn set_keys(
        &mut self,
        now: Instant,
        switch_at: Instant,
        key: TunnelKey,
        tunnel: Arc<DataTunnel>,
    ) {
        self.data = Some(Data { key, tunnel, switch_at, look_at: now + SWITCH_POLL });
    }

    pub(crate) fn is_keyed(&self) -> bool {
        self.data.is_some()
    }

    pub(crate) fn key(&self) -> Option<TunnelKey> {
        self.data.as_ref().map(|data| data.key)
    }

    pub(crate) fn keys(&self) -> Option<(TunnelKey, Arc<DataTunnel>)> {
        self.data.as_ref().map(|data| (data.key, Arc::clone(&data.tunnel)))
    }

    /// Whether the new keys may be used for sending: the peer uses them, or has had the time to
    /// install them since it acknowledged all it needs for that.
    pub(crate) fn is_ready(&mut self, now: Instant) -> bool {
        let is_acknowledged = self.is_acknowledged();
        self.data.as_mut().is_some_and(|data| {
            data.look_at = now + SWITCH_POLL;
            data.tunnel.opened() > 0 || (is_acknowledged && now >= data.switch_at)
        })
    }

    /// When to ask [`is_ready`](Self::is_ready) again.
    pub(crate) fn switch_deadline(&self) -> Option<(Instant, &'static str)> {
        self.data.as_ref().map(|data| (data.look_at, "key switch"))
    }

    /// Whether the handshake took too long.
    pub(crate) fn has_expired(&self, now: Instant, limit: Duration) -> bool {
        self.data.is_none() && now.saturating_duration_since(self.started) >= limit
    }

    /// When a handshake has taken too long.
    pub(crate) fn expiry(&self, handshake: Duration) -> Option<(Instant, &'static str)> {
        self.data.is_none().then(|| (self.started + handshake, "handshake"))
    }

    /// When something has to be sent again.
    pub(crate) fn retransmission(&self) -> Option<(Instant, &'static str)> {
        self.sender.deadline().map(|at| (at, "retransmission"))
    }
}
