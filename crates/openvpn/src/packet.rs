//! Packets as they stand on the wire, before any wrapping is removed.
//!
//! ```text
//! control   op|key_id  sid[8]  n_acks  acks[4 * n]  peer_sid[8] if n_acks > 0  packet_id  payload
//! ack       the same without packet_id and payload
//! ```
//!
//! The format has no RFC; field names are those of the OpenVPN wire protocol document.

use std::fmt;

use wire::{Malformed, Reader, code_point};

code_point! {
    /// The first five bits of every packet.
    pub struct Opcode(u8) {
        P_CONTROL_HARD_RESET_CLIENT_V1 = 1,
        P_CONTROL_HARD_RESET_SERVER_V1 = 2,
        P_CONTROL_SOFT_RESET_V1 = 3,
        P_CONTROL_V1 = 4,
        P_ACK_V1 = 5,
        P_DATA_V1 = 6,
        P_CONTROL_HARD_RESET_CLIENT_V2 = 7,
        P_CONTROL_HARD_RESET_SERVER_V2 = 8,
        P_DATA_V2 = 9,
        P_CONTROL_HARD_RESET_CLIENT_V3 = 10,
        P_CONTROL_WKC_V1 = 11,
    }
}

/// The peer-id that means "none".
pub const NO_PEER_ID: u32 = 0x00ff_ffff;
/// The longest payload of a control packet, in bytes: what OpenVPN has room for.
const MAX_PAYLOAD: usize = 2048;
/// How many acknowledgements one packet carries at most on the wire.
pub(crate) const MAX_ACKS: usize = 8;

/// The three low bits of the first byte: which generation of keys a packet belongs to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId(u8);

impl KeyId {
    /// The generation of the first handshake.
    pub const FIRST: Self = Self(0);

    /// The number, below eight.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// The generation that follows: 0, then 1 to 7 for ever.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 % 7 + 1)
    }
}

/// The first byte of every packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// What kind of packet.
    pub opcode: Opcode,
    /// Which generation.
    pub key_id: KeyId,
}

impl Head {
    /// Puts the two together.
    #[must_use]
    pub fn new(opcode: Opcode, key_id: KeyId) -> Self {
        Self { opcode, key_id }
    }

    /// Takes the byte apart.
    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        Self { opcode: Opcode(byte >> 3), key_id: KeyId(byte & 7) }
    }

    /// The byte.
    #[must_use]
    pub fn byte(self) -> u8 {
        self.opcode.0 << 3 | self.key_id.0
    }
}

/// A control-channel session id; random, never all zero.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ControlSid(pub [u8; 8]);

impl ControlSid {
    /// Whether it is one at all.
    #[must_use]
    pub fn is_defined(self) -> bool {
        self.0 != [0; 8]
    }
}

impl fmt::Debug for ControlSid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// A few message ids to acknowledge, without allocation.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Acks {
    ids: [u32; MAX_ACKS],
    len: usize,
}

impl Acks {
    /// Adds one; returns false, and changes nothing, when full.
    pub(crate) fn push(&mut self, id: u32) -> bool {
        match self.ids.get_mut(self.len) {
            Some(slot) => {
                *slot = id;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// The ids.
    #[must_use]
    pub(crate) fn as_slice(&self) -> &[u32] {
        &self.ids[..self.len]
    }
}

/// What is inside a control packet once its wrapping is gone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ControlBody<'a> {
    /// Messages the peer has received.
    pub acks: Acks,
    /// Whose acknowledgements these are: our own session id, present only with acknowledgements.
    pub acked_sid: Option<ControlSid>,
    /// The message's number; absent in P_ACK_V1.
    pub message: Option<u32>,
    /// Bytes of TLS; empty in resets.
    pub payload: &'a [u8],
}

impl<'a> ControlBody<'a> {
    /// Reads what follows the session id in an unwrapped packet.
    ///
    /// # Errors
    ///
    /// For every length that lies, more than [`MAX_ACKS`] acknowledgements, or bytes behind an
    /// acknowledgement packet.
    pub(crate) fn parse(opcode: Opcode, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let count = usize::from(reader.u8("acknowledgement count")?);
        if count > MAX_ACKS {
            return Err(Malformed::Forbidden { what: "acknowledgement count" });
        }
        let mut acks = Acks::default();
        for _ in 0..count {
            acks.push(reader.u32("acknowledgement")?);
        }
        let acked_sid = if count > 0 {
            Some(ControlSid(reader.array("acknowledged session id")?))
        } else {
            None
        };
        if opcode == Opcode::P_ACK_V1 {
            reader.finish("acknowledgement packet")?;
            return Ok(Self { acks, acked_sid, message: None, payload: &[] });
        }
        let message = reader.u32("message packet-id")?;
        if reader.len() > MAX_PAYLOAD {
            return Err(Malformed::Forbidden { what: "length of a control payload" });
        }
        Ok(Self { acks, acked_sid, message: Some(message), payload: reader.rest() })
    }

    /// Appends the body to `out`.
    ///
    /// Acknowledgements without [`acked_sid`](Self::acked_sid) are left out: the format has no
    /// room for them.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self.acked_sid {
            Some(sid) if !self.acks.as_slice().is_empty() => {
                out.push(self.acks.len as u8);
                for id in self.acks.as_slice() {
                    out.extend_from_slice(&id.to_be_bytes());
                }
                out.extend_from_slice(&sid.0);
            }
            _ => out.push(0),
        }
        if let Some(message) = self.message {
            out.extend_from_slice(&message.to_be_bytes());
        }
        out.extend_from_slice(self.payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "0100000000eafebfa4418ae31b00000001160301";

    #[test]
    fn a_control_packet_reads_and_writes_back() {
        let bytes = hex::decode(CONTROL).unwrap();

        let body = ControlBody::parse(Opcode::P_CONTROL_V1, &bytes).unwrap();

        assert_eq!(body.acks.as_slice(), [0]);
        assert_eq!(format!("{:?}", body.acked_sid.unwrap()), "eafebfa4418ae31b");
        assert_eq!(body.message, Some(1));
        assert_eq!(body.payload, [0x16, 3, 1]);
        let mut out = Vec::new();
        body.write(&mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn every_truncation_of_the_head_is_an_error() {
        let bytes = hex::decode(CONTROL).unwrap();
        for len in 0..bytes.len() - 3 {
            assert!(ControlBody::parse(Opcode::P_CONTROL_V1, &bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn every_single_byte_corruption_is_survived() {
        let bytes = hex::decode(CONTROL).unwrap();
        for at in 0..bytes.len() {
            for value in 0..=u8::MAX {
                let mut copy = bytes.clone();
                copy[at] = value;
                let _ = ControlBody::parse(Opcode::P_CONTROL_V1, &copy);
                let _ = ControlBody::parse(Opcode::P_ACK_V1, &copy);
            }
        }
    }

    #[test]
    fn an_acknowledgement_packet_ends_with_its_session_id() {
        let ack = hex::decode("0100000000dd85db535623b02e").unwrap();
        assert!(ControlBody::parse(Opcode::P_ACK_V1, &ack).is_ok());
        assert!(ControlBody::parse(Opcode::P_ACK_V1, &[&ack[..], &[0]].concat()).is_err());
        assert!(ControlBody::parse(Opcode::P_ACK_V1, &[9; 60]).is_err());
    }

    #[test]
    fn key_ids_go_round_without_zero() {
        let mut id = KeyId::FIRST;
        let seen = (0..9)
            .map(|_| {
                id = id.next();
                id.number()
            })
            .collect::<Vec<_>>();
        assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7, 1, 2]);
    }
}
