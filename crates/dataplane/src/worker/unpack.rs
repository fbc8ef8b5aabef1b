//! Content that does not fit where it is: compressed, fragmented, or larger than a datagram.
//!
//! Only sessions with old settings come here. What is unpacked lies in scratch memory that the next
//! packet needs, so it is written out at once instead of being joined with its neighbours.

use contract::{ContentKind, Discard, Fabric, Frame, Opened, Path, Tunnel, Unpacked};

use super::tables::{Entry, Sinks, Tables};
use crate::coalesce::Coalescer;
use crate::egress::encapsulate;
use crate::framing::Lead;
use crate::io::{Punt, Surroundings};

impl<F: Fabric> Tables<F> {
    /// Expands and joins, then forwards what came of it.
    pub(super) fn unpack<'b>(
        &self,
        entry: &Entry,
        packed: &[u8],
        coalescer: &mut Coalescer<'b>,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let mut room = std::mem::take(&mut sinks.scratch.unpacked);
        let done = match entry.tunnel.unpack(packed, &mut room) {
            Ok(kind @ (Unpacked::Packet(len) | Unpacked::Frame(len))) => {
                // What came before it in the same flow must not come out after it.
                let before = coalescer.flush(sinks.outside, sinks.offloads);
                sinks.note(before);
                let mut alone = Coalescer::default();
                let content = room.get_mut(..len).ok_or(Discard::Malformed);
                let forwarded = content.and_then(|content| match kind {
                    Unpacked::Frame(_) => self.on_frame(entry, content, &mut alone, sinks),
                    _ => self.forward(entry, content, &mut alone, sinks),
                });
                let written = alone.flush(sinks.outside, sinks.offloads);
                forwarded.and(written)
            }
            Ok(Unpacked::Control(len)) => {
                let bytes = room.get(..len).ok_or(Discard::Malformed);
                bytes
                    .and_then(|bytes| sinks.outside.punt(Punt::Control { port: entry.port, bytes }))
            }
            Ok(Unpacked::Nothing) => Ok(()),
            Err(why) => Err(why),
        };
        sinks.scratch.unpacked = room;
        done
    }
}

impl<S: Surroundings> Sinks<'_, S> {
    /// Seals content that takes several datagrams.
    pub(super) fn seal_in_parts(
        &mut self,
        tunnel: &dyn Tunnel,
        kind: ContentKind,
        content: &[u8],
        to: (Path, Lead<'_>),
    ) -> Result<(), Discard> {
        let mut room = std::mem::take(&mut self.scratch.parts);
        let sealed = tunnel.seal_in_parts(kind, content, &mut room, &mut |datagram| {
            if self.egress.is_full() {
                let discards = &mut *self.discards;
                self.egress.flush(self.outside, |why| discards[why as usize] += 1);
            }
            let len = datagram.len();
            encapsulate(&Sealed, kind, len, to, self.egress, |out| out.copy_from_slice(datagram))
        });
        self.scratch.parts = room;
        sealed
    }
}

/// What is a datagram already.
#[derive(Debug)]
struct Sealed;

impl Tunnel for Sealed {
    fn frame(&self, _: ContentKind, _len: usize) -> Frame {
        Frame { head: 0, tail: 0 }
    }

    fn seal(&self, _kind: ContentKind, _len: usize, _out: &mut [u8]) -> Result<(), Discard> {
        Ok(())
    }

    fn open<'b>(&self, _datagram: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
        Err(Discard::Malformed)
    }
}
