//! What protects the control channel from strangers: tls-auth, tls-crypt (with a key that all share
//! or with one of the client's own), or nothing.
//!
//! ```text
//! tls-auth   op sid  HMAC        replay_id time  body             HMAC over replay_id time op sid body
//! tls-crypt  op sid  replay_id time  tag[32]     AES-256-CTR(body) tag = HMAC(op sid replay_id time body)
//! ```
//!
//! Directions (a common source of bugs): tls-crypt gives the server K0 to send with; tls-auth with
//! a direction gives K0 to direction 0, without one K0 to both.

use contract::Discard;
use crypto::ctr::aes256_ctr;
use crypto::digest::{Hash, HmacKey};
use kit::ReplayWindow;
use zeroize::Zeroizing;

use crate::client_key::{ClientKey, split_wrapped};
use crate::packet::{ControlSid, Head, Opcode};
use crate::static_key::{Half, StaticKey};

const SID_END: usize = 9;
const STAMP_LEN: usize = 8;
const TAG_LEN: usize = 32;

/// Which end of the connection we are; the halves of the key follow from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The end that answers.
    Responder,
    /// The end that calls.
    Initiator,
}

/// How control packets are protected, as the configuration says it.
#[derive(Clone, Debug)]
pub enum Protection {
    /// Not at all: TLS alone.
    None,
    /// `tls-auth`: authenticated, not hidden.
    TlsAuth {
        /// The shared key.
        key: StaticKey,
        /// Which HMAC (`auth` in profiles).
        hash: Hash,
        /// `key-direction`: false gives K0 to both ends.
        directed: bool,
    },
    /// `tls-crypt`: authenticated and encrypted.
    TlsCrypt {
        /// The shared key.
        key: StaticKey,
    },
    /// `tls-crypt-v2`: as tls-crypt, with a key of the client's own, which it brings along.
    TlsCryptV2(ClientKey),
}

impl Protection {
    /// Its name in profiles and in `sessions`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::TlsAuth { .. } => "tls-auth",
            Self::TlsCrypt { .. } => "tls-crypt",
            Self::TlsCryptV2(_) => "tls-crypt-v2",
        }
    }

    /// Derives the keys of renegotiations from the TLS session (`dyn-tls-crypt`): exported keying
    /// material, mixed with the pre-shared key if there is one.
    #[must_use]
    pub fn dynamic(&self, exported: &StaticKey) -> Self {
        let key = match self {
            Self::None => exported.clone(),
            Self::TlsAuth { key, .. } | Self::TlsCrypt { key } => exported.xor(key),
            Self::TlsCryptV2(client) => exported.xor(client.key()),
        };
        Self::TlsCrypt { key }
    }

    /// Prepares the keys for one end.
    #[must_use]
    pub fn keys(&self, side: Side) -> WrapKeys {
        match self {
            Self::None => WrapKeys::None,
            Self::TlsAuth { key, hash, directed } => {
                let (seal, open) = match (directed, side) {
                    (false, _) => (Half::K0, Half::K0),
                    (true, Side::Responder) => (Half::K0, Half::K1),
                    (true, Side::Initiator) => (Half::K1, Half::K0),
                };
                let len = hash.output_len();
                WrapKeys::TlsAuth {
                    seal: HmacKey::new(*hash, &key.hmac(seal)[..len]),
                    open: HmacKey::new(*hash, &key.hmac(open)[..len]),
                }
            }
            Self::TlsCrypt { key } => WrapKeys::tls_crypt(key, side),
            Self::TlsCryptV2(client) => WrapKeys::tls_crypt(client.key(), side),
        }
    }

    /// What follows an initiator's packet of this kind, outside its protection.
    pub(crate) fn suffix(&self, opcode: Opcode) -> &[u8] {
        match self {
            Self::TlsCryptV2(client) if brings_key(opcode) => client.wrapped(),
            _ => &[],
        }
    }

    /// The part of a peer's packet that is protected. A client key that comes along again is not
    /// looked at: the session has its own.
    ///
    /// # Errors
    ///
    /// `Malformed` if the packet is of a kind that has no place here, or too short for its key.
    pub(crate) fn protected<'p>(
        &self,
        side: Side,
        opcode: Opcode,
        packet: &'p [u8],
    ) -> Result<&'p [u8], Discard> {
        match (self, side) {
            _ if !brings_key(opcode) => Ok(packet),
            (Self::TlsCryptV2(_), Side::Responder) => split_wrapped(packet).map(|(own, _)| own),
            _ => Err(Discard::Malformed),
        }
    }
}

/// Whether packets of this kind end in a wrapped client key.
pub(crate) fn brings_key(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::P_CONTROL_HARD_RESET_CLIENT_V3 | Opcode::P_CONTROL_WKC_V1)
}

/// Keys ready for use; shared by every session of a door.
#[derive(Clone, Debug)]
pub enum WrapKeys {
    /// Nothing to do.
    None,
    /// HMAC only.
    TlsAuth {
        /// For what we send.
        seal: HmacKey,
        /// For what we receive.
        open: HmacKey,
    },
    /// HMAC and AES-256-CTR.
    TlsCrypt {
        /// For what we send.
        seal: CryptKeys,
        /// For what we receive.
        open: CryptKeys,
    },
}

/// One direction of tls-crypt.
#[derive(Clone)]
pub struct CryptKeys {
    cipher: Zeroizing<[u8; 32]>,
    hmac: HmacKey,
}

impl CryptKeys {
    fn new(key: &StaticKey, half: Half) -> Self {
        let mut cipher = Zeroizing::new([0; 32]);
        cipher.copy_from_slice(&key.cipher(half)[..32]);
        Self { cipher, hmac: HmacKey::new(Hash::Sha256, &key.hmac(half)[..32]) }
    }
}

impl std::fmt::Debug for CryptKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CryptKeys(..)")
    }
}

/// The replay fields of a wrapped packet: the sender's start time and its packet counter.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Stamp {
    /// Seconds since the Unix epoch when the sender began.
    pub time: u32,
    /// Counts from 1, retransmissions included.
    pub id: u32,
}

/// A control packet without its wrapping.
#[derive(Debug)]
pub struct Unwrapped {
    /// What kind, and which generation.
    pub head: Head,
    /// The sender's session id.
    pub sid: ControlSid,
    /// Absent without protection.
    pub stamp: Option<Stamp>,
    /// Input for [`ControlBody::parse`](crate::packet::ControlBody::parse).
    pub body: Vec<u8>,
}

impl WrapKeys {
    /// The keys of tls-crypt for one end.
    pub(crate) fn tls_crypt(key: &StaticKey, side: Side) -> Self {
        let seal = match side {
            Side::Responder => Half::K0,
            Side::Initiator => Half::K1,
        };
        Self::TlsCrypt { seal: CryptKeys::new(key, seal), open: CryptKeys::new(key, seal.other()) }
    }

    /// Protects one packet.
    #[must_use]
    pub fn wrap(&self, head: Head, sid: ControlSid, stamp: Stamp, body: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(SID_END + 64 + STAMP_LEN + body.len());
        packet.push(head.byte());
        packet.extend_from_slice(&sid.0);
        let mut stamp_bytes = [0; STAMP_LEN];
        stamp_bytes[..4].copy_from_slice(&stamp.id.to_be_bytes());
        stamp_bytes[4..].copy_from_slice(&stamp.time.to_be_bytes());
        match self {
            Self::None => packet.extend_from_slice(body),
            Self::TlsAuth { seal, .. } => {
                let mut code = vec![0; seal.output_len()];
                seal.sign_into(&[&stamp_bytes, &packet, body], &mut code);
                packet.extend_from_slice(&code);
                packet.extend_from_slice(&stamp_bytes);
                packet.extend_from_slice(body);
            }
            Self::TlsCrypt { seal, .. } => {
                packet.extend_from_slice(&stamp_bytes);
                let mut tag = [0; TAG_LEN];
                seal.hmac.sign_into(&[&packet, body], &mut tag);
                packet.extend_from_slice(&tag);
                let text = packet.len();
                packet.extend_from_slice(body);
                let iv: &[u8; 16] = tag.first_chunk().expect("a tag is longer than an IV");
                aes256_ctr(&seal.cipher, iv, &mut packet[text..]);
            }
        }
        packet
    }

    /// Checks and removes the protection; does not look at the replay fields.
    ///
    /// # Errors
    ///
    /// `Malformed` if the packet is too short or has no session id, `AuthFailed` if the check fails.
    pub fn unwrap(&self, packet: &[u8]) -> Result<Unwrapped, Discard> {
        let (start, rest) = packet.split_at_checked(SID_END).ok_or(Discard::Malformed)?;
        let (&first, sid) = start.split_first().ok_or(Discard::Malformed)?;
        let sid = ControlSid(*sid.first_chunk().ok_or(Discard::Malformed)?);
        if !sid.is_defined() {
            return Err(Discard::Malformed);
        }
        let head = Head::from_byte(first);
        let (stamp, body) = match self {
            Self::None => (None, rest.to_vec()),
            Self::TlsAuth { open, .. } => {
                let (code, rest) =
                    rest.split_at_checked(open.output_len()).ok_or(Discard::Malformed)?;
                let (stamp, body) =
                    rest.split_first_chunk::<STAMP_LEN>().ok_or(Discard::Malformed)?;
                if !open.verify(&[stamp, start, body], code) {
                    return Err(Discard::AuthFailed);
                }
                (Some(read_stamp(stamp)), body.to_vec())
            }
            Self::TlsCrypt { open, .. } => {
                let (stamp, rest) =
                    rest.split_first_chunk::<STAMP_LEN>().ok_or(Discard::Malformed)?;
                let (tag, text) = rest.split_first_chunk::<TAG_LEN>().ok_or(Discard::Malformed)?;
                let iv: &[u8; 16] = tag.first_chunk().ok_or(Discard::Malformed)?;
                let mut body = text.to_vec();
                aes256_ctr(&open.cipher, iv, &mut body);
                if !open.hmac.verify(&[start, stamp, &body], tag) {
                    return Err(Discard::AuthFailed);
                }
                (Some(read_stamp(stamp)), body)
            }
        };
        Ok(Unwrapped { head, sid, stamp, body })
    }
}

impl Stamp {
    /// Before the first stamp of a client that can be answered without keeping anything about it:
    /// told by the highest byte of the counter.
    pub(crate) const EARLY: u32 = 0x0f00_0000;

    /// Whether the sender understands flags in the answer to its first packet.
    pub(crate) fn is_early(self) -> bool {
        self.id & 0xff00_0000 == Self::EARLY
    }
}

fn read_stamp(bytes: &[u8; STAMP_LEN]) -> Stamp {
    let number = u64::from_be_bytes(*bytes);
    Stamp { id: (number >> 32) as u32, time: number as u32 }
}

/// The replay state of one session under one set of keys.
#[derive(Debug)]
pub(crate) struct WrapState {
    keys: WrapKeys,
    sent: Stamp,
    received_time: u32,
    received: Box<ReplayWindow<8>>,
}

impl WrapState {
    /// `sent` is the last stamp already used.
    pub(crate) fn new(keys: WrapKeys, sent: Stamp) -> Self {
        Self { keys, sent, received_time: 0, received: Box::default() }
    }

    pub(crate) fn wrap(&mut self, head: Head, sid: ControlSid, body: &[u8]) -> Vec<u8> {
        self.sent.id = self.sent.id.wrapping_add(1);
        self.keys.wrap(head, sid, self.sent, body)
    }

    /// Checks and removes the protection.
    pub(crate) fn open(&self, packet: &[u8]) -> Result<Unwrapped, Discard> {
        self.keys.unwrap(packet)
    }

    /// Accepts each stamp once; false for a replay.
    pub(crate) fn accept(&mut self, stamp: Option<Stamp>) -> bool {
        let Some(stamp) = stamp else { return true };
        if stamp.time > self.received_time {
            self.received_time = stamp.time;
            *self.received = ReplayWindow::default();
        } else if stamp.time < self.received_time {
            return false;
        }
        self.received.update(u64::from(stamp.id))
    }
}

#[cfg(test)]
mod tests;
