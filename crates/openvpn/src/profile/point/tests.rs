use super::*;
use crate::profile::Profile;
use crate::shape::SizeLimit;
use crate::wrap::Protection;

const TLS: &str = "\
dev tun
ifconfig 10.9.0.1 10.9.0.2
ca ca.pem
cert cert.pem
key key.pem
";

const FIXED: &str = "\
dev tun
remote peer.example 4000
ifconfig 10.9.0.1 10.9.0.2
secret static.key
cipher AES-256-CBC
allow-deprecated-insecure-static-crypto
";

fn parse(text: &str) -> Result<Profile, ProfileError> {
    Profile::parse(text, &mut |path| match path {
        "static.key" => {
            let body = "00112233445566778899aabbccddeeff\n".repeat(16);
            let line = |word| format!("-----{word} OpenVPN Static key V1-----\n");
            Ok(format!("{}{body}{}", line("BEGIN"), line("END")).into_bytes())
        }
        _ => Ok(b"-----BEGIN SOMETHING-----\n".to_vec()),
    })
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn who_pulls_is_a_client_and_who_does_not_is_a_peer() {
    let remote = "remote peer.example\n";
    let client = parse(&format!("client\n{remote}{TLS}")).unwrap();
    assert!(client.point.is_none());
    let pulling = parse(&format!("tls-client\npull\n{remote}{TLS}")).unwrap();
    assert!(pulling.point.is_none());

    let caller = parse(&format!("tls-client\n{remote}{TLS}")).unwrap().point.unwrap();
    assert!(matches!(caller.end, End::TlsClient) && !caller.answers());
    let profile = parse(&format!("tls-server\nlport 4001\ndh none\n{TLS}")).unwrap();
    assert_eq!(profile.remotes, []);
    assert_eq!(profile.shape.mssfix, Some(SizeLimit::Outer(1492)));
    let point = profile.point.unwrap();
    assert!(point.answers() && point.local_port == Some(4001));
    assert_eq!(point.lease.ipv4, Some((Ipv4Addr::new(10, 9, 0, 1), 32)));
    assert_eq!(point.lease.routes, ["10.9.0.2/32".parse().unwrap()]);
}

#[test]
fn a_static_key_is_taken_only_with_open_eyes() {
    let profile = parse(FIXED).unwrap();
    assert_eq!(profile.warnings.len(), 1);
    let point = profile.point.unwrap();
    assert!(matches!(point.end, End::Fixed { direction: None, .. }));
    assert_eq!((point.local_port, point.ping, point.silence), (Some(1194), None, None));

    let directed = parse(&FIXED.replace("static.key", "static.key 1")).unwrap().point.unwrap();
    assert!(matches!(directed.end, End::Fixed { direction: Some(true), .. }));
    let inline = parse(&format!("key-direction 0\n{FIXED}")).unwrap().point.unwrap();
    assert!(matches!(inline.end, End::Fixed { direction: Some(false), .. }));

    let without = FIXED.replace("allow-deprecated-insecure-static-crypto", "");
    assert!(refused(&without).contains("no forward secrecy"));
    assert!(refused(&FIXED.replace("AES-256-CBC", "AES-256-GCM")).contains("AES-128-CBC"));
    assert!(refused(&format!("tls-server\n{FIXED}")).contains("keep one"));
}

#[test]
fn timers_and_ports_are_as_they_are_written() {
    let point = |lines: &str| parse(&format!("{lines}\n{FIXED}")).unwrap().point.unwrap();

    let kept = point("keepalive 5 30\nnobind\nfloat");
    assert_eq!(kept.ping.map(|ping| ping.as_secs()), Some(5));
    assert_eq!(kept.silence.map(|silence| silence.as_secs()), Some(30));
    assert!(!kept.exits && kept.floats && kept.local_port.is_none());
    let ended = point("ping 3\nping-exit 9\nport 5000");
    assert!(ended.exits && ended.local_port == Some(5000));
    let six = point("ifconfig-ipv6 fd09::1/64 fd09::2");
    assert_eq!(six.lease.ipv6, Some(("fd09::1".parse().unwrap(), 64)));
}

#[test]
fn what_does_not_fit_together_is_refused() {
    for (lines, expected) in [
        ("tls-server\ntls-client", "keep one"),
        ("tls-server\npull", "cannot \"pull\""),
        ("tls-server\nremote-cert-tls server", "write \"client\""),
        ("tls-client\nremote-cert-tls client\nremote h", "write \"server\""),
        ("client\nremote-cert-tls client\nremote h", "a client checks for \"server\""),
        ("tls-client", "no \"remote"),
        ("tls-server\ntls-auth static.key 1", "a server has 0"),
        ("tls-server\nmode server", "Warren's own file"),
    ] {
        let error = refused(&format!("{lines}\n{TLS}"));
        assert!(error.contains(expected), "{lines}: {error}");
    }
    let nameless = TLS.replace("ifconfig 10.9.0.1 10.9.0.2\n", "");
    assert!(refused(&format!("tls-server\n{nameless}")).contains("no \"ifconfig"));
    let ours = parse(&format!("tls-server\ntls-auth static.key 0\n{TLS}")).unwrap();
    assert!(matches!(ours.protection, Protection::TlsAuth { directed: true, .. }));
}
