//! LZO1X decompression (the format: Linux, Documentation/staging/lzo.rst).
//!
//! A stream is a series of instructions: a run of literal bytes, or a copy of bytes that were
//! written before, followed by up to three literals. What an instruction byte means depends on how
//! many literals the one before it brought.

use contract::Discard;

/// What counts as many literals: a run of its own, not the few that follow a copy.
const LONG_RUN: usize = 4;

/// Expands `input` into `out`; how many bytes that made.
///
/// # Errors
///
/// `TooBig` if `out` is too small, `Malformed` for everything else that is wrong; never reads
/// behind `input`, nor copies from before the beginning of `out`.
pub(super) fn decompress(input: &[u8], out: &mut [u8]) -> Result<usize, Discard> {
    let mut source = Source(input);
    let mut sink = Sink { out, len: 0 };
    let mut before = 0;
    if let Some(first) = input.first().map(|byte| usize::from(*byte)).filter(|first| *first > 17) {
        source.byte()?;
        before = (first - 17).min(LONG_RUN);
        sink.literals(source.take(first - 17)?)?;
    }
    loop {
        let code = source.byte()?;
        let (distance, len, literals) = match code {
            0..16 if before == 0 => {
                let run = 3 + source.length(code, 15)?;
                sink.literals(source.take(run)?)?;
                before = LONG_RUN;
                continue;
            }
            0..16 => {
                let (nearest, len) = if before == LONG_RUN { (2049, 3) } else { (1, 2) };
                (nearest + (source.byte()? << 2) + (code >> 2), len, code & 3)
            }
            16..32 => {
                let len = 2 + source.length(code & 7, 7)?;
                let word = source.word()?;
                let distance = ((code & 8) << 11) + (word >> 2);
                if distance == 0 {
                    let is_end = code == 17 && word == 0 && source.0.is_empty();
                    return if is_end { Ok(sink.len) } else { Err(Discard::Malformed) };
                }
                (16_384 + distance, len, word & 3)
            }
            32..64 => {
                let len = 2 + source.length(code & 31, 31)?;
                let word = source.word()?;
                (1 + (word >> 2), len, word & 3)
            }
            64..128 => near(code, source.byte()?, 3 + (code >> 5 & 1)),
            _ => near(code, source.byte()?, 5 + (code >> 5 & 3)),
        };
        sink.copy(distance, len)?;
        sink.literals(source.take(literals)?)?;
        before = literals;
    }
}

/// A copy from the last two kilobytes, which is three bits of the code and eight of the next byte.
fn near(code: usize, high: usize, len: usize) -> (usize, usize, usize) {
    (1 + (high << 3) + (code >> 2 & 7), len, code & 3)
}

struct Source<'i>(&'i [u8]);

impl<'i> Source<'i> {
    fn byte(&mut self) -> Result<usize, Discard> {
        let (first, rest) = self.0.split_first().ok_or(Discard::Malformed)?;
        self.0 = rest;
        Ok(usize::from(*first))
    }

    /// Two bytes, the lower one first.
    fn word(&mut self) -> Result<usize, Discard> {
        Ok(self.byte()? | self.byte()? << 8)
    }

    fn take(&mut self, len: usize) -> Result<&'i [u8], Discard> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Discard::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The length in an instruction; if its bits are zero, it goes on behind it: `most`, 255 for
    /// each zero byte, and the first byte that is not zero.
    fn length(&mut self, bits: usize, most: usize) -> Result<usize, Discard> {
        if bits != 0 {
            return Ok(bits);
        }
        let mut len = most;
        loop {
            match self.byte()? {
                0 => len += 255,
                last => return Ok(len + last),
            }
        }
    }
}

struct Sink<'o> {
    out: &'o mut [u8],
    len: usize,
}

impl Sink<'_> {
    fn room(&mut self, len: usize) -> Result<&mut [u8], Discard> {
        self.out.get_mut(self.len..).and_then(|rest| rest.get_mut(..len)).ok_or(Discard::TooBig)
    }

    fn literals(&mut self, bytes: &[u8]) -> Result<(), Discard> {
        self.room(bytes.len())?.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }

    fn copy(&mut self, distance: usize, len: usize) -> Result<(), Discard> {
        let from = self.len.checked_sub(distance).ok_or(Discard::Malformed)?;
        self.room(len)?;
        if distance >= len {
            self.out.copy_within(from..from + len, self.len);
        } else {
            // The copy reads what it has written: that is how runs are made.
            for at in from..from + len {
                self.out[at + distance] = self.out[at];
            }
        }
        self.len += len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Vectors made by liblzo2 (LZO1X-1).

    use super::*;

    const TEXT: &str = "the quick brown fox jumps over the lazy dog; the quick brown fox sleeps. ";
    const PACKED_TEXT: &str = "000d74686520717569636b2062726f776e20666f78206a756d7073206f766572207803066c617a7920646f673b9501712db00004736c656570732e336c00204b20010f62726f776e20666f7820736c656570732e20110000";
    const WORDS: &str = "jalnf ub lqiyod jalnf ymf ub marz kgexs ebnj kgexs cgkqt haxgni xyzljb opwxkp dlp wf cgkqt ebnj marz ub bia lmsao lqiyod jalnf opwxkp ixlzwx oune ebnj bia gdyhol marz bhxtl lmsao kgexs xyzljb xyzljb marz xyzljb ue xyzljb jalnf tr cgkqt lqiyod uzn grvu uzn fwg ick cgkqt oune lmsao ymf ue fwg mr opwxkp uzn ue wf";
    const PACKED_WORDS: &str = "0d6a616c6e66207562206c7169796f6420bf01796d666c020c6d61727a206b676578732065626e6ac801001063676b717420686178676e692078797a6c6a62206f7077786b7020646c7020776620a4048806880809756220626961206c6d73616f2ca001dc060869786c7a7778206f756e65a40d780504676479686f6c20840802626878746cc008a012c00fd8009004ce017565f412b319747220a012c81c06757a6e2067727675206001046677672069636bc4048010b8148a2065207c0300016d72206f7077786b7020757a6e207565207766110000";

    fn expand(packed: &str, room: usize) -> Result<Vec<u8>, Discard> {
        let mut out = vec![0; room];
        let len = decompress(&hex::decode(packed).unwrap(), &mut out)?;
        out.truncate(len);
        Ok(out)
    }

    #[test]
    fn what_liblzo2_packed_is_expanded() {
        assert_eq!(expand("110000", 0).unwrap(), b"");
        assert_eq!(expand("14616263110000", 3).unwrap(), b"abc");
        let run = "02616161616120f31000000161616161616161616161616161616161616161110000";
        assert_eq!(expand(run, 300).unwrap(), [b'a'; 300]);
        assert_eq!(expand(PACKED_TEXT, 219).unwrap(), TEXT.repeat(3).as_bytes());
        assert_eq!(expand(PACKED_WORDS, 311).unwrap(), WORDS.as_bytes());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for room in 0..219 {
            assert_eq!(expand(PACKED_TEXT, room), Err(Discard::TooBig));
        }
        // 64 KiB of zero bytes: a copy of 16 MiB.
        let bomb = format!("126120{}010000110000", "00".repeat(65_000));
        assert_eq!(expand(&bomb, 1500), Err(Discard::TooBig));
    }

    #[test]
    fn a_stream_that_is_cut_or_goes_on_is_refused() {
        let packed = hex::decode(PACKED_WORDS).unwrap();
        let mut out = [0; 400];
        for len in 0..packed.len() {
            assert_eq!(decompress(&packed[..len], &mut out), Err(Discard::Malformed));
        }
        let longer = [&packed[..], &[0]].concat();
        assert_eq!(decompress(&longer, &mut out), Err(Discard::Malformed));
    }

    #[test]
    fn every_corruption_is_survived() {
        let packed = hex::decode(PACKED_WORDS).unwrap();
        let mut out = [0; 400];
        for at in 0..packed.len() {
            for value in 0..=255 {
                let mut copy = packed.clone();
                copy[at] = value;
                let _ = decompress(&copy, &mut out);
            }
        }
    }

    #[test]
    fn nothing_is_copied_from_before_the_beginning() {
        // One literal, then three bytes from two back.
        assert_eq!(expand("12614400110000", 100), Err(Discard::Malformed));
        assert_eq!(expand("12614000110000", 100).unwrap(), b"aaaa");
    }
}
