use zeroize::Zeroize;

/// The longest line that is taken, in bytes, without its end: a password with a response, twice
/// encoded, fits many times over.
pub const MAX_LINE: usize = 4096;

/// Cuts a stream into lines that end in LF or CRLF. What it held is wiped: passwords come this way.
#[derive(Debug, Default)]
pub struct LineReader {
    held: Vec<u8>,
}

/// Whoever writes lines of more than [`MAX_LINE`] bytes does not speak this protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LineTooLong;

impl LineReader {
    /// Takes bytes and returns the lines that are whole now; what is not UTF-8 in them is replaced.
    ///
    /// # Errors
    ///
    /// [`LineTooLong`]; the reader is of no use any more.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, LineTooLong> {
        let mut lines = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (head, tail) = rest.split_at(end);
            self.hold(head)?;
            let line = self.held.strip_suffix(b"\r").unwrap_or(&self.held);
            lines.push(String::from_utf8_lossy(line).into_owned());
            self.held.zeroize();
            rest = tail.get(1..).unwrap_or_default();
        }
        self.hold(rest)?;
        Ok(lines)
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<(), LineTooLong> {
        if self.held.len().saturating_add(bytes.len()) > MAX_LINE {
            return Err(LineTooLong);
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }
}

impl Drop for LineReader {
    fn drop(&mut self) {
        self.held.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_the_bytes_arrive() {
        let sent = b"status 2\r\n\nhold off\nkill \xc3\xa4\xff\r\nrest";
        let whole = LineReader::default().push(sent).unwrap();
        assert_eq!(whole, ["status 2", "", "hold off", "kill \u{e4}\u{fffd}"]);

        for cut in 0..sent.len() {
            let mut reader = LineReader::default();
            let mut lines = reader.push(&sent[..cut]).unwrap();
            lines.extend(reader.push(&sent[cut..]).unwrap());
            assert_eq!(lines, whole, "cut at {cut}");
            assert_eq!(reader.push(b"\n").unwrap(), ["rest"]);
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut reader = LineReader::default();
        assert_eq!(reader.push(&[b'x'; MAX_LINE]), Ok(Vec::new()));
        assert_eq!(reader.push(b"x"), Err(LineTooLong));
        assert_eq!(LineReader::default().push(&[b'x'; MAX_LINE + 1]), Err(LineTooLong));
    }
}
