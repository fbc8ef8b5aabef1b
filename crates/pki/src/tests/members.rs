use std::collections::HashSet;

use rcgen::{DnValue, SanType};
use rustls_pki_types::CertificateRevocationListDer;

use super::*;

const COMMON_NAME: [u64; 4] = [2, 5, 4, 3];

/// An outside root, an authority below it, and our own CA.
struct House {
    root: Authority,
    middle: Authority,
    own: Authority,
    clock: Arc<WallClock>,
    members: Arc<Members>,
}

pub(super) fn below(name: &str, root: &Authority) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from(vec![0x77]));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), root).unwrap()
}

/// Certificates by RFC 5280 of a client.
fn for_clients(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
}

fn member(by: &Authority) -> Leaf {
    leaf(by, for_clients)
}

fn alone(change: impl FnOnce(&mut CertificateParams)) -> Leaf {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "hermit");
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2035, 1, 1);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Leaf { der: certificate.der().clone(), pem: certificate.pem(), key }
}

fn lists(pems: &[String]) -> Vec<CertificateRevocationListDer<'static>> {
    pems.iter().flat_map(|pem| revocation_lists(pem.as_bytes()).unwrap()).collect()
}

impl House {
    fn new() -> Self {
        let root = authority("outside root");
        let (middle, own) = (below("outside middle", &root), authority("own"));
        let clock = clock_at(NOW);
        let members = Members::new(own.der(), Arc::clone(&clock), &provider()).unwrap();
        Self { root, middle, own, clock, members: Arc::new(members) }
    }

    fn cas(&self) -> OutsideCas {
        OutsideCas {
            certificates: vec![self.root.der().clone(), self.middle.der().clone()],
            require_client_usage: true,
            ..OutsideCas::default()
        }
    }

    fn rules(&self, cas: OutsideCas) -> Result<OutsideRules, OutsideError> {
        OutsideRules::new(cas, Arc::clone(&self.clock), &provider())
    }

    fn accept(&self, cas: OutsideCas) {
        self.members.accept(Some(Arc::new(self.rules(cas).unwrap())));
    }

    fn judge(&self, leaf: &Leaf) -> Result<String, &'static str> {
        match self.members.judge(&[leaf.der.to_vec()]) {
            Ok(Holder::Own) => Ok("own".to_owned()),
            Ok(Holder::Registered(of)) => {
                assert_eq!(of, fingerprint(&leaf.der));
                Ok("registered".to_owned())
            }
            Ok(Holder::Outside { user, .. }) => Ok(format!("outside {user}")),
            Err(error) => Err(describe(&error)),
        }
    }

    fn both_lists(&self, revoked: [Option<SerialNumber>; 2]) -> OutsideCas {
        let [of_root, of_middle] = revoked;
        let pems = [crl(&self.root, of_root, 2035), crl(&self.middle, of_middle, 2035)];
        OutsideCas { lists: Some(lists(&pems)), ..self.cas() }
    }
}

fn serial() -> SerialNumber {
    SerialNumber::from(vec![0x0a, 0xff, 0x01])
}

#[test]
fn an_outside_ca_says_who_its_certificates_are() {
    let house = House::new();
    let (anna, stranger) = (member(&house.middle), member(&authority("elsewhere")));

    assert_eq!(house.judge(&anna), Err("the peer's certificate is not from our CA"));
    house.accept(house.cas());
    assert_eq!(house.judge(&anna), Ok("outside alice".to_owned()));
    assert_eq!(house.judge(&stranger), Err("the peer's certificate is not from our CA"));
    assert_eq!(house.judge(&member(&house.own)), Ok("own".to_owned()));

    // What the file lacks, the client may send; and it is kept for judging again.
    house.accept(OutsideCas { certificates: vec![house.root.der().clone()], ..house.cas() });
    assert_eq!(house.judge(&anna), Err("the peer's certificate is not from our CA"));
    let chain = [anna.der.to_vec(), house.middle.der().to_vec()];
    let held = Holder::Outside { user: "alice".to_owned(), chain: chain.to_vec() };
    assert_eq!(house.members.judge(&chain).unwrap(), held);

    // An authority without its root is trusted for itself, and the root's others are not.
    house.accept(OutsideCas { certificates: vec![house.middle.der().clone()], ..house.cas() });
    assert_eq!(house.judge(&anna), Ok("outside alice".to_owned()));
    assert!(house.judge(&member(&house.root)).is_err());

    house.members.distrust();
    let unusable =
        "the files of outside CAs cannot be used at the moment, so none of theirs gets in";
    assert_eq!(house.judge(&anna), Err(unusable));
    assert_eq!(house.judge(&member(&house.own)), Ok("own".to_owned()));
}

#[test]
fn what_our_own_ca_signed_has_no_other_way_in() {
    let house = House::new();
    let server = server_leaf(&house.own);
    // By its fingerprint, and as an outside CA's.
    house.members.register(HashSet::from([fingerprint(&server.der)]));
    let cas = vec![house.root.der().clone(), house.own.der().clone()];
    let cas = OutsideCas { certificates: cas, require_client_usage: false, ..house.cas() };
    house.accept(cas);

    let refused = "the peer's certificate is not meant for its role (extended key usage)";
    assert_eq!(house.judge(&server), Err(refused));
    assert_eq!(house.judge(&member(&house.own)), Ok("own".to_owned()));
    // Another CA that calls itself like ours.
    assert!(house.judge(&member(&authority("own"))).is_err());
}

#[test]
fn certificates_of_outside_cas_must_be_for_clients() {
    let house = House::new();
    let loose = OutsideCas { require_client_usage: false, ..house.cas() };
    let open = leaf(&house.middle, |_| ());
    let no_key_usage = client_leaf(&house.middle);
    let for_servers = server_leaf(&house.middle);
    let signing_only = leaf(&house.middle, |params| {
        for_clients(params);
        params.key_usages = vec![KeyUsagePurpose::ContentCommitment];
    });

    house.accept(house.cas());
    for leaf in [&open, &no_key_usage, &for_servers, &signing_only] {
        assert!(house.judge(leaf).is_err());
    }
    house.accept(loose);
    for leaf in [&open, &no_key_usage] {
        assert_eq!(house.judge(leaf), Ok("outside alice".to_owned()));
    }
    for leaf in [&for_servers, &signing_only] {
        assert!(house.judge(leaf).is_err());
    }
}

#[test]
fn every_certificate_of_a_chain_must_be_unrevoked() {
    let house = House::new();
    let anna = member(&house.middle);
    let revoked = Err("the peer's certificate has been revoked");

    house.accept(house.both_lists([None, None]));
    assert_eq!(house.judge(&anna), Ok("outside alice".to_owned()));
    let Holder::Outside { chain, .. } = house.members.judge(&[anna.der.to_vec()]).unwrap() else {
        panic!("not an outside CA's");
    };
    assert!(!house.members.has_lost("alice", &chain));
    assert!(house.members.has_lost("bob", &chain));

    house.accept(house.both_lists([None, Some(serial())]));
    assert_eq!(house.judge(&anna), revoked);
    assert!(house.members.has_lost("alice", &chain));
    house.accept(house.both_lists([Some(SerialNumber::from(vec![0x77])), None]));
    assert_eq!(house.judge(&anna), revoked);
    // The root's number of the same value is another certificate's.
    house.accept(house.both_lists([Some(serial()), None]));
    assert_eq!(house.judge(&anna), Ok("outside alice".to_owned()));

    house.members.accept(None);
    assert!(house.members.has_lost("alice", &chain));
    // Files that cannot be read keep people out, but prove nothing against who is in.
    house.members.distrust();
    assert!(house.judge(&anna).is_err());
    assert!(!house.members.has_lost("alice", &chain));
}

#[test]
fn lists_that_are_old_forged_or_missing_are_errors_and_refuse() {
    let house = House::new();
    let anna = member(&house.middle);
    let good = crl(&house.root, None, 2035);
    let with = |of_middle: Vec<String>| {
        let pems = [vec![good.clone()], of_middle].concat();
        house.rules(OutsideCas { lists: Some(lists(&pems)), ..house.cas() })
    };
    let why = |of_middle| match with(of_middle) {
        Err(OutsideError::Lists(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };

    assert!(why(vec![]).contains("no revocation list of \"CN=outside middle\""));
    let expired = why(vec![crl(&house.middle, None, 2029)]);
    assert!(expired.contains("\"CN=outside middle\" expired on 2029-01-01"), "{expired}");
    let forged = crl(&authority("outside middle"), None, 2035);
    assert!(why(vec![forged]).contains("not signed by that CA"));

    // Of two, the newer counts: here the one that is valid longer, and revokes.
    let (older, newer) = (crl(&house.middle, None, 2035), newer_crl(&house.middle));
    for both in [vec![older.clone(), newer.clone()], vec![newer, older]] {
        house.members.accept(Some(Arc::new(with(both).unwrap())));
        assert_eq!(house.judge(&anna), Err("the peer's certificate has been revoked"));
    }

    // In date when they were read, and no more.
    house.accept(house.both_lists([None, None]));
    let rules = house.members.outside().unwrap();
    rules.check_dates().unwrap();
    house.clock.set(2_051_308_800);
    assert!(matches!(rules.check_dates(), Err(OutsideError::Lists(PkiError::ListExpired { .. }))));
    let long = leaf(&house.middle, |params| {
        for_clients(params);
        params.not_after = date_time_ymd(2039, 1, 1);
    });
    assert_eq!(house.judge(&long), Err("the certificate revocation list has expired"));
}

fn newer_crl(by: &Authority) -> String {
    let revoked = RevokedCertParams {
        serial_number: serial(),
        revocation_time: date_time_ymd(2027, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2027, 1, 1),
        next_update: date_time_ymd(2036, 1, 1),
        crl_number: SerialNumber::from(2),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(by).unwrap().pem().unwrap()
}

#[test]
fn a_root_that_is_too_old_signs_for_nobody() {
    let house = House::new();
    house.accept(house.cas());
    let long = leaf(&house.middle, |params| {
        for_clients(params);
        params.not_after = date_time_ymd(2050, 1, 1);
    });
    let direct = leaf(&house.root, |params| {
        for_clients(params);
        params.not_after = date_time_ymd(2050, 1, 1);
    });
    assert_eq!(house.judge(&direct), Ok("outside alice".to_owned()));

    house.clock.set(2_240_000_000);
    assert_eq!(house.judge(&direct), Err("the certificate of the peer's CA is not in date"));
    assert!(house.judge(&long).is_err());
    let Err(OutsideError::Cas(error)) = house.rules(house.cas()) else { panic!("accepted") };
    assert!(error.to_string().contains("expired on 2040-01-01"), "{error}");
}

#[test]
fn who_is_no_ca_is_not_taken_for_one() {
    let house = House::new();
    let named = |certificates| house.rules(OutsideCas { certificates, ..OutsideCas::default() });

    let Err(OutsideError::Cas(error)) =
        named(vec![house.root.der().clone(), member(&house.middle).der])
    else {
        panic!("accepted");
    };
    assert!(error.to_string().starts_with("certificate 2, of "), "{error}");
    assert!(matches!(named(Vec::new()), Err(OutsideError::Cas(PkiError::NothingTrusted))));
}

#[test]
fn a_registered_certificate_needs_no_ca() {
    let house = House::new();
    let hermit = alone(|_| ());
    let ca_like = alone(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let old = alone(|params| params.not_after = date_time_ymd(2029, 1, 1));
    let server = alone(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert!(house.judge(&hermit).is_err());

    let all = [&hermit, &ca_like, &old, &server];
    house.members.register(all.iter().map(|leaf| fingerprint(&leaf.der)).collect());

    for good in [&hermit, &ca_like] {
        assert_eq!(house.judge(good), Ok("registered".to_owned()));
    }
    assert_eq!(house.judge(&old), Err("the peer's certificate has expired"));
    assert!(house.judge(&server).is_err());
    assert!(house.judge(&alone(|_| ())).is_err());

    house.members.register(HashSet::new());
    assert!(house.judge(&hermit).is_err());
}

#[test]
fn chains_that_are_too_long_or_too_large_are_not_looked_at() {
    let house = House::new();
    house.accept(house.cas());
    let anna = member(&house.middle);
    let other = alone(|_| ()).der.to_vec();
    let with = |count: usize, der: &[u8]| {
        let mut chain = vec![anna.der.to_vec()];
        chain.extend(std::iter::repeat_n(der.to_vec(), count));
        house.members.judge(&chain).map_err(|error| describe(&error))
    };
    let refused = Err("the peer sent more or longer certificates than anybody needs");

    assert!(with(MAX_CHAIN_LEN - 1, &other).is_ok());
    assert_eq!(with(MAX_CHAIN_LEN, &other), refused);
    assert_eq!(with(1, &vec![0; MAX_CHAIN_BYTES]), refused);
    assert!(house.members.judge(&[]).is_err());
}

fn named(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let house = authority("names");
    leaf(&house, |params| {
        params.distinguished_name = DistinguishedName::new();
        change(params);
    })
    .der
    .to_vec()
}

fn read(fields: &str, der: &[u8]) -> Option<String> {
    fields.parse::<UserNameFields>().unwrap().read(der)
}

#[test]
fn the_user_name_is_what_openvpn_takes() {
    let der = named(|params| {
        let subject = &mut params.distinguished_name;
        subject.push(DnType::CommonName, "first");
        subject.push(DnType::CustomDnType(COMMON_NAME.to_vec()), "last");
        subject.push(DnType::CustomDnType(MAIL.to_vec()), "anna@example.org");
        let mails = ["one@example.org", "two@example.org"];
        params.subject_alt_names =
            mails.map(|mail| SanType::Rfc822Name(mail.try_into().unwrap())).to_vec();
        params.subject_alt_names.push(SanType::DnsName("three.example.org".try_into().unwrap()));
    });

    for (fields, name) in [
        ("CN", Some("last")),
        ("cn", Some("last")),
        ("commonName", Some("last")),
        ("2.5.4.3", Some("last")),
        ("emailAddress", Some("anna@example.org")),
        ("ext:subjectAltName", Some("two@example.org")),
        ("serialNumber", Some("0x0AFF01")),
        ("CN serialNumber", Some("last_0x0AFF01")),
        ("UID", None),
        ("CN UID", None),
        ("ext:issuerAltName", None),
    ] {
        assert_eq!(read(fields, &der).as_deref(), name, "{fields}");
    }
    assert_eq!(UserNameFields::default(), "CN".parse().unwrap());
    for wrong in ["", "shoe", "ext:keyUsage", "1..2", "CN CN CN CN CN"] {
        assert!(wrong.parse::<UserNameFields>().is_err(), "{wrong:?}");
    }
}

#[test]
fn hostile_names_are_nobodys() {
    let with = |name: &str| {
        let name = name.to_owned();
        named(|params| params.distinguished_name.push(DnType::CommonName, name))
    };

    assert_eq!(read("CN", &with(&"a".repeat(64))), Some("a".repeat(64)));
    for hostile in
        ["alice\0", "alice\0.example.org", "\0", "", "alice\n", "alice\u{85}", &"a".repeat(65)]
    {
        assert_eq!(read("CN", &with(hostile)), None, "{hostile:?}");
    }
    // The last one counts even if only the first could be used.
    let der = named(|params| {
        params.distinguished_name.push(DnType::CommonName, "alice");
        let hostile = DnValue::Utf8String("bob\0".to_owned());
        params.distinguished_name.push(DnType::CustomDnType(COMMON_NAME.to_vec()), hostile);
    });
    assert_eq!(read("CN", &der), None);
}

#[test]
fn every_truncation_and_corruption_of_certificate_and_list_is_survived() {
    let house = House::new();
    let der = member(&house.middle).der.to_vec();
    for len in 0..der.len() {
        assert_eq!(read("CN", &der[..len]), None);
        fuzz::certificate(&der[..len]);
    }
    for at in 0..der.len() {
        for value in [0, 1, 0x30, 0x7f, 0x80, 0xff] {
            let mut bytes = der.clone();
            bytes[at] = value;
            fuzz::certificate(&bytes);
        }
    }

    let root = house.root.der();
    let list = lists(&[crl(&house.root, Some(serial()), 2035)]).remove(0);
    let whole = [&(root.len() as u16).to_be_bytes(), root.as_ref(), list.as_ref()].concat();
    for len in 0..whole.len() {
        fuzz::revocation_list(&whole[..len]);
    }
    for at in 2 + root.len()..whole.len() {
        for value in [0, 1, 0x30, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            fuzz::revocation_list(&bytes);
        }
    }
}

#[test]
fn names_can_be_required_of_whatever_field_is_the_users() {
    let house = House::new();
    let anna = leaf(&house.middle, |params| {
        for_clients(params);
        let mail = DnType::CustomDnType(MAIL.to_vec());
        params.distinguished_name.push(mail, "anna@example.org");
    });
    let with = |rule| {
        let user_name = "emailAddress".parse().unwrap();
        house.accept(OutsideCas { user_name, names: Some(rule), ..house.cas() });
        house.judge(&anna)
    };
    let refused = Err("the peer's certificate carries another name than the one required");
    let subject = "C=DE, O=Burrow, CN=alice, emailAddress=anna@example.org".to_owned();

    let accepted = Ok("outside anna@example.org".to_owned());
    assert_eq!(with(NameRule::CommonNamePrefix("anna".into())), accepted);
    assert_eq!(with(NameRule::CommonName("anna@example.org".into())), accepted);
    assert_eq!(with(NameRule::Subject(subject)), accepted);
    assert_eq!(with(NameRule::CommonNamePrefix("alice".into())), refused);
    assert_eq!(with(NameRule::CommonName("alice".into())), refused);
    assert_eq!(with(NameRule::Subject("CN=alice".into())), refused);
}

#[test]
fn members_carry_a_handshake_in_both_versions_of_tls() {
    let house = House::new();
    house.accept(house.cas());
    let hermit = alone(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    house.members.register(HashSet::from([fingerprint(&hermit.der)]));
    let server = server_leaf(&house.own);

    for version in [&TLS12, &TLS13] {
        let shake = |client: &Leaf| {
            let rules = house.members.outside();
            let verifier = MemberVerifier::new(Arc::clone(&house.members), rules.as_deref());
            assert_eq!(verifier.root_hint_subjects().len(), 2);
            handshake_with(version, Arc::new(verifier), &house.own, &server, Some(client))
        };
        for good in [&member(&house.middle), &hermit, &member(&house.own)] {
            assert_eq!(shake(good), Ok(()));
        }
        let stranger = alone(|_| ());
        assert_eq!(shake(&stranger), Err("the peer's certificate is not from our CA"));
    }
}
