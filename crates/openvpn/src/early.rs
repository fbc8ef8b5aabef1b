//! What a responder says in the answer to a first packet, before there is a session.
//!
//! ```text
//! type[2]  len[2]  value[len]   ...
//! ```

use wire::{Malformed, Reader};

/// A set of flags.
const FLAGS: u16 = 1;
/// The flag that asks for the wrapped client key once more.
const RESEND_KEY: u16 = 1;

/// The payload of an answer that asks for the wrapped client key once more.
pub(crate) const ASK_FOR_KEY: [u8; 6] = [0, FLAGS as u8, 0, 2, 0, RESEND_KEY as u8];

/// Whether the payload of an answer asks for the wrapped client key once more. What else it may
/// say is for others.
pub(crate) fn wants_key(payload: &[u8]) -> bool {
    let mut reader = Reader::new(payload);
    let mut next = || -> Result<(u16, &[u8]), Malformed> {
        let kind = reader.u16("type")?;
        let len = reader.u16("length")?;
        Ok((kind, reader.bytes(usize::from(len), "value")?))
    };
    while let Ok((kind, value)) = next() {
        if kind == FLAGS
            && let [high, low] = value
            && u16::from_be_bytes([*high, *low]) & RESEND_KEY != 0
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_found_among_others_and_nowhere_else() {
        for (payload, expected) in [
            (&ASK_FOR_KEY[..], true),
            (&[0, 9, 0, 1, 7, 0, 1, 0, 2, 0, 3], true),
            (&[0, 1, 0, 2, 0, 2], false),
            (&[0, 1, 0, 1, 1], false),
            (&[0, 1, 0, 3, 0, 0, 1], false),
            (&[0, 2, 0, 2, 0, 1], false),
            (&[], false),
        ] {
            assert_eq!(wants_key(payload), expected, "{payload:?}");
        }
        for len in 0..ASK_FOR_KEY.len() {
            assert!(!wants_key(&ASK_FOR_KEY[..len]), "{len} bytes");
        }
    }
}
