use base64::Engine as _;

use super::*;

/// By `openssl pkcs12 -export`: alice's key and certificate, and the CA; the passphrase is
/// "burrow".
const BUNDLE: &[u8] = include_bytes!("bundle.p12");
/// The same without the CA, and with an empty passphrase.
const OPEN: &[u8] = include_bytes!("open.p12");
/// alice's key by `openssl pkcs8 -topk8`; the passphrase is "burrow".
const KEY: &str = include_str!("locked.pem");

fn parse(extra: &str) -> Result<Profile, String> {
    let profile =
        format!("client\ndev tun\nremote vpn.example.org\nremote-cert-tls server\n{extra}");
    Profile::parse(&profile, &mut |name| match name {
        "bundle.p12" => Ok(BUNDLE.to_vec()),
        "open.p12" => Ok(OPEN.to_vec()),
        "key.pem" => Ok(KEY.as_bytes().to_vec()),
        "right.txt" => Ok(b"burrow\r\nmore\n".to_vec()),
        "wrong.txt" => Ok(b"warren\n".to_vec()),
        _ => Err("no such file".to_owned()),
    })
    .map_err(|error| error.to_string())
}

fn subjects(pem: &[u8]) -> Vec<String> {
    let all = pki::certificates(pem).unwrap();
    all.iter().map(|der| pki::CertificateFacts::read(der).unwrap().subject).collect()
}

fn assert_usable(profile: &Profile) {
    assert!(!profile.is_locked());
    assert_eq!(subjects(profile.certificate.as_deref().unwrap()), ["CN=alice"]);
    pki::private_key(profile.key.as_ref().unwrap().expose()).unwrap();
}

#[test]
fn a_bundle_gives_certificate_key_and_authority() {
    let inline = format!("<pkcs12>\n{}\n</pkcs12>", STANDARD.encode(BUNDLE));
    for form in ["pkcs12 bundle.p12", &inline] {
        let profile = parse(&format!("{form}\naskpass right.txt")).unwrap();

        assert_usable(&profile);
        assert_eq!(subjects(&profile.ca), ["CN=Burrow CA"]);
    }
}

#[test]
fn a_profiles_own_authority_comes_before_that_of_the_bundle() {
    let profile = parse("pkcs12 bundle.p12\naskpass right.txt\n<ca>\nx\n</ca>").unwrap();
    assert_eq!(profile.ca, b"x\n");
}

#[test]
fn a_bundle_waits_for_its_passphrase() {
    for extra in ["pkcs12 bundle.p12", "pkcs12 bundle.p12\naskpass"] {
        let mut profile = parse(extra).unwrap();
        assert!(profile.is_locked());

        let wrong = profile.unlock(&Secret::new("warren")).unwrap_err().to_string();
        assert_eq!(wrong, "pkcs12: the passphrase is wrong, or the file is damaged");
        assert!(profile.is_locked());
        profile.unlock(&Secret::new("burrow")).unwrap();

        assert_usable(&profile);
        assert_eq!(subjects(&profile.ca), ["CN=Burrow CA"]);
    }
}

#[test]
fn a_bundle_without_a_passphrase_is_open() {
    assert_usable(&parse("pkcs12 open.p12\n<ca>\nx\n</ca>").unwrap());
    assert_eq!(parse("pkcs12 open.p12").unwrap_err(), NOTHING_TRUSTED);
}

#[test]
fn an_encrypted_key_waits_for_its_passphrase() {
    let pair = "<ca>\nx\n</ca>\n<cert>\nc\n</cert>\nkey key.pem\n";
    let mut profile = parse(pair).unwrap();
    assert!(profile.is_locked());
    assert!(profile.unlock(&Secret::new("warren")).is_err());
    profile.unlock(&Secret::new("burrow")).unwrap();
    let asked = profile.key.unwrap();

    let read = parse(&format!("askpass right.txt\n{pair}")).unwrap();

    assert!(!read.is_locked());
    assert_eq!(read.key.unwrap(), asked);
    pki::private_key(asked.expose()).unwrap();
}

#[test]
fn a_link_between_two_waits_for_a_passphrase_as_well() {
    let link = "dev tun\nremote vpn.example.org\ntls-client\nremote-cert-tls server\n\
                ifconfig 10.9.0.2 10.9.0.1\npkcs12 bundle.p12\n";
    let mut profile = Profile::parse(link, &mut |_| Ok(BUNDLE.to_vec())).unwrap();
    assert!(profile.is_locked() && profile.point.is_some());

    profile.unlock(&Secret::new("burrow")).unwrap();

    assert_usable(&profile);
}

#[test]
fn what_does_not_fit_is_named() {
    let wrong = "key: the passphrase is wrong, or the file is damaged";
    let pair = "<ca>\nx\n</ca>\n<cert>\nc\n</cert>\nkey key.pem\naskpass wrong.txt";
    assert_eq!(parse(pair).unwrap_err(), wrong);
    let both = "pkcs12 bundle.p12\naskpass right.txt\n<cert>\nc\n</cert>";
    assert_eq!(parse(both).unwrap_err(), "\"pkcs12\" beside \"cert\" or \"key\"; keep one");
    assert_eq!(
        parse("pkcs12 bundle.p12\naskpass wrong.txt").unwrap_err(),
        "pkcs12: the passphrase is wrong, or the file is damaged"
    );
    assert_eq!(
        parse("pkcs12 right.txt").unwrap_err(),
        "pkcs12: not a PKCS #12 file, or a damaged one; export it again"
    );
    assert_eq!(parse("<pkcs12>\n*\n</pkcs12>").unwrap_err(), "5: pkcs12: is not base64");
}
