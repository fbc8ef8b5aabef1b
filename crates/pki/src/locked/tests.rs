use p12_keystore::{
    Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, PrivateKey,
    PrivateKeyChain,
};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::CertificateDer;

use super::*;
use crate::{certificates, private_key};

/// Ed25519, by `openssl genpkey -algorithm ed25519 -aes256`; the passphrase is "burrow".
const LOCKED: &str = include_str!("locked.pem");
/// The same key without.
const OPEN: &str = include_str!("open.pem");

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

struct World {
    root: CertificateDer<'static>,
    middle: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: KeyPair,
}

fn world() -> World {
    let ca = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
    };
    let root = CertifiedIssuer::self_signed(ca("root"), KeyPair::generate().unwrap()).unwrap();
    let middle =
        CertifiedIssuer::signed_by(ca("middle"), KeyPair::generate().unwrap(), &root).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "alice");
    let leaf = params.signed_by(&key, &middle).unwrap();
    World { root: root.der().clone(), middle: middle.der().clone(), leaf: leaf.der().clone(), key }
}

fn bundle(world: &World, password: &str, old: bool) -> Vec<u8> {
    let read = |der: &CertificateDer<'_>| Certificate::from_der(der).unwrap();
    let key = PrivateKey::from_der(&world.key.serialize_der()).unwrap();
    let chain = [&world.leaf, &world.middle, &world.root].map(read);
    let mut store = KeyStore::new();
    store.add_entry("a", KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new("id", key, chain)));
    let writer = store.writer(password).encryption_iterations(10).mac_iterations(10);
    let writer = if old {
        writer
            .encryption_algorithm(EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc)
            .mac_algorithm(MacAlgorithm::HmacSha1)
    } else {
        writer
    };
    writer.write().unwrap()
}

#[test]
fn a_key_opens_with_its_passphrase_only() {
    assert!(is_locked(LOCKED.as_bytes()) && !is_locked(OPEN.as_bytes()));

    let opened = open_key(LOCKED.as_bytes(), &secret("burrow")).unwrap();

    let (opened, open) =
        (private_key(opened.expose()).unwrap(), private_key(OPEN.as_bytes()).unwrap());
    assert_eq!(opened.secret_der(), open.secret_der());
    let wrong = open_key(LOCKED.as_bytes(), &secret("burro")).unwrap_err();
    assert_eq!(wrong, PkiError::WrongPassphrase);
}

#[test]
fn a_key_that_is_cut_off_is_an_error_and_a_damaged_one_is_survived() {
    let passphrase = secret("burrow");
    for len in 0..LOCKED.len() - END.len() {
        assert!(open_key(&LOCKED.as_bytes()[..len], &passphrase).is_err(), "{len}");
    }
    for at in 0..LOCKED.len() {
        let mut damaged = LOCKED.as_bytes().to_vec();
        damaged[at] ^= 1;
        // Nothing in the format notices every damage; that the key fits its certificate is
        // checked wherever it is used.
        let _ = open_key(&damaged, &passphrase).map(|key| private_key(key.expose()).is_ok());
    }
}

#[test]
fn work_without_end_is_refused() {
    let der = |iterations: u32| {
        let kdf = pkcs8::pkcs5::pbes2::Pbkdf2Params::hmac_sha256(iterations, &[7; 16]).unwrap();
        let encryption = pkcs8::pkcs5::pbes2::EncryptionScheme::Aes256Cbc { iv: [0; 16] };
        EncryptionScheme::Pbes2(pkcs8::pkcs5::pbes2::Parameters { kdf: kdf.into(), encryption })
    };
    assert!(is_bearable(&der(MAX_ITERATIONS)) && !is_bearable(&der(MAX_ITERATIONS + 1)));
}

#[test]
fn a_bundle_holds_a_key_its_certificate_and_those_above() {
    let world = world();
    for (password, old) in [("burrow", false), ("burrow", true), ("", false)] {
        let bundle = open_bundle(&bundle(&world, password, old), &secret(password)).unwrap();

        let only = |pem: &[u8], der: &CertificateDer<'_>| {
            assert_eq!(certificates(pem).unwrap(), std::slice::from_ref(der));
        };
        only(&bundle.certificate, &world.leaf);
        only(&bundle.intermediates, &world.middle);
        only(&bundle.authorities, &world.root);
        let key = private_key(bundle.key.expose()).unwrap();
        assert_eq!(key.secret_der(), world.key.serialize_der());
    }
}

#[test]
fn a_bundle_opens_with_its_passphrase_only() {
    let der = bundle(&world(), "burrow", false);
    for wrong in ["", "burro", "burrow "] {
        assert_eq!(open_bundle(&der, &secret(wrong)).unwrap_err(), PkiError::WrongPassphrase);
    }
    assert_eq!(open_bundle(b"burrow", &secret("")).unwrap_err(), PkiError::BadBundle);
}

#[test]
fn a_bundle_with_another_ones_key_is_refused() {
    let mine = World { key: KeyPair::generate().unwrap(), ..world() };
    let der = bundle(&mine, "burrow", false);
    assert_eq!(open_bundle(&der, &secret("burrow")).unwrap_err(), PkiError::NoKeyInBundle);
}

#[test]
fn a_damaged_bundle_is_an_error_or_nothing_else_than_it_was() {
    let world = world();
    let der = bundle(&world, "burrow", false);
    let passphrase = secret("burrow");
    for len in 0..der.len() {
        assert!(open_bundle(&der[..len], &passphrase).is_err(), "{len}");
    }
    for at in (0..der.len()).step_by(3) {
        let mut damaged = der.clone();
        damaged[at] ^= 1;
        if let Ok(opened) = open_bundle(&damaged, &passphrase) {
            let key = private_key(opened.key.expose()).unwrap();
            assert_eq!(key.secret_der(), world.key.serialize_der(), "{at}");
        }
    }
}
