use crate::Malformed;

/// A cursor that can only move forward and only inside its slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Takes the next `N` bytes.
    ///
    /// # Errors
    ///
    /// `Truncated` if fewer are left.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated { what })?;
        self.rest = rest;
        Ok(*head)
    }

    /// Takes one byte.
    ///
    /// # Errors
    ///
    /// `Truncated` if none is left.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// Takes a 16-bit number in network order.
    ///
    /// # Errors
    ///
    /// `Truncated` if fewer than two bytes are left.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.array(what).map(u16::from_be_bytes)
    }

    /// Takes a 32-bit number in network order.
    ///
    /// # Errors
    ///
    /// `Truncated` if fewer than four bytes are left.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// Takes the next `len` bytes.
    ///
    /// # Errors
    ///
    /// `Truncated` if fewer are left.
    pub fn bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Truncated { what })?;
        self.rest = rest;
        Ok(head)
    }

    /// Splits off the next `len` bytes as a reader of their own.
    ///
    /// # Errors
    ///
    /// `Truncated` if fewer are left.
    pub fn sub(&mut self, len: usize, what: &'static str) -> Result<Self, Malformed> {
        self.bytes(len, what).map(Self::new)
    }

    /// Takes everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// How many bytes are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rest.len()
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Consumes the reader.
    ///
    /// # Errors
    ///
    /// `TrailingBytes` if anything is left.
    pub fn finish(self, what: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::TrailingBytes { what }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_lies_is_an_error() {
        let mut reader = Reader::new(&[0, 9, 1, 2]);
        let len = reader.u16("length").unwrap();

        assert_eq!(
            reader.sub(usize::from(len), "body").err(),
            Some(Malformed::Truncated { what: "body" })
        );
    }

    #[test]
    fn bytes_nobody_asked_for_are_an_error() {
        let mut reader = Reader::new(&[1, 2]);
        reader.u8("first").unwrap();

        assert_eq!(reader.finish("all"), Err(Malformed::TrailingBytes { what: "all" }));
    }
}
