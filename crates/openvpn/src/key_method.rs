//! The key method 2 record: the first message inside TLS, one from each end.
//!
//! ```text
//! initiator  0[4]  2  pre_master[48]  random1[32]  random2[32]  options  user  password  peer_info
//! responder  0[4]  2                  random1[32]  random2[32]  options  ""    ""        [peer_info]
//! ```
//!
//! Strings are a 16-bit length that counts the NUL, the bytes, a NUL; length 0 is the empty string.

use contract::Secret;
use crypto::SeededRandom;
use wire::{Malformed, Reader};
use zeroize::Zeroizing;

use crate::keys::KeySource;
use crate::wrap::Side;

/// The longest user name or password that is accepted, in bytes (4096 leaves room for tokens).
const MAX_CREDENTIAL: usize = 4096;

/// One record.
#[derive(Debug)]
pub(crate) struct KeyRecord {
    pub(crate) source: KeySource,
    /// What the sender believes the two ends have agreed on; only its cipher is of use.
    pub(crate) options: String,
    pub(crate) user: String,
    pub(crate) password: Secret,
    pub(crate) peer_info: String,
}

impl KeySource {
    pub(crate) fn random(random: &mut SeededRandom) -> Self {
        Self {
            pre_master: Zeroizing::new(random.array()),
            random1: Zeroizing::new(random.array()),
            random2: Zeroizing::new(random.array()),
        }
    }
}

impl KeyRecord {
    pub(crate) fn write(&self, side: Side) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(vec![0, 0, 0, 0, 2]);
        if side == Side::Initiator {
            out.extend_from_slice(&*self.source.pre_master);
        }
        out.extend_from_slice(&*self.source.random1);
        out.extend_from_slice(&*self.source.random2);
        write_string(&mut out, self.options.as_bytes());
        write_string(&mut out, self.user.as_bytes());
        write_string(&mut out, self.password.expose());
        write_string(&mut out, self.peer_info.as_bytes());
        out
    }

    /// Reads a record that `sender` wrote; also says how many bytes it took.
    ///
    /// A record without the last strings is complete: old versions leave out `peer_info`, and
    /// without password authentication the credentials too. What follows a complete record in the
    /// same bytes belongs to the next message, so the reader stops where a control message begins.
    ///
    /// # Errors
    ///
    /// `Truncated` while bytes are missing.
    pub(crate) fn parse(sender: Side, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u32("key record literal")? != 0 {
            return Err(Malformed::Forbidden { what: "key record literal" });
        }
        if reader.u8("key method")? & 0x0f != 2 {
            return Err(Malformed::Forbidden { what: "key method" });
        }
        let pre_master = match sender {
            Side::Initiator => reader.array("pre-master secret")?,
            Side::Responder => [0; 48],
        };
        let source = KeySource {
            pre_master: Zeroizing::new(pre_master),
            random1: Zeroizing::new(reader.array("random 1")?),
            random2: Zeroizing::new(reader.array("random 2")?),
        };
        let options = text(read_string(&mut reader, "options")?);
        let user = if reader.is_empty() { &[][..] } else { read_string(&mut reader, "user name")? };
        let password =
            if reader.is_empty() { &[][..] } else { read_string(&mut reader, "password")? };
        if user.len() > MAX_CREDENTIAL || password.len() > MAX_CREDENTIAL {
            return Err(Malformed::Forbidden { what: "length of the credentials" });
        }
        let peer_info =
            if reader.is_empty() { &[][..] } else { read_string(&mut reader, "peer info")? };
        Ok(Self {
            source,
            options,
            user: text(user),
            password: Secret::new(password),
            peer_info: text(peer_info),
        })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    if text.is_empty() {
        out.extend_from_slice(&[0, 0]);
        return;
    }
    let text = &text[..text.len().min(usize::from(u16::MAX) - 1)];
    out.extend_from_slice(&(text.len() as u16 + 1).to_be_bytes());
    out.extend_from_slice(text);
    out.push(0);
}

fn read_string<'a>(reader: &mut Reader<'a>, what: &'static str) -> Result<&'a [u8], Malformed> {
    let len = usize::from(reader.u16(what)?);
    let bytes = reader.bytes(len, what)?;
    match bytes.split_last() {
        None => Ok(bytes),
        Some((0, text)) if !text.contains(&0) => Ok(text),
        Some(_) => Err(Malformed::Forbidden { what }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> KeyRecord {
        KeyRecord {
            source: KeySource::random(&mut SeededRandom::new([1; 32])),
            options: "V4,dev-type tun".to_owned(),
            user: "ann".to_owned(),
            password: Secret::new("pass word"),
            peer_info: "IV_VER=2.6.14\nIV_PROTO=990\n".to_owned(),
        }
    }

    #[test]
    fn a_record_reads_back() {
        for side in [Side::Initiator, Side::Responder] {
            let bytes = record().write(side);
            let read = KeyRecord::parse(side, &bytes).unwrap();

            assert_eq!(read.options, "V4,dev-type tun");
            assert_eq!(read.user, "ann");
            assert_eq!(read.password.expose(), b"pass word");
            assert_eq!(read.peer_info, "IV_VER=2.6.14\nIV_PROTO=990\n");
            assert_eq!(*read.source.random2, *record().source.random2);
            assert_eq!(read.write(side), bytes);
        }
    }

    #[test]
    fn old_peers_may_stop_after_the_options() {
        let bytes = record().write(Side::Responder);
        let options_end = 5 + 64 + 2 + 16;

        let read = KeyRecord::parse(Side::Responder, &bytes[..options_end]).unwrap();

        assert_eq!((read.user.as_str(), read.peer_info.as_str()), ("", ""));
    }

    #[test]
    fn a_record_cut_inside_a_field_is_incomplete() {
        let bytes = record().write(Side::Initiator);
        for len in 0..5 + 48 + 64 + 2 + 16 {
            assert!(matches!(
                KeyRecord::parse(Side::Initiator, &bytes[..len]),
                Err(Malformed::Truncated { .. })
            ));
        }
    }

    #[test]
    fn every_single_byte_corruption_is_survived() {
        let bytes = record().write(Side::Initiator);
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut copy = bytes.to_vec();
                copy[at] = value;
                let _ = KeyRecord::parse(Side::Initiator, &copy);
            }
        }
    }

    #[test]
    fn a_string_with_a_hidden_nul_is_refused() {
        let mut bytes = record().write(Side::Initiator).to_vec();
        let at = bytes.windows(3).position(|window| window == b"ann").unwrap();
        bytes[at + 1] = 0;
        assert_eq!(
            KeyRecord::parse(Side::Initiator, &bytes).err(),
            Some(Malformed::Forbidden { what: "user name" })
        );
    }
}
