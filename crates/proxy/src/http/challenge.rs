//! What a proxy asks for: the `Proxy-Authenticate` header (RFC 9110, 11.6.1).

use super::digest::DigestChallenge;
use super::is_token;

/// Parameters of one challenge that are looked at.
const MAX_PARAMETERS: usize = 32;
/// Challenges in one header that are looked at.
const MAX_CHALLENGES: usize = 8;

/// A challenge that we can answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Challenge {
    Basic,
    Digest(DigestChallenge),
}

/// A parameter: its name in lower case, and its value without quotes.
pub(super) type Parameter = (String, String);

/// The challenges of one header that we can answer; what makes no sense is left out.
pub(super) fn parse(value: &[u8]) -> Vec<Challenge> {
    let mut cursor = Cursor(value);
    let mut challenges = Vec::new();
    let mut scheme: Option<(String, Vec<Parameter>)> = None;
    // Every round takes at least one byte.
    while !cursor.0.is_empty() {
        cursor.skip(|byte| byte == b',' || is_blank(byte));
        let word = cursor.token();
        if word.is_empty() {
            cursor.skip_one();
            continue;
        }
        cursor.skip(is_blank);
        match (cursor.0.first(), &mut scheme) {
            (Some(b'='), Some((_, parameters))) => {
                cursor.skip_one();
                cursor.skip(is_blank);
                let Some(value) = cursor.value() else { break };
                if parameters.len() < MAX_PARAMETERS {
                    parameters.push((word, value));
                }
            }
            _ => {
                challenges.extend(scheme.take().and_then(understand));
                if challenges.len() >= MAX_CHALLENGES {
                    return challenges;
                }
                scheme = Some((word, Vec::new()));
            }
        }
    }
    challenges.extend(scheme.and_then(understand));
    challenges
}

fn understand((scheme, parameters): (String, Vec<Parameter>)) -> Option<Challenge> {
    match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "digest" => DigestChallenge::new(&parameters).map(Challenge::Digest),
        _ => None,
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

/// What is left of a header.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn skip_one(&mut self) {
        self.0 = self.0.get(1..).unwrap_or_default();
    }

    fn skip(&mut self, is_skipped: impl Fn(u8) -> bool) {
        while self.0.first().is_some_and(|byte| is_skipped(*byte)) {
            self.skip_one();
        }
    }

    /// A token, in lower case.
    fn token(&mut self) -> String {
        let len = self.0.iter().take_while(|byte| is_token(**byte)).count();
        let (token, rest) = self.0.split_at_checked(len).unwrap_or_default();
        self.0 = rest;
        token.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect()
    }

    /// A token or a quoted string; `None` if it does not end, or has bytes that no value may have.
    fn value(&mut self) -> Option<String> {
        if self.0.first() != Some(&b'"') {
            let len = self.0.iter().take_while(|byte| is_token(**byte)).count();
            let (token, rest) = self.0.split_at_checked(len)?;
            self.0 = rest;
            return String::from_utf8(token.to_vec()).ok();
        }
        self.skip_one();
        let mut text = Vec::new();
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let byte = match byte {
                b'"' => return String::from_utf8(text).ok(),
                b'\\' => {
                    let (escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    escaped
                }
                other => other,
            };
            // It goes back to the proxy, and must not be able to end the header there.
            if byte.is_ascii_control() {
                return None;
            }
            text.push(*byte);
        }
    }
}
