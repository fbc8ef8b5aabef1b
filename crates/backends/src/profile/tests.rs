use std::io::{BufRead as _, BufReader, Read as _};
use std::net::UdpSocket;
use std::process::{Command, Stdio};

use super::*;
use crate::authority::Authority;
use crate::scratch::Scratch;
use crate::{StaticKey, clock, random_bytes};

struct Material {
    ca: String,
    certificate: String,
    key: String,
    wrap: String,
    own: String,
}

fn material() -> Material {
    let now = clock::now();
    let authority = Authority::from_pem(Authority::create(now).unwrap().expose()).unwrap();
    let issued = authority.issue_client("alice", now, 30).unwrap();
    Material {
        ca: authority.certificate_pem().to_owned(),
        certificate: issued.certificate_pem.clone(),
        key: String::from_utf8(issued.key_pem.expose().to_vec()).unwrap(),
        wrap: StaticKey::generate().to_pem().to_string(),
        own: client_key(),
    }
}

fn client_key() -> String {
    let metadata = openvpn::Metadata::write(clock::now(), openvpn::ClientKeyId(random_bytes()));
    openvpn::ServerKey::from_bytes(random_bytes())
        .wrap(&openvpn::StaticKey::from_bytes(random_bytes()), &metadata)
        .unwrap()
        .to_pem()
        .to_string()
}

impl Material {
    fn input<'a>(&'a self, remotes: &'a [ProfileRemote]) -> ProfileInput<'a> {
        ProfileInput {
            user: "alice",
            network: "warren",
            client: ClientProgram::Any,
            remotes,
            ca_pem: &self.ca,
            certificate: Some((&self.certificate, &self.key)),
            ask_code: false,
            ask_password: true,
            wrap: Wrap::TlsCryptV2(&self.own),
            ciphers: &["CHACHA20-POLY1305", "AES-256-GCM", "AES-128-CBC"],
            digest: "SHA256",
            tls_min: "1.2",
            mtu: 1420,
            device: "tun",
            fragment: None,
        }
    }
}

fn local(port: u16) -> [ProfileRemote; 1] {
    [ProfileRemote { host: "127.0.0.1".to_owned(), port, transport: Transport::Udp }]
}

#[test]
fn a_profile_has_every_line_a_client_needs() {
    let material = material();
    let remotes = [
        ProfileRemote { host: "vpn.example.org".to_owned(), port: 443, transport: Transport::Udp },
        ProfileRemote { host: "2001:db8::1".to_owned(), port: 1194, transport: Transport::Udp6 },
    ];

    let text = openvpn_profile(&material.input(&remotes));

    let directives: Vec<_> = text
        .lines()
        .skip_while(|line| line.starts_with('#'))
        .take_while(|line| *line != "<ca>")
        .collect();
    assert_eq!(
        directives,
        [
            "client",
            "dev tun",
            "nobind",
            "tun-mtu 1420",
            "remote vpn.example.org 443 udp",
            "remote 2001:db8::1 1194 udp6",
            "explicit-exit-notify 1",
            "persist-tun",
            "resolv-retry infinite",
            "remote-cert-tls server",
            "verify-x509-name warren-server name",
            "tls-version-min 1.2",
            "data-ciphers CHACHA20-POLY1305:AES-256-GCM:AES-128-CBC",
            "cipher AES-256-GCM",
            "auth SHA256",
            "auth-user-pass",
            "push-peer-info",
            "verb 3",
        ]
    );
    for block in [&material.ca, &material.certificate, &material.key, &material.own] {
        assert!(text.contains(block.trim_end()));
    }
}

#[test]
fn who_needs_a_code_is_asked_for_it_beside_the_password() {
    let material = material();
    let remotes = local(1194);
    let text = |ask_code| openvpn_profile(&ProfileInput { ask_code, ..material.input(&remotes) });

    assert!(text(true).contains("\nauth-user-pass\nstatic-challenge \"Code\" 1\n"));
    assert!(!text(false).contains("static-challenge"));
}

#[test]
fn a_profile_prints_no_key_when_debugged() {
    let material = material();
    let wrap = Wrap::TlsAuth(&material.wrap);

    assert_eq!(format!("{wrap:?}"), "TlsAuth(..)");
}

/// Runs the real client until it has sent its first packet to us, which it does only after it has
/// accepted every option and loaded every key; returns what it said.
fn openvpn_accepts(input: impl FnOnce(&[ProfileRemote]) -> Zeroizing<String>) -> Option<String> {
    let binary = ["/usr/sbin/openvpn", "/usr/local/sbin/openvpn"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())?;
    let scratch = Scratch::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let profile = scratch.path().join("alice.ovpn");
    std::fs::write(&profile, input(&local(server.local_addr().unwrap().port())).as_bytes())
        .unwrap();
    let password = scratch.path().join("password");
    std::fs::write(&password, "alice\nsecret\n").unwrap();

    let mut client = Command::new(binary)
        .arg("--config")
        .arg(&profile)
        .args(["--dev", "null", "--connect-retry-max", "1", "--auth-user-pass"])
        .arg(&password)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let heard = server.recv_from(&mut [0; 2048]);
    client.kill().unwrap();
    let mut said = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_to_string(&mut said).unwrap();
    client.wait().unwrap();

    assert!(heard.is_ok(), "the client sent nothing; it said:\n{said}");
    Some(said)
}

#[test]
fn the_real_client_accepts_every_form_of_profile() {
    let material = material();
    let forms: [fn(&mut ProfileInput<'_>); 4] = [
        |_| {},
        |input| input.certificate = None,
        |input| input.ask_password = false,
        |input| {
            input.digest = "SHA1";
            input.ciphers = &["AES-256-CBC"];
            input.tls_min = "1.3";
        },
    ];

    let wraps = [
        Wrap::TlsCryptV2(&material.own),
        Wrap::TlsCrypt(&material.wrap),
        Wrap::TlsAuth(&material.wrap),
    ];
    for change in forms {
        for wrap in wraps {
            if !is_accepted(|remotes| {
                let mut input = ProfileInput { wrap, ..material.input(remotes) };
                change(&mut input);
                openvpn_profile(&input)
            }) {
                return;
            }
        }
    }
    for client in CLIENTS {
        for with_tcp in [false, true] {
            is_accepted(|remotes| {
                let mut remotes = remotes.to_vec();
                let tcp = ProfileRemote { transport: Transport::Tcp, ..remotes[0].clone() };
                remotes.extend(with_tcp.then_some(tcp));
                openvpn_profile(&ProfileInput { client, ..material.input(&remotes) })
            });
        }
    }
}

const CLIENTS: [ClientProgram; 5] = [
    ClientProgram::Any,
    ClientProgram::OpenVpn24,
    ClientProgram::OpenVpn25,
    ClientProgram::OpenVpn26,
    ClientProgram::Connect,
];

/// False if there is no client here to ask.
fn is_accepted(input: impl FnOnce(&[ProfileRemote]) -> Zeroizing<String>) -> bool {
    let Some(said) = openvpn_accepts(input) else { return false };
    for line in said.as_bytes().lines().map_while(Result::ok) {
        let complains = line.contains("DEPRECATED") || line.contains("Unrecognized");
        assert!(!complains, "{line}");
    }
    true
}

#[test]
fn udp_comes_before_tcp_and_says_goodbye_by_itself() {
    let material = material();
    let [udp] = local(1194);
    let tcp = ProfileRemote { transport: Transport::Tcp, port: 443, ..udp.clone() };
    let remotes = [udp, tcp];
    let text = |client| openvpn_profile(&ProfileInput { client, ..material.input(&remotes) });

    let blocks = "nobind\ntun-mtu 1420\nserver-poll-timeout 10\n\
                  <connection>\nremote 127.0.0.1 1194 udp\nexplicit-exit-notify 1\n</connection>\n\
                  <connection>\nremote 127.0.0.1 443 tcp-client\n</connection>\n";
    assert!(text(ClientProgram::Any).contains(blocks));
    let lines = "\nremote 127.0.0.1 1194 udp\nremote 127.0.0.1 443 tcp-client\n";
    assert!(text(ClientProgram::Connect).contains(lines));
}

#[test]
fn fragments_are_asked_for_over_udp_only_and_where_openvpn_looks_for_it() {
    let material = material();
    let [udp] = local(1194);
    let tcp = ProfileRemote { transport: Transport::Tcp, ..udp.clone() };
    for remotes in [vec![udp.clone()], vec![tcp, udp]] {
        let input = ProfileInput { fragment: Some(1300), ..material.input(&remotes) };
        let text = openvpn_profile(&input);

        let lines = "remote 127.0.0.1 1194 udp\nexplicit-exit-notify 1\nfragment 1300\n";
        assert!(text.contains(lines), "{}", *text);
        assert_eq!(text.matches("fragment").count(), 1);
    }
}

#[test]
fn each_program_gets_the_lines_that_it_knows() {
    let material = material();
    let text = |client| {
        let remotes = local(1);
        openvpn_profile(&ProfileInput { client, ..material.input(&remotes) })
    };
    for (client, word, expected) in [
        (ClientProgram::OpenVpn24, "ignore-unknown-option", true),
        (ClientProgram::Any, "ignore-unknown-option", false),
        (ClientProgram::OpenVpn25, "\ncipher AES-256-GCM\n", true),
        (ClientProgram::OpenVpn26, "\ncipher AES-256-GCM\n", false),
        (ClientProgram::Connect, "persist-tun", false),
        (ClientProgram::Any, "persist-tun", true),
    ] {
        assert_eq!(text(client).contains(word), expected, "{client:?} {word}");
    }
}
