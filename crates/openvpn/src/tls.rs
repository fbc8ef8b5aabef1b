//! rustls without a socket: bytes in, bytes out.

use std::io::{Read, Write};
use std::sync::{Arc, Weak};

use contract::Work;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;
use zeroize::Zeroizing;

use crate::static_key::{STATIC_KEY_LEN, StaticKey};

/// Length of a TLS record's header (RFC 8446, 5.1).
const RECORD_HEADER: usize = 5;

/// One TLS connection of one key generation.
#[derive(Debug)]
pub(crate) struct Tls {
    place: Place,
    /// The private key may take its time to sign: steps of the handshake are made elsewhere.
    is_slow: bool,
}

#[derive(Debug)]
enum Place {
    Here(Box<Records>),
    /// A step of the handshake is being made.
    Away,
}

/// The connection, and where in the incoming bytes it is.
#[derive(Debug)]
struct Records {
    connection: Connection,
    boundary: Boundary,
}

/// A step of the handshake that was made elsewhere.
#[derive(Debug)]
pub(crate) struct Step {
    records: Box<Records>,
    result: Result<Vec<Vec<u8>>, TlsFailure>,
}

/// Where in the incoming bytes the present record ends.
#[derive(Debug, Default)]
struct Boundary {
    header: [u8; RECORD_HEADER],
    header_len: usize,
    body_left: usize,
}

impl Boundary {
    /// How many of `bytes` belong to the present record, and whether it ends with them.
    fn advance(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut taken = 0;
        if self.header_len < RECORD_HEADER {
            taken = bytes.len().min(RECORD_HEADER - self.header_len);
            self.header[self.header_len..self.header_len + taken].copy_from_slice(&bytes[..taken]);
            self.header_len += taken;
            if self.header_len < RECORD_HEADER {
                return (taken, false);
            }
            self.body_left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
        }
        let body = self.body_left.min(bytes.len() - taken);
        self.body_left -= body;
        let ends = self.body_left == 0;
        if ends {
            self.header_len = 0;
        }
        (taken + body, ends)
    }
}

/// The handshake cannot go on; the words are for the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlsFailure(pub(crate) &'static str);

impl Records {
    /// Takes in the next bytes of the peer and returns what each record decrypts to: peers take a
    /// record for a message, so the boundaries mean something.
    fn receive(&mut self, mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, TlsFailure> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let (len, ends) = self.boundary.advance(bytes);
            let (mut part, rest) = bytes.split_at(len);
            bytes = rest;
            while !part.is_empty() {
                match self.connection.read_tls(&mut part) {
                    Ok(0) | Err(_) => return Err(TlsFailure("the peer closed the TLS session")),
                    Ok(_) => {}
                }
            }
            if !ends {
                continue;
            }
            let state = self
                .connection
                .process_new_packets()
                .map_err(|error| TlsFailure(pki::describe(&error)))?;
            let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
            // Exactly as many bytes are asked for as are there.
            if !plaintext.is_empty() && self.connection.reader().read_exact(&mut plaintext).is_ok()
            {
                messages.push(plaintext);
            }
        }
        Ok(messages)
    }
}

impl Tls {
    fn new(connection: Connection) -> Self {
        let records = Records { connection, boundary: Boundary::default() };
        Self { place: Place::Here(Box::new(records)), is_slow: false }
    }

    /// Says whether the private key may take its time to sign.
    pub(crate) fn slow(self, is_slow: bool) -> Self {
        Self { is_slow, ..self }
    }

    pub(crate) fn initiator(config: &Arc<ClientConfig>) -> Result<Self, TlsFailure> {
        // OpenVPN has no server names: who the server is, the verifier decides by other rules.
        let name = ServerName::try_from("openvpn.invalid").map_err(|_| TlsFailure("no name"))?;
        ClientConnection::new(Arc::clone(config), name)
            .map(|connection| Self::new(connection.into()))
            .map_err(|error| TlsFailure(pki::describe(&error)))
    }

    pub(crate) fn responder(config: &Arc<ServerConfig>) -> Result<Self, TlsFailure> {
        ServerConnection::new(Arc::clone(config))
            .map(|connection| Self::new(connection.into()))
            .map_err(|error| TlsFailure(pki::describe(&error)))
    }

    /// Takes in the next bytes of the peer and returns what each record decrypts to: peers take a
    /// record for a message, so the boundaries mean something.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TlsFailure> {
        match &mut self.place {
            Place::Here(records) => records.receive(bytes),
            Place::Away => Err(TlsFailure("the TLS session is elsewhere")),
        }
    }

    /// Whether the next bytes are to be taken in elsewhere, by a [`step`](Self::step).
    pub(crate) fn steps_aside(&self) -> bool {
        self.is_slow && self.is_handshaking()
    }

    /// Whether a step is being made.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self.place, Place::Away)
    }

    /// Packs the connection, to take in these bytes elsewhere; it comes [`back`](Self::back) as a
    /// [`Step`]. Nothing is done if nobody is `wanted` by then.
    pub(crate) fn step(&mut self, payloads: Vec<Vec<u8>>, wanted: Weak<()>) -> Option<Work> {
        let Place::Here(mut records) = std::mem::replace(&mut self.place, Place::Away) else {
            return None;
        };
        Some(Work::new(move || {
            let mut messages = Vec::new();
            for payload in payloads {
                if wanted.strong_count() == 0 {
                    break;
                }
                match records.receive(&payload) {
                    Ok(received) => messages.extend(received),
                    Err(failure) => return Step { records, result: Err(failure) },
                }
            }
            Step { records, result: Ok(messages) }
        }))
    }

    /// Goes on after a step; returns what came of it.
    pub(crate) fn back(&mut self, step: Step) -> Result<Vec<Vec<u8>>, TlsFailure> {
        self.place = Place::Here(step.records);
        step.result
    }

    fn connection(&self) -> Option<&Connection> {
        match &self.place {
            Place::Here(records) => Some(&records.connection),
            Place::Away => None,
        }
    }

    fn connection_mut(&mut self) -> Option<&mut Connection> {
        match &mut self.place {
            Place::Here(records) => Some(&mut records.connection),
            Place::Away => None,
        }
    }

    /// Takes the bytes to send to the peer.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(connection) = self.connection_mut() else { return out };
        while connection.wants_write() {
            if connection.write_tls(&mut out).is_err() {
                break;
            }
        }
        out
    }

    /// Encrypts one message as one record: peers take a record for a message.
    pub(crate) fn send(&mut self, message: &[u8]) {
        // Writing to rustls only appends to its buffer; in the handshake there is nothing to say.
        let _ = self.connection_mut().map(|connection| connection.writer().write_all(message));
    }

    pub(crate) fn wants_write(&self) -> bool {
        self.connection().is_some_and(|connection| connection.wants_write())
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection().is_none_or(|connection| connection.is_handshaking())
    }

    pub(crate) fn export(&self, label: &[u8]) -> Option<StaticKey> {
        let mut out = Zeroizing::new([0; STATIC_KEY_LEN]);
        self.export_into(label, &mut *out).then(|| StaticKey::from_bytes(*out))
    }

    /// Keying material of any length, which is part of what it is made from; false if the session
    /// has none to export.
    pub(crate) fn export_into(&self, label: &[u8], out: &mut [u8]) -> bool {
        match self.connection() {
            Some(Connection::Client(tls)) => tls.export_keying_material(out, label, None).is_ok(),
            Some(Connection::Server(tls)) => tls.export_keying_material(out, label, None).is_ok(),
            None => false,
        }
    }

    /// The peer's certificates (DER, leaf first); empty if it sent none.
    pub(crate) fn peer_chain(&self) -> Vec<Vec<u8>> {
        let chain = self.connection().and_then(|connection| connection.peer_certificates());
        let chain = chain.unwrap_or_default();
        chain.iter().map(|certificate| certificate.to_vec()).collect()
    }

    /// The version, as the operator reads it.
    pub(crate) fn version(&self) -> &'static str {
        match self.connection().and_then(|connection| connection.protocol_version()) {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
            _ => "TLS",
        }
    }
}
