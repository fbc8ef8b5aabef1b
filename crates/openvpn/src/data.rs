//! The data channel: what the fast path runs for each packet.
//!
//! ```text
//! AEAD   op|kid [peer_id]  packet_id  tag[16]  ciphertext          AAD = head and packet_id
//! CBC    op|kid [peer_id]  HMAC  IV[16]  CBC(packet_id  payload  padding)
//! static                   HMAC  IV[16]  CBC(packet_id  time  payload  padding)
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use contract::{ContentKind, Discard, Frame, Layer, Opened, Tunnel, Unpacked};
use crypto::aead::{self, NONCE_LEN, TAG_LEN};
use crypto::cbc;
use crypto::digest::{Hash, HmacKey};
use kit::ReplayWindow;

use crate::cipher::Cipher;
use crate::fixed::{FixedKeys, LongWindow};
use crate::keys::sending_half;
use crate::packet::{Head, KeyId, NO_PEER_ID, Opcode};
use crate::shape::{Shape, ShapeRules, Undressed};
use crate::static_key::StaticKey;
use crate::wrap::Side;

/// The payload that means "I am still here".
pub(crate) const PING: [u8; 16] = [
    0x2a, 0x18, 0x7b, 0xf3, 0x64, 0x1e, 0xb4, 0xcb, 0x07, 0xed, 0x2d, 0x0a, 0x98, 0x1f, 0xc7, 0x48,
];
/// The payload prefix of option-compatibility messages; a byte of opcode follows.
pub(crate) const OCC_MAGIC: [u8; 16] = [
    0x28, 0x7f, 0x34, 0x6b, 0xd4, 0xef, 0x7a, 0x81, 0x2d, 0x56, 0xb8, 0xd3, 0xaf, 0xc5, 0x45, 0x9c,
];
/// The option-compatibility opcode by which a peer says goodbye.
pub(crate) const OCC_EXIT: u8 = 6;

/// The last packet-id that is ever used: the counter never wraps.
const LAST_PACKET_ID: u64 = 0xffff_fff0;
/// From here on the key should be replaced (0xff000000, as OpenVPN does).
const WORN_PACKET_ID: u64 = 0xff00_0000;
/// AES-GCM should not encrypt more than 2^36 blocks under one key; at 1500 bytes a packet that is
/// this many packets, rounded down to a power of two.
const WORN_GCM_PACKETS: u64 = 1 << 29;
/// Under a static key, counting begins again with a later time, whenever somebody looks: early
/// enough that the fastest link does not come to the last number before.
const WORN_LONG_COUNT: u64 = 1 << 31;

/// Receive window, in blocks of 32 packets: wide enough for several workers at the other end.
type Window = ReplayWindow<64>;

/// The keys of one generation of one session.
#[derive(Debug)]
pub struct DataTunnel {
    head: DataHead,
    suite: Suite,
    layer: Layer,
    /// Framing, fragments and the like; most sessions have none.
    shape: Option<Box<Shape>>,
    /// The packet-id used last.
    sent: AtomicU64,
    numbering: Numbering,
    /// Authentic packets received, keep-alives included.
    opened: AtomicU64,
}

/// How packets are told apart.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Numbering {
    /// By a number; the keys change before it comes back.
    Short(Window),
    /// By the time at which the sender began to count, too: the keys never change.
    Long { time: u32, received: Arc<LongWindow> },
}

impl Numbering {
    /// Length of what stands in front of the payload, in bytes.
    fn len(&self) -> usize {
        match self {
            Self::Short(_) => 4,
            Self::Long { .. } => 8,
        }
    }
}

// One of each per key generation: the difference in size is not worth a pointer per packet.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Suite {
    Aead { algorithm: aead::Algorithm, seal: AeadHalf, open: AeadHalf },
    Cbc { seal: CbcHalf, open: CbcHalf, iv: cbc::Key },
}

#[derive(Debug)]
struct AeadHalf {
    key: aead::Key,
    implicit_iv: [u8; 8],
}

#[derive(Debug)]
struct CbcHalf {
    key: cbc::Key,
    hmac: HmacKey,
}

/// The bytes in front of every data packet we send.
#[derive(Clone, Copy, Debug)]
struct DataHead {
    bytes: [u8; 4],
    len: usize,
}

impl DataHead {
    fn new(key_id: KeyId, peer_id: Option<u32>) -> Self {
        match peer_id {
            Some(peer) => {
                let head = Head::new(Opcode::P_DATA_V2, key_id).byte();
                let [_, a, b, c] = (peer & NO_PEER_ID).to_be_bytes();
                Self { bytes: [head, a, b, c], len: 4 }
            }
            None => {
                let head = Head::new(Opcode::P_DATA_V1, key_id).byte();
                Self { bytes: [head, 0, 0, 0], len: 1 }
            }
        }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// How long the head of a received packet is, by its own opcode.
    fn len_of(packet: &[u8]) -> Result<usize, Discard> {
        match packet.first().map(|byte| Head::from_byte(*byte).opcode) {
            Some(Opcode::P_DATA_V2) => Ok(4),
            Some(Opcode::P_DATA_V1) => Ok(1),
            _ => Err(Discard::Malformed),
        }
    }
}

/// Everything a generation's data keys are made from.
#[derive(Debug)]
pub struct DataKeys<'a> {
    /// Which end we are.
    pub side: Side,
    /// Which generation.
    pub key_id: KeyId,
    /// P_DATA_V2 with this peer-id, or P_DATA_V1.
    pub peer_id: Option<u32>,
    /// The cipher.
    pub cipher: Cipher,
    /// The HMAC of CBC ciphers.
    pub digest: Hash,
    /// 256 bytes of key material.
    pub material: &'a StaticKey,
    /// Key of the IV generator of CBC ciphers; random.
    pub iv_seed: [u8; 32],
    /// Whether the tunnel carries packets (`dev tun`) or frames (`dev tap`).
    pub layer: Layer,
    /// What lies between packets and encryption.
    pub shape: ShapeRules,
    /// Where the peer is: sizes that count outer headers depend on its family.
    pub remote: IpAddr,
}

impl DataTunnel {
    /// Prepares the keys.
    #[must_use]
    pub fn new(keys: &DataKeys<'_>) -> Self {
        let (out, back) = (sending_half(keys.side), sending_half(keys.side).other());
        let suite = match keys.cipher.aead() {
            Some(algorithm) => {
                let half = |half| {
                    let mut implicit_iv = [0; 8];
                    implicit_iv.copy_from_slice(&keys.material.hmac(half)[..8]);
                    let key = &keys.material.cipher(half)[..algorithm.key_len()];
                    AeadHalf { key: aead::Key::new(algorithm, key), implicit_iv }
                };
                Suite::Aead { algorithm, seal: half(out), open: half(back) }
            }
            None => {
                let half = |half| CbcHalf {
                    key: cbc::Key::new(&keys.material.cipher(half)[..keys.cipher.key_len()])
                        .expect("every CBC cipher has a key of 16 or 32 bytes"),
                    hmac: HmacKey::new(
                        keys.digest,
                        &keys.material.hmac(half)[..keys.digest.output_len()],
                    ),
                };
                let iv = cbc::Key::new(&keys.iv_seed).expect("32 bytes are an AES-256 key");
                Suite::Cbc { seal: half(out), open: half(back), iv }
            }
        };
        let head = DataHead::new(keys.key_id, keys.peer_id);
        let numbering = Numbering::Short(Window::default());
        Self::with(head, suite, numbering, keys.layer, &keys.shape, keys.remote)
    }

    /// Prepares keys that both ends have had from the beginning (`secret`).
    pub(crate) fn fixed(keys: &FixedKeys<'_>, shape: &ShapeRules, remote: IpAddr) -> Self {
        let half = |half| CbcHalf {
            key: cbc::Key::new(&keys.material.cipher(half)[..keys.cipher.key_len()])
                .expect("every CBC cipher has a key of 16 or 32 bytes"),
            hmac: HmacKey::new(keys.digest, &keys.material.hmac(half)[..keys.digest.output_len()]),
        };
        let iv = cbc::Key::new(&keys.iv_seed).expect("32 bytes are an AES-256 key");
        let (seal, open) = keys.halves();
        let suite = Suite::Cbc { seal: half(seal), open: half(open), iv };
        let received = Arc::clone(keys.received);
        let numbering = Numbering::Long { time: keys.time, received };
        let head = DataHead { bytes: [0; 4], len: 0 };
        Self::with(head, suite, numbering, Layer::Ip, shape, remote)
    }

    fn with(
        head: DataHead,
        suite: Suite,
        numbering: Numbering,
        layer: Layer,
        shape: &ShapeRules,
        remote: IpAddr,
    ) -> Self {
        let around = (head.len, numbering.len());
        let shape = Shape::new(shape, layer, remote, |datagram| suite.most(around, datagram));
        let (sent, opened) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { head, suite, layer, shape, sent, numbering, opened }
    }

    /// How many packets were sealed; an engine that sees no change sends a ping.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// How many authentic packets arrived; an engine that sees no change for long gives up.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Whether the key should be replaced before it has to be.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        let limit = match (&self.numbering, &self.suite) {
            (Numbering::Long { .. }, _) => WORN_LONG_COUNT,
            (
                Numbering::Short(_),
                Suite::Aead { algorithm: aead::Algorithm::ChaCha20Poly1305, .. }
                | Suite::Cbc { .. },
            ) => WORN_PACKET_ID,
            (Numbering::Short(_), Suite::Aead { .. }) => WORN_GCM_PACKETS,
        };
        self.sealed() >= limit
    }

    /// Pretends that so much has been sent.
    #[cfg(test)]
    pub(crate) fn wear(&self, packets: u64) {
        self.sent.store(packets, Relaxed);
    }

    fn next_packet_id(&self) -> Result<u32, Discard> {
        let id = self.sent.fetch_add(1, Relaxed) + 1;
        if id > LAST_PACKET_ID {
            return Err(Discard::KeyWornOut);
        }
        u32::try_from(id).map_err(|_| Discard::KeyWornOut)
    }

    fn classify<'b>(&self, payload: &'b mut [u8]) -> Opened<'b> {
        // Neither magic can begin an IP packet: its version would be 2. A frame could begin with
        // the first only if its sender meant it to.
        if payload == PING || payload.is_empty() {
            Opened::KeepAlive
        } else if payload.starts_with(&OCC_MAGIC) {
            Opened::Control(payload)
        } else {
            match self.layer {
                Layer::Ip => Opened::Packet(payload),
                Layer::Ethernet => Opened::Frame(payload),
            }
        }
    }
}

fn padding(len: usize) -> usize {
    cbc::BLOCK_LEN - len % cbc::BLOCK_LEN
}

impl Suite {
    /// What encryption puts around a payload; `around` has the lengths of head and number.
    fn frame(&self, around: (usize, usize), len: usize) -> Frame {
        let (head, number) = around;
        match self {
            Self::Aead { .. } => Frame { head: head + number + TAG_LEN, tail: 0 },
            Self::Cbc { seal, .. } => Frame {
                head: head + seal.hmac.output_len() + cbc::BLOCK_LEN + number,
                tail: padding(number + len),
            },
        }
    }

    /// The largest payload in a datagram of so many bytes.
    fn most(&self, around: (usize, usize), datagram: usize) -> usize {
        let (_, number) = around;
        let room = datagram.saturating_sub(self.frame(around, 0).head);
        match self {
            Self::Aead { .. } => room,
            // The number is encrypted too, and there is at least one byte of padding.
            Self::Cbc { .. } => {
                ((room + number) / cbc::BLOCK_LEN * cbc::BLOCK_LEN).saturating_sub(number + 1)
            }
        }
    }
}

impl DataTunnel {
    fn payload_frame(&self, len: usize) -> Frame {
        self.suite.frame((self.head.len, self.numbering.len()), len)
    }

    /// Encrypts a payload of `len` bytes that lies where [`Suite::frame`] says.
    fn encrypt(&self, len: usize, out: &mut [u8]) -> Result<(), Discard> {
        let id = self.next_packet_id()?.to_be_bytes();
        let (head, rest) = out.split_at_mut_checked(self.head.len).ok_or(Discard::Malformed)?;
        head.copy_from_slice(self.head.as_slice());
        match &self.suite {
            Suite::Aead { seal, .. } => {
                let (packet_id, rest) =
                    rest.split_first_chunk_mut::<4>().ok_or(Discard::Malformed)?;
                let (tag, text) =
                    rest.split_first_chunk_mut::<TAG_LEN>().ok_or(Discard::Malformed)?;
                *packet_id = id;
                let (aad, aad_len) = associated_data(self.head.as_slice(), id);
                *tag = seal
                    .key
                    .seal(nonce(id, seal.implicit_iv), &aad[..aad_len], text)
                    .map_err(|_| Discard::TooBig)?;
            }
            Suite::Cbc { seal, iv, .. } => {
                let (code, rest) =
                    rest.split_at_mut_checked(seal.hmac.output_len()).ok_or(Discard::Malformed)?;
                let (iv_bytes, text) =
                    rest.split_first_chunk_mut::<{ cbc::BLOCK_LEN }>().ok_or(Discard::Malformed)?;
                text.get_mut(..4).ok_or(Discard::Malformed)?.copy_from_slice(&id);
                if let Numbering::Long { time, .. } = &self.numbering {
                    let place = text.get_mut(4..8).ok_or(Discard::Malformed)?;
                    place.copy_from_slice(&time.to_be_bytes());
                }
                let len = self.numbering.len() + len;
                let pad = padding(len);
                text.get_mut(len..).ok_or(Discard::Malformed)?.fill(pad as u8);
                *iv_bytes = iv.scramble(u128::from(u32::from_be_bytes(id)));
                seal.key.encrypt(iv_bytes, text).map_err(|_| Discard::Malformed)?;
                seal.hmac.sign_into(&[iv_bytes, text], code);
            }
        }
        Ok(())
    }

    /// Decrypts a datagram, if it is authentic and new.
    fn decrypt<'b>(&self, datagram: &'b mut [u8]) -> Result<&'b mut [u8], Discard> {
        let head_len = match &self.numbering {
            Numbering::Short(_) => DataHead::len_of(datagram)?,
            Numbering::Long { .. } => 0,
        };
        let (head, rest) = datagram.split_at_mut_checked(head_len).ok_or(Discard::Malformed)?;
        let payload = match (&self.suite, &self.numbering) {
            (Suite::Aead { open, .. }, Numbering::Short(received)) => {
                let (packet_id, rest) =
                    rest.split_first_chunk_mut::<4>().ok_or(Discard::Malformed)?;
                let (tag, text) =
                    rest.split_first_chunk_mut::<TAG_LEN>().ok_or(Discard::Malformed)?;
                let seq = u64::from(u32::from_be_bytes(*packet_id));
                if !received.check(seq) {
                    return Err(Discard::Replayed);
                }
                // V2 authenticates opcode and peer-id, V1 only the packet-id.
                let covered: &[u8] = if head_len == 4 { head } else { &[] };
                let (aad, aad_len) = associated_data(covered, *packet_id);
                open.key
                    .open(nonce(*packet_id, open.implicit_iv), &aad[..aad_len], tag, text)
                    .map_err(|_| Discard::AuthFailed)?;
                if !received.update(seq) {
                    return Err(Discard::Replayed);
                }
                text
            }
            (Suite::Aead { .. }, Numbering::Long { .. }) => return Err(Discard::Malformed),
            (Suite::Cbc { open, .. }, numbering) => {
                let (code, rest) =
                    rest.split_at_mut_checked(open.hmac.output_len()).ok_or(Discard::Malformed)?;
                let (iv, text) =
                    rest.split_first_chunk_mut::<{ cbc::BLOCK_LEN }>().ok_or(Discard::Malformed)?;
                if !open.hmac.verify(&[iv, text], code) {
                    return Err(Discard::AuthFailed);
                }
                open.key.decrypt(iv, text).map_err(|_| Discard::Malformed)?;
                let pad = usize::from(*text.last().ok_or(Discard::Malformed)?);
                if pad == 0 || pad > cbc::BLOCK_LEN {
                    return Err(Discard::Malformed);
                }
                let len = text.len().checked_sub(pad).ok_or(Discard::Malformed)?;
                let text = text.get_mut(..len).ok_or(Discard::Malformed)?;
                let (packet_id, rest) =
                    text.split_first_chunk_mut::<4>().ok_or(Discard::Malformed)?;
                let seq = u32::from_be_bytes(*packet_id);
                let (is_new, payload) = match numbering {
                    Numbering::Short(received) => (received.update(seq.into()), rest),
                    Numbering::Long { received, .. } => {
                        let (time, payload) =
                            rest.split_first_chunk_mut::<4>().ok_or(Discard::Malformed)?;
                        (received.update(u32::from_be_bytes(*time), seq), payload)
                    }
                };
                if !is_new {
                    return Err(Discard::Replayed);
                }
                payload
            }
        };
        self.opened.fetch_add(1, Relaxed);
        Ok(payload)
    }
}

impl Tunnel for DataTunnel {
    fn frame(&self, _: ContentKind, len: usize) -> Frame {
        let (head, tail) = self.shape.as_ref().map_or((0, 0), |shape| (shape.head(), shape.tail()));
        let frame = self.payload_frame(head + len + tail);
        Frame { head: frame.head + head, tail: tail + frame.tail }
    }

    fn seal(&self, kind: ContentKind, len: usize, out: &mut [u8]) -> Result<(), Discard> {
        let Some(shape) = &self.shape else { return self.encrypt(len, out) };
        let len = shape.head() + len + shape.tail();
        let head = self.payload_frame(len).head;
        shape.dress(kind, out.get_mut(head..head + len).ok_or(Discard::Malformed)?)?;
        self.encrypt(len, out)
    }

    fn open<'b>(&self, datagram: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
        let payload = self.decrypt(datagram)?;
        let Some(shape) = &self.shape else { return Ok(self.classify(payload)) };
        Ok(match shape.undress(payload)? {
            Undressed::Plain(content) => self.classify(content),
            Undressed::Packed(packed) => Opened::Packed(packed),
        })
    }

    fn unpack(&self, packed: &[u8], out: &mut [u8]) -> Result<Unpacked, Discard> {
        let shape = self.shape.as_ref().ok_or(Discard::Malformed)?;
        let Some(len) = shape.unpack(self.opened(), packed, out)? else {
            return Ok(Unpacked::Nothing);
        };
        match self.classify(out.get_mut(..len).ok_or(Discard::TooBig)?) {
            Opened::Packet(packet) => Ok(Unpacked::Packet(packet.len())),
            Opened::Frame(frame) => Ok(Unpacked::Frame(frame.len())),
            Opened::Control(message) => Ok(Unpacked::Control(message.len())),
            Opened::KeepAlive | Opened::Kept => Ok(Unpacked::Nothing),
            Opened::Packed(_) | Opened::Inner(..) => Err(Discard::Malformed),
        }
    }

    fn fits(&self, len: usize) -> bool {
        self.shape.as_ref().is_none_or(|shape| shape.fits(len))
    }

    fn seal_in_parts(
        &self,
        kind: ContentKind,
        content: &[u8],
        room: &mut [u8],
        send: &mut dyn FnMut(&[u8]) -> Result<(), Discard>,
    ) -> Result<(), Discard> {
        let shape = self.shape.as_ref().ok_or(Discard::TooBig)?;
        // One half for the whole payload, one for the datagram that is being made.
        let (payload, datagram) = room.split_at_mut(room.len() / 2);
        shape.cut(kind, content, payload, |header, bytes| {
            let len = header.len() + bytes.len();
            let Frame { head, tail } = self.payload_frame(len);
            let out = datagram.get_mut(..head + len + tail).ok_or(Discard::TooBig)?;
            let (to_header, to_bytes) = out
                .get_mut(head..head + len)
                .and_then(|out| out.split_at_mut_checked(header.len()))
                .ok_or(Discard::TooBig)?;
            to_header.copy_from_slice(&header);
            to_bytes.copy_from_slice(bytes);
            self.encrypt(len, out)?;
            send(out)
        })
    }
}

fn nonce(packet_id: [u8; 4], implicit_iv: [u8; 8]) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[..4].copy_from_slice(&packet_id);
    nonce[4..].copy_from_slice(&implicit_iv);
    nonce
}

/// Head (if covered) and packet-id, in one piece.
fn associated_data(head: &[u8], packet_id: [u8; 4]) -> ([u8; 8], usize) {
    let mut aad = [0; 8];
    if head.len() == 4 {
        aad[..4].copy_from_slice(head);
        aad[4..].copy_from_slice(&packet_id);
        (aad, 8)
    } else {
        aad[..4].copy_from_slice(&packet_id);
        (aad, 4)
    }
}

#[cfg(test)]
mod tests;
