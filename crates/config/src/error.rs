use std::fmt;

/// What is wrong with the configuration and what to do about it, in one line:
/// `FILE:LINE: KEY: what is wrong; what to do`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    pub(crate) file: String,
    pub(crate) line: Option<usize>,
    pub(crate) key: Option<String>,
    pub(crate) what: String,
}

impl ConfigError {
    /// The line, counted from 1, if one is to blame.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// The key with its table, as in `network.ipv4`, if one is to blame.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// The text being read: knows its name, and which line an offset is on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'t> {
    pub(crate) name: &'t str,
    pub(crate) text: &'t str,
}

impl Source<'_> {
    pub(crate) fn error(
        &self,
        offset: Option<usize>,
        key: Option<&str>,
        what: impl Into<String>,
    ) -> ConfigError {
        let line = offset.map(|offset| {
            let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
            1 + before.iter().filter(|&&byte| byte == b'\n').count()
        });
        ConfigError {
            file: self.name.to_owned(),
            line,
            key: key.map(str::to_owned),
            what: what.into(),
        }
    }
}
