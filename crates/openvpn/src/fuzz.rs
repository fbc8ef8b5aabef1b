//! Bodies of fuzz targets: bytes of a stranger or a hostile peer into every parser.

use std::sync::Arc;
use std::time::Duration;

use contract::{Secret, Tunnel};
use crypto::digest::Hash;

use crate::challenge::{self, LoginRefusal};
use crate::cipher::Cipher;
use crate::client_key::{ClientKey, MAX_METADATA, SERVER_KEY_LEN, ServerKey, split_wrapped};
use crate::data::{DataKeys, DataTunnel};
use crate::early;
use crate::key_method::KeyRecord;
use crate::packet::{ControlBody, KeyId, Opcode};
use crate::peer_info::PeerInfo;
use crate::profile::Profile;
use crate::pull::{Pull, Update};
use crate::push::{Messages, Pushed};
use crate::reliable::Receiver;
use crate::shape::{Framing, Shape, ShapeRules, SizeLimit, Undressed};
use crate::static_key::StaticKey;
use crate::token::TokenPolicy;
use crate::wrap::{Protection, Side};

/// Control packets, wrapped in every way and not at all.
pub fn control(data: &[u8]) {
    let key = StaticKey::from_bytes([7; 256]);
    for protection in [
        Protection::None,
        Protection::TlsAuth { key: key.clone(), hash: Hash::Sha256, directed: true },
        Protection::TlsCrypt { key },
    ] {
        let _ = protection.keys(Side::Responder).unwrap(data);
    }
    for opcode in [Opcode::P_ACK_V1, Opcode::P_CONTROL_V1] {
        if let Ok(body) = ControlBody::parse(opcode, data) {
            let mut out = Vec::new();
            body.write(&mut out);
            assert_eq!(ControlBody::parse(opcode, &out).ok(), Some(body));
        }
    }
}

/// Client keys: wrapped ones of strangers, key files, answers that ask for a key, and metadata of
/// every shape inside a key that is genuine.
pub fn client_key(data: &[u8]) {
    let server = ServerKey::from_bytes([7; SERVER_KEY_LEN]);
    if let Ok((packet, wrapped)) = split_wrapped(data) {
        assert!(!packet.is_empty() && packet.len() + wrapped.len() == data.len());
        assert!(server.unwrap(wrapped).is_err());
    }
    let _ = early::wants_key(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = ServerKey::parse(text);
        if let Ok(client) = ClientKey::parse(text) {
            let again = ClientKey::parse(&client.to_pem());
            assert!(again.is_ok_and(|again| again.wrapped() == client.wrapped()));
        }
    }
    let key = StaticKey::from_bytes([9; 256]);
    match server.wrap(&key, data) {
        Ok(client) => assert!(server.unwrap(client.wrapped()).is_ok()),
        Err(_) => assert!(data.len() > MAX_METADATA),
    }
}

/// Whatever an authenticated peer may put into the control channel.
pub fn messages(data: &[u8]) {
    for side in [Side::Initiator, Side::Responder] {
        if let Ok(record) = KeyRecord::parse(side, data) {
            let _ = PeerInfo::parse(&record.peer_info);
        }
    }
    let mut messages = Messages::default();
    messages.push(data);
    let pull = Pull::default();
    let mut pushed = Pushed::new(&pull);
    let mut update = Update::new(&[]);
    while let Some(message) = messages.next() {
        assert!(message.chars().all(|c| c.is_ascii_graphic() || c == ' '));
        pushed.read(&message, &pull);
        let _ = update.read(&message);
    }
    pushed.finish(&pull);
    let mut updated = Pushed::new(&pull);
    for option in update.finish() {
        updated.obey(&option);
    }
    updated.finish(&pull);
}

/// The order and number of control messages.
pub fn reliable(data: &[u8]) {
    let mut receiver = Receiver::new(0);
    for chunk in data.chunks_exact(4) {
        let id = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        receiver.receive(id, chunk);
        while receiver.next().is_some() {}
        let _ = receiver.take_acks(4);
    }
}

/// Whatever stands in a password field, and after AUTH_FAILED.
pub fn login(data: &[u8]) {
    let policy = TokenPolicy::new(&[7; 32], None, Duration::MAX / 4, Arc::default());
    assert!(policy.read("ann", data).is_none(), "nobody guesses a token's code");
    let _ = challenge::credentials("ann", &Secret::new(data));
    let text = String::from_utf8_lossy(data);
    let (refusal, _) = LoginRefusal::parse(&text);
    if let LoginRefusal::Challenge(challenge) = refusal {
        let _ = challenge::credentials("ann", &challenge.respond(&Secret::new("1")));
    }
    if let Some(question) = challenge::question("ann", data, &text, true) {
        assert!(matches!(LoginRefusal::parse(&question).0, LoginRefusal::Challenge(_)));
    }
}

/// Data packets under keys that the sender does not have.
pub fn data(data: &[u8]) {
    for cipher in [Cipher::Aes256Gcm, Cipher::Aes128Cbc] {
        let tunnel = DataTunnel::new(&DataKeys {
            side: Side::Responder,
            key_id: KeyId::FIRST,
            peer_id: Some(1),
            cipher,
            digest: Hash::Sha1,
            material: &StaticKey::from_bytes([7; 256]),
            iv_seed: [1; 32],
            layer: contract::Layer::Ip,
            shape: ShapeRules::default(),
            remote: std::net::Ipv4Addr::LOCALHOST.into(),
        });
        assert!(tunnel.open(&mut data.to_vec()).is_err());
    }
}

/// Profiles.
pub fn profile(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Profile::parse(text, &mut |_| Err("no files here".to_owned()));
    }
}

/// A management client's bytes: lines, commands, blocks; and whatever it says, it is read the
/// same when it comes byte by byte.
///
/// # Panics
///
/// If an answer could be taken for more than one line, or a limit is not kept.
pub fn management(bytes: &[u8]) {
    use crate::management::{Block, Command, LineReader, MAX_LINE};

    let Ok(lines) = LineReader::default().push(bytes) else { return };
    let mut reader = LineReader::default();
    let slowly = bytes.iter().map(|byte| reader.push(&[*byte]).unwrap_or_default());
    assert_eq!(slowly.flatten().collect::<Vec<_>>(), lines);

    let mut block = Block::default();
    for line in &lines {
        // What is not UTF-8 grows to three bytes.
        assert!(line.len() <= 3 * MAX_LINE);
        if let Err(refusal) = Command::parse(line) {
            assert!(!refusal.0.chars().any(char::is_control), "{refusal}");
        }
        let _ = block.push(line);
    }
    assert!(block.push.iter().all(|option| !option.contains([',', '\n'])));
}

/// Whatever an authenticated peer may have put under the encryption: framings, compressed blocks
/// and parts of packets. The first byte chooses the rules; then come payloads, each behind a byte
/// of length.
pub fn shape(data: &[u8]) {
    const FRAMINGS: [Option<Framing>; 6] = [
        None,
        Some(Framing::Lzo),
        Some(Framing::Stub),
        Some(Framing::Lz4),
        Some(Framing::StubV2),
        Some(Framing::Lz4V2),
    ];
    let Some((&choice, mut rest)) = data.split_first() else { return };
    let rules = ShapeRules {
        framing: FRAMINGS[usize::from(choice) % FRAMINGS.len()],
        fragment: (choice & 0x80 != 0).then_some(SizeLimit::Payload(1300)),
        mssfix: Some(SizeLimit::Outer(1400)),
        mtu: 1500,
    };
    let Some(shape) =
        Shape::new(&rules, contract::Layer::Ip, std::net::Ipv4Addr::LOCALHOST.into(), |len| len)
    else {
        return;
    };
    let mut out = vec![0; 1 << 16];
    for now in 0.. {
        let Some((&len, after)) = rest.split_first() else { return };
        let (payload, after) = after.split_at(usize::from(len).min(after.len()));
        rest = after;
        let mut payload = payload.to_vec();
        if let Ok(Undressed::Packed(packed)) = shape.undress(&mut payload)
            && let Ok(Some(len)) = shape.unpack(now, packed, &mut out)
        {
            assert!(len <= 1518, "{len} bytes of one packet");
        }
    }
}
