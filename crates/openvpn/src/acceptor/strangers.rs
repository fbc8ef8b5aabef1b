//! What a stranger's packet was wrapped with, and how many strangers are taken at their word.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use contract::SessionId;

use crate::client_key::{ClientKey, UnwrappedKey};
use crate::wrap::{Protection, Side, Unwrapped, WrapKeys};

/// Sessions of clients that have not yet shown that they hear us: OpenVPN before 2.6 with a key of
/// its own leaves no other way than to begin one with the first packet. A quarter of all handshakes
/// that may be under way, so that the others always find room.
const MAX_UNPROVEN: usize = 256;
/// Of these, under one key: its holder has one device that may be restarting.
const MAX_UNPROVEN_PER_KEY: usize = 4;

/// A stranger's packet without its wrapping.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) packet: Unwrapped,
    pub(super) wrapping: Wrapping,
}

/// What a packet was wrapped with.
#[derive(Debug)]
pub(super) enum Wrapping {
    /// The key that clients share.
    Shared,
    /// The client's own.
    Own(Box<UnwrappedKey>),
}

impl Wrapping {
    /// Keys for the answer.
    pub(super) fn keys(&self, shared: &WrapKeys) -> WrapKeys {
        match self {
            Self::Shared => shared.clone(),
            Self::Own(own) => WrapKeys::tls_crypt(&own.key, Side::Responder),
        }
    }

    /// How the session is protected that comes of it.
    pub(super) fn protection(&self, shared: &Arc<Protection>) -> Arc<Protection> {
        match self {
            Self::Shared => Arc::clone(shared),
            Self::Own(own) => {
                Arc::new(Protection::TlsCryptV2(ClientKey::of_responder(own.key.clone())))
            }
        }
    }

    /// The client's own key.
    pub(super) fn own(&self) -> Option<&UnwrappedKey> {
        match self {
            Self::Shared => None,
            Self::Own(own) => Some(own),
        }
    }
}

/// The clients that are taken at their word for now.
#[derive(Debug, Default)]
pub(super) struct Unproven(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    session: SessionId,
    mark: [u8; 16],
    proven: Arc<AtomicBool>,
}

impl Unproven {
    /// Whether one more client may be taken at its word.
    pub(super) fn has_room(&mut self, mark: &[u8; 16]) -> bool {
        self.0.retain(|entry| !entry.proven.load(Ordering::Relaxed));
        self.0.len() < MAX_UNPROVEN
            && self.0.iter().filter(|entry| entry.mark == *mark).count() < MAX_UNPROVEN_PER_KEY
    }

    /// Takes note of a session; whoever has the flag sets it once the client has proved itself.
    pub(super) fn insert(&mut self, session: SessionId, mark: [u8; 16]) -> Arc<AtomicBool> {
        let proven = Arc::new(AtomicBool::new(false));
        self.0.push(Entry { session, mark, proven: Arc::clone(&proven) });
        proven
    }

    /// Forgets a session that ended.
    pub(super) fn remove(&mut self, session: SessionId) {
        self.0.retain(|entry| entry.session != session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_answered_yet_takes_a_bounded_room() {
        let mut unproven = Unproven::default();
        let one = [1; 16];
        for session in 0..4 {
            assert!(unproven.has_room(&one));
            unproven.insert(SessionId(session), one);
        }
        assert!(!unproven.has_room(&one), "four under one key");
        unproven.remove(SessionId(2));
        assert!(unproven.has_room(&one));

        let flags = (0..253u64)
            .map(|n| unproven.insert(SessionId(100 + n), [n as u8; 16]))
            .collect::<Vec<_>>();
        assert!(!unproven.has_room(&[255; 16]), "256 in all");
        flags[7].store(true, Ordering::Relaxed);
        assert!(unproven.has_room(&[255; 16]));
    }
}
