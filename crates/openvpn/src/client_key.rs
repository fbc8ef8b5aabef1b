//! tls-crypt-v2: a control-channel key for each client, which the client itself brings along.
//!
//! ```text
//! client key file   base64(Kc[256]  WKc)
//! WKc               T[32]  AES-256-CTR(Ke, T[..16], Kc  metadata)  len[2]
//! T                 HMAC-SHA256(Ka, len  Kc  metadata)             len counts all of WKc
//! ```
//!
//! `Ke` and `Ka` are the server's alone: it needs no list of keys to tell one that it has made.
//! Whoever holds one client key learns nothing about those of others.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::{ClientKeyFacts, Discard, WallClock};
use crypto::ctr::aes256_ctr;
use crypto::digest::{Hash, HmacKey};
use wire::Reader;
use zeroize::Zeroizing;

use crate::static_key::{STATIC_KEY_LEN, StaticKey};

/// Length of a server key file's content, in bytes.
pub const SERVER_KEY_LEN: usize = 128;
/// The longest metadata that fits, in bytes.
pub const MAX_METADATA: usize = MAX_WRAPPED - MIN_WRAPPED;

const TAG_LEN: usize = 32;
const LEN_LEN: usize = 2;
/// A wrapped key without metadata.
const MIN_WRAPPED: usize = TAG_LEN + STATIC_KEY_LEN + LEN_LEN;
/// What OpenVPN has room for.
const MAX_WRAPPED: usize = 1024;

const SERVER: &str = "OpenVPN tls-crypt-v2 server key";
const CLIENT: &str = "OpenVPN tls-crypt-v2 client key";
/// As PEM has it (RFC 7468, 2).
const LINE_LEN: usize = 64;

/// Metadata that says when the key was made.
const TYPE_TIMESTAMP: u8 = 1;

/// Wraps the keys of clients, and unwraps them; known to the server alone.
#[derive(Clone)]
pub struct ServerKey {
    bytes: Zeroizing<[u8; SERVER_KEY_LEN]>,
    cipher: Zeroizing<[u8; 32]>,
    hmac: HmacKey,
}

/// What a client has: its key, and the same key wrapped for the server.
#[derive(Clone)]
pub struct ClientKey {
    key: StaticKey,
    wrapped: Arc<[u8]>,
}

/// What tells one client key from another.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientKeyId(pub [u8; 16]);

/// What stands in a wrapped key beside the key.
///
/// Ours is of the type that every OpenVPN reads as the time of issue (1, then seconds since 1970
/// in 64 bits), followed by sixteen bytes of [`ClientKeyId`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Metadata {
    /// Seconds since 1970 when the key was made, if it says so.
    pub issued: Option<u64>,
    /// What the key is called in our list; keys that were made by OpenVPN itself have no name.
    pub id: Option<ClientKeyId>,
}

/// A client key as the server sees it.
#[derive(Clone, Debug)]
pub struct UnwrappedKey {
    /// Protects the control channel.
    pub key: StaticKey,
    /// What the wrapped key says of itself.
    pub metadata: Metadata,
    /// Names the key even where the metadata does not: part of the wrapping's check.
    pub(crate) mark: [u8; 16],
}

/// Why a key file cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BadClientKey {
    /// The BEGIN or END line is missing.
    NoKey(&'static str),
    /// A server's key where a client's was expected.
    ServersKey,
    /// Something between the two lines is not Base64.
    NotBase64,
    /// Too short or too long, or the length inside is another.
    WrongLength,
}

impl fmt::Display for BadClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey(label) => write!(f, "no \"-----BEGIN {label}-----\" … END in it"),
            Self::ServersKey => {
                f.write_str("this is the server's own key; a client has a client key made with it")
            }
            Self::NotBase64 => f.write_str("a character that is not Base64 in it"),
            Self::WrongLength => f.write_str("the key is truncated or damaged"),
        }
    }
}

impl std::error::Error for BadClientKey {}

impl ServerKey {
    /// Takes raw key material: a cipher slot and an HMAC slot of 64 bytes each.
    #[must_use]
    pub fn from_bytes(bytes: [u8; SERVER_KEY_LEN]) -> Self {
        let bytes = Zeroizing::new(bytes);
        let mut cipher = Zeroizing::new([0; 32]);
        cipher.copy_from_slice(&bytes[..32]);
        let hmac = HmacKey::new(Hash::Sha256, &bytes[64..96]);
        Self { bytes, cipher, hmac }
    }

    /// Reads a key file; whatever stands outside the two marker lines is ignored.
    ///
    /// # Errors
    ///
    /// If the markers, the digits or the length are not right.
    pub fn parse(text: &str) -> Result<Self, BadClientKey> {
        let bytes = decode(text, SERVER)?;
        let bytes: &[u8; SERVER_KEY_LEN] =
            bytes.as_slice().try_into().map_err(|_| BadClientKey::WrongLength)?;
        Ok(Self::from_bytes(*bytes))
    }

    /// The text form: what `openvpn --genkey tls-crypt-v2-server` writes.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        encode(&*self.bytes, SERVER)
    }

    /// Makes the file of the client that shall have `key`.
    ///
    /// # Errors
    ///
    /// If the metadata is longer than [`MAX_METADATA`].
    pub fn wrap(&self, key: &StaticKey, metadata: &[u8]) -> Result<ClientKey, BadClientKey> {
        if metadata.len() > MAX_METADATA {
            return Err(BadClientKey::WrongLength);
        }
        let len = ((MIN_WRAPPED + metadata.len()) as u16).to_be_bytes();
        let mut tag = [0; TAG_LEN];
        self.hmac.sign_into(&[&len, key.bytes(), metadata], &mut tag);
        let mut wrapped = Vec::with_capacity(MAX_WRAPPED);
        wrapped.extend_from_slice(&tag);
        wrapped.extend_from_slice(key.bytes());
        wrapped.extend_from_slice(metadata);
        aes256_ctr(&self.cipher, iv(&tag), &mut wrapped[TAG_LEN..]);
        wrapped.extend_from_slice(&len);
        Ok(ClientKey { key: key.clone(), wrapped: wrapped.into() })
    }

    /// Opens a wrapped key.
    ///
    /// # Errors
    ///
    /// `Malformed` if a length is impossible, `AuthFailed` if it is not one that this server made.
    pub fn unwrap(&self, wrapped: &[u8]) -> Result<UnwrappedKey, Discard> {
        let (rest, len) = wrapped.split_last_chunk::<LEN_LEN>().ok_or(Discard::Malformed)?;
        if usize::from(u16::from_be_bytes(*len)) != wrapped.len() {
            return Err(Discard::Malformed);
        }
        let (tag, text) = rest.split_first_chunk::<TAG_LEN>().ok_or(Discard::Malformed)?;
        if text.len() > STATIC_KEY_LEN + MAX_METADATA {
            return Err(Discard::Malformed);
        }
        let mut plain = Zeroizing::new(text.to_vec());
        aes256_ctr(&self.cipher, iv(tag), &mut plain);
        let (key, metadata) =
            plain.split_first_chunk::<STATIC_KEY_LEN>().ok_or(Discard::Malformed)?;
        if !self.hmac.verify(&[len, key, metadata], tag) {
            return Err(Discard::AuthFailed);
        }
        Ok(UnwrappedKey {
            key: StaticKey::from_bytes(*key),
            metadata: Metadata::parse(metadata),
            mark: *iv(tag),
        })
    }
}

impl ClientKey {
    /// Reads a key file; whatever stands outside the two marker lines is ignored.
    ///
    /// # Errors
    ///
    /// If the markers, the digits or the lengths are not right.
    pub fn parse(text: &str) -> Result<Self, BadClientKey> {
        let bytes = decode(text, CLIENT).map_err(|error| match error {
            BadClientKey::NoKey(_) if text.contains(SERVER) => BadClientKey::ServersKey,
            other => other,
        })?;
        let (key, wrapped) =
            bytes.split_first_chunk::<STATIC_KEY_LEN>().ok_or(BadClientKey::WrongLength)?;
        let len = wrapped.last_chunk::<LEN_LEN>().ok_or(BadClientKey::WrongLength)?;
        if usize::from(u16::from_be_bytes(*len)) != wrapped.len()
            || !(MIN_WRAPPED..=MAX_WRAPPED).contains(&wrapped.len())
        {
            return Err(BadClientKey::WrongLength);
        }
        Ok(Self { key: StaticKey::from_bytes(*key), wrapped: wrapped.into() })
    }

    /// The text form: what `openvpn --genkey tls-crypt-v2-client` writes.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(STATIC_KEY_LEN + MAX_WRAPPED));
        bytes.extend_from_slice(self.key.bytes());
        bytes.extend_from_slice(&self.wrapped);
        encode(&bytes, CLIENT)
    }

    /// The key of a session of ours, which has no use for the wrapped one any more.
    pub(crate) fn of_responder(key: StaticKey) -> Self {
        Self { key, wrapped: Arc::new([]) }
    }

    /// Protects the control channel.
    #[must_use]
    pub fn key(&self) -> &StaticKey {
        &self.key
    }

    /// The same key for the server's eyes only.
    #[must_use]
    pub fn wrapped(&self) -> &[u8] {
        &self.wrapped
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerKey(..)")
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey(..)")
    }
}

impl fmt::Display for ClientKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Metadata {
    /// What goes into a key of ours.
    #[must_use]
    pub fn write(issued: u64, id: ClientKeyId) -> Vec<u8> {
        [&[TYPE_TIMESTAMP][..], &issued.to_be_bytes(), &id.0].concat()
    }

    /// Reads metadata, which is authentic but may be anything.
    fn parse(bytes: &[u8]) -> Self {
        let mut reader = Reader::new(bytes);
        let issued = match reader.u8("type") {
            Ok(TYPE_TIMESTAMP) => reader.array("time").ok().map(u64::from_be_bytes),
            _ => None,
        };
        let id = issued.and_then(|_| <[u8; 16]>::try_from(reader.rest()).ok()).map(ClientKeyId);
        Self { issued, id }
    }

    /// For whoever shows or judges the session.
    pub(crate) fn facts(&self) -> ClientKeyFacts {
        ClientKeyFacts { id: self.id.map(|id| id.to_string()), issued: self.issued }
    }
}

/// Which client keys open a door.
#[derive(Clone, Debug)]
pub struct ClientKeyRules {
    /// Whose keys.
    pub server_key: ServerKey,
    /// Older keys, and those of unknown age, are refused.
    pub max_age: Option<Duration>,
    /// Refuse clients that cannot show that they are where they say before we keep anything about
    /// them: OpenVPN before 2.6.
    pub cookie_required: bool,
    /// What the age is measured by.
    pub clock: Arc<WallClock>,
}

impl ClientKeyRules {
    /// Whether a key is young enough.
    #[must_use]
    pub fn is_young(&self, issued: Option<u64>) -> bool {
        is_young(issued, self.max_age, self.clock.now())
    }
}

/// Whether a key that was `issued` then is not older than `max_age`; `now` in seconds since 1970.
#[must_use]
pub fn is_young(issued: Option<u64>, max_age: Option<Duration>, now: u64) -> bool {
    let Some(max_age) = max_age else { return true };
    issued.is_some_and(|issued| now.saturating_sub(issued) <= max_age.as_secs())
}

/// Splits a packet that ends in a wrapped key into its own part, which is never empty, and the key.
///
/// # Errors
///
/// `Malformed` if the length in the last two bytes cannot be that of a wrapped key, or leaves
/// nothing of the packet.
pub(crate) fn split_wrapped(packet: &[u8]) -> Result<(&[u8], &[u8]), Discard> {
    let len = packet.last_chunk::<LEN_LEN>().ok_or(Discard::Malformed)?;
    let len = usize::from(u16::from_be_bytes(*len));
    if !(MIN_WRAPPED..=MAX_WRAPPED).contains(&len) {
        return Err(Discard::Malformed);
    }
    let at = packet.len().checked_sub(len).filter(|at| *at > 0).ok_or(Discard::Malformed)?;
    Ok(packet.split_at(at))
}

fn iv(tag: &[u8; TAG_LEN]) -> &[u8; 16] {
    tag.first_chunk().expect("a tag is longer than an IV")
}

fn decode(text: &str, label: &'static str) -> Result<Zeroizing<Vec<u8>>, BadClientKey> {
    let missing = BadClientKey::NoKey(label);
    let (_, after) = text.split_once(&format!("-----BEGIN {label}-----")).ok_or(missing)?;
    let (body, _) = after.split_once(&format!("-----END {label}-----")).ok_or(missing)?;
    let digits: Zeroizing<Vec<u8>> =
        Zeroizing::new(body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect());
    STANDARD.decode(&*digits).map(Zeroizing::new).map_err(|_| BadClientKey::NotBase64)
}

fn encode(bytes: &[u8], label: &str) -> Zeroizing<String> {
    let digits = Zeroizing::new(STANDARD.encode(bytes));
    let mut text = Zeroizing::new(String::with_capacity(2 * digits.len() + 128));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = digits.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE_LEN));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests;
