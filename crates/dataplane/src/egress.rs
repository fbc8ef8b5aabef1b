//! Seals packets straight into the buffer the kernel will send.

use contract::{Carrier, ContentKind, Discard, Path, Tunnel};

use crate::framing::Lead;
use crate::io::DatagramSink;

/// The most bytes in one GSO send: what fits into a UDP datagram with room for any IP header.
const MAX_SEND: usize = 65_000;
/// The most segments in one GSO send (`UDP_MAX_SEGMENTS`, linux/udp.h, before it was doubled).
const MAX_SEGMENTS: usize = 64;
/// How many sends one worker may have waiting: enough for one datagram to as many peers.
const MAX_PENDING: usize = 64;
/// How many sends are enough to go on with: 1 MiB. Of 2, 4, 16 and 32 this was the fastest on two
/// cores with one stream through AES-256-GCM; with fewer, wake-ups of the peer cost more than the
/// waiting saves.
const PRESSING: usize = 16;

/// What a full queue pins at most; a compile error is cheaper than an OOM kill.
const WORST_CASE_MEMORY: usize = MAX_PENDING * (MAX_SEND + size_of::<Batch>());
const _: () = assert!(WORST_CASE_MEMORY <= 8 * 1024 * 1024);

/// Outgoing datagrams of one worker, grouped so that each group is one `sendmsg`.
#[derive(Debug, Default)]
pub struct Egress {
    /// In write order; only the newest batch of a path may grow, which keeps every flow in order.
    batches: Vec<Batch>,
    /// Buffers of batches that have been sent.
    spare: Vec<Box<[u8]>>,
    /// Whether a stream has more than one batch waiting. Its kernel buffer is small, and only
    /// sending shows whether it has room for any of it.
    is_urgent: bool,
}

/// Datagrams to one path: all of one size except the last, which may be shorter. To a stream,
/// messages of any size.
#[derive(Debug)]
pub struct Batch {
    path: Path,
    segment_size: usize,
    len: usize,
    buffer: Box<[u8]>,
}

impl Batch {
    /// Where to.
    #[must_use]
    pub fn path(&self) -> Path {
        self.path
    }

    /// The size of every datagram but the last.
    #[must_use]
    pub fn segment_size(&self) -> usize {
        self.segment_size
    }

    /// The datagrams, end to end.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    fn has_room_for(&self, len: usize) -> bool {
        if let Carrier::Stream(_) = self.path.carrier {
            return self.len + len <= MAX_SEND;
        }
        self.len == 0
            || (len <= self.segment_size
                && self.len + len <= MAX_SEND
                && self.len.is_multiple_of(self.segment_size)
                && self.len / self.segment_size < MAX_SEGMENTS)
    }
}

impl Egress {
    /// Reserves room for one datagram of `len` bytes to `path`.
    ///
    /// What the room holds before it is written is unspecified. Dropping the reservation without
    /// [`commit`](Reservation::commit) takes the room back, so an early `?` can never send a
    /// half-written datagram.
    ///
    /// # Errors
    ///
    /// Fails if the datagram is larger than any datagram, or too many sends are waiting.
    pub fn reserve(&mut self, path: Path, len: usize) -> Result<Reservation<'_>, Discard> {
        if len > MAX_SEND || len == 0 {
            return Err(Discard::TooBig);
        }

        let newest = self.batches.iter().rposition(|batch| batch.path == path);
        let index = match newest {
            Some(index) if self.batches[index].has_room_for(len) => index,
            _ if self.batches.len() == MAX_PENDING => return Err(Discard::NoBuffer),
            newest => {
                self.is_urgent |= newest.is_some() && matches!(path.carrier, Carrier::Stream(_));
                let buffer = self.spare.pop().unwrap_or_else(|| vec![0; MAX_SEND].into());
                self.batches.push(Batch { path, segment_size: len, len: 0, buffer });
                self.batches.len() - 1
            }
        };

        let batch = &mut self.batches[index];
        if batch.len == 0 {
            batch.segment_size = len;
        }
        Ok(Reservation { batch, len })
    }

    /// Whether so many batches are waiting that a new path would find no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.batches.len() == MAX_PENDING
    }

    /// Whether enough is waiting that sending it beats collecting more: the kernel can work on it
    /// while we go on, and it is still in the cache.
    #[must_use]
    pub fn is_pressing(&self) -> bool {
        self.is_urgent || self.batches.len() >= PRESSING
    }

    /// Sends everything, in order; `dropped` hears why a batch could not be.
    pub fn flush(&mut self, sink: &mut impl DatagramSink, mut dropped: impl FnMut(Discard)) {
        self.is_urgent = false;
        for batch in self.batches.drain(..) {
            if batch.len > 0
                && let Err(discard) = sink.send(&batch)
            {
                dropped(discard);
            }
            self.spare.push(batch.buffer);
        }
    }
}

/// Room for one datagram, not yet part of what is sent.
#[derive(Debug)]
#[must_use]
pub struct Reservation<'e> {
    batch: &'e mut Batch,
    len: usize,
}

impl Reservation<'_> {
    /// The room.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.batch.buffer[self.batch.len..][..self.len]
    }

    /// Makes the datagram part of its batch.
    pub fn commit(self) {
        self.batch.len += self.len;
    }
}

/// Seals a packet of `len` bytes that `write` puts where it belongs: the whole outbound fast path
/// in one place.
pub(crate) fn encapsulate(
    tunnel: &dyn Tunnel,
    kind: ContentKind,
    len: usize,
    to: (Path, Lead<'_>),
    egress: &mut Egress,
    write: impl FnOnce(&mut [u8]),
) -> Result<(), Discard> {
    let (path, lead) = to;
    let frame = tunnel.frame(kind, len);
    let sealed = frame.head + len + frame.tail;
    if !lead.takes(sealed) {
        return Err(Discard::TooBig);
    }
    let mut slot = egress.reserve(path, lead.len() + sealed)?;
    let (front, out) = slot.bytes().split_at_mut(lead.len());
    lead.write(sealed, front);
    write(&mut out[frame.head..frame.head + len]);
    tunnel.seal(kind, len, out)?;
    slot.commit();

    Ok(())
}

#[cfg(test)]
mod tests {
    use contract::{Carrier, Frame, Opened, SocketId, StreamId};

    use super::*;
    use crate::framing::Framing;

    #[test]
    fn equal_size_datagrams_to_one_path_share_one_send() {
        let mut egress = Egress::default();

        for len in [1200, 1200, 1200, 100, 1200] {
            send(&mut egress, 1, len).unwrap(); // the short one ends its batch
        }

        assert_eq!(drain(&mut egress), [(1, 1204, 3 * 1204 + 104), (1, 1204, 1204)]);
    }

    #[test]
    fn paths_do_not_share_a_send() {
        let mut egress = Egress::default();

        for host in [1, 2, 1, 2] {
            send(&mut egress, host, 500).unwrap();
        }

        assert_eq!(drain(&mut egress), [(1, 504, 1008), (2, 504, 1008)]);
    }

    #[test]
    fn a_batch_stays_within_what_the_kernel_takes() {
        let mut egress = Egress::default();

        (0..65).for_each(|_| send(&mut egress, 1, 16).unwrap());
        (0..65).for_each(|_| send(&mut egress, 2, 1396).unwrap());

        assert_eq!(
            drain(&mut egress),
            [(1, 20, 64 * 20), (1, 20, 20), (2, 1400, 46 * 1400), (2, 1400, 19 * 1400)]
        );
    }

    #[test]
    fn a_failed_seal_leaves_no_bytes_behind() {
        let mut egress = Egress::default();
        send(&mut egress, 1, 100).unwrap();

        let worn = encapsulate(
            &WornOut,
            ContentKind::Packet,
            100,
            (path(1), Lead::Nothing),
            &mut egress,
            |_| (),
        );

        assert_eq!(worn, Err(Discard::KeyWornOut));
        assert_eq!(drain(&mut egress), [(1, 104, 104)]);
    }

    #[test]
    fn a_rolled_back_first_datagram_does_not_decide_the_size_of_the_next() {
        let mut egress = Egress::default();
        drop(egress.reserve(path(1), 10).unwrap());

        send(&mut egress, 1, 1000).unwrap();

        assert_eq!(drain(&mut egress), [(1, 1004, 1004)]);
    }

    #[test]
    fn one_path_cannot_exhaust_memory() {
        let mut egress = Egress::default();

        let sent = (0..u32::MAX).take_while(|_| send(&mut egress, 1, 60_000).is_ok()).count();

        assert_eq!(sent, MAX_PENDING);
    }

    #[test]
    fn messages_of_a_stream_share_a_batch_whatever_their_size() {
        let mut egress = Egress::default();
        let stream = Path { carrier: Carrier::Stream(StreamId(1)), ..path(1) };
        let to = (stream, Lead::Framed(Framing::Length16 { limit: 1500 }));
        let mut send = |len| {
            let send = encapsulate(&Plain, ContentKind::Packet, len, to, &mut egress, |_| ());
            send.unwrap();
            egress.is_pressing()
        };

        assert!(![100, 1200, 60].into_iter().any(&mut send));
        assert!((0..60).any(|_| send(1200)), "a second batch is reason to send the first");

        let mut sizes = Sizes::default();
        egress.flush(&mut sizes, |why| panic!("dropped: {why:?}"));
        assert!(!egress.is_pressing());
        let total = sizes.0.iter().map(|(.., len)| len).sum::<usize>();
        assert_eq!((sizes.0.len() > 1, total % 1206), (true, (106 + 1206 + 66) % 1206));
    }

    #[test]
    fn a_message_that_would_break_its_stream_is_not_sent() {
        let mut egress = Egress::default();
        let stream = Path { carrier: Carrier::Stream(StreamId(1)), ..path(1) };
        let to = (stream, Lead::Framed(Framing::Length16 { limit: 1500 }));
        let mut send = |len| encapsulate(&Plain, ContentKind::Frame, len, to, &mut egress, |_| ());

        assert_eq!((send(1497), send(60_000)), (Err(Discard::TooBig), Err(Discard::TooBig)));
        assert_eq!(send(1496), Ok(()));

        assert_eq!(drain(&mut egress), [(1, 1502, 1502)]);
    }

    #[test]
    fn buffers_are_used_again() {
        let mut egress = Egress::default();

        for _ in 0..1000 {
            send(&mut egress, 1, 1000).unwrap();
            send(&mut egress, 2, 1000).unwrap();
            drain(&mut egress);
        }

        assert_eq!(egress.spare.len(), 2);
    }

    #[derive(Debug)]
    struct Plain;

    impl Tunnel for Plain {
        fn frame(&self, _: ContentKind, _: usize) -> Frame {
            Frame { head: 4, tail: 0 }
        }

        fn seal(&self, _: ContentKind, _: usize, out: &mut [u8]) -> Result<(), Discard> {
            out[..4].copy_from_slice(b"head");
            Ok(())
        }

        fn open<'b>(&self, _: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
            Err(Discard::NoTunnel)
        }
    }

    #[derive(Debug)]
    struct WornOut;

    impl Tunnel for WornOut {
        fn frame(&self, kind: ContentKind, len: usize) -> Frame {
            Plain.frame(kind, len)
        }

        fn seal(&self, _: ContentKind, _: usize, _: &mut [u8]) -> Result<(), Discard> {
            Err(Discard::KeyWornOut)
        }

        fn open<'b>(&self, _: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
            Err(Discard::NoTunnel)
        }
    }

    #[derive(Default)]
    struct Sizes(Vec<(u8, usize, usize)>);

    impl DatagramSink for Sizes {
        fn send(&mut self, batch: &Batch) -> Result<(), Discard> {
            let host = match batch.path().remote.ip() {
                std::net::IpAddr::V4(ip) => ip.octets()[3],
                std::net::IpAddr::V6(_) => 0,
            };
            self.0.push((host, batch.segment_size(), batch.bytes().len()));
            Ok(())
        }
    }

    fn send(egress: &mut Egress, host: u8, len: usize) -> Result<(), Discard> {
        let to = (path(host), Lead::Nothing);
        encapsulate(&Plain, ContentKind::Packet, len, to, egress, |out| out.fill(7))
    }

    fn drain(egress: &mut Egress) -> Vec<(u8, usize, usize)> {
        let mut sizes = Sizes::default();
        egress.flush(&mut sizes, |why| panic!("dropped: {why:?}"));
        sizes.0
    }

    fn path(host: u8) -> Path {
        Path {
            local: None,
            remote: ([192, 0, 2, host], 1194).into(),
            carrier: Carrier::Udp(SocketId(0)),
        }
    }
}
