//! Fuzz targets: each takes any bytes, and panics if it finds a mistake.

use crate::message::{Reply, Request, receive};
use crate::public_key;

/// What comes out of the process that holds a module, and what goes in.
pub fn message(input: &[u8]) {
    if let Ok(Some((kind, body))) = receive(input) {
        if let Ok(reply) = Reply::parse(kind, &body) {
            let (kind, written) = reply.write();
            assert!(Reply::parse(kind, &written).is_ok(), "{reply:?}");
        }
        let _ = Request::parse(kind, &body);
    }
    let _ = public_key::ecdsa_signature(input);
    let _ = public_key::from_point(input, input);
}
