//! What the network itself has to say about a packet it cannot carry (RFC 792, 1191, 4443).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use wire::checksum::Sum;
use wire::ip::{Fragment, Head, ICMP, ICMPV6, IPV4_HEADER, IPV6_HEADER};

/// No ICMP error is larger: RFC 4443, 2.4 (c) for IPv6; RFC 1812, 4.3.2.3 says 576 for IPv4.
pub(crate) const MAX_ERROR: usize = 1280;
const MAX_ERROR_V4: usize = 576;

/// The ICMP header of every error.
const ICMP_HEADER: usize = 8;
/// The hop limit our own packets start with.
const HOP_LIMIT: u8 = 64;

/// ICMP errors of one kind that a worker sends a second at most (RFC 4443, 2.4 (f) asks for a limit).
const PER_SECOND: u32 = 100;

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Complaint {
    /// The way on carries no more than `mtu` bytes.
    TooBig { mtu: u16 },
    /// It has been forwarded too often.
    TimeExceeded,
}

/// Who an error claims to come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Speaker {
    /// The network itself.
    Gateway,
    /// Whom the packet was for.
    Destination,
}

/// The network's own addresses, which its errors come from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Gateways {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

impl Gateways {
    /// Writes the error that `packet` deserves into `out`; its length, or `None` where an error
    /// must not be sent (RFC 1122, 3.2.2 and RFC 4443, 2.4 (e)).
    pub(crate) fn complain(
        &self,
        complaint: Complaint,
        from: Speaker,
        packet: &[u8],
        head: &Head,
        out: &mut [u8; MAX_ERROR],
    ) -> Option<usize> {
        if !may_complain(packet, head) {
            return None;
        }
        let packet = packet.get(..head.total_len)?;
        let from = match (from, head.source) {
            (Speaker::Destination, _) => head.destination,
            (Speaker::Gateway, IpAddr::V4(_)) => self.v4?.into(),
            (Speaker::Gateway, IpAddr::V6(_)) => self.v6?.into(),
        };
        match (from, head.source) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Some(write_v4(complaint, from, to, packet, out)),
            (IpAddr::V6(from), IpAddr::V6(to)) => Some(write_v6(complaint, from, to, packet, out)),
            _ => None, // no packet has addresses of both families
        }
    }
}

/// Never about an error, a later fragment, or a packet to or from more than one host.
fn may_complain(packet: &[u8], head: &Head) -> bool {
    let first = head.payload(packet).first().copied();
    let about_error = match head.protocol {
        ICMP => first.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12)),
        ICMPV6 => first.is_none_or(|kind| kind < 128),
        _ => false,
    };
    let one_host = |address: IpAddr| match address {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
    };
    !about_error
        && head.fragment != Fragment::Later
        && one_host(head.source)
        && one_host(head.destination)
}

fn write_v4(
    complaint: Complaint,
    from: Ipv4Addr,
    to: Ipv4Addr,
    packet: &[u8],
    out: &mut [u8; MAX_ERROR],
) -> usize {
    let quoted = packet.len().min(MAX_ERROR_V4 - IPV4_HEADER - ICMP_HEADER);
    let len = IPV4_HEADER + ICMP_HEADER + quoted;
    let (ip, icmp) = out[..len].split_at_mut(IPV4_HEADER);
    ip.fill(0);
    ip[0] = 0x45;
    // RFC 1812, 4.3.2.5: errors have precedence 6, internetwork control.
    ip[1] = 0xc0;
    ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    ip[8] = HOP_LIMIT;
    ip[9] = ICMP;
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..20].copy_from_slice(&to.octets());
    let checksum = Sum::of(ip).checksum();
    ip[10..12].copy_from_slice(&checksum);

    let (kind, code, mtu) = match complaint {
        Complaint::TooBig { mtu } => (3, 4, mtu),
        Complaint::TimeExceeded => (11, 0, 0),
    };
    icmp[..6].copy_from_slice(&[kind, code, 0, 0, 0, 0]);
    icmp[6..8].copy_from_slice(&mtu.to_be_bytes());
    icmp[8..].copy_from_slice(&packet[..quoted]);
    let checksum = Sum::of(icmp).checksum();
    icmp[2..4].copy_from_slice(&checksum);
    len
}

fn write_v6(
    complaint: Complaint,
    from: Ipv6Addr,
    to: Ipv6Addr,
    packet: &[u8],
    out: &mut [u8; MAX_ERROR],
) -> usize {
    let quoted = packet.len().min(MAX_ERROR - IPV6_HEADER - ICMP_HEADER);
    let behind = (ICMP_HEADER + quoted) as u16;
    let len = IPV6_HEADER + ICMP_HEADER + quoted;
    let (ip, icmp) = out[..len].split_at_mut(IPV6_HEADER);
    ip.fill(0);
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&behind.to_be_bytes());
    ip[6] = ICMPV6;
    ip[7] = HOP_LIMIT;
    ip[8..24].copy_from_slice(&from.octets());
    ip[24..40].copy_from_slice(&to.octets());

    let (kind, mtu) = match complaint {
        Complaint::TooBig { mtu } => (2, mtu),
        Complaint::TimeExceeded => (3, 0),
    };
    icmp[..4].copy_from_slice(&[kind, 0, 0, 0]);
    icmp[4..8].copy_from_slice(&u32::from(mtu).to_be_bytes());
    icmp[8..].copy_from_slice(&packet[..quoted]);
    let sum = Sum::pseudo_v6(from.octets(), to.octets(), ICMPV6, behind).plus(icmp);
    icmp[2..4].copy_from_slice(&sum.checksum());
    len
}

/// What may still be sent of each kind: members that let packets expire silence nobody's path MTU
/// discovery.
#[derive(Debug, Default)]
pub(crate) struct Allowances {
    too_big: Allowance,
    time_exceeded: Allowance,
}

impl Allowances {
    /// Takes one for this kind of error, if there is one.
    pub(crate) fn take(&mut self, complaint: Complaint, now: Instant) -> Option<()> {
        match complaint {
            Complaint::TooBig { .. } => self.too_big.take(now),
            Complaint::TimeExceeded => self.time_exceeded.take(now),
        }
    }
}

/// How many errors may still be sent: a token bucket on the caller's clock.
#[derive(Debug, Default)]
struct Allowance {
    left: u32,
    since: Option<Instant>,
}

impl Allowance {
    /// Takes one, if there is one.
    fn take(&mut self, now: Instant) -> Option<()> {
        let elapsed = self.since.map_or(Duration::from_secs(1), |since| now - since);
        let earned = elapsed.min(Duration::from_secs(1)).as_millis() as u32 * PER_SECOND / 1000;
        if earned > 0 {
            self.left = (self.left + earned).min(PER_SECOND);
            self.since = Some(now);
        }
        self.left = self.left.checked_sub(1)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_brings_no_more_than_its_share() {
        let mut allowance = Allowance::default();
        let start = crate::testing::now();
        let spend = |allowance: &mut Allowance, now| {
            (0..10_000).take_while(|_| allowance.take(now).is_some()).count()
        };

        assert_eq!(spend(&mut allowance, start), 100);
        assert_eq!(spend(&mut allowance, start + Duration::from_millis(9)), 0);
        assert_eq!(spend(&mut allowance, start + Duration::from_millis(50)), 5);
        assert_eq!(spend(&mut allowance, start + Duration::from_secs(60)), 100);
    }

    #[test]
    fn an_unreachable_mtu_is_quoted_with_the_packet() {
        let gateways = Gateways { v4: Some([10, 0, 0, 254].into()), v6: None };
        let mut packet = vec![0x45, 0, 0, 60, 1, 2, 0x40, 0, 64, 17, 0, 0];
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([9; 40]);
        let head = Head::parse(&packet).unwrap();
        let mut out = [0; MAX_ERROR];

        let complaint = Complaint::TooBig { mtu: 1300 };
        let len = gateways.complain(complaint, Speaker::Gateway, &packet, &head, &mut out).unwrap();

        let error = Head::parse(&out[..len]).unwrap();
        assert_eq!(error.source, IpAddr::from([10, 0, 0, 254]));
        assert_eq!(error.destination, head.source);
        assert_eq!(out[20..22], [3, 4]);
        assert_eq!(out[26..28], 1300_u16.to_be_bytes());
        assert_eq!(out[28..len], packet);
        assert!(Sum::of(&out[..20]).is_valid() && Sum::of(&out[20..len]).is_valid());
    }

    #[test]
    fn an_ipv6_error_fits_the_smallest_link() {
        let gateway = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
        let gateways = Gateways { v4: None, v6: Some(gateway) };
        let mut packet = vec![0x60, 0, 0, 0, 0x07, 0xd0, 17, 1];
        packet.extend([0xfd; 32]);
        packet.extend([9; 2000]);
        let head = Head::parse(&packet).unwrap();
        let mut out = [0; MAX_ERROR];

        let complaint = Complaint::TimeExceeded;
        let len = gateways.complain(complaint, Speaker::Gateway, &packet, &head, &mut out).unwrap();

        let error = Head::parse(&out[..len]).unwrap();
        assert_eq!((len, out[40], error.source), (1280, 3, gateway.into()));
        assert!(error.pseudo((len - 40) as u16).plus(&out[40..len]).is_valid());
    }

    #[test]
    fn there_is_no_error_about_an_error_a_fragment_or_a_crowd() {
        let gateways = Gateways { v4: Some([10, 0, 0, 254].into()), v6: None };
        let mut ping = vec![0x45, 0, 0, 28, 1, 2, 0, 0, 64, ICMP, 0, 0];
        ping.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        ping.extend([8, 0, 0, 0, 0, 0, 0, 0]);
        let answer = |change: fn(&mut [u8])| {
            let mut packet = ping.clone();
            change(&mut packet);
            let head = Head::parse(&packet).unwrap();
            let out = &mut [0; MAX_ERROR];
            gateways.complain(Complaint::TimeExceeded, Speaker::Gateway, &packet, &head, out)
        };

        assert!(answer(|_| ()).is_some());
        assert!(answer(|packet| packet[20] = 3).is_none());
        assert!(answer(|packet| packet[7] = 1).is_none());
        assert!(answer(|packet| packet[16] = 224).is_none());
        assert!(answer(|packet| packet[12..16].fill(0)).is_none());
    }
}
