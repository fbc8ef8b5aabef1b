use std::fmt;
use std::ops::Deref;

/// A value that may be used but not printed: user names, addresses and host names in logs.
///
/// ```
/// let user = telemetry::Redacted("alice");
/// assert_eq!(format!("{user} {user:?}"), "[redacted] [redacted]");
/// assert_eq!(user.len(), 5);
/// ```
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Redacted<T>(pub T);

impl<T> Redacted<T> {
    /// The value, for whoever needs it.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Redacted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Redacted<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    #[allow(dead_code, reason = "printed by its derived Debug")]
    struct Session {
        id: u32,
        user: Redacted<String>,
    }

    #[test]
    fn a_struct_that_prints_itself_does_not_print_it() {
        let session = Session { id: 7, user: String::from("alice").into() };

        let printed = format!("{session:?} {session:#?}");

        assert!(printed.contains('7') && !printed.contains("alice"), "{printed}");
    }
}
