//! From configuration to protocol: the OpenVPN door, and profiles for the way out.

use std::num::NonZeroU32;
use std::sync::Arc;

use backends::Identity;
use config::{
    AuthMode, Cipher, Compression, ControlWrap, CookiePolicy, Digest, OpenVpn, TlsVersion,
};
use contract::WallClock;
use crypto::digest::Hash;
use openvpn::{
    ClientKeyRules, InitiatorConfig, Profile, Protection, ResponderConfig, ShapeRules, SizeLimit,
    StaticKey, TokenPolicy,
};
use pki::{MemberVerifier, Members, OutsideRules, PkiError, ServerChainVerifier, ServerRules};
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use token::TokenKey;

use crate::clock;

/// Everything the OpenVPN door needs that is not in its own table.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) identity: &'a Identity,
    /// The server's key in a token, with its certificate, in the place of the identity's.
    pub(crate) token: Option<&'a Arc<CertifiedKey>>,
    pub(crate) clock: Arc<WallClock>,
    pub(crate) members: Arc<Members>,
    /// CAs whose names clients are told besides our own.
    pub(crate) outside: Option<&'a OutsideRules>,
    pub(crate) network: String,
    pub(crate) mtu: u16,
}

/// The responders' configuration.
pub(crate) fn responder(
    door: &OpenVpn,
    around: &Surroundings<'_>,
) -> Result<ResponderConfig, PkiError> {
    let auth = match door.auth {
        AuthMode::Certificate => openvpn::AuthMode::Certificate,
        AuthMode::Password => openvpn::AuthMode::Password,
        AuthMode::Both => openvpn::AuthMode::Both,
    };
    let key = static_key(around.identity);
    let protection = match door.control {
        ControlWrap::TlsCryptV2 | ControlWrap::TlsCrypt => Protection::TlsCrypt { key },
        ControlWrap::TlsAuth => {
            Protection::TlsAuth { key, hash: hash(door.digest), directed: true }
        }
    };
    let tokens = door.tokens.map(|tokens| {
        let key = around.identity.token_key.expose();
        let key = std::array::from_fn(|n| key.get(n).copied().unwrap_or_default());
        TokenPolicy::new(&key, tokens.lifetime, tokens.renewal, Arc::clone(&around.clock))
    });
    Ok(ResponderConfig {
        tls: Arc::new(server_tls(door, auth.wants_certificate(), around)?),
        key_is_slow: around.token.is_some(),
        protection: Arc::new(protection),
        takes_shared_key: door.shared_key,
        client_keys: Some(Arc::new(ClientKeyRules {
            server_key: around.identity.client_keys.clone(),
            max_age: door.client_key_max_age,
            cookie_required: door.tls_crypt_v2_cookie == CookiePolicy::Required,
            clock: Arc::clone(&around.clock),
        })),
        auth,
        tokens,
        ciphers: door.ciphers.iter().map(|name| cipher(*name)).collect(),
        digest: hash(door.digest),
        network: around.network.clone(),
        mtu: around.mtu,
        tap: door.tap,
        decompresses: door.compression == Compression::Decompress,
        shape: ShapeRules {
            framing: None,
            fragment: door.fragment.map(SizeLimit::Payload),
            mssfix: door.mssfix.map(SizeLimit::Payload),
            mtu: around.mtu,
        },
        ping: door.ping,
        ping_restart: door.ping_restart,
        push: door.push.clone(),
        renegotiate: door.renegotiate,
        handshake: door.handshake_timeout,
        max_sessions: door.max_sessions,
        replies_per_second: NonZeroU32::new(door.handshakes_per_second).map_or(1, NonZeroU32::get),
        started_at: clock::now() as u32,
    })
}

fn server_tls(
    door: &OpenVpn,
    wants_certificate: bool,
    around: &Surroundings<'_>,
) -> Result<ServerConfig, PkiError> {
    let provider = crypto::tls::provider();
    let versions: &[&SupportedProtocolVersion] =
        if door.tls_min == TlsVersion::Tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|_| PkiError::NothingTrusted)?;
    let builder = if wants_certificate {
        let members = Arc::clone(&around.members);
        builder.with_client_cert_verifier(Arc::new(MemberVerifier::new(members, around.outside)))
    } else {
        builder.with_no_client_auth()
    };
    let identity = around.identity;
    let mut tls = match around.token {
        Some(key) => builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key)))),
        None => builder
            .with_single_cert(identity.server_chain.clone(), identity.server_key.clone_key())
            .map_err(|_| PkiError::KeyMismatch)?,
    };
    // Sessions are not resumed: each generation of keys proves the certificate again.
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.time_provider = Arc::new(pki::FixedTime::new(Arc::clone(&around.clock)));
    Ok(tls)
}

fn static_key(identity: &Identity) -> StaticKey {
    let bytes = identity.static_key.expose();
    StaticKey::from_bytes(std::array::from_fn(|n| bytes.get(n).copied().unwrap_or_default()))
}

fn cipher(name: Cipher) -> openvpn::Cipher {
    match name {
        Cipher::Aes256Gcm => openvpn::Cipher::Aes256Gcm,
        Cipher::Aes128Gcm => openvpn::Cipher::Aes128Gcm,
        Cipher::Chacha20Poly1305 => openvpn::Cipher::ChaCha20Poly1305,
        Cipher::Aes256Cbc => openvpn::Cipher::Aes256Cbc,
        Cipher::Aes128Cbc => openvpn::Cipher::Aes128Cbc,
    }
}

fn hash(digest: Digest) -> Hash {
    match digest {
        Digest::Sha1 => Hash::Sha1,
        Digest::Sha256 => Hash::Sha256,
        Digest::Sha512 => Hash::Sha512,
    }
}

/// A profile that can be connected with: certificates read and checked.
pub(crate) fn initiator(
    profile: &Profile,
    token: Option<&TokenKey>,
    device: String,
    clock: &Arc<WallClock>,
) -> Result<InitiatorConfig, String> {
    if profile.is_locked() {
        return Err("key: a passphrase is needed; add askpass FILE".to_owned());
    }
    let provider = crypto::tls::provider();
    let versions: &[&SupportedProtocolVersion] = match (profile.only_tls12, profile.only_tls13) {
        (true, _) => &[&TLS12],
        (_, true) => &[&TLS13],
        _ => &[&TLS13, &TLS12],
    };
    let (roots, rules) = trust(profile)?;
    let verifier = ServerChainVerifier::new(&roots, rules, Arc::clone(clock), &provider)
        .map_err(|error| error.to_string())?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut tls = match own_key(profile, token, clock)? {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    tls.enable_sni = false;
    tls.resumption = rustls::client::Resumption::disabled();
    tls.time_provider = Arc::new(pki::FixedTime::new(Arc::clone(clock)));
    Ok(InitiatorConfig::new(profile, tls, device, clock::now() as u32))
}

/// Whom a profile trusts.
pub(crate) fn trust(
    profile: &Profile,
) -> Result<(Vec<CertificateDer<'static>>, ServerRules), String> {
    let roots = if profile.ca.is_empty() {
        Vec::new()
    } else {
        pki::certificates(&profile.ca).map_err(|error| format!("ca: {error}"))?
    };
    let crls = match &profile.revoked {
        Some(pem) => pki::revocation_lists(pem).map_err(|error| format!("crl-verify: {error}"))?,
        None => Vec::new(),
    };
    let rules = ServerRules {
        require_eku_server: profile.requires_server_usage,
        name: profile.name.clone(),
        name_fields: profile.name_fields.clone(),
        fingerprints: profile.fingerprints.clone(),
        crls,
        revoked_serials: profile.revoked_serials.clone(),
        issuers: profile.issuers.clone(),
        key_usages: profile.key_usages.clone(),
    };
    Ok((roots, rules))
}

/// What a profile proves itself with: in date, and the key fits.
pub(crate) fn own_key(
    profile: &Profile,
    token: Option<&TokenKey>,
    clock: &Arc<WallClock>,
) -> Result<Option<CertifiedKey>, String> {
    let in_date = |chain: &[CertificateDer<'_>]| match chain.first() {
        Some(leaf) => {
            pki::CertificateFacts::read(leaf).and_then(|facts| facts.check_dates(clock.now()))
        }
        None => Ok(()),
    };
    if let (Some(token), Some(said)) = (token, &profile.token) {
        let place = |error: &dyn std::fmt::Display| format!("token {:?}: {error}", token.token());
        let missing = "no certificate has the id of the key; write it to the token";
        let mut chain = vec![token.certificate().ok_or_else(|| place(&missing))?];
        in_date(&chain).map_err(|error| place(&error))?;
        if !said.extra.is_empty() {
            let extra = pki::certificates(&said.extra);
            chain.extend(extra.map_err(|error| format!("extra-certs: {error}"))?);
        }
        return token.certified(chain).map(Some).map_err(|error| place(&error));
    }
    let (Some(certificate), Some(key)) = (&profile.certificate, &profile.key) else {
        return Ok(None);
    };
    let chain = pki::certificates(certificate).map_err(|error| format!("cert: {error}"))?;
    in_date(&chain).map_err(|error| format!("cert: {error}"))?;
    let key = pki::private_key(key.expose()).map_err(|error| format!("key: {error}"))?;
    pki::certified_key(chain, key, &crypto::tls::provider())
        .map(Some)
        .map_err(|error| format!("key: {error}"))
}
