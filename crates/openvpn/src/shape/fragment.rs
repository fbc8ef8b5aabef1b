//! `fragment`: packets cut to size inside the tunnel, and put together again.
//!
//! Every payload has four bytes in front. From the lowest bit up: two of type (0 whole, 1 a part,
//! 2 the last part), eight that name the packet, five that number the part, fourteen that say how
//! long the other parts are, in fours, in the last one only.

use contract::Discard;

/// Bytes in front of every payload.
pub(super) const HEADER: usize = 4;
/// A packet has no more parts, for their number has five bits.
const MAX_PARTS: usize = 32;
/// Packets that are put together at the same time: their parts are sent in one go, so this many
/// only ever overlap on a path that reorders a lot.
const SLOTS: usize = 16;
/// A packet whose parts are not there this many packets after its first is given up. Names come
/// back after 256 cut packets, so a shorter memory keeps two of them apart.
const PATIENCE: u64 = 128;

/// The highest bits of a header are zero: its first byte is never more than this.
pub(super) const MAX_FIRST: u8 = 0x1f;

const PART: u32 = 1;
const LAST: u32 = 2;

/// One part of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Part {
    name: u8,
    index: usize,
    is_last: bool,
    /// The length of every part but the last.
    size: usize,
}

impl Part {
    /// Reads the header of a payload, which `rest` follows; `None` for a whole packet.
    ///
    /// # Errors
    ///
    /// `Malformed` for numbers that no cutter writes.
    pub(super) fn parse(header: [u8; HEADER], rest: &[u8]) -> Result<Option<Self>, Discard> {
        let bits = u32::from_be_bytes(header);
        let name = (bits >> 2 & 0xff) as u8;
        let index = (bits >> 10 & 0x1f) as usize;
        let said = (bits >> 15 & 0x3fff) as usize * 4;
        let part = match bits & 3 {
            0 if bits == 0 => return Ok(None),
            PART => Self { name, index, is_last: false, size: rest.len() },
            LAST => Self { name, index, is_last: true, size: said },
            _ => return Err(Discard::Malformed),
        };
        let is_sound = header[0] <= MAX_FIRST
            && part.size > 0
            && part.size.is_multiple_of(4)
            && !rest.is_empty()
            && rest.len() <= part.size
            && if part.is_last { index > 0 } else { index < MAX_PARTS - 1 };
        if is_sound { Ok(Some(part)) } else { Err(Discard::Malformed) }
    }
}

/// How one packet is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    name: u8,
    size: usize,
    count: usize,
    len: usize,
}

impl Cut {
    /// Cuts `len` bytes into parts of about the same length, none longer than `most`.
    pub(super) fn new(name: u8, len: usize, most: usize) -> Result<Self, Discard> {
        let most = most / 4 * 4;
        if most == 0 || len.div_ceil(most) > MAX_PARTS {
            return Err(Discard::TooBig);
        }
        // Rounding up may leave one part less, never one more.
        let size = len.div_ceil(len.div_ceil(most).max(1)).next_multiple_of(4);
        Ok(Self { name, size, count: len.div_ceil(size.max(1)), len })
    }

    /// The parts: a header, and which bytes follow it.
    pub(super) fn parts(self) -> impl Iterator<Item = ([u8; HEADER], std::ops::Range<usize>)> {
        (0..self.count).map(move |index| {
            let start = index * self.size;
            let is_last = index + 1 == self.count;
            let kind = if is_last { LAST | (self.size as u32 / 4) << 15 } else { PART };
            let bits = kind | u32::from(self.name) << 2 | (index as u32) << 10;
            (bits.to_be_bytes(), start..(start + self.size).min(self.len))
        })
    }
}

/// Packets of which some parts have arrived. All memory is there from the beginning.
#[derive(Debug)]
pub(super) struct Reassembly {
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    /// When the first part came; `None` if the slot is free.
    since: Option<u64>,
    name: u8,
    size: usize,
    /// By part.
    seen: u32,
    /// Number and length of the last part, once it has come.
    end: Option<(usize, usize)>,
    bytes: Box<[u8]>,
}

impl Reassembly {
    /// Room for packets of up to `largest` bytes.
    pub(super) fn new(largest: usize) -> Self {
        let slot = || Slot {
            since: None,
            name: 0,
            size: 0,
            seen: 0,
            end: None,
            bytes: vec![0; largest].into(),
        };
        Self { slots: (0..SLOTS).map(|_| slot()).collect() }
    }

    /// Takes a part; returns the packet that it completes. `now` counts the packets received.
    ///
    /// # Errors
    ///
    /// `TooBig` if the packet would be larger than there is room, `Malformed` if its parts do not
    /// fit together; it is given up then.
    pub(super) fn add(
        &mut self,
        now: u64,
        part: Part,
        bytes: &[u8],
    ) -> Result<Option<&mut [u8]>, Discard> {
        let is_it = |slot: &Slot| {
            slot.name == part.name
                && slot.since.is_some_and(|since| now.saturating_sub(since) <= PATIENCE)
        };
        let found = self.slots.iter().position(is_it);
        let at = found.or_else(|| {
            // A free one, or the oldest.
            let by_age = self.slots.iter().enumerate().min_by_key(|(_, slot)| slot.since);
            by_age.map(|(at, _)| at)
        });
        let slot = at.and_then(|at| self.slots.get_mut(at)).ok_or(Discard::NoBuffer)?;
        // Parts of another length are of another packet: what is there is worth nothing.
        if found.is_none() || slot.size != part.size {
            slot.since = Some(now);
            (slot.name, slot.size, slot.seen, slot.end) = (part.name, part.size, 0, None);
        }
        let placed = slot.place(part, bytes);
        match placed {
            Ok(None) => Ok(None),
            Ok(Some(len)) => {
                slot.since = None;
                Ok(slot.bytes.get_mut(..len))
            }
            Err(why) => {
                slot.since = None;
                Err(why)
            }
        }
    }
}

impl Slot {
    /// Puts a part where it belongs; the packet's length, if that was the last one missing.
    fn place(&mut self, part: Part, bytes: &[u8]) -> Result<Option<usize>, Discard> {
        let start = part.index * part.size;
        let room = self.bytes.get_mut(start..).and_then(|rest| rest.get_mut(..bytes.len()));
        room.ok_or(Discard::TooBig)?.copy_from_slice(bytes);
        self.seen |= 1 << part.index;
        if part.is_last {
            if self.end.is_some_and(|end| end != (part.index, bytes.len())) {
                return Err(Discard::Malformed);
            }
            self.end = Some((part.index, bytes.len()));
        }
        let Some((index, len)) = self.end else { return Ok(None) };
        let all = u32::MAX >> (MAX_PARTS - 1 - index.min(MAX_PARTS - 1));
        if self.seen & !all != 0 {
            return Err(Discard::Malformed);
        }
        Ok((self.seen == all).then_some(index * self.size + len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of `packet`, header and all.
    fn cut(name: u8, packet: &[u8], most: usize) -> Vec<Vec<u8>> {
        let parts = Cut::new(name, packet.len(), most).unwrap().parts();
        parts.map(|(header, range)| [&header[..], &packet[range]].concat()).collect()
    }

    fn add(all: &mut Reassembly, now: u64, bytes: &[u8]) -> Result<Option<Vec<u8>>, Discard> {
        let (header, rest) = bytes.split_first_chunk().ok_or(Discard::Malformed)?;
        let part = Part::parse(*header, rest)?.expect("a part");
        Ok(all.add(now, part, rest)?.map(|packet| packet.to_vec()))
    }

    fn header(kind: u32, name: u32, index: u32, size: u32) -> [u8; 4] {
        (kind | name << 2 | index << 10 | (size / 4) << 15).to_be_bytes()
    }

    fn packet(len: usize) -> Vec<u8> {
        (0..len).map(|n| n as u8).collect()
    }

    #[test]
    fn what_is_cut_comes_together_in_any_order() {
        for (len, most) in [(1400, 1300), (1500, 500), (1500, 48), (5, 4), (1500, 751)] {
            let parts = cut(9, &packet(len), most);
            assert!((2..=32).contains(&parts.len()), "{len} by {most}: {}", parts.len());
            assert!(parts.iter().all(|part| part.len() - HEADER <= most));
            let mut all = Reassembly::new(1500);
            let whole = parts.iter().rev().map(|part| add(&mut all, 1, part).unwrap());
            assert_eq!(whole.flatten().collect::<Vec<_>>(), [packet(len)], "{len} by {most}");
        }
    }

    #[test]
    fn headers_are_what_openvpn_writes() {
        let parts = cut(3, &packet(10), 8);

        assert_eq!(hex::encode(&parts[0][..4]), hex::encode(header(1, 3, 0, 0)));
        assert_eq!(hex::encode(&parts[1][..4]), hex::encode(header(2, 3, 1, 8)));
        assert_eq!((parts[0].len(), parts[1].len()), (12, 6));
        assert_eq!(Part::parse([0; 4], &[1]), Ok(None));
    }

    #[test]
    fn packets_whose_parts_are_mixed_do_not_mix() {
        let packets = [packet(1000), vec![7; 1000], vec![9; 900]];
        let mut all = Reassembly::new(1500);
        let parts = packets
            .iter()
            .zip(0..)
            .map(|(packet, name)| cut(name, packet, 400))
            .collect::<Vec<_>>();

        let mut whole = Vec::new();
        for index in 0..3 {
            whole.extend(parts.iter().filter_map(|of| add(&mut all, 1, &of[index]).unwrap()));
        }

        assert_eq!(whole, packets);
    }

    #[test]
    fn numbers_that_lie_are_refused() {
        for (bytes, rest) in [
            (header(1, 0, 0, 0), 0),  // nothing in it
            (header(1, 0, 0, 0), 3),  // parts come in fours
            (header(1, 0, 31, 0), 4), // no room for a last one
            (header(2, 0, 1, 0), 0),  // both sizes zero
            (header(2, 0, 1, 0), 4),  // parts of nothing
            (header(2, 0, 1, 8), 9),  // longer than the others
            (header(2, 0, 0, 8), 8),  // the last is the first
            (header(3, 0, 0, 0), 4),  // never used
            (header(0, 1, 0, 0), 4),  // whole, and named
            (header(0, 0, 1, 0), 4),  // whole, and numbered
        ] {
            assert_eq!(Part::parse(bytes, &vec![0; rest]), Err(Discard::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn a_packet_larger_than_the_room_is_given_up() {
        let mut all = Reassembly::new(1500);
        let part = |index, len| [&header(1, 5, index, 0)[..], &vec![0; len]].concat();

        assert_eq!(add(&mut all, 1, &part(3, 500)), Err(Discard::TooBig));
        assert_eq!(add(&mut all, 1, &part(0, 2000)), Err(Discard::TooBig));
        assert_eq!(add(&mut all, 1, &part(30, 16_000)), Err(Discard::TooBig));
        assert!(all.slots.iter().all(|slot| slot.since.is_none()));
    }

    #[test]
    fn parts_behind_the_last_end_it() {
        let mut all = Reassembly::new(1500);
        assert_eq!(add(&mut all, 1, &[&header(1, 5, 4, 0)[..], &[0; 8]].concat()), Ok(None));
        let last = [&header(2, 5, 2, 8)[..], &[0; 8]].concat();
        assert_eq!(add(&mut all, 1, &last), Err(Discard::Malformed));
    }

    #[test]
    fn a_lost_part_costs_one_packet_and_no_memory() {
        let mut all = Reassembly::new(1500);
        for n in 0..2000_u64 {
            let parts = cut(n as u8, &packet(1000), 600);
            assert_eq!(add(&mut all, n, &parts[0]), Ok(None));
        }
        assert_eq!(all.slots.len(), SLOTS);
        let parts = cut(200, &packet(1200), 700);
        assert_eq!(add(&mut all, 2000, &parts[0]), Ok(None));
        assert_eq!(add(&mut all, 2000, &parts[1]), Ok(Some(packet(1200))));
    }

    #[test]
    fn a_name_that_comes_back_does_not_find_old_parts() {
        let mut all = Reassembly::new(1500);
        let (old, new) = (cut(7, &[1; 1000], 600), cut(7, &[2; 1000], 600));

        assert_eq!(add(&mut all, 1, &old[0]), Ok(None));
        assert_eq!(add(&mut all, 1 + PATIENCE + 1, &new[1]), Ok(None));
        assert_eq!(add(&mut all, 1 + PATIENCE + 1, &new[0]), Ok(Some(vec![2; 1000])));
    }

    #[test]
    fn what_needs_too_many_parts_is_not_cut() {
        assert!(Cut::new(0, 1500, 40).is_err());
        assert!(Cut::new(0, 1500, 3).is_err());
    }
}
