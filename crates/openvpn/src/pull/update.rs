//! PUSH_UPDATE: a server changes what it pushed while the tunnel stands.
//!
//! An option takes the place of all of its kind that were there before the update; `-NAME` removes
//! a kind; `?` in front lets a client that does not know the option stay.

/// What may change under a tunnel that stands.
const UPDATABLE: &[&str] = &[
    "block-ipv6",
    "block-outside-dns",
    "dhcp-option",
    "dns",
    "ifconfig",
    "ifconfig-ipv6",
    "inactive",
    "ping",
    "ping-exit",
    "ping-restart",
    "redirect-gateway",
    "redirect-private",
    "route",
    "route-gateway",
    "route-ipv6",
    "route-metric",
    "session-timeout",
    "topology",
    "tun-mtu",
];

/// The option of an entry: behind what says how it changes, and the blanks that a server's
/// administrator left between entries.
pub(crate) fn without_marks(entry: &str) -> &str {
    entry.trim_start_matches([' ', '-', '?'])
}

/// Options that are kept, and their length in all: far more than a server has to say.
const MAX_OPTIONS: usize = 2048;
const MAX_LEN: usize = 128 * 1024;
/// Messages of one update.
const MAX_MESSAGES: u32 = 64;

/// Why an update cannot be followed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum UpdateError {
    /// This option cannot change, and the server insists.
    Fixed(String),
    /// More than anybody needs.
    TooMuch,
}

/// An update while it arrives.
#[derive(Debug)]
pub(crate) struct Update {
    options: Vec<String>,
    /// Kinds whose earlier options are gone.
    replaced: Vec<String>,
    messages: u32,
}

impl Update {
    /// Begins with the options in force.
    pub(crate) fn new(options: &[String]) -> Self {
        Self { options: options.to_vec(), replaced: Vec::new(), messages: 0 }
    }

    /// Takes in one message; says whether it was the last.
    ///
    /// # Errors
    ///
    /// The options in force stay.
    pub(crate) fn read(&mut self, message: &str) -> Result<bool, UpdateError> {
        self.messages += 1;
        let mut is_last = true;
        for entry in message.split(',').filter(|entry| !entry.trim().is_empty()) {
            let option = without_marks(entry);
            let marks = entry.strip_suffix(option).unwrap_or_default();
            let mut words = option.split_ascii_whitespace();
            let name = words.next().unwrap_or_default();
            if name == "push-continuation" {
                is_last = words.next() != Some("2");
                continue;
            }
            if !UPDATABLE.contains(&name) {
                if marks.contains('?') {
                    continue;
                }
                return Err(UpdateError::Fixed(name.to_owned()));
            }
            let is_kind =
                |known: &String| known.split_ascii_whitespace().next().unwrap_or_default() == name;
            let is_first = !self.replaced.iter().any(|kind| kind == name);
            if is_first || marks.contains('-') {
                self.options.retain(|known| !is_kind(known));
            }
            if is_first {
                self.replaced.push(name.to_owned());
            }
            if !marks.contains('-') {
                self.options.push(option.to_owned());
            }
        }
        let len = self.options.iter().map(String::len).sum::<usize>();
        if self.options.len() > MAX_OPTIONS || len > MAX_LEN || self.messages > MAX_MESSAGES {
            return Err(UpdateError::TooMuch);
        }
        Ok(is_last)
    }

    /// The options in force from now on.
    pub(crate) fn finish(self) -> Vec<String> {
        self.options
    }
}
