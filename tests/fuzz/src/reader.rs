use wire::Reader;

/// Reads the second half of `bytes` by a program in the first, beside a position that is counted
/// by hand: a reader never gives a byte twice, skips one, or moves when it refuses.
pub(crate) fn reader(bytes: &[u8]) {
    let (program, message) = bytes.split_at(bytes.len() / 2);
    let mut reader = Reader::new(message);
    let mut at = 0;
    for &step in program {
        // Large lengths come from the message, as they would in a protocol.
        let wanted = usize::from(step >> 3);
        let left = &message[at..];
        let (expected, taken) = match step & 7 {
            0 => (1, reader.u8("octet").ok().map(|value| vec![value])),
            1 => (2, reader.u16("short").ok().map(|value| value.to_be_bytes().to_vec())),
            2 => (4, reader.u32("long").ok().map(|value| value.to_be_bytes().to_vec())),
            3 => (wanted, reader.bytes(wanted, "bytes").ok().map(<[u8]>::to_vec)),
            4 => (wanted, reader.sub(wanted, "part").ok().map(|mut part| part.rest().to_vec())),
            5 => (3, reader.array::<3>("array").ok().map(|value| value.to_vec())),
            6 => {
                let mut ahead = reader.clone();
                let Ok(len) = ahead.u16("length") else { continue };
                let len = usize::from(len);
                let body = ahead.bytes(len, "body").ok().map(<[u8]>::to_vec);
                assert_eq!(body.as_deref(), left[2..].get(..len));
                continue;
            }
            _ => (left.len(), Some(reader.rest().to_vec())),
        };
        assert_eq!(taken.as_deref(), left.get(..expected));
        at += taken.map_or(0, |taken| taken.len());
        assert_eq!(reader.len(), message.len() - at);
        assert_eq!(reader.is_empty(), at == message.len());
    }
    assert_eq!(reader.finish("message").is_ok(), at == message.len());
}
