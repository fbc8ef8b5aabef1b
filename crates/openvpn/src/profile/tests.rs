use super::*;
use crate::pull::FilterAction;
use crate::shape::{Framing, SizeLimit};

const GOOD: &str = "\
client
dev tun
proto udp
remote vpn.example.org 1194
remote 2001:db8::1 443 udp6
nobind
remote-cert-tls server
verify-x509-name \"My Server\" name
data-ciphers AES-256-GCM:?BF-CBC:CHACHA20-POLY1305
auth SHA256
auth-user-pass
reneg-sec 0
keepalive 5 30
<ca>
-----BEGIN CERTIFICATE-----
x
-----END CERTIFICATE-----
</ca>
<cert>
c
</cert>
<key>
k
</key>
<tls-crypt>
-----BEGIN OpenVPN Static key V1-----
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
-----END OpenVPN Static key V1-----
</tls-crypt>
";

fn parse(text: &str) -> Result<Profile, ProfileError> {
    Profile::parse(text, &mut |path| match path {
        "pass.txt" => Ok(b"ann\nsecret\n".to_vec()),
        "user.txt" => Ok(b"ann\n".to_vec()),
        _ => Err("no such file".to_owned()),
    })
}

/// As [`parse`], with a folder of revoked serial numbers.
fn parse_with_folder(extra: &str) -> Result<Profile, ProfileError> {
    Profile::parse(&format!("{extra}\n{GOOD}"), &mut |path| match path {
        "revoked/" => Ok(b"10\nREADME\n720641\n".to_vec()),
        _ => Err("no such file".to_owned()),
    })
}

#[test]
fn revoked_serial_numbers_are_the_names_of_files() {
    let profile = parse_with_folder("crl-verify revoked dir").unwrap();
    assert_eq!(profile.revoked_serials, ["0a", "0aff01"]);
    assert!(profile.revoked.is_none());
    assert_eq!(
        parse_with_folder("crl-verify nothing dir").unwrap_err().to_string(),
        "1: crl-verify: nothing: no such file"
    );
}

#[test]
fn key_usages_are_hexadecimal() {
    let usages = |line: &str| parse(&format!("{line}\n{GOOD}")).map(|it| it.key_usages);
    assert_eq!(usages("remote-cert-ku a0 0x88").unwrap(), Some(vec![0xa0, 0x88]));
    assert_eq!(usages("remote-cert-ku").unwrap(), Some(Vec::new()));
    for bad in ["remote-cert-ku xy", "remote-cert-ku 0", "remote-cert-ku 100"] {
        assert!(usages(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_signer_is_known_by_sha256_only() {
    let hash = ["ab"; 32].join(":");
    let read = |line: &str| parse(&format!("{line}\n{GOOD}"));
    assert_eq!(read(&format!("verify-hash {hash} SHA256")).unwrap().issuers, [[0xab; 32]]);
    let inline = format!("<verify-hash>\n{hash}\n</verify-hash>");
    assert_eq!(read(&inline).unwrap().issuers, [[0xab; 32]]);
    assert!(read(&format!("verify-hash {hash}")).is_err());
    assert!(read(&format!("verify-hash {} SHA1", ["ab"; 20].join(":"))).is_err());
}

fn error_of(extra: &str) -> String {
    parse(&format!("{extra}\n{GOOD}")).unwrap_err().to_string()
}

#[test]
fn an_ordinary_profile_is_understood() {
    let profile = parse(GOOD).unwrap();

    assert_eq!(
        profile.remotes,
        [
            Remote {
                host: "vpn.example.org".to_owned(),
                port: 1194,
                transport: Transport::Udp,
                family: None,
                proxy: None
            },
            Remote {
                host: "2001:db8::1".to_owned(),
                port: 443,
                transport: Transport::Udp,
                family: Some(Family::V6),
                proxy: None
            },
        ]
    );
    assert!(profile.requires_server_usage);
    assert_eq!(profile.name, Some(NameRule::CommonName("My Server".to_owned())));
    assert_eq!(profile.ciphers, [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305]);
    assert_eq!(profile.digest, Hash::Sha256);
    assert!(matches!(profile.login, Login::Ask));
    assert!(matches!(profile.protection, Protection::TlsCrypt { .. }));
    assert_eq!(profile.renegotiate, None);
    assert_eq!((profile.ping.as_secs(), profile.ping_restart.as_secs()), (5, 30));
    assert_eq!(profile.notes, [""; 0]);
}

#[test]
fn a_device_carries_what_its_type_or_else_its_name_says() {
    let device = |lines: &str| {
        let profile = parse(&GOOD.replace("dev tun\n", lines)).unwrap();
        (profile.device, profile.layer)
    };
    let named = |name: &str| Some(name.to_owned());

    assert_eq!(device("dev tun\n"), (None, Layer::Ip));
    assert_eq!(device("dev tap\n"), (None, Layer::Ethernet));
    assert_eq!(device("dev tap7\n"), (named("tap7"), Layer::Ethernet));
    assert_eq!(device("dev lan\ndev-type tap\n"), (named("lan"), Layer::Ethernet));
    assert_eq!(device("dev-type tun\ndev tapestry\n"), (named("tapestry"), Layer::Ip));
}

#[test]
fn the_field_that_holds_the_servers_name_can_be_another() {
    let fields = |line: &str| parse(&format!("{line}\n{GOOD}")).unwrap().name_fields;

    assert_eq!(fields(""), None);
    assert_eq!(fields("x509-username-field emailAddress"), "emailAddress".parse().ok());
    assert_eq!(fields("x509-username-field CN serialNumber"), "CN serialNumber".parse().ok());
}

#[test]
fn what_is_not_supported_is_named_with_its_line() {
    for (line, expected) in [
        ("frobnicate 1", "1: frobnicate: not supported"),
        ("dev a/b", "1: dev: needs \"tun\", \"tap\" or a device name"),
        ("cipher BF-CBC", "1: cipher: \"BF-CBC\" is not supported"),
        ("remote h 0", "1: remote: \"0\" is not a number from 1 to 65535"),
        ("ca nowhere.pem", "1: ca: nowhere.pem: no such file"),
        ("tls-auth ta.key 2", "1: tls-auth: a direction is 0 or 1"),
        ("auth \"MD5", "1: a quote is opened and never closed"),
        ("verify-x509-name a b", "1: verify-x509-name: type \"b\""),
        ("x509-username-field shoe", "1: x509-username-field: \"shoe\" is no field"),
        ("x509-username-field", "1: x509-username-field: write one field"),
        ("peer-fingerprint aa:bb", "1: peer-fingerprint: needs SHA-256"),
        ("route 10.0.0.0 255.0.255.0", "1: route: needs NETWORK"),
    ] {
        let error = error_of(line);
        assert!(error.starts_with(expected), "{line}: {error}");
    }
}

#[test]
fn what_would_weaken_security_is_refused() {
    for line in [
        "cipher none",
        "auth none",
        "up /bin/sh",
        "plugin x.so",
        "compress snappy",
        "fragment 12",
        "mssfix 1400 outer",
        "no-replay",
        "tls-version-max 1.0",
        "tls-cert-profile insecure",
        "script-security 2",
        "tls-verify x",
    ] {
        assert!(error_of(line).starts_with("1: "), "{line}");
    }
}

#[test]
fn what_a_profile_lacks_is_said() {
    let without = |name: &str| {
        let (head, tail) = GOOD.split_once(&format!("<{name}>")).unwrap();
        let (_, tail) = tail.split_once(&format!("</{name}>")).unwrap();
        parse(&format!("{head}{tail}")).unwrap_err().to_string()
    };
    assert!(without("ca").contains("the server could be anybody"));
    assert!(without("key").contains("\"key\" is missing"));
    assert!(without("cert").contains("\"cert\" is missing"));
    assert!(parse("client\ndev tun\n").is_err());
    assert!(parse(&GOOD.replace("dev tun\n", "")).unwrap_err().to_string().contains("dev tun"));
}

#[test]
fn remotes_are_tried_in_order_by_whatever_carries_them() {
    let tried = |extra: &str| {
        let profile = parse(&format!("{extra}{GOOD}")).unwrap();
        let one = |at: &Remote| (at.host.clone(), at.transport, at.family);
        profile.remotes.iter().map(one).collect::<Vec<_>>()
    };
    let (v4, v6) = (Some(Family::V4), Some(Family::V6));

    let remotes = "remote a 1 udp\nremote b 2 tcp\nremote c 3 tcp4\nremote d 4 tcp6-client\n";
    let expected = [
        ("a".to_owned(), Transport::Udp, None),
        ("b".to_owned(), Transport::Tcp, None),
        ("c".to_owned(), Transport::Tcp, v4),
        ("d".to_owned(), Transport::Tcp, v6),
    ];
    assert_eq!(tried(remotes)[..4], expected);

    let tcp = GOOD.replace("proto udp", "proto tcp-client");
    let by_default = parse(&tcp).unwrap().remotes;
    assert_eq!(by_default[0].transport, Transport::Tcp);
    assert_eq!(by_default[1].transport, Transport::Udp, "as the remote itself says");
    assert!(error_of("proto tcp-server").contains("use udp or tcp"));
    assert!(error_of("proto sctp").contains("is not a protocol"));
}

#[test]
fn a_login_may_stand_in_a_file() {
    let given = parse(&GOOD.replace("auth-user-pass", "auth-user-pass pass.txt")).unwrap();
    assert!(
        matches!(given.login, Login::Given(user, password) if user == "ann" && password.expose() == b"secret")
    );
    let asked = parse(&GOOD.replace("auth-user-pass", "auth-user-pass user.txt")).unwrap();
    assert!(matches!(asked.login, Login::AskPassword(user) if user == "ann"));
}

#[test]
fn an_option_that_may_be_unknown_is_noted() {
    let profile =
        parse(&format!("ignore-unknown-option foo\nfoo bar\nsetenv opt baz 1\n{GOOD}")).unwrap();
    assert_eq!(profile.notes.len(), 2, "{:?}", profile.notes);
}

#[test]
fn a_profile_cut_inside_a_block_never_passes_for_a_whole_one() {
    for len in 0..GOOD.len() {
        let cut = &GOOD[..len];
        let is_inside = cut.matches("\n<").count() > 2 * cut.matches("\n</").count();
        let parsed = parse(cut);
        if cut.lines().last().is_some_and(|line| line.len() == 32)
            || is_inside && cut.contains("<ca>\n") && !cut.contains("</ca>")
        {
            assert!(parsed.is_err(), "accepted {len} bytes");
        }
    }
}

#[test]
fn a_connection_block_speaks_for_itself_only() {
    let blocks = "<connection>\nremote a\nproto tcp\nport 443\n</connection>\n\
                  <connection>\nremote b\nproto udp6\n</connection>\n";

    let profile = parse(&format!("{blocks}{GOOD}")).unwrap();

    let (udp, tcp) = (Transport::Udp, Transport::Tcp);
    let a = Remote { host: "a".to_owned(), port: 443, transport: tcp, family: None, proxy: None };
    let b = Remote {
        host: "b".to_owned(),
        port: 1194,
        transport: udp,
        family: Some(Family::V6),
        proxy: None,
    };
    assert_eq!(profile.remotes[..2], [a, b]);
    assert!(error_of("<connection>").contains("</connection>"));
    assert!(error_of("</connection>").contains("without a beginning"));
}

#[test]
fn compression_in_a_profile_is_framing_and_a_warning() {
    for (line, framing) in [
        ("comp-lzo", Framing::Lzo),
        ("comp-lzo no", Framing::Lzo),
        ("compress", Framing::Stub),
        ("compress lz4", Framing::Lz4),
        ("compress lz4-v2", Framing::Lz4V2),
        ("compress stub-v2", Framing::StubV2),
    ] {
        let profile = parse(&format!("{line}\n{GOOD}")).unwrap();
        assert_eq!(profile.shape.framing, Some(framing), "{line}");
        assert_eq!(profile.warnings.len(), 1, "{line}");
    }
    let plain = parse(&format!("allow-compression yes\n{GOOD}")).unwrap();
    assert_eq!((plain.shape.framing, plain.warnings.len()), (None, 1));
}

#[test]
fn sizes_are_read_in_every_way_they_are_given() {
    for (lines, fragment, mssfix) in [
        ("fragment 1300", Some(SizeLimit::Payload(1300)), Some(SizeLimit::Payload(1300))),
        ("fragment 1300 mtu\nmssfix", Some(SizeLimit::Outer(1300)), Some(SizeLimit::Outer(1300))),
        ("fragment 1300\nmssfix 0", Some(SizeLimit::Payload(1300)), None),
        ("mssfix 1400", None, Some(SizeLimit::Payload(1400))),
        ("mssfix 1400 mtu", None, Some(SizeLimit::Outer(1400))),
        ("mssfix 1400 fixed", None, Some(SizeLimit::Inner(1400))),
        ("mssfix", None, Some(SizeLimit::Outer(1492))),
        ("", None, None),
    ] {
        let shape = parse(&format!("{lines}\n{GOOD}")).unwrap().shape;
        assert_eq!((shape.fragment, shape.mssfix), (fragment, mssfix), "{lines}");
    }
}

#[test]
fn silence_may_be_borne_for_ever() {
    let profile =
        parse(&format!("ping-restart 0\n{}", GOOD.replace("keepalive 5 30\n", ""))).unwrap();
    assert_eq!(profile.ping_restart.as_secs(), 86_400);
}

#[test]
fn what_a_profile_asks_of_the_host_is_checked_line_by_line() {
    let lines = "route 10.1.0.0 255.255.0.0 net_gateway\nroute 10.2.0.0 255.255.0.0 default 7\n\
                 route-ipv6 fd01::/48 default 9\nredirect-gateway def1 bypass-dns !ipv4 ipv6\n\
                 dhcp-option DOMAIN corp.example\ndns server 0 address 10.8.0.1\nblock-ipv6\n\
                 block-outside-dns\ninactive 300 1000\nsession-timeout 7200\nroute-noexec\n\
                 route-nopull\npull-filter ignore \"route 10.\"\nping-exit 50\n";

    let profile = parse(&format!("{lines}{}", GOOD.replace("keepalive 5 30\n", ""))).unwrap();

    assert_eq!(profile.pull.own.len(), 10);
    assert!(profile.pull.refuses_routes && profile.pull.leaves_routes_alone);
    assert_eq!(profile.pull.filters, [(FilterAction::Ignore, "route 10.".to_owned())]);
    assert!(profile.exits_on_silence);
    assert_eq!(profile.notes.len(), 1, "bypass-dns: {:?}", profile.notes);
    for (line, expected) in [
        ("redirect-gateway home", "1: redirect-gateway: has a flag that does not exist"),
        ("dns server 0 transport TCP", "1: dns: server transport is plain, DoT or DoH"),
        ("route vpn.example.org", "1: route: needs NETWORK"),
        ("pull-filter drop route", "1: pull-filter: needs accept, ignore or reject"),
        ("pull-filter ignore", "1: pull-filter: needs the text"),
        ("inactive", "1: inactive: needs other words"),
        ("dhcp-option DNS localhost", "1: dhcp-option: needs an IP address"),
    ] {
        let error = error_of(line);
        assert!(error.starts_with(expected), "{line}: {error}");
    }
}

#[test]
fn how_to_log_in_is_read() {
    let with = |lines: &str| parse(&format!("{GOOD}\n{lines}"));
    let plain = with("").unwrap();
    assert_eq!((plain.challenge, plain.forgets_password), (None, false));
    assert_eq!(plain.auth_retry, AuthRetry::None);

    let profile =
        with("static-challenge \"Your code\" 0\nauth-nocache\nauth-retry interact").unwrap();
    let asked = StaticChallenge { text: "Your code".to_owned(), echo: false, is_appended: false };
    assert_eq!((profile.challenge, profile.forgets_password), (Some(asked), true));
    assert_eq!(profile.auth_retry, AuthRetry::Ask);
    assert!(with("static-challenge Code 1 concat").unwrap().challenge.unwrap().is_appended);

    for bad in [
        "static-challenge",
        "static-challenge Code",
        "static-challenge Code 2",
        "static-challenge Code 1 x",
        "auth-retry",
        "auth-retry maybe",
    ] {
        let error = with(bad).unwrap_err();
        assert!(error.line > 0 && error.problem.contains("needs"), "{bad}: {error}");
    }
}

#[test]
fn a_proxy_is_for_every_remote_that_it_can_carry_or_for_those_of_its_block() {
    let tcp = GOOD.replace("proto udp", "proto tcp");
    let head = "http-proxy proxy.example 3128 auto\nhttp-proxy-timeout 7\n\
                http-proxy-option VERSION 1.1\nhttp-proxy-option AGENT \"a b\"\n\
                http-proxy-option CUSTOM-HEADER X-A b\n\
                <http-proxy-user-pass>\nann\nsecret\n</http-proxy-user-pass>\n\
                <connection>\nremote c\nproto udp\nsocks-proxy s.example\n</connection>\n";

    let profile = parse(&format!("{head}{tcp}")).unwrap();

    let [socks, http] = profile.remotes.as_slice() else { panic!("{:?}", profile.remotes) };
    let socks = socks.proxy.as_ref().unwrap();
    assert_eq!(
        (socks.host.as_str(), socks.port, &socks.kind),
        ("s.example", 1080, &ProxyKind::Socks)
    );
    assert_eq!(socks.login, None, "it is the other proxy's");
    let http = http.proxy.as_ref().unwrap();
    assert_eq!((http.port, http.timeout), (3128, Some(Duration::from_secs(7))));
    assert_eq!(http.login.as_ref().unwrap().user, "ann");
    assert!(
        profile.notes.iter().any(|note| note.contains("UDP remotes skipped")),
        "{:?}",
        profile.notes
    );
}

#[test]
fn what_no_proxy_can_be_told_is_refused_with_its_line() {
    for (line, expected) in [
        ("http-proxy", "1: http-proxy: needs a host"),
        ("http-proxy h", "1: http-proxy: \"\" is not a number"),
        ("http-proxy \"h\\r\" 1x", "1: http-proxy: "),
        ("http-proxy h 3128 user.txt", "1: http-proxy: needs a file"),
        ("http-proxy h 3128 auto ntlm", "1: http-proxy: NTLM is broken"),
        ("http-proxy h 3128 pass.txt bearer", "1: http-proxy: \"bearer\" is none of"),
        ("socks-proxy h 0", "1: socks-proxy: \"0\" is not a number"),
        ("socks-proxy h 1080 nowhere", "1: socks-proxy: nowhere: no such file"),
        ("http-proxy-option VERSION 2", "1: http-proxy-option: needs VERSION"),
        (
            "http-proxy-option CUSTOM-HEADER Proxy-Authorization x",
            "1: http-proxy-option: this header",
        ),
    ] {
        let error = error_of(line);
        assert!(error.starts_with(expected), "{line}: {error}");
    }
    let udp = parse(&format!("http-proxy h 3128\n{GOOD}")).unwrap_err();
    assert!(udp.problem.contains("use \"proto tcp\""), "{udp}");
}
