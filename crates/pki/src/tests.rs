use std::sync::Arc;

use contract::WallClock;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::*;

mod members;

/// 2030-01-01, inside the validity of everything below unless a test says otherwise.
const NOW: u64 = 1_893_456_000;

/// emailAddress.
const MAIL: [u64; 7] = [1, 2, 840, 113_549, 1, 9, 1];

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

struct Leaf {
    der: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Leaf {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

fn leaf(by: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "DE");
    params.distinguished_name.push(DnType::OrganizationName, "Burrow");
    params.distinguished_name.push(DnType::CommonName, "alice");
    params.serial_number = Some(SerialNumber::from(vec![0x0a, 0xff, 0x01]));
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2035, 1, 1);
    params.use_authority_key_identifier_extension = true;
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    Leaf { der: certificate.der().clone(), pem: certificate.pem(), key }
}

fn client_leaf(by: &Authority) -> Leaf {
    leaf(by, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])
}

fn server_leaf(by: &Authority) -> Leaf {
    leaf(by, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])
}

fn clock_at(seconds: u64) -> Arc<WallClock> {
    Arc::new(WallClock::new(seconds))
}

fn provider() -> CryptoProvider {
    default_provider()
}

fn judge_client(root: &Authority, leaf: &Leaf, now: u64) -> Result<(), &'static str> {
    let verifier = ClientChainVerifier::new(
        &[root.der().clone()],
        ClientCertificate::Required,
        clock_at(now),
        &provider(),
    )
    .unwrap();
    // The time that rustls passes in is not the shell's and must not count.
    verifier
        .verify_client_cert(&leaf.der, &[], UnixTime::since_unix_epoch(std::time::Duration::ZERO))
        .map(|_| ())
        .map_err(|e| describe(&e))
}

fn judge_server(roots: &[&Authority], rules: ServerRules, leaf: &Leaf) -> Result<(), &'static str> {
    let roots: Vec<_> = roots.iter().map(|root| root.der().clone()).collect();
    let verifier = ServerChainVerifier::new(&roots, rules, clock_at(NOW), &provider()).unwrap();
    let name = ServerName::try_from("unused.invalid").unwrap();
    verifier
        .verify_server_cert(&leaf.der, &[], &name, &[], UnixTime::now())
        .map(|_| ())
        .map_err(|e| describe(&e))
}

#[test]
fn a_clients_chain_is_accepted_in_its_time_only() {
    let root = authority("root");
    let alice = client_leaf(&root);

    assert_eq!(judge_client(&root, &alice, NOW), Ok(()));
    assert_eq!(
        judge_client(&root, &alice, NOW - 10 * 366 * 86_400),
        Err("the peer's certificate is not valid yet; is a clock wrong?")
    );
    assert_eq!(
        judge_client(&root, &alice, NOW + 6 * 366 * 86_400),
        Err("the peer's certificate has expired")
    );
}

#[test]
fn a_client_of_another_ca_is_refused() {
    let root = authority("root");

    for name in ["other", "root"] {
        let stranger = client_leaf(&authority(name));
        assert_eq!(
            judge_client(&root, &stranger, NOW),
            Err("the peer's certificate is not from our CA")
        );
    }
}

#[test]
fn a_client_needs_a_certificate_for_clients() {
    let root = authority("root");
    let refused = Err("the peer's certificate is not meant for its role (extended key usage)");

    assert_eq!(judge_client(&root, &server_leaf(&root), NOW), refused);
    assert_eq!(judge_client(&root, &leaf(&root, |_| {}), NOW), refused);
}

#[test]
fn a_corrupted_certificate_is_refused_and_never_panics() {
    let root = authority("root");
    let mut alice = client_leaf(&root);
    let good = alice.der.to_vec();

    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        alice.der = bytes.into();
        assert!(judge_client(&root, &alice, NOW).is_err(), "accepted with byte {at} changed");
    }
    for len in 0..good.len() {
        assert!(CertificateFacts::read(&good[..len]).is_err(), "read {len} bytes");
    }
}

#[test]
fn a_client_verifier_without_roots_is_not_made() {
    let made =
        ClientChainVerifier::new(&[], ClientCertificate::Optional, clock_at(NOW), &provider());

    assert_eq!(made.unwrap_err(), PkiError::NothingTrusted);
}

#[test]
fn a_server_must_say_it_is_one_where_the_profile_asks() {
    let root = authority("root");
    let strict = || ServerRules { require_eku_server: true, ..ServerRules::default() };
    let wrong = Err("the peer's certificate is not meant for its role (extended key usage)");

    assert_eq!(judge_server(&[&root], strict(), &server_leaf(&root)), Ok(()));
    assert_eq!(judge_server(&[&root], strict(), &leaf(&root, |_| {})), wrong);
    assert_eq!(judge_server(&[&root], ServerRules::default(), &leaf(&root, |_| {})), Ok(()));
    assert_eq!(judge_server(&[&root], ServerRules::default(), &client_leaf(&root)), wrong);
}

#[test]
fn a_server_must_carry_the_required_name() {
    let root = authority("root");
    let server = server_leaf(&root);
    let named = |rule| {
        judge_server(&[&root], ServerRules { name: Some(rule), ..ServerRules::default() }, &server)
    };
    let wrong = Err("the peer's certificate carries another name than the one required");

    assert_eq!(named(NameRule::Subject("C=DE, O=Burrow, CN=alice".to_owned())), Ok(()));
    assert_eq!(named(NameRule::Subject("CN=alice".to_owned())), wrong);
    assert_eq!(named(NameRule::CommonName("alice".to_owned())), Ok(()));
    assert_eq!(named(NameRule::CommonName("ali".to_owned())), wrong);
    assert_eq!(named(NameRule::CommonNamePrefix("ali".to_owned())), Ok(()));
    assert_eq!(named(NameRule::CommonNamePrefix("bob".to_owned())), wrong);
}

#[test]
fn a_server_may_be_known_by_another_field_than_the_common_name() {
    let root = authority("root");
    let leaf = leaf(&root, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mail = DnType::CustomDnType(MAIL.to_vec());
        params.distinguished_name.push(mail, "vpn@example.org");
    });
    let named = |fields: &str, name: Option<NameRule>| {
        let name_fields = Some(fields.parse().unwrap());
        judge_server(&[&root], ServerRules { name, name_fields, ..ServerRules::default() }, &leaf)
    };
    let is = |name: &str| Some(NameRule::CommonName(name.to_owned()));
    let begins = |name: &str| Some(NameRule::CommonNamePrefix(name.to_owned()));
    let wrong = Err("the peer's certificate carries another name than the one required");
    let missing =
        Err("the peer's certificate has no usable user name in the field that must hold it");
    let subject = "C=DE, O=Burrow, CN=alice, emailAddress=vpn@example.org".to_owned();

    assert_eq!(named("emailAddress", is("vpn@example.org")), Ok(()));
    assert_eq!(named("emailAddress", begins("vpn@")), Ok(()));
    assert_eq!(named("CN emailAddress", is("alice_vpn@example.org")), Ok(()));
    assert_eq!(named("emailAddress", Some(NameRule::Subject(subject))), Ok(()));
    assert_eq!(named("emailAddress", None), Ok(()));
    assert_eq!(named("emailAddress", is("alice")), wrong);
    assert_eq!(named("emailAddress", begins("ali")), wrong);
    assert_eq!(named("UID", is("alice")), missing);
    assert_eq!(named("UID", None), missing);
}

#[test]
fn a_fingerprint_counts_beside_the_chain_and_can_replace_it() {
    let root = authority("root");
    let server = server_leaf(&root);
    let of = |fingerprints| ServerRules { fingerprints, ..ServerRules::default() };
    let right = fingerprint(&server.der);
    let wrong = Err("the peer's certificate is none of those whose fingerprints are given");

    assert_eq!(judge_server(&[&root], of(vec![[0; 32], right]), &server), Ok(()));
    assert_eq!(judge_server(&[&root], of(vec![[0; 32]]), &server), wrong);
    assert_eq!(judge_server(&[], of(vec![right]), &server), Ok(()));
    assert_eq!(judge_server(&[], of(vec![[0; 32]]), &server), wrong);
    assert!(judge_server(&[&authority("other")], of(vec![right]), &server).is_err());

    let expired = leaf(&root, |params| params.not_after = date_time_ymd(2026, 1, 1));
    assert_eq!(
        judge_server(&[], of(vec![fingerprint(&expired.der)]), &expired),
        Err("the peer's certificate has expired")
    );
}

#[test]
fn a_server_may_show_the_authority_itself_unless_more_is_asked_of_it() {
    let root = authority("root");
    let key = KeyPair::generate().unwrap();
    let itself = Leaf { der: root.der().clone(), pem: root.pem(), key };
    let strict = ServerRules { require_eku_server: true, ..ServerRules::default() };
    let other = authority("other");

    assert_eq!(judge_server(&[&root], ServerRules::default(), &itself), Ok(()));
    assert!(judge_server(&[&other], ServerRules::default(), &itself).is_err());
    assert_eq!(judge_server(&[&root], strict, &itself), Err("the peer's certificate is a CA's"));
}

fn crl(by: &Authority, revoked: Option<SerialNumber>, until: i32) -> String {
    let revoked_certs = revoked
        .map(|serial_number| RevokedCertParams {
            serial_number,
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        })
        .into_iter()
        .collect();
    CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(until, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(by)
    .unwrap()
    .pem()
    .unwrap()
}

#[test]
fn a_server_is_refused_if_its_ca_has_revoked_it() {
    let root = authority("root");
    let server = server_leaf(&root);
    let with = |pem: String| {
        let crls = revocation_lists(pem.as_bytes()).unwrap();
        judge_server(&[&root], ServerRules { crls, ..ServerRules::default() }, &server)
    };
    let serial = SerialNumber::from(vec![0x0a, 0xff, 0x01]);

    assert_eq!(with(crl(&root, None, 2035)), Ok(()));
    assert_eq!(
        with(crl(&root, Some(serial), 2035)),
        Err("the peer's certificate has been revoked")
    );
    assert_eq!(with(crl(&root, None, 2027)), Err("the certificate revocation list has expired"));
    assert_eq!(
        with(crl(&authority("other"), None, 2035)),
        Err("no revocation list covers the peer's certificate")
    );
}

#[test]
fn a_revocation_list_without_a_ca_is_an_error_not_a_formality() {
    let root = authority("root");
    let rules = ServerRules {
        fingerprints: vec![[1; 32]],
        crls: revocation_lists(crl(&root, None, 2035).as_bytes()).unwrap(),
        ..ServerRules::default()
    };

    let made = ServerChainVerifier::new(&[], rules, clock_at(NOW), &provider());

    assert_eq!(made.unwrap_err(), PkiError::RevocationWithoutCa);
}

/// Runs a handshake in memory; returns the first failure in words.
fn handshake(
    version: &'static SupportedProtocolVersion,
    root: &Authority,
    server: &Leaf,
    client: Option<&Leaf>,
    presence: ClientCertificate,
) -> Result<(), &'static str> {
    let roots = [root.der().clone()];
    let clients = ClientChainVerifier::new(&roots, presence, clock_at(NOW), &provider()).unwrap();
    handshake_with(version, Arc::new(clients), root, server, client)
}

/// The same with any verifier of clients.
fn handshake_with(
    version: &'static SupportedProtocolVersion,
    clients: Arc<dyn ClientCertVerifier>,
    root: &Authority,
    server: &Leaf,
    client: Option<&Leaf>,
) -> Result<(), &'static str> {
    let provider = Arc::new(provider());
    let roots = [root.der().clone()];
    let servers =
        ServerChainVerifier::new(&roots, ServerRules::default(), clock_at(NOW), &provider).unwrap();
    let time = Arc::new(FixedTime::new(clock_at(NOW)));
    let server_config =
        ServerConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&time) as _)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![server.der.clone()], server.key())
            .unwrap();
    let client_config = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers));
    let client_config = match client {
        Some(leaf) => {
            client_config.with_client_auth_cert(vec![leaf.der.clone()], leaf.key()).unwrap()
        }
        None => client_config.with_no_client_auth(),
    };
    let name = ServerName::try_from("unused.invalid").unwrap();
    let mut near = ClientConnection::new(Arc::new(client_config), name).unwrap();
    let mut far = ServerConnection::new(Arc::new(server_config)).unwrap();

    while near.wants_write() || far.wants_write() {
        let mut wire = Vec::new();
        near.write_tls(&mut wire).unwrap();
        far.read_tls(&mut wire.as_slice()).unwrap();
        far.process_new_packets().map_err(|e| describe(&e))?;
        wire.clear();
        far.write_tls(&mut wire).unwrap();
        near.read_tls(&mut wire.as_slice()).unwrap();
        near.process_new_packets().map_err(|e| describe(&e))?;
    }
    assert!(!near.is_handshaking() && !far.is_handshaking());
    Ok(())
}

#[test]
fn both_verifiers_carry_a_handshake_in_both_versions_of_tls() {
    let root = authority("root");
    let (server, client) = (server_leaf(&root), client_leaf(&root));

    for version in [&TLS12, &TLS13] {
        let required = ClientCertificate::Required;
        let optional = ClientCertificate::Optional;
        assert_eq!(handshake(version, &root, &server, Some(&client), required), Ok(()));
        assert_eq!(handshake(version, &root, &server, None, optional), Ok(()));
        assert_eq!(
            handshake(version, &root, &server, None, required),
            Err("the peer presented no certificate")
        );
        let stranger = client_leaf(&authority("root"));
        assert_eq!(
            handshake(version, &root, &server, Some(&stranger), optional),
            Err("the peer's certificate is not from our CA")
        );
    }
}

#[test]
fn facts_are_what_openssl_prints() {
    let root = authority("root");
    let alice = leaf(&root, |params| {
        params.distinguished_name.push(DnType::OrganizationalUnitName, "two\nlines");
        params
            .distinguished_name
            .push(DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]), "a@b");
        params.distinguished_name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "odd");
    });

    let facts = CertificateFacts::read(&alice.der).unwrap();

    assert_eq!(
        facts.subject,
        "C=DE, O=Burrow, CN=alice, OU=two\\0Alines, emailAddress=a@b, 1.2.3.4=odd"
    );
    assert_eq!(facts.common_name.as_deref(), Some("alice"));
    assert_eq!(facts.serial, "0aff01");
    assert_eq!(facts.not_before, 1_735_689_600);
    assert_eq!(facts.not_after, 2_051_222_400);
    assert_eq!(facts.check_dates(NOW), Ok(()));
    assert_eq!(
        facts.check_dates(2_051_222_401).unwrap_err().to_string(),
        format!("the certificate of {:?} expired on 2035-01-01; get a new one", facts.subject)
    );
    assert!(matches!(
        facts.check_dates(0),
        Err(PkiError::NotYetValid { date, .. }) if date == "2025-01-01"
    ));
}

#[test]
fn every_truncation_of_a_pem_certificate_is_an_error() {
    let alice = client_leaf(&authority("root"));
    let whole = alice.pem.trim_end();

    assert_eq!(certificates(whole.as_bytes()).unwrap(), vec![alice.der.clone()]);
    for len in 0..whole.len() {
        assert!(certificates(&whole.as_bytes()[..len]).is_err(), "accepted {len} bytes");
    }
    assert_eq!(
        certificates(&whole.as_bytes()[..200]).unwrap_err().to_string(),
        "cut off: the line -----END CERTIFICATE----- is missing; copy the whole file again"
    );
    let second_cut = format!("{whole}\n{}", whole.replacen("MII", "AAA", 1));
    assert_eq!(certificates(second_cut.as_bytes()), Err(PkiError::BadCertificate(2)));
}

#[test]
fn keys_are_refused_with_the_reason() {
    let root = authority("root");
    let (alice, bob) = (client_leaf(&root), client_leaf(&root));
    let pem = alice.key.serialize_pem();
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----";

    assert!(private_key(pem.as_bytes()).is_ok());
    assert_eq!(private_key(alice.pem.as_bytes()), Err(PkiError::NoPrivateKey));
    assert_eq!(private_key(encrypted.as_bytes()), Err(PkiError::EncryptedKey));
    assert!(matches!(private_key(&pem.as_bytes()[..60]), Err(PkiError::Truncated(_))));

    let joined = |key| certified_key(vec![alice.der.clone()], key, &provider()).map(|_| ());
    assert_eq!(joined(alice.key()), Ok(()));
    assert_eq!(joined(bob.key()), Err(PkiError::KeyMismatch));
    assert_eq!(joined(PrivateKeyDer::Pkcs8(vec![0x30, 0].into())), Err(PkiError::BadPrivateKey));
}

#[test]
fn a_server_may_have_to_be_signed_by_one_certificate() {
    let (root, other) = (authority("root"), authority("other"));
    let server = server_leaf(&root);
    let rules = |issuer: &[u8]| ServerRules {
        issuers: vec![fingerprint(issuer)],
        ..ServerRules::default()
    };
    let both = [&root, &other];

    assert_eq!(judge_server(&both, rules(root.der()), &server), Ok(()));
    assert_eq!(
        judge_server(&both, rules(other.der()), &server),
        Err("the peer's certificate is not signed by the one whose fingerprint is given")
    );
    assert!(judge_server(&both, rules(&server.der), &server).is_err());
}

#[test]
fn a_servers_key_may_have_to_be_for_something() {
    let root = authority("root");
    let usages = |list: &[KeyUsagePurpose]| leaf(&root, |params| params.key_usages = list.to_vec());
    let silent = usages(&[]);
    let both = usages(&[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement]);
    let judge = |wanted: &[u8], leaf: &Leaf| {
        let key_usages = Some(wanted.to_vec());
        judge_server(&[&root], ServerRules { key_usages, ..ServerRules::default() }, leaf).is_ok()
    };

    assert!(judge(&[], &both) && !judge(&[], &silent));
    assert!(judge(&[0xa0, 0x88], &both) && judge(&[0x08], &both));
    assert!(!judge(&[0xa0], &both) && !judge(&[0x88], &silent));
}

#[test]
fn serial_numbers_can_be_revoked_by_a_list() {
    let root = authority("root");
    let server = server_leaf(&root);
    let judge = |serial: &str| {
        let revoked_serials = vec![serial_from_decimal(serial).unwrap()];
        judge_server(&[&root], ServerRules { revoked_serials, ..ServerRules::default() }, &server)
    };

    assert_eq!(judge("720640"), Ok(()));
    assert_eq!(judge("720641"), Err("the peer's certificate has been revoked"));
}

#[test]
fn serial_numbers_are_read_in_decimal() {
    let longest = u128::MAX.to_string();
    assert_eq!(serial_from_decimal("0").as_deref(), Some("00"));
    assert_eq!(serial_from_decimal("720641").as_deref(), Some("0aff01"));
    assert_eq!(serial_from_decimal(&longest), Some("ff".repeat(16)));
    assert_eq!(serial_from_decimal(&format!("{longest}{longest}")), None);
    for bad in ["", "-1", "12a", " 1", "0x1"] {
        assert_eq!(serial_from_decimal(bad), None, "{bad}");
    }
}

#[test]
fn a_server_may_have_an_authority_between_it_and_its_root() {
    let root = authority("root");
    let middle = members::below("middle", &root);
    let judge = |leaf: &Leaf| {
        let rules = ServerRules { require_eku_server: true, ..ServerRules::default() };
        let roots = [root.der().clone()];
        let verifier = ServerChainVerifier::new(&roots, rules, clock_at(NOW), &provider()).unwrap();
        let name = ServerName::try_from("unused.invalid").unwrap();
        let between = [middle.der().clone()];
        let verdict = verifier.verify_server_cert(&leaf.der, &between, &name, &[], UnixTime::now());
        verdict.map(|_| ()).map_err(|e| describe(&e))
    };

    assert_eq!(judge(&server_leaf(&middle)), Ok(()));
    assert!(judge(&leaf(&middle, |_| ())).is_err());
    assert!(judge(&client_leaf(&middle)).is_err());
}
