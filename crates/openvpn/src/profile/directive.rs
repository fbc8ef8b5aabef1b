//! Every directive: what it does here, or why it does not.

use std::time::Duration;

use contract::{Layer, Secret};
use pki::{NameRule, UserNameFields};

use super::table::{self, Standing};
use super::{
    AuthRetry, Block, Draft, DraftRemote, Line, Login, ProfileError, Proto, ReadFile,
    StaticChallenge, locked, management, point, proxy, pull, shape, token,
};
use crate::cipher::{Cipher, digest_named};
use crate::client_key::ClientKey;
use crate::peer_info::printable;
use crate::pull::IN_PROFILES;
use crate::static_key::StaticKey;

/// Obeys one line.
pub(super) fn apply(
    draft: &mut Draft,
    line: &Line,
    read: ReadFile<'_>,
) -> Result<(), ProfileError> {
    let name = line.name.as_str();
    // The table decides, so that what it says cannot be other than what is done.
    let is_mark = name.starts_with('<');
    if !is_mark && table::find(name).is_none_or(|it| it.standing != Standing::Obeyed) {
        return other(draft, line);
    }
    if shape::apply(draft, line)? || token::apply(draft, line)? || point::apply(draft, line, read)?
    {
        return Ok(());
    }
    match name {
        "<connection>" => {
            draft.block = Some(Block { first: draft.remotes.len(), ..Block::default() })
        }
        "</connection>" => close_block(draft, line)?,
        "remote" => remote(draft, line)?,
        "remote-random" => draft.remote_random = true,
        "port" | "rport" => match &mut draft.block {
            Some(block) => block.port = Some(port(line, 0)?),
            None => draft.default_port = port(line, 0)?,
        },
        "lport" => draft.local_port = Some(port(line, 0)?),
        "proto" => match &mut draft.block {
            Some(block) => block.proto = Some(proto(line, 0)?),
            None => draft.default_proto = Some(proto(line, 0)?),
        },
        "dev" | "dev-type" => dev(draft, line)?,
        "ca" => draft.ca.extend(content(line, read)?),
        "cert" | "extra-certs" => {
            draft.has_cert |= name == "cert";
            draft.certificate.get_or_insert_default().extend(content(line, read)?);
        }
        "key" => draft.key = Some(Secret::new(content(line, read)?)),
        "pkcs12" => draft.bundle = Some(locked::bundle(line, read)?),
        "askpass" => draft.passphrase = locked::passphrase(line, read)?,
        "crl-verify" if line.word(1) == Some("dir") => {
            draft.revoked_serials.extend(serials(line, read)?);
        }
        "crl-verify" => draft.revoked = Some(content(line, read)?),
        "peer-fingerprint" => draft.fingerprints.extend(fingerprints(line, read)?),
        "verify-hash" => {
            if !matches!((line.word(1), &line.block), (Some("SHA256"), _) | (None, Some(_))) {
                return Err(line.error("needs HASH SHA256; SHA-1 is not supported"));
            }
            draft.issuers.extend(fingerprints(line, read)?);
        }
        "remote-cert-ku" => draft.key_usages = Some(key_usages(line)?),
        "remote-cert-tls" => match line.word(0) {
            // Which of the two the peer has to be, point::finish checks.
            Some("server") => draft.requires_server_usage = true,
            Some("client") => draft.point.requires_client_usage = true,
            _ => return Err(line.error("a client checks for \"server\"")),
        },
        "remote-cert-eku" => match line.word(0) {
            Some("TLS Web Server Authentication" | "serverAuth" | "1.3.6.1.5.5.7.3.1") => {
                draft.requires_server_usage = true;
            }
            _ => return Err(line.error("only \"TLS Web Server Authentication\" is supported")),
        },
        "verify-x509-name" => draft.name = Some(name_rule(line)?),
        "x509-username-field" => {
            let fields = line.words.join(" ").parse::<UserNameFields>();
            draft.name_fields = Some(fields.map_err(|why| line.error(why))?);
        }
        "tls-crypt" => draft.tls_crypt = Some(static_key(line, read)?),
        "tls-crypt-v2" => {
            let key = ClientKey::parse(&text(line, read)?).map_err(|why| line.error(why))?;
            draft.tls_crypt_v2 = Some(key);
        }
        "tls-auth" => {
            let direction = line.word(1).map(|word| direction(line, word)).transpose()?;
            draft.tls_auth = Some((static_key(line, read)?, direction));
        }
        "key-direction" => {
            draft.key_direction = Some(direction(line, line.word(0).unwrap_or_default())?);
        }
        "auth-user-pass" => draft.login = login(line, read)?,
        "static-challenge" => draft.challenge = Some(static_challenge(line)?),
        "auth-nocache" => draft.forgets_password = true,
        "auth-retry" => {
            draft.auth_retry = match line.word(0) {
                Some("none") => AuthRetry::None,
                Some("nointeract") => AuthRetry::Same,
                Some("interact") => AuthRetry::Ask,
                _ => return Err(line.error("needs none, nointeract or interact")),
            }
        }
        "data-ciphers" | "ncp-ciphers" => draft.ciphers = Some(ciphers(line)?),
        "cipher" | "data-ciphers-fallback" => draft.fallback = Some(cipher(line)?),
        "auth" => {
            let word = line.word(0).unwrap_or_default();
            draft.digest = digest_named(word).ok_or_else(|| {
                line.error(format_args!("{word:?} is not supported; SHA1, SHA256 or SHA512 is"))
            })?;
        }
        "tls-version-min" => draft.only_tls13 = line.word(0) == Some("1.3"),
        "tls-version-max" => match line.word(0) {
            Some("1.2") => draft.only_tls12 = true,
            Some("1.3") => {}
            _ => return Err(line.error("TLS before 1.2 is not supported; use 1.2 or 1.3")),
        },
        "tls-cert-profile" => match line.word(0) {
            Some("preferred" | "suiteb") => {}
            _ => return Err(line.error("weak certificates are refused; remove the line")),
        },
        "compat-mode" => draft.is_before_2_6 = version(line)? < (2, 6),
        "tun-mtu" => draft.mtu = number(line, 0, 576, 9200)? as u16,
        "reneg-sec" => {
            let seconds = number(line, 0, 0, u64::from(u32::MAX))?;
            draft.renegotiate = (seconds > 0).then(|| Duration::from_secs(seconds.max(5)));
        }
        "hand-window" => draft.handshake = seconds(line, 0, 5, 600)?,
        "ping" => draft.ping = seconds(line, 0, 1, 3600)?,
        "ping-restart" | "ping-exit" => {
            draft.ping_restart = silence(line, 0)?;
            draft.exits_on_silence = name == "ping-exit";
        }
        "keepalive" => {
            draft.ping = seconds(line, 0, 1, 3600)?;
            draft.ping_restart = silence(line, 1)?;
        }
        "connect-retry" => {
            let first = seconds(line, 0, 1, 3600)?;
            let longest = if line.words.len() > 1 {
                seconds(line, 1, 1, 86_400)?
            } else {
                first.max(draft.retry.1)
            };
            draft.retry = (first, longest);
        }
        "connect-retry-max" => {
            let max = number(line, 0, 0, 1_000_000)? as u32;
            draft.retry_max = (max > 0).then_some(max);
        }
        "server-poll-timeout" | "connect-timeout" => {
            draft.server_timeout = seconds(line, 0, 1, 3600)?
        }
        "route-nopull" | "route-noexec" | "pull-filter" => pull::rule(draft, line)?,
        _ if IN_PROFILES.contains(&name) => pull::option(draft, line)?,
        "ignore-unknown-option" => draft.ignorable.extend(line.words.iter().cloned()),
        "setenv" if line.word(0) == Some("opt") => return optional(draft, line, read),
        "setenv" => {}
        "connection" => return Err(line.error("is a block: <connection> … </connection>")),
        _ => {
            let is_known = proxy::apply(draft, line, read)?
                || management::apply(&mut draft.management, line, read)?;
            if !is_known {
                return other(draft, line);
            }
        }
    }
    Ok(())
}

/// A line that is not obeyed.
fn other(draft: &mut Draft, line: &Line) -> Result<(), ProfileError> {
    let name = line.name.as_str();
    let known = table::find(name);
    let (standing, note) = known.map_or((Standing::Unsupported, ""), |it| (it.standing, it.note));
    let may_be_unknown = matches!(standing, Standing::Unsupported | Standing::Server)
        && draft.ignorable.iter().any(|known| known == name);
    if may_be_unknown {
        draft.notes.push(format!("line {}: {name} ignored, as the profile allows", line.number));
        return Ok(());
    }
    match standing {
        Standing::Moot => Ok(()),
        Standing::Ignored => {
            draft.notes.push(format!("line {}: {name} ignored: {note}", line.number));
            Ok(())
        }
        Standing::Dangerous => Err(line.error(format_args!("refused: {note}"))),
        Standing::Server => Err(line.error("only a server has this; remove the line")),
        Standing::Command => Err(line.error("is a command, not a setting; remove the line")),
        Standing::Unsupported if !note.is_empty() => {
            Err(line.error(format_args!("not supported: {note}")))
        }
        Standing::Unsupported | Standing::Obeyed => {
            Err(line.error("not supported; remove the line if the server does not need it"))
        }
    }
}

/// `setenv opt NAME …`: obeyed if it is known, whatever it is called by.
fn optional(draft: &mut Draft, line: &Line, read: ReadFile<'_>) -> Result<(), ProfileError> {
    let Some((name, words)) = line.words.get(1..).and_then(<[String]>::split_first) else {
        return Err(line.error("opt needs a directive"));
    };
    let name = name.strip_prefix("--").unwrap_or(name);
    // One step only: an option inside an option is nothing that anybody has.
    if name == "setenv" {
        return Err(line.error("opt cannot hold another setenv"));
    }
    match table::find(name).map(|known| known.standing) {
        None | Some(Standing::Unsupported | Standing::Server) => {
            draft.notes.push(format!("line {}: optional \"{name}\" ignored", line.number));
            Ok(())
        }
        Some(_) => {
            let inner = Line {
                number: line.number,
                name: name.to_owned(),
                words: words.to_vec(),
                block: None,
            };
            apply(draft, &inner, read)
        }
    }
}

/// What stands in a `<connection>` block holds for its remotes only.
fn close_block(draft: &mut Draft, line: &Line) -> Result<(), ProfileError> {
    let block = draft.block.take().ok_or_else(|| line.error("without a beginning"))?;
    for remote in draft.remotes.iter_mut().skip(block.first) {
        remote.port = remote.port.or(block.port);
        remote.proto = remote.proto.or(block.proto);
        remote.proxy = remote.proxy.take().or_else(|| block.proxy.clone());
    }
    Ok(())
}

fn remote(draft: &mut Draft, line: &Line) -> Result<(), ProfileError> {
    let host = line.word(0).ok_or_else(|| line.error("needs HOST [PORT] [PROTO]"))?;
    let port = if line.words.len() > 1 { Some(port(line, 1)?) } else { None };
    let proto = if line.words.len() > 2 { Some(proto(line, 2)?) } else { None };
    draft.remotes.push(DraftRemote { host: host.to_owned(), port, proto, proxy: None });
    Ok(())
}

fn dev(draft: &mut Draft, line: &Line) -> Result<(), ProfileError> {
    let word = line.word(0).unwrap_or_default();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if word.is_empty() || word.len() > 15 || !word.chars().all(is_name) {
        return Err(
            line.error("needs \"tun\", \"tap\" or a device name of up to 15 letters and digits")
        );
    }
    let layer = if word.starts_with("tap") { Layer::Ethernet } else { Layer::Ip };
    if line.name == "dev-type" {
        // It says what the device's name does not.
        draft.layer = Some(layer);
        return Ok(());
    }
    draft.layer.get_or_insert(layer);
    if !matches!(word, "tun" | "tap") {
        draft.device = Some(word.to_owned());
    }
    Ok(())
}

fn proto(line: &Line, at: usize) -> Result<Proto, ProfileError> {
    match line.word(at).unwrap_or_default() {
        "udp" => Ok(Proto::Udp),
        "udp4" => Ok(Proto::Udp4),
        "udp6" => Ok(Proto::Udp6),
        "tcp" | "tcp-client" => Ok(Proto::Tcp),
        "tcp4" | "tcp4-client" => Ok(Proto::Tcp4),
        "tcp6" | "tcp6-client" => Ok(Proto::Tcp6),
        other => Err(line.error(format_args!("{other:?} is not a protocol; use udp or tcp"))),
    }
}

/// The block's content, or that of the file the first word names.
pub(super) fn content(line: &Line, read: ReadFile<'_>) -> Result<Vec<u8>, ProfileError> {
    if let Some(block) = &line.block {
        return Ok(block.clone().into_bytes());
    }
    let path = line.word(0).ok_or_else(|| line.error("needs a file or an inline block"))?;
    read(path).map_err(|why| line.error(format_args!("{path}: {why}")))
}

fn text(line: &Line, read: ReadFile<'_>) -> Result<String, ProfileError> {
    String::from_utf8(content(line, read)?).map_err(|_| line.error("is not text"))
}

pub(super) fn static_key(line: &Line, read: ReadFile<'_>) -> Result<StaticKey, ProfileError> {
    StaticKey::parse(&text(line, read)?).map_err(|why| line.error(why))
}

fn fingerprints(line: &Line, read: ReadFile<'_>) -> Result<Vec<[u8; 32]>, ProfileError> {
    let mut found = Vec::new();
    let list = match (&line.block, line.word(0)) {
        (None, Some(word)) if word.contains(':') => word.to_owned(),
        _ => text(line, read)?,
    };
    for entry in list.lines().map(str::trim).filter(|entry| !entry.is_empty()) {
        let bytes = entry
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16))
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let bytes =
            bytes.ok_or_else(|| line.error("needs SHA-256 fingerprints, AA:BB:… (32 bytes)"))?;
        found.push(bytes);
    }
    Ok(found)
}

/// A folder of files that are called after serial numbers.
fn serials(line: &Line, read: ReadFile<'_>) -> Result<Vec<String>, ProfileError> {
    let folder = line.word(0).unwrap_or_default();
    let names =
        read(&format!("{folder}/")).map_err(|why| line.error(format_args!("{folder}: {why}")))?;
    let names = String::from_utf8_lossy(&names);
    // Other files may lie beside them, as for OpenVPN.
    Ok(names.lines().filter_map(pki::serial_from_decimal).collect())
}

/// Hexadecimal numbers; none asks only that the certificate says what its key is for.
fn key_usages(line: &Line) -> Result<Vec<u8>, ProfileError> {
    let read = |word: &String| {
        let digits = word.strip_prefix("0x").unwrap_or(word);
        u8::from_str_radix(digits, 16).ok().filter(|usage| *usage != 0)
    };
    let usages = line.words.iter().map(read).collect::<Option<Vec<_>>>();
    usages.ok_or_else(|| line.error("needs hexadecimal numbers from 1 to ff, such as a0 88"))
}

pub(super) fn login(line: &Line, read: ReadFile<'_>) -> Result<Login, ProfileError> {
    if line.block.is_none() && line.words.is_empty() {
        return Ok(Login::Ask);
    }
    let text = text(line, read)?;
    let mut lines = text.lines();
    match (lines.next().filter(|user| !user.is_empty()), lines.next()) {
        (Some(user), Some(password)) => Ok(Login::Given(user.to_owned(), Secret::new(password))),
        (Some(user), None) => Ok(Login::AskPassword(user.to_owned())),
        (None, _) => {
            Err(line.error("needs the user name on the first line, the password on the second"))
        }
    }
}

fn static_challenge(line: &Line) -> Result<StaticChallenge, ProfileError> {
    let form = "needs TEXT ECHO [scrv1|concat], where ECHO is 0 or 1";
    let text = line.word(0).ok_or_else(|| line.error(form))?;
    let echo = match line.word(1) {
        Some("0") => false,
        Some("1") => true,
        _ => return Err(line.error(form)),
    };
    let is_appended = match line.word(2) {
        None | Some("scrv1") => false,
        Some("concat") => true,
        Some(_) => return Err(line.error(form)),
    };
    Ok(StaticChallenge { text: printable(text, 256), echo, is_appended })
}

fn name_rule(line: &Line) -> Result<NameRule, ProfileError> {
    let name = line.word(0).ok_or_else(|| line.error("needs NAME [TYPE]"))?.to_owned();
    match line.word(1) {
        None | Some("subject") => Ok(NameRule::Subject(name)),
        Some("name") => Ok(NameRule::CommonName(name)),
        Some("name-prefix") => Ok(NameRule::CommonNamePrefix(name)),
        Some(other) => {
            Err(line.error(format_args!("type {other:?} is none of subject, name, name-prefix")))
        }
    }
}

fn ciphers(line: &Line) -> Result<Vec<Cipher>, ProfileError> {
    let list = line.word(0).unwrap_or_default();
    let mut ciphers = Vec::new();
    for name in list.split(':') {
        // "?NAME" is optional, "DEFAULT" is the usual three.
        match (Cipher::named(name.trim_start_matches('?')), name) {
            (Some(cipher), _) => ciphers.push(cipher),
            (None, "DEFAULT") => {
                ciphers.extend([Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305]);
            }
            (None, _) if name.starts_with('?') => {}
            (None, _) => return Err(line.error(unsupported_cipher(name))),
        }
    }
    Ok(ciphers)
}

fn cipher(line: &Line) -> Result<Cipher, ProfileError> {
    let name = line.word(0).unwrap_or_default();
    Cipher::named(name).ok_or_else(|| line.error(unsupported_cipher(name)))
}

fn unsupported_cipher(name: &str) -> String {
    if name.eq_ignore_ascii_case("none") {
        return "refused: it would send everything in the clear".to_owned();
    }
    format!(
        "{name:?} is not supported; AES-256-GCM, AES-128-GCM, CHACHA20-POLY1305, AES-256-CBC and AES-128-CBC are"
    )
}

pub(super) fn direction(line: &Line, word: &str) -> Result<bool, ProfileError> {
    match word {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err(line.error("a direction is 0 or 1")),
    }
}

/// The first two numbers of a version.
fn version(line: &Line) -> Result<(u32, u32), ProfileError> {
    let mut numbers = line.word(0).unwrap_or_default().split('.').map(|number| number.parse().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => Err(line.error("needs a version, as in 2.5.0")),
    }
}

pub(super) fn port(line: &Line, at: usize) -> Result<u16, ProfileError> {
    number(line, at, 1, 65_535).map(|port| port as u16)
}

pub(super) fn seconds(
    line: &Line,
    at: usize,
    min: u64,
    max: u64,
) -> Result<Duration, ProfileError> {
    number(line, at, min, max).map(Duration::from_secs)
}

/// How much silence is borne; 0 means any, which a day is close enough to.
fn silence(line: &Line, at: usize) -> Result<Duration, ProfileError> {
    match number(line, at, 0, 86_400)? {
        0 => Ok(Duration::from_secs(86_400)),
        seconds => Ok(Duration::from_secs(seconds.max(5))),
    }
}

pub(super) fn number(line: &Line, at: usize, min: u64, max: u64) -> Result<u64, ProfileError> {
    let word = line.word(at).unwrap_or_default();
    word.parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| line.error(format_args!("{word:?} is not a number from {min} to {max}")))
}
