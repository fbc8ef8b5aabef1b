//! Questions beside the password, and the words in which a server refuses: what travels in the
//! password field and after `AUTH_FAILED,`.
//!
//! ```text
//! password   SCRV1:base64(password):base64(response)      the profile asked (static-challenge)
//! refusal    CRV1:flags:state:base64(user):question       the server asks; flags R response, E echo
//! password   CRV1::state::response                        on the next connection
//! refusal    SESSION:text    TEMP[backoff 42,advance no]:text    text
//! ```

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::{Credentials, Secret};
use zeroize::Zeroizing;

use crate::peer_info::printable;

/// The longest refusal that is written: clients give a control message 2048 bytes.
const MAX_REFUSAL: usize = 1536;
/// The longest question or reason shown to a person, in characters.
const MAX_TEXT: usize = 256;
/// The longest that a server may make us wait before we come back.
const MAX_BACKOFF: u64 = 86_400;

/// What a client's user name and password field ask to be judged by; nothing if the field is
/// neither a password nor a well-formed answer.
pub(crate) fn credentials(user: &str, field: &Secret) -> Option<Credentials> {
    let user = user.to_owned();
    let bytes = field.expose();
    if let Some(rest) = bytes.strip_prefix(b"CRV1::") {
        let at = rest.windows(2).position(|pair| pair == b"::")?;
        let (state, response) = (rest.get(..at)?, rest.get(at + 2..)?);
        let state = STANDARD.decode(state).ok()?;
        return Some(Credentials::Response { user, state, response: Secret::new(response) });
    }
    if let Some(rest) = bytes.strip_prefix(b"SCRV1:") {
        let at = rest.iter().position(|byte| *byte == b':')?;
        let decode = |text: &[u8]| STANDARD.decode(text).ok().map(Secret::new);
        let (password, response) = (decode(rest.get(..at)?)?, decode(rest.get(at + 1..)?)?);
        return Some(Credentials::Password { user, password, response: Some(response) });
    }
    Some(Credentials::Password { user, password: field.clone(), response: None })
}

/// The refusal that asks `user` one more question; nothing if it does not fit into a message.
pub(crate) fn question(user: &str, state: &[u8], prompt: &str, echo: bool) -> Option<String> {
    let flags = if echo { "R,E" } else { "R" };
    let (state, user) = (STANDARD.encode(state), STANDARD.encode(user));
    let refusal = format!("CRV1:{flags}:{state}:{user}:{}", one_line(prompt));
    (refusal.len() <= MAX_REFUSAL).then_some(refusal)
}

/// Text of a person's for another: one line, not endless.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect()
}

/// The password field that answers a profile's `static-challenge`.
#[must_use]
pub fn static_response(password: &Secret, response: &Secret) -> Secret {
    let mut text = Zeroizing::new(String::from("SCRV1:"));
    STANDARD.encode_string(password.expose(), &mut text);
    text.push(':');
    STANDARD.encode_string(response.expose(), &mut text);
    Secret::new(text.as_bytes())
}

/// One more question of the server's, to be answered on the next connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Challenge {
    /// For the server to know the answer by.
    state: String,
    /// Whom the server asks.
    pub user: String,
    /// The question.
    pub prompt: String,
    /// Whether what is typed may be shown.
    pub echo: bool,
    /// Whether there is anything to answer: some servers only want it read.
    pub wants_response: bool,
}

impl Challenge {
    /// The question as the server asked it.
    #[must_use]
    pub fn text(&self) -> String {
        let flags = match (self.wants_response, self.echo) {
            (true, true) => "R,E",
            (true, false) => "R",
            (false, true) => "E",
            (false, false) => "",
        };
        format!("CRV1:{flags}:{}:{}:{}", self.state, STANDARD.encode(&self.user), self.prompt)
    }

    /// The password field that carries the answer.
    #[must_use]
    pub fn respond(&self, response: &Secret) -> Secret {
        let mut field = Zeroizing::new(Vec::new());
        for part in [b"CRV1::", self.state.as_bytes(), b"::", response.expose()] {
            field.extend_from_slice(part);
        }
        Secret::new(field.as_slice())
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':');
        let (flags, state, user, prompt) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let has = |flag| flags.split(',').any(|word| word == flag);
        let user = String::from_utf8(STANDARD.decode(user).ok()?).ok()?;
        Some(Self {
            state: state.to_owned(),
            user,
            prompt: printable(prompt, MAX_TEXT),
            echo: has("E"),
            wants_response: has("R"),
        })
    }
}

/// Why a server does not let us in, as it said it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LoginRefusal {
    /// It asks one more question.
    Challenge(Challenge),
    /// Our token has run out; the user has to be asked again.
    SessionExpired,
    /// Not now.
    Temporary {
        /// When to come back, if the server says so.
        backoff: Option<Duration>,
    },
    /// No.
    Denied,
}

impl LoginRefusal {
    /// Reads what follows `AUTH_FAILED,`; returns the words for the user beside it.
    #[must_use]
    pub fn parse(text: &str) -> (Self, String) {
        let words = |text: &str| printable(text.trim_start_matches([':', ' ']), MAX_TEXT);
        if let Some(rest) = text.strip_prefix("CRV1:") {
            return match Challenge::parse(rest) {
                Some(challenge) => {
                    let words = challenge.prompt.clone();
                    (Self::Challenge(challenge), words)
                }
                None => (Self::Denied, "it asks a question that cannot be read".to_owned()),
            };
        }
        if let Some(rest) = text.strip_prefix("SESSION") {
            return (Self::SessionExpired, words(rest));
        }
        let Some(rest) = text.strip_prefix("TEMP") else { return (Self::Denied, words(text)) };
        let (flags, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((flags, rest)) => (flags, rest),
            None => ("", rest),
        };
        let backoff = flags.split(',').find_map(|flag| flag.trim().strip_prefix("backoff "));
        let backoff = backoff.and_then(|seconds| seconds.trim().parse::<u64>().ok());
        let backoff = backoff.map(|seconds| Duration::from_secs(seconds.min(MAX_BACKOFF)));
        (Self::Temporary { backoff }, words(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: &str) -> Option<Credentials> {
        credentials("ann", &Secret::new(field))
    }

    #[test]
    fn an_answer_to_the_profiles_question_travels_beside_the_password() {
        let field = static_response(&Secret::new("pass:word"), &Secret::new("123456"));

        let Some(Credentials::Password { user, password, response }) = credentials("ann", &field)
        else {
            panic!("no password")
        };

        assert_eq!(field.expose(), b"SCRV1:cGFzczp3b3Jk:MTIzNDU2");
        assert_eq!((user.as_str(), password.expose()), ("ann", &b"pass:word"[..]));
        assert_eq!(response.unwrap().expose(), b"123456");
    }

    #[test]
    fn a_question_of_the_servers_is_answered_on_the_next_connection() {
        let asked = question("ann", b"\0state\xff", "Code, please:\n now", true).unwrap();
        let (LoginRefusal::Challenge(challenge), words) = LoginRefusal::parse(&asked) else {
            panic!("{asked}")
        };

        assert_eq!(words, "Code, please:  now");
        assert_eq!((challenge.user.as_str(), challenge.echo), ("ann", true));
        assert!(challenge.wants_response);
        assert_eq!(challenge.text(), "CRV1:R,E:AHN0YXRl/w==:YW5u:Code, please:  now");
        let field = challenge.respond(&Secret::new("12::34"));
        let Some(Credentials::Response { user, state, response }) = credentials("ann", &field)
        else {
            panic!("no response")
        };
        assert_eq!((user.as_str(), &state[..]), ("ann", &b"\0state\xff"[..]));
        assert_eq!(response.expose(), b"12::34");
    }

    #[test]
    fn half_an_answer_is_no_password() {
        for field in [
            "CRV1::",
            "CRV1::AAAA",
            "CRV1::AAAA:",
            "CRV1::%%::1",
            "SCRV1:",
            "SCRV1:AAAA",
            "SCRV1:AAAA:%",
            "SCRV1:A:AAAA",
            "SCRV1:AAAA:AAAA:AAAA",
        ] {
            assert!(read(field).is_none(), "{field:?}");
        }
        for field in ["CRV1", "CRV1:x", "SCRV1", "scrv1:AAAA:AAAA", "x"] {
            assert!(
                matches!(read(field), Some(Credentials::Password { response: None, .. })),
                "{field:?}"
            );
        }
    }

    #[test]
    fn a_question_that_fits_into_no_message_is_not_asked() {
        assert!(question(&"u".repeat(4096), b"state", "Code", false).is_none());
        assert!(question("ann", &[0; 2048], "Code", false).is_none());
        assert!(question("ann", b"", &"long ".repeat(1000), false).unwrap().len() < 400);
    }

    #[test]
    fn every_way_to_say_no_is_understood() {
        let temporary = |seconds: Option<u64>| LoginRefusal::Temporary {
            backoff: seconds.map(Duration::from_secs),
        };
        for (text, expected, words) in [
            ("", LoginRefusal::Denied, ""),
            ("wrong password", LoginRefusal::Denied, "wrong password"),
            ("a: b", LoginRefusal::Denied, "a: b"),
            ("SESSION: expired", LoginRefusal::SessionExpired, "expired"),
            ("SESSION", LoginRefusal::SessionExpired, ""),
            ("TEMP:later", temporary(None), "later"),
            ("TEMP[backoff 42,advance no]:later", temporary(Some(42)), "later"),
            ("TEMP[backoff 99999999999]", temporary(Some(86_400)), ""),
            ("TEMP[backoff -1]:x", temporary(None), "x"),
            ("TEMP[backoff 1", temporary(None), "[backoff 1"),
        ] {
            assert_eq!(LoginRefusal::parse(text), (expected, words.to_owned()), "{text:?}");
        }
        for broken in ["CRV1:", "CRV1:R:x", "CRV1:R:x:%:q", "CRV1:R:x:/w==:q"] {
            assert_eq!(LoginRefusal::parse(broken).0, LoginRefusal::Denied, "{broken:?}");
        }
    }

    #[test]
    fn every_truncation_and_corruption_is_survived() {
        let asked = question("ann", b"state", "Code", false).unwrap();
        for len in 0..asked.len() {
            let _ = LoginRefusal::parse(&asked[..len]);
        }
        let field = static_response(&Secret::new("password"), &Secret::new("123456"));
        for at in 0..field.expose().len() {
            for value in 0..=u8::MAX {
                let mut bytes = field.expose().to_vec();
                bytes[at] = value;
                let _ = credentials("ann", &Secret::new(bytes));
            }
        }
    }
}
