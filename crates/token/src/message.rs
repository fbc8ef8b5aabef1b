//! What Warren, the warden and the worker say to each other: a kind, a length, a body.

use std::fmt;
use std::io::{self, Read, Write};

use contract::Secret;
use wire::{Malformed, Reader};
use zeroize::Zeroizing;

/// The longest body. A list of certificates is the longest message; what does not fit is left out.
pub(crate) const MAX_BODY: usize = 60 * 1024;
/// No token takes longer ones.
pub(crate) const MAX_PIN: usize = 255;
/// The longest input of a signature: a digest, with the name of its hash in front.
pub(crate) const MAX_INPUT: usize = 128;
/// The longest signature: RSA with 8192 bits.
pub(crate) const MAX_SIGNATURE: usize = 1024;
/// A sentence for an operator.
const MAX_TEXT: usize = 512;
/// A certificate.
pub(crate) const MAX_CERTIFICATE: usize = 16 * 1024;

/// What is asked of the warden, and by it of the worker.
#[derive(Debug)]
pub(crate) enum Request {
    /// Find the key.
    Open { pin: Option<Secret> },
    /// Sign with it.
    Sign { how: Mechanism, input: Vec<u8> },
    /// Say what there is.
    List { pin: Option<Secret> },
}

/// What is answered.
#[derive(Debug)]
pub(crate) enum Reply {
    Opened(Facts),
    /// The token wants a PIN first.
    WantsPin(PinQuestion),
    Signed(Vec<u8>),
    Listed(Vec<Listed>),
    Failed(Trouble, String),
}

/// Whose PIN is wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinQuestion {
    /// The token's label, free of control characters.
    pub token: String,
    /// One more mistake locks the token.
    pub is_last_try: bool,
}

/// What kind of failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Trouble {
    /// It may go away by itself, or when the token is back.
    Passing,
    /// It stays as it is: trying again would do nothing, or use up the tries for a PIN.
    Lasting,
    /// It was not even tried: the module has failed to answer a moment ago.
    Paused,
}

/// What a token's key is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Facts {
    /// What its public key is (RFC 5280, 4.1.2.7), in DER; empty if the token does not say.
    pub(crate) public_key: Vec<u8>,
    /// The certificate beside it, in DER; empty if there is none.
    pub(crate) certificate: Vec<u8>,
    pub(crate) kind: Kind,
    /// The token's label.
    pub(crate) token: String,
}

/// What a key can do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Rsa { pkcs1: bool, pss: bool },
    P256,
    P384,
}

/// How to sign.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mechanism {
    /// RSASSA-PKCS1-v1_5; the input is the whole DigestInfo.
    RsaPkcs1,
    /// RSASSA-PSS with salt as long as the hash.
    RsaPss256,
    RsaPss384,
    RsaPss512,
    /// The answer is `r` and `s`, each as long as the curve's order.
    Ecdsa,
}

/// One key or certificate that a module offers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    /// Its name, as a URI.
    pub name: String,
    /// The token's label.
    pub token: String,
    /// The certificate in DER; empty if there is a key only.
    pub certificate: Vec<u8>,
}

impl Mechanism {
    const ALL: [Self; 5] =
        [Self::RsaPkcs1, Self::RsaPss256, Self::RsaPss384, Self::RsaPss512, Self::Ecdsa];

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let number = usize::from(reader.u8("mechanism")?);
        Self::ALL.get(number).copied().ok_or(Malformed::Forbidden { what: "mechanism" })
    }
}

impl Request {
    const OPEN: u8 = 1;
    const SIGN: u8 = 2;
    const LIST: u8 = 3;

    pub(crate) fn write(&self) -> (u8, Zeroizing<Vec<u8>>) {
        // Made large enough at once: growing would leave copies of a PIN behind.
        let mut body = Zeroizing::new(Vec::with_capacity(1 + MAX_PIN.max(MAX_INPUT)));
        let kind = match self {
            Self::Open { pin } | Self::List { pin } => {
                if let Some(pin) = pin {
                    body.push(1);
                    body.extend_from_slice(pin.expose());
                }
                if matches!(self, Self::Open { .. }) { Self::OPEN } else { Self::LIST }
            }
            Self::Sign { how, input } => {
                body.push(*how as u8);
                body.extend_from_slice(input);
                Self::SIGN
            }
        };
        (kind, body)
    }

    pub(crate) fn parse(kind: u8, body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        match kind {
            Self::OPEN | Self::LIST => {
                let pin = match body {
                    [] => None,
                    [1, pin @ ..] if pin.len() <= MAX_PIN => Some(Secret::new(pin)),
                    _ => return Err(Malformed::Forbidden { what: "PIN" }),
                };
                Ok(if kind == Self::OPEN { Self::Open { pin } } else { Self::List { pin } })
            }
            Self::SIGN => {
                let how = Mechanism::read(&mut reader)?;
                let input = reader.rest().to_vec();
                if input.len() > MAX_INPUT {
                    return Err(Malformed::Forbidden { what: "input" });
                }
                Ok(Self::Sign { how, input })
            }
            _ => Err(Malformed::Forbidden { what: "request" }),
        }
    }
}

impl Reply {
    const OPENED: u8 = 1;
    const WANTS_PIN: u8 = 2;
    const SIGNED: u8 = 3;
    const LISTED: u8 = 4;
    const FAILED: u8 = 5;

    pub(crate) fn write(&self) -> (u8, Zeroizing<Vec<u8>>) {
        let mut body = Vec::new();
        let kind = match self {
            Self::Opened(facts) => {
                body.extend(match facts.kind {
                    Kind::Rsa { pkcs1, pss } => [0, u8::from(pkcs1) | u8::from(pss) << 1],
                    Kind::P256 => [1, 0],
                    Kind::P384 => [2, 0],
                });
                put(&mut body, &facts.public_key);
                put(&mut body, &facts.certificate);
                put(&mut body, facts.token.as_bytes());
                Self::OPENED
            }
            Self::WantsPin(question) => {
                body.push(u8::from(question.is_last_try));
                put(&mut body, question.token.as_bytes());
                Self::WANTS_PIN
            }
            Self::Signed(signature) => {
                body.extend_from_slice(signature);
                Self::SIGNED
            }
            Self::Listed(list) => {
                for listed in list {
                    let before = body.len();
                    put(&mut body, listed.name.as_bytes());
                    put(&mut body, listed.token.as_bytes());
                    put(&mut body, &listed.certificate);
                    if body.len() > MAX_BODY {
                        body.truncate(before);
                        break;
                    }
                }
                Self::LISTED
            }
            Self::Failed(trouble, why) => {
                body.push(*trouble as u8);
                body.extend_from_slice(clean(why).as_bytes());
                Self::FAILED
            }
        };
        (kind, Zeroizing::new(body))
    }

    pub(crate) fn parse(kind: u8, body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let reply = match kind {
            Self::OPENED => {
                let kind = match reader.array::<2>("kind")? {
                    [0, can] if can < 4 => Kind::Rsa { pkcs1: can & 1 != 0, pss: can & 2 != 0 },
                    [1, 0] => Kind::P256,
                    [2, 0] => Kind::P384,
                    _ => return Err(Malformed::Forbidden { what: "kind" }),
                };
                let public_key = take(&mut reader, "public key")?.to_vec();
                let certificate = take(&mut reader, "certificate")?.to_vec();
                let token = text(take(&mut reader, "token")?);
                Self::Opened(Facts { public_key, certificate, kind, token })
            }
            Self::WANTS_PIN => {
                let is_last_try = reader.u8("tries")? != 0;
                let token = text(take(&mut reader, "token")?);
                Self::WantsPin(PinQuestion { token, is_last_try })
            }
            Self::SIGNED if reader.len() <= MAX_SIGNATURE => Self::Signed(reader.rest().to_vec()),
            Self::LISTED => {
                let mut list = Vec::new();
                while !reader.is_empty() {
                    let name = text(take(&mut reader, "name")?);
                    let token = text(take(&mut reader, "token")?);
                    let certificate = take(&mut reader, "certificate")?.to_vec();
                    list.push(Listed { name, token, certificate });
                }
                Self::Listed(list)
            }
            Self::FAILED => {
                let trouble = match reader.u8("trouble")? {
                    0 => Trouble::Passing,
                    1 => Trouble::Lasting,
                    2 => Trouble::Paused,
                    _ => return Err(Malformed::Forbidden { what: "trouble" }),
                };
                Self::Failed(trouble, text(reader.rest()))
            }
            _ => return Err(Malformed::Forbidden { what: "reply" }),
        };
        reader.finish("reply")?;
        Ok(reply)
    }
}

fn put(body: &mut Vec<u8>, part: &[u8]) {
    let part = part.get(..MAX_CERTIFICATE).unwrap_or(part);
    body.extend_from_slice(&(part.len() as u16).to_be_bytes());
    body.extend_from_slice(part);
}

fn take<'a>(reader: &mut Reader<'a>, what: &'static str) -> Result<&'a [u8], Malformed> {
    let len = usize::from(reader.u16(what)?);
    if len > MAX_CERTIFICATE {
        return Err(Malformed::Forbidden { what });
    }
    reader.bytes(len, what)
}

fn text(bytes: &[u8]) -> String {
    clean(&String::from_utf8_lossy(bytes))
}

/// What foreign code says, fit for a line of a log.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|sign| if sign.is_control() { ' ' } else { sign }).take(MAX_TEXT).collect()
}

/// Sends one message.
pub(crate) fn send(mut line: impl Write, (kind, body): (u8, Zeroizing<Vec<u8>>)) -> io::Result<()> {
    let len = u16::try_from(body.len()).ok().filter(|len| usize::from(*len) <= MAX_BODY);
    let [high, low] = len.ok_or(io::ErrorKind::InvalidInput)?.to_be_bytes();
    line.write_all(&[kind, high, low])?;
    line.write_all(&body)
}

/// Receives one message; `None` if the other end has gone.
pub(crate) fn receive(mut line: impl Read) -> io::Result<Option<(u8, Zeroizing<Vec<u8>>)>> {
    let mut head = [0; 3];
    match line.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let [kind, high, low] = head;
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_BODY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Zeroizing::new(vec![0; len]);
    line.read_exact(&mut body)?;
    Ok(Some((kind, body)))
}

impl fmt::Display for PinQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PIN of token {:?}", self.token)?;
        if self.is_last_try {
            f.write_str(" (a mistake locks it)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies() -> Vec<Reply> {
        let facts = Facts {
            public_key: vec![1; 91],
            certificate: vec![2; 700],
            kind: Kind::Rsa { pkcs1: true, pss: false },
            token: "tok".to_owned(),
        };
        let listed = |name: &str| Listed {
            name: name.to_owned(),
            token: "tok".to_owned(),
            certificate: vec![3; 300],
        };
        vec![
            Reply::Opened(facts.clone()),
            Reply::Opened(Facts { kind: Kind::P384, public_key: Vec::new(), ..facts }),
            Reply::WantsPin(PinQuestion { token: "tok".to_owned(), is_last_try: true }),
            Reply::Signed(vec![9; 256]),
            Reply::Listed(vec![listed("pkcs11:id=%01"), listed("pkcs11:id=%02")]),
            Reply::Failed(Trouble::Lasting, "the PIN is wrong".to_owned()),
        ]
    }

    fn requests() -> Vec<Request> {
        vec![
            Request::Open { pin: Some(Secret::new("1234")) },
            Request::Open { pin: None },
            Request::List { pin: None },
            Request::Sign { how: Mechanism::RsaPss384, input: vec![7; 48] },
        ]
    }

    #[test]
    fn what_is_sent_is_received() {
        for reply in replies() {
            let mut line = Vec::new();
            send(&mut line, reply.write()).unwrap();
            let (kind, body) = receive(line.as_slice()).unwrap().unwrap();
            let read = Reply::parse(kind, &body).unwrap();
            assert_eq!(format!("{read:?}"), format!("{reply:?}"));
        }
        for request in requests() {
            let (kind, body) = request.write();
            let read = Request::parse(kind, &body).unwrap();
            assert_eq!(format!("{read:?}"), format!("{request:?}"));
        }
        assert!(receive(&[][..]).unwrap().is_none());
    }

    #[test]
    fn every_truncation_is_an_error_or_another_message_and_damage_is_survived() {
        for reply in replies() {
            let (kind, body) = reply.write();
            for len in 0..body.len() {
                let read = Reply::parse(kind, &body[..len]).ok();
                assert_ne!(read.map(|read| format!("{read:?}")), Some(format!("{reply:?}")));
            }
            for at in 0..body.len() {
                let mut damaged = body.to_vec();
                damaged[at] ^= 0xff;
                let _ = Reply::parse(kind, &damaged);
            }
        }
        for request in requests() {
            let (kind, body) = request.write();
            for at in 0..body.len() {
                let mut damaged = body.to_vec();
                damaged[at] ^= 0xff;
                let _ = Request::parse(kind, &damaged);
                let _ = Request::parse(kind, &body[..at]);
            }
        }
    }

    #[test]
    fn nobody_makes_another_take_in_more_than_a_message_may_hold() {
        let too_long = [5, 0xff, 0xff];
        assert!(receive(&too_long[..]).is_err());
        assert!(receive(&[5, 0, 9, 1][..]).is_err(), "cut off");

        let pin = [&[1][..], &[b'1'; MAX_PIN + 1]].concat();
        assert!(Request::parse(Request::OPEN, &pin).is_err());
        assert!(Request::parse(Request::SIGN, &[0; 2 + MAX_INPUT]).is_err());
        assert!(Reply::parse(Reply::SIGNED, &[0; MAX_SIGNATURE + 1]).is_err());

        let certificate = vec![0; MAX_CERTIFICATE];
        let listed = Listed { name: String::new(), token: String::new(), certificate };
        let (kind, body) = Reply::Listed(vec![listed; 9]).write();
        let Reply::Listed(list) = Reply::parse(kind, &body).unwrap() else { panic!() };
        assert_eq!(list.len(), 3, "what fits");
    }

    #[test]
    fn what_a_module_says_cannot_break_a_line_and_a_pin_is_not_shown() {
        let (kind, body) = Reply::Failed(Trouble::Passing, "a\nb\x1b[2J".to_owned()).write();
        let Reply::Failed(_, why) = Reply::parse(kind, &body).unwrap() else { panic!() };
        assert_eq!(why, "a b [2J");

        let open = Request::Open { pin: Some(Secret::new("1234")) };
        assert!(!format!("{open:?}").contains("1234"));
    }
}
