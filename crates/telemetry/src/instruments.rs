use std::fmt;

use contract::Discard;

const TRAFFIC: usize = 4;

/// What the workers count, in the order in which it is shown.
pub const INSTRUMENTS: [Instrument; TRAFFIC + Discard::COUNT] = instruments();

/// One counter as an operator sees it. It starts at 0 with the program and only grows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Instrument {
    /// Its name in `status` and, behind a prefix, in metrics.
    pub name: &'static str,
    /// What it counts in.
    pub unit: Unit,
    /// What it counts, and what it does not.
    pub help: &'static str,
    /// Which of the workers' numbers it is.
    pub counts: Counts,
}

/// What an instrument counts in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// IP packets or datagrams.
    Packets,
    /// Octets.
    Bytes,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packets => "packets",
            Self::Bytes => "bytes",
        })
    }
}

/// Which of the workers' numbers an instrument shows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Counts {
    /// Packets from peers.
    RxPackets,
    /// Their bytes.
    RxBytes,
    /// Packets to peers.
    TxPackets,
    /// Their bytes.
    TxBytes,
    /// Packets dropped for this reason.
    Dropped(Discard),
}

/// An instrument and what it says.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// Which one.
    pub instrument: &'a Instrument,
    /// Its value.
    pub value: u64,
}

impl fmt::Display for Reading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.instrument.name, self.value)
    }
}

const fn instruments() -> [Instrument; TRAFFIC + Discard::COUNT] {
    let mut all = [RX_PACKETS; TRAFFIC + Discard::COUNT];
    all[1] = RX_BYTES;
    all[2] = TX_PACKETS;
    all[3] = TX_BYTES;
    let mut at = 0;
    while at < Discard::COUNT {
        all[TRAFFIC + at] = drop_of(Discard::ALL[at]);
        at += 1;
    }
    all
}

const RX_PACKETS: Instrument = Instrument {
    name: "rx_packets",
    unit: Unit::Packets,
    help: "IP packets that came out of tunnels; not those dropped, not control messages",
    counts: Counts::RxPackets,
};

const RX_BYTES: Instrument = Instrument {
    name: "rx_bytes",
    unit: Unit::Bytes,
    help: "bytes of those packets, inner IP header included, encapsulation excluded",
    counts: Counts::RxBytes,
};

const TX_PACKETS: Instrument = Instrument {
    name: "tx_packets",
    unit: Unit::Packets,
    help: "IP packets that went into tunnels; not those dropped, not control messages",
    counts: Counts::TxPackets,
};

const TX_BYTES: Instrument = Instrument {
    name: "tx_bytes",
    unit: Unit::Bytes,
    help: "bytes of those packets, inner IP header included, encapsulation excluded",
    counts: Counts::TxBytes,
};

const fn drop_of(discard: Discard) -> Instrument {
    let (name, help) = match discard {
        Discard::Malformed => ("dropped_malformed", "dropped: a header or length that cannot be"),
        Discard::NoTunnel => {
            ("dropped_no_tunnel", "dropped: no session has the key the datagram names")
        }
        Discard::AuthFailed => {
            ("dropped_auth_failed", "dropped: the integrity check failed; damage or forgery")
        }
        Discard::Replayed => ("dropped_replayed", "dropped: received before, or too late to tell"),
        Discard::KeyWornOut => {
            ("dropped_key_worn_out", "dropped: the key has sealed as much as it may")
        }
        Discard::SpoofedSource => {
            ("dropped_spoofed_source", "dropped: the inner source address is not the sender's")
        }
        Discard::NoRoute => ("dropped_no_route", "dropped: nobody has the destination"),
        Discard::FilteredByPolicy => {
            ("dropped_filtered_by_policy", "dropped: members may not reach each other")
        }
        Discard::RateLimited => ("dropped_rate_limited", "dropped: over the rate that is granted"),
        Discard::NoBuffer => ("dropped_no_buffer", "dropped: a bounded queue was full"),
        Discard::TooBig => {
            ("dropped_too_big", "dropped: larger than the way out carries; the sender was told")
        }
        Discard::TimeExceeded => ("dropped_time_exceeded", "dropped: the hop limit was used up"),
        Discard::Multicast => {
            ("dropped_multicast", "dropped: broadcast, multicast or link-local chatter")
        }
        Discard::Unwanted => {
            ("dropped_unwanted", "dropped: a control datagram that no session wanted")
        }
        Discard::KeyRefused => {
            ("dropped_key_refused", "dropped: came with a client key that is revoked or too old")
        }
        Discard::MacLimit => {
            ("dropped_mac_limit", "dropped: more hardware addresses than one member may have")
        }
        Discard::UnknownNeighbour => (
            "dropped_unknown_neighbour",
            "dropped: the destination's hardware address was not known yet; it was asked for",
        ),
        Discard::Loop => (
            "dropped_loop",
            "dropped: from a member that is on the bridged network another way, too",
        ),
    };
    Instrument { name, unit: Unit::Packets, help, counts: Counts::Dropped(discard) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_to_drop_has_the_contracts_name() {
        for (discard, instrument) in Discard::ALL.iter().zip(&INSTRUMENTS[TRAFFIC..]) {
            assert_eq!(instrument.counts, Counts::Dropped(*discard));
            assert_eq!(instrument.name, format!("dropped_{}", discard.name()));
        }
    }

    #[test]
    fn no_two_instruments_have_the_same_name_or_number() {
        let names: BTreeSet<&str> = INSTRUMENTS.iter().map(|one| one.name).collect();
        let distinct = (0..INSTRUMENTS.len()).all(|at| {
            INSTRUMENTS[at + 1..].iter().all(|other| other.counts != INSTRUMENTS[at].counts)
        });

        assert_eq!(names.len(), INSTRUMENTS.len());
        assert!(distinct);
    }

    #[test]
    fn names_fit_a_metrics_endpoint() {
        for instrument in &INSTRUMENTS {
            let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(instrument.name.chars().all(is_plain), "{}", instrument.name);
            assert!(!instrument.help.contains('\n'), "{}", instrument.help);
        }
    }
}
