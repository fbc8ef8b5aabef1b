//! Which doors there are, and how their ports and streams are told apart.

use config::Config;
use contract::{PortId, StreamId};

/// A protocol that members come in by.
///
/// What a worker says of a port or a stream goes to its door, and which that is stands in the
/// number itself: nobody keeps a table, and nobody has to be asked.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum DoorKind {
    OpenVpn,
}

/// How many bits of a number say which door.
const DOOR_BITS: u32 = 4;

impl DoorKind {
    /// Every one, in the order of their numbers.
    pub(crate) const ALL: [Self; 1] = [Self::OpenVpn];

    /// Its name in the configuration, the log and the list of sessions.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenVpn => "openvpn",
        }
    }

    /// Whether the door is to be open.
    pub(crate) fn is_enabled(self, config: &Config) -> bool {
        match self {
            Self::OpenVpn => config.doors.openvpn.enabled,
        }
    }

    /// The `count`th port of the server is one of this door's; `count` begins at 1.
    pub(crate) fn port(self, count: u32) -> PortId {
        PortId((count << DOOR_BITS) | self as u32)
    }

    /// The `count`th stream of the server is one of this door's.
    pub(crate) fn stream(self, count: u64) -> StreamId {
        StreamId((count << DOOR_BITS) | self as u64)
    }

    /// Whose port that is.
    pub(crate) fn of_port(port: PortId) -> Option<Self> {
        Self::of(u64::from(port.0))
    }

    /// Whose stream that is.
    pub(crate) fn of_stream(stream: StreamId) -> Option<Self> {
        Self::of(stream.0)
    }

    fn of(number: u64) -> Option<Self> {
        let door = number & ((1 << DOOR_BITS) - 1);
        Self::ALL.into_iter().find(|kind| *kind as u64 == door)
    }
}

#[cfg(test)]
mod tests {
    use contract::HOST_PORT;

    use super::*;

    #[test]
    fn numbers_say_whose_they_are() {
        for kind in DoorKind::ALL {
            for count in [1, 2, 70_000] {
                assert_eq!(DoorKind::of_port(kind.port(count)), Some(kind));
                assert_eq!(DoorKind::of_stream(kind.stream(count.into())), Some(kind));
                assert_ne!(kind.port(count), HOST_PORT);
            }
        }
        assert_eq!(DoorKind::of_port(PortId(15)), None, "no door has that number");
    }
}
