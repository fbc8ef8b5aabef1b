//! Tokens that take the password's place (`auth-gen-token`), in OpenVPN's own format.
//!
//! ```text
//! SESS_ID_AT_ base64( session[12]  initial[8]  issued[8]  HMAC-SHA256(user, all before)[32] )
//! ```
//!
//! The server keeps nothing about a token but the key that all are made with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::WallClock;
use crypto::digest::{Hash, HmacKey};
use subtle::ConstantTimeEq;
use wire::{Malformed, Reader};
use zeroize::Zeroizing;

/// What every token begins with. A password that begins so is never looked at as a password.
const PREFIX: &[u8] = b"SESS_ID_AT_";
const CODE_LEN: usize = 32;
const BODY_LEN: usize = 12 + 8 + 8;
/// 60 bytes need no padding.
const TEXT_LEN: usize = (BODY_LEN + CODE_LEN) / 3 * 4;

/// How tokens are made and how long they are good.
#[derive(Clone)]
pub struct TokenPolicy {
    key: HmacKey,
    lifetime: Option<Duration>,
    renewal: Duration,
    clock: Arc<WallClock>,
}

impl fmt::Debug for TokenPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenPolicy")
            .field("lifetime", &self.lifetime)
            .field("renewal", &self.renewal)
            .finish_non_exhaustive()
    }
}

/// A token's facts; worth something only beside its code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Token {
    pub(crate) session: [u8; 12],
    /// When the user proved who they are, in seconds since 1970.
    pub(crate) initial: u64,
    /// When this token was made.
    pub(crate) issued: u64,
}

impl TokenPolicy {
    /// Makes tokens with `key` (32 bytes, the server's secret).
    ///
    /// A token is good for twice `renewal`, and is renewed whenever it is shown; `lifetime` ends
    /// the whole chain that began with a password.
    #[must_use]
    pub fn new(
        key: &[u8; 32],
        lifetime: Option<Duration>,
        renewal: Duration,
        clock: Arc<WallClock>,
    ) -> Self {
        Self { key: HmacKey::new(Hash::Sha256, key), lifetime, renewal, clock }
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    pub(crate) fn write(&self, user: &str, token: &Token) -> Zeroizing<String> {
        let (body, code) = self.sign(user, token);
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + TEXT_LEN));
        text.push_str("SESS_ID_AT_");
        let bytes = Zeroizing::new([&body[..], &code[..]].concat());
        STANDARD.encode_string(&*bytes, &mut text);
        text
    }

    /// The token in a password field, if it is one of ours, for this user, and still good.
    pub(crate) fn read(&self, user: &str, password: &[u8]) -> Option<Token> {
        let text = password.strip_prefix(PREFIX).filter(|text| text.len() == TEXT_LEN)?;
        let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
        let (token, code) = Token::parse(&bytes).ok()?;
        let (_, expected) = self.sign(user, &token);
        if !bool::from(expected.ct_eq(&code)) {
            return None;
        }
        let now = self.now();
        let age = Duration::from_secs(now.checked_sub(token.issued)?);
        // A token may be dated a little ahead, to be later than a change of the password.
        let since = Duration::from_secs(now.saturating_sub(token.initial));
        let is_good =
            age < self.renewal * 2 && self.lifetime.is_none_or(|lifetime| since <= lifetime);
        is_good.then_some(token)
    }

    fn sign(&self, user: &str, token: &Token) -> ([u8; BODY_LEN], [u8; CODE_LEN]) {
        let mut body = [0; BODY_LEN];
        body[..12].copy_from_slice(&token.session);
        body[12..20].copy_from_slice(&token.initial.to_be_bytes());
        body[20..].copy_from_slice(&token.issued.to_be_bytes());
        let mut code = [0; CODE_LEN];
        self.key.sign_into(&[user.as_bytes(), &body], &mut code);
        (body, code)
    }
}

/// Whether a password field holds a token, good or not.
pub(crate) fn is_token(password: &[u8]) -> bool {
    password.starts_with(PREFIX)
}

impl Token {
    fn parse(bytes: &[u8]) -> Result<(Self, [u8; CODE_LEN]), Malformed> {
        let mut reader = Reader::new(bytes);
        let token = Self {
            session: reader.array("token's session")?,
            initial: u64::from_be_bytes(reader.array("token's beginning")?),
            issued: u64::from_be_bytes(reader.array("token's date")?),
        };
        let code = reader.array("token's code")?;
        reader.finish("token")?;
        Ok((token, code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_780_000_000;

    fn policy(key: u8, at: u64) -> TokenPolicy {
        let clock = Arc::new(WallClock::new(at));
        let lifetime = Some(Duration::from_secs(3000));
        TokenPolicy::new(&[key; 32], lifetime, Duration::from_secs(120), clock)
    }

    fn token() -> Token {
        Token { session: *b"twelve bytes", initial: NOW, issued: NOW }
    }

    /// Values of OpenVPN's own test (tests/unit_tests/openvpn/test_auth_token.c).
    #[test]
    fn tokens_are_those_that_openvpn_makes() {
        const ZERO: &str = "SESS_ID_AT_0123456789abcdefAAAAAAAAAAAAAAAAAAAAAE5JsQJOVfo8jnI3RL3tBaR5NkE4yPfcylFUHmHSc5Bu";
        let policy = policy(0, 0);

        let read = policy.read("test user name", ZERO.as_bytes()).unwrap();

        assert_eq!((read.initial, read.issued), (0, 0));
        assert_eq!(*policy.write("test user name", &read), ZERO);
    }

    #[test]
    fn a_token_is_good_for_its_user_and_under_its_key_only() {
        let text = policy(1, NOW).write("ann", &token());

        assert_eq!(policy(1, NOW).read("ann", text.as_bytes()), Some(token()));
        for other in ["", "an", "ann ", "Ann", "bob"] {
            assert_eq!(policy(1, NOW).read(other, text.as_bytes()), None, "{other:?}");
        }
        assert_eq!(policy(2, NOW).read("ann", text.as_bytes()), None);
    }

    #[test]
    fn a_token_runs_out_unless_it_is_renewed_and_its_chain_runs_out_all_the_same() {
        let read = |token: &Token, at| {
            policy(1, at).read("ann", policy(1, at).write("ann", token).as_bytes()).is_some()
        };

        assert!(read(&token(), NOW + 239));
        assert!(!read(&token(), NOW + 240));
        let renewed = Token { issued: NOW + 2900, ..token() };
        assert!(read(&renewed, NOW + 3000));
        assert!(!read(&renewed, NOW + 3001));
        // A clock that was set back, or a token from the future.
        assert!(!read(&token(), NOW - 1));
        assert!(!read(&Token { issued: NOW + 9, ..token() }, NOW + 5));
    }

    #[test]
    fn every_truncation_extension_and_corruption_is_refused() {
        let policy = policy(1, NOW);
        let good = policy.write("ann", &token()).as_bytes().to_vec();
        for len in 0..good.len() {
            assert_eq!(policy.read("ann", &good[..len]), None, "{len} bytes");
            assert_eq!(is_token(&good[..len]), len >= PREFIX.len());
        }
        for extra in 1..80 {
            let long = [&good[..], &vec![b'A'; extra]].concat();
            assert_eq!(policy.read("ann", &long), None, "{extra} more");
        }
        for at in 0..good.len() {
            for value in 0..=u8::MAX {
                let mut bytes = good.clone();
                bytes[at] = value;
                assert_eq!(policy.read("ann", &bytes).is_some(), bytes == good, "{at} {value}");
            }
        }
        for wild in ["", "SESS_ID_AT_", "SESS_ID_AT_Something_wild", "SESS_ID_XX_", "A"] {
            for repeat in 1..100 {
                assert_eq!(policy.read("ann", wild.repeat(repeat).as_bytes()), None);
            }
        }
    }
}
