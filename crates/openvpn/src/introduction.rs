//! What a client says about itself, for whoever judges it.

use crate::peer_info::printable;

/// Lines that are passed on; clients send about twenty.
const MAX_LINES: usize = 64;
/// What is passed on of a name and of a value, in bytes.
const MAX_NAME: usize = 64;
const MAX_VALUE: usize = 256;

/// The lines of `peer_info` that may be shown to others: `IV_` is the client's own, `UV_` its
/// user's. Everything else could be mistaken for what we say about the client.
pub(crate) fn introduction(peer_info: &str) -> String {
    let mut introduction = String::new();
    for line in peer_info.lines().take(MAX_LINES) {
        let Some((name, value)) = line.split_once('=') else { continue };
        let is_name = name.len() <= MAX_NAME
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_name && (name.starts_with("IV_") || name.starts_with("UV_")) {
            introduction.push_str(name);
            introduction.push('=');
            introduction.push_str(&printable(value, MAX_VALUE));
            introduction.push('\n');
        }
    }
    introduction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_introduces_itself_but_says_nothing_in_our_name() {
        let sent =
            "IV_VER=2.6.14\nUV_ASSET=7 b\nusername=root\nIV_X Y=1\nIV_SSO=webauth,crtext\nIV_\n";

        assert_eq!(introduction(sent), "IV_VER=2.6.14\nUV_ASSET=7 b\nIV_SSO=webauth,crtext\n");
    }

    #[test]
    fn an_introduction_is_short_and_printable() {
        let flood = format!("IV_A={}\r\u{1b}\n", "x".repeat(5000)).repeat(1000);

        let text = introduction(&flood);

        assert_eq!(text.lines().count(), MAX_LINES);
        assert!(text.lines().all(|line| line.len() <= MAX_NAME + 1 + MAX_VALUE));
        assert!(text.chars().all(|c| c == '\n' || c.is_ascii_graphic() || c == ' '));
    }
}
