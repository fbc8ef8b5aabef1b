use std::time::Duration;

use super::*;
use crate::file::SECTIONS;

fn refused(text: &str) -> String {
    let sentence = Config::parse(text, "w.toml").unwrap_err().to_string();
    assert!(!sentence.contains('\n'), "more than one line: {sentence}");
    sentence
}

#[test]
fn an_empty_file_is_a_working_server() {
    let config = Config::parse("", "w.toml").unwrap();

    assert_eq!(config, Config::default());
    assert_eq!(config, Config::load(None).unwrap());
    assert_eq!(config.network.name, "warren");
    assert_eq!(config.network.ipv4.unwrap().to_string(), "10.86.0.0/16");
    assert_eq!(config.network.ipv6, Ipv6Pool::Auto);
    assert_eq!(config.network.mtu, 1420);
    assert!(config.network.redirect_gateway && config.network.client_to_client);
    assert!(config.network.nat && config.network.routes.is_empty());
    let door = &config.doors.openvpn;
    assert_eq!(door.listen, ["0.0.0.0:1194".parse().unwrap(), "[::]:1194".parse().unwrap()]);
    assert_eq!(door.remote, None);
    assert_eq!(door.auth, AuthMode::Both);
    assert_eq!(door.ciphers, [Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::Chacha20Poly1305]);
    assert_eq!(door.renegotiate, Some(Duration::from_secs(3600)));
    assert_eq!(config.server.workers, None);
}

#[test]
fn the_example_without_its_comments_is_the_default() {
    let example = Config::example();
    let bare: Vec<&str> = example.lines().filter(|line| !line.starts_with('#')).collect();

    assert_eq!(Config::parse(&bare.join("\n"), "example").unwrap(), Config::default());
    assert_eq!(Config::parse(&example, "example").unwrap(), Config::default());
    assert!(example.lines().all(|line| line.len() <= 100), "a line is too long to read");
}

#[test]
fn the_example_has_every_key_once_with_default_and_reason() {
    let example = Config::example();

    for section in SECTIONS {
        let header = format!("\n[{}]\n", section.path);
        let body = example.split(&header).nth(1).unwrap();
        let body = body.split("\n[").next().unwrap();
        for key in section.keys {
            let line = format!("\n{} = {}\n", key.name, key.default);
            assert_eq!(body.matches(&line).count(), 1, "{}.{}", section.path, key.name);
            assert!(key.reason.ends_with('.'), "{} has no reason", key.name);
        }
    }
}

/// A file in which nothing is as in the defaults.
const EVERYTHING_CHANGED: &str = r#"
[network]
name = "burrow"
ipv4 = "192.168.90.0/24"
ipv6 = "fd00:1:2:3::/64"
dns = ["192.168.7.1", "2620:fe::fe"]
search = ["example.org"]
routes = [
    "192.168.7.0/24",
    "fd00:7::/48",
]
redirect_gateway = false
client_to_client = false
relay_broadcast = false
relay_groups = ["239.1.2.3"]
bridge = "eth1"
bridge_networks = ["172.20.0.0/16"]
nat = false
mtu = 0x5_00

[doors.openvpn]
enabled = false
listen = ["192.0.2.1:443", "[2001:db8::1]:443"]
listen_tcp = ["192.0.2.1:443"]
port_share = "127.0.0.1:8443"
remote = "vpn.example.org:443"
auth = "certificate"
client_ca = "/etc/warren/office.pem"
crl = "/etc/warren/lists"
username_field = "emailAddress"
verify_x509_name = "office- name-prefix"
remote_cert_tls = false
control = "tls-auth"
shared_key = false
client_key_max_age = 30
server_key = "pkcs11:token=vpn;id=%01?module-path=/usr/lib/softhsm/libsofthsm2.so"
tls_crypt_v2_cookie = "required"
ciphers = ["AES-256-CBC"]
digest = "SHA1"
tls_min = "1.3"
auth_token = false
auth_token_lifetime = 43200
auth_token_renewal = 7200
compression = "decompress"
fragment = 1300
mssfix = 1250
renegotiate = 0
ping = 5
ping_restart = 11
handshake_timeout = 30
tap = false
max_sessions = 10
handshakes_per_second = 7
management = "/run/warren.mgmt"
management_password_file = "/etc/warren/mgmt.pass"
management_client_auth = true
push = ["route 10.0.0.0 255.0.0.0 vpn_gateway 7", "block-outside-dns"]

[log]
level = "debug"

[server]
workers = 3
user = "vpn"
"#;

#[test]
fn a_group_that_is_an_address_is_refused() {
    let sentence = refused("[network]\nrelay_groups = [\"10.1.2.3\"]");

    assert!(
        sentence.contains("relay_groups") && sentence.contains("not a multicast"),
        "{sentence}"
    );
}

#[test]
fn every_key_alone_changes_the_configuration() {
    let changed = toml::de::DeTable::parse(EVERYTHING_CHANGED).unwrap();

    for section in SECTIONS {
        let table = table::find(changed.get_ref(), section.path).unwrap();
        for key in section.keys {
            let value = &EVERYTHING_CHANGED[table.get(key.name).unwrap().span()];
            // These are about another.
            let basis = match key.name {
                "bridge_networks" => "bridge = \"eth1\"\n",
                "crl" | "username_field" | "verify_x509_name" | "remote_cert_tls" => {
                    "client_ca = \"/ca.pem\"\n"
                }
                name if name.starts_with("management_") => "management = \"/run/warren.mgmt\"\n",
                _ => "",
            };
            let text = format!("[{}]\n{basis}{} = {value}\n", section.path, key.name);
            let config = Config::parse(&text, "w.toml").unwrap();
            let basis = Config::parse(&format!("[{}]\n{basis}", section.path), "w.toml").unwrap();
            assert_ne!(config, basis, "{text} changes nothing");
        }
    }
}

#[test]
fn all_keys_together_are_read() {
    // Each can be changed, but not all of these at once.
    let text = EVERYTHING_CHANGED.replace("shared_key = false", "shared_key = true");
    let text = text.replace("client_to_client = false", "client_to_client = true");
    let config = Config::parse(&text, "w.toml").unwrap();

    assert_eq!(config.network.mtu, 1280);
    assert_eq!(config.network.routes.len(), 2);
    assert_eq!(config.network.bridge.as_deref(), Some("eth1"));
    assert_eq!(config.network.bridge_networks.len(), 1);
    assert_eq!(config.doors.openvpn.renegotiate, None);
    let month = Duration::from_secs(30 * 86_400);
    assert_eq!(config.doors.openvpn.client_key_max_age, Some(month));
    assert_eq!(
        config.doors.openvpn.remote,
        Some(Remote { host: "vpn.example.org".to_owned(), port: Some(443) })
    );
    assert_eq!(config.server.workers.map(usize::from), Some(3));
    assert_eq!(config.server.user, RunAs::Account("vpn".to_owned()));
}

#[test]
fn tokens_live_until_they_are_renewed() {
    let tokens = |door: &str| {
        Config::parse(&format!("[doors.openvpn]\n{door}"), "w.toml").unwrap().doors.openvpn.tokens
    };

    assert_eq!(tokens("").map(|t| (t.lifetime, t.renewal.as_secs())), Some((None, 3600)));
    assert_eq!(tokens("renegotiate = 86400").map(|t| t.renewal.as_secs()), Some(86_400));
    assert_eq!(tokens("renegotiate = 0").map(|t| t.renewal.as_secs()), Some(3600));
    assert_eq!(tokens("auth_token = false\nauth_token_renewal = 5"), None);
    assert_eq!(
        refused("[doors.openvpn]\nauth_token_renewal = 1800"),
        "w.toml:2: doors.openvpn.auth_token_renewal: twice 1800 is not more than renegotiate \
         (3600): tokens would end before they are renewed; write at least 1801"
    );
}

#[test]
fn unknown_keys_are_named_with_their_line_and_the_likely_one() {
    assert_eq!(
        refused("[network]\nmtu = 1400\nredirect-gateway = true\n"),
        "w.toml:3: network.redirect-gateway: there is no such key; did you mean \
         \"redirect_gateway\"?"
    );
    assert_eq!(
        refused("[doors.openvnp]\nenabled = true\n"),
        "w.toml:1: doors.openvnp: there is no such key; did you mean \"openvpn\"?"
    );
    assert_eq!(
        refused("[doors.openvpn]\nmtu = 1400\n"),
        "w.toml:2: doors.openvpn.mtu: there is no such key here; it belongs into [network]"
    );
    assert_eq!(
        refused("xyzzy = 1\n"),
        "w.toml:1: xyzzy: there is no such key; `warren config example` shows every key"
    );
    assert_eq!(
        refused("[log]\nzzz = 1\n[network]\naaa = 1\n"),
        "w.toml:2: log.zzz: there is no such key; `warren config example` shows every key"
    );
    assert_eq!(
        refused("network = 3\n"),
        "w.toml:1: network: this is a table, not a whole number; write [network]"
    );
    assert_eq!(
        refused("[[network]]\nmtu = 1400\n"),
        "w.toml:1: network: this is a table, not a list; write [network]"
    );
}

#[test]
fn text_that_is_not_toml_is_named_with_its_line() {
    let sentence = refused("[network]\nmtu = = 3\n");
    assert!(sentence.starts_with("w.toml:2: not valid TOML: "), "{sentence}");

    let twice = refused("[network]\nmtu = 1400\nmtu = 1400\n");
    assert!(twice.starts_with("w.toml:3: not valid TOML: "), "{twice}");
}

#[test]
fn wrong_types_say_what_is_wanted() {
    assert_eq!(
        refused("[network]\nmtu = \"1400\"\n"),
        "w.toml:2: network.mtu: a text in quotes cannot stand here; write a whole number from \
         576 to 9000"
    );
    assert_eq!(
        refused("[network]\nnat = 1\n"),
        "w.toml:2: network.nat: a whole number cannot stand here; write true or false"
    );
    assert_eq!(
        refused("[network]\ndns = \"9.9.9.9\"\n"),
        "w.toml:2: network.dns: a text in quotes cannot stand here; write a list, each an IP \
         address in quotes"
    );
    assert_eq!(
        refused("[network]\ndns = [\n  \"9.9.9.9\",\n  53\n]\n"),
        "w.toml:4: network.dns: a whole number cannot stand here; write an IP address in quotes"
    );
    assert_eq!(
        refused("[server]\nworkers = -1\n"),
        "w.toml:2: server.workers: -1 is out of range; write a whole number from 0 to 256"
    );
    assert_eq!(
        refused("[log]\nlevel = 1.5\n"),
        "w.toml:2: log.level: a number with a fraction cannot stand here; write \"error\", \
         \"warn\", \"info\", \"debug\" or \"trace\""
    );
}

#[test]
fn networks_that_overlap_are_refused_at_the_guilty_line() {
    assert_eq!(
        refused("[network]\nroutes = [\n \"192.168.7.0/24\",\n \"10.0.0.0/8\",\n]\n"),
        "w.toml:4: network.routes: 10.0.0.0/8 overlaps network.ipv4 (10.86.0.0/16); remove the \
         route or take another pool"
    );
    assert_eq!(
        refused("[network]\nipv6 = \"fd00:1::/64\"\nroutes = [\"fd00::/16\"]\n"),
        "w.toml:3: network.routes: fd00::/16 overlaps network.ipv6 (fd00:1::/64); remove the \
         route or take another pool"
    );
    assert_eq!(
        refused("[network]\nroutes = [\"192.168.0.0/16\", \"192.168.7.0/24\"]\n"),
        "w.toml:2: network.routes: 192.168.7.0/24 overlaps 192.168.0.0/16; remove the smaller one"
    );
}

#[test]
fn a_management_address_that_others_reach_needs_a_password() {
    assert_eq!(
        refused("[doors.openvpn]\nmanagement = \"0.0.0.0:7505\"\n"),
        "w.toml:2: doors.openvpn.management: 0.0.0.0:7505 can be reached by others; name a \
         management_password_file, or take 127.0.0.1 or a unix socket"
    );
    for accepted in [
        "management = \"127.0.0.1:7505\"",
        "management = \"[::1]:7505\"",
        "management = \"/run/warren.mgmt\"\nmanagement_client_auth = true",
        "management = \"0.0.0.0:7505\"\nmanagement_password_file = \"/etc/pass\"",
    ] {
        let config = Config::parse(&format!("[doors.openvpn]\n{accepted}\n"), "w.toml").unwrap();
        assert!(config.doors.openvpn.management.is_some(), "{accepted}");
    }
}

/// Each of these must be refused at its line 2, with a sentence that holds the second text.
const BAD_VALUES: &[(&str, &str)] = &[
    ("[doors.openvpn]\nmanagement = \"run/x\"", "cannot be read"),
    ("[doors.openvpn]\nmanagement = \"127.0.0.1:0\"", "port 0"),
    ("[doors.openvpn]\nmanagement_client_auth = true", "nothing to connect to"),
    ("[doors.openvpn]\nmanagement_password_file = \"/x\"", "nothing to connect to"),
    ("[network]\nname = \"\"", "cannot be a network's name"),
    ("[network]\nname = \"../etc\"", "cannot be a network's name"),
    ("[network]\nname = \"thirteenchars\"", "cannot be a network's name"),
    ("[network]\nipv4 = \"10.86.0.1/16\"", "write \"10.86.0.0/16\""),
    ("[network]\nipv4 = \"10.86.0.0\"", "or \"off\""),
    ("[network]\nipv4 = \"10.86.0.0/31\"", "too large or too small"),
    ("[network]\nipv4 = \"127.0.0.0/8\"", "private network"),
    ("[network]\nipv4 = \"224.0.0.0/16\"", "private network"),
    ("[network]\nipv4 = \"fd00::/64\"", "an IPv4 network"),
    ("[network]\nipv6 = \"fd00::/48\"", "too large or too small"),
    ("[network]\nipv6 = \"fe80::/64\"", "write \"auto\""),
    ("[network]\nipv6 = \"fd00::1/64\"", "write \"fd00::/64\""),
    ("[network]\ndns = [\"0.0.0.0\"]", "cannot reach"),
    ("[network]\ndns = [\"127.0.0.53\"]", "cannot reach"),
    ("[network]\ndns = [\"resolver\"]", "write an IP address"),
    ("[network]\ndns = [\"9.9.9.9\", \"9.9.9.9\"]", "twice"),
    ("[network]\nsearch = [\"a b\"]", "a domain as in"),
    ("[network]\nsearch = [\"-a.org\"]", "a domain as in"),
    ("[network]\nroutes = [\"0.0.0.0/0\"]", "set redirect_gateway = true"),
    ("[network]\nroutes = [\"::/0\"]", "set redirect_gateway = true"),
    ("[network]\nroutes = [\"192.168.7.1/24\"]", "write \"192.168.7.0/24\""),
    ("[network]\nroutes = [\"ff02::/16\"]", "cannot be routed"),
    ("[doors.openvpn]\npush = [\"up /bin/sh\"]", "up is nothing that clients take"),
    ("[doors.openvpn]\npush = [\"peer-id 5\"]", "what the server decides"),
    ("[network]\nmtu = 575", "from 576 to 9000"),
    ("[network]\nmtu = 1279", "at least 1280"),
    ("[network]\nmtu = 99999999999999999999", "from 576 to 9000"),
    ("[doors.openvpn]\nlisten = []\nlisten_tcp = []", "enabled = false"),
    ("[doors.openvpn]\nlisten_tcp = [\"0.0.0.0:0\"]", "port 0"),
    ("[doors.openvpn]\nlisten_tcp = [\"[::]:1\", \"[::1]:1\"]", "is part of [::]:1"),
    ("[doors.openvpn]\nport_share = \"127.0.0.1\"", "with a port"),
    ("[doors.openvpn]\nport_share = \"web server:80\"", "with a port"),
    ("[doors.openvpn]\nlisten = [\"0.0.0.0:0\"]", "port 0"),
    ("[doors.openvpn]\nlisten = [\"1194\"]", "an address with a port"),
    ("[doors.openvpn]\nlisten = [\"0.0.0.0:70000\"]", "an address with a port"),
    ("[doors.openvpn]\nlisten = [\"0.0.0.0:1\", \"192.0.2.1:1\"]", "is part of 0.0.0.0:1"),
    ("[doors.openvpn]\nlisten = [\"192.0.2.1:1\", \"192.0.2.1:1\"]", "twice"),
    ("[doors.openvpn]\nremote = \"a b\"", "not a host"),
    ("[doors.openvpn]\nremote = \"host:0\"", "not a host"),
    ("[doors.openvpn]\nremote = \"host\\nremote evil\"", "not a host"),
    ("[doors.openvpn]\nremote = \"1.2.3\"", "not a host"),
    ("[doors.openvpn]\nclient_ca = \"ca.pem\"", "the whole path of a file"),
    ("[doors.openvpn]\nclient_ca = \"/ca.pem\"\nauth = \"password\"", "nobody is asked for"),
    ("[doors.openvpn]\ncrl = \"/crl.pem\"", "name their `client_ca`"),
    ("[doors.openvpn]\nusername_field = \"UID\"", "name their `client_ca`"),
    ("[doors.openvpn]\nremote_cert_tls = false", "name their `client_ca`"),
    ("[doors.openvpn]\nverify_x509_name = \"a name\"", "name their `client_ca`"),
    ("[doors.openvpn]\nverify_x509_name = \"anna\"", "a whole subject as in"),
    ("[doors.openvpn]\nverify_x509_name = \" name\"", "a whole subject as in"),
    ("[doors.openvpn]\nusername_field = \"shoe size\"", "\"shoe\" is no field"),
    ("[doors.openvpn]\nusername_field = \"\"", "write one field"),
    ("[doors.openvpn]\nauth = \"pasword\"", "did you mean \"password\"?"),
    (
        "[doors.openvpn]\ncontrol = \"none\"",
        "write \"tls-crypt-v2\", \"tls-crypt\" or \"tls-auth\"",
    ),
    ("[doors.openvpn]\nshared_key = false\ncontrol = \"tls-crypt\"", "set control to"),
    ("[doors.openvpn]\nclient_key_max_age = -1", "out of range"),
    ("[doors.openvpn]\ntls_crypt_v2_cookie = \"always\"", "\"preferred\" or \"required\""),
    ("[doors.openvpn]\nciphers = []", "at least one cipher"),
    ("[doors.openvpn]\nciphers = [\"aes-256-gcm\"]", "did you mean \"AES-256-GCM\"?"),
    ("[doors.openvpn]\nciphers = [\"BF-CBC\"]", "is unknown"),
    ("[doors.openvpn]\ndigest = \"MD5\"", "is unknown"),
    ("[doors.openvpn]\ntls_min = \"1.0\"", "is unknown"),
    ("[doors.openvpn]\nrenegotiate = 4", "at least 5"),
    ("[doors.openvpn]\nping = 60", "write at least 120"),
    ("[doors.openvpn]\nping_restart = 10", "write at least 20"),
    ("[doors.openvpn]\nhandshake_timeout = 0", "from 5 to 600"),
    ("[doors.openvpn]\nmax_sessions = 0", "out of range"),
    ("[log]\nlevel = \"verbose\"", "is unknown"),
];

#[test]
fn bad_values_are_refused_with_line_key_and_advice() {
    for (text, advice) in BAD_VALUES {
        let error = Config::parse(text, "w.toml").expect_err(text);

        let sentence = error.to_string();
        assert!(sentence.contains(advice), "{text}: {sentence}");
        assert!(!sentence.contains('\n'), "{text}: more than one line");
        assert_eq!(error.line(), Some(2), "{text}: {sentence}");
        let (table, key) = text.split_once("]\n").unwrap();
        let key = format!("{}.{}", &table[1..], key.split(' ').next().unwrap());
        let blamed = error.key().unwrap();
        assert!(blamed == key || key == "doors.openvpn.ping", "{text}: blamed {blamed}");
    }
}

#[test]
fn at_least_one_address_family_is_on() {
    assert!(refused("[network]\nipv4 = \"off\"\nipv6 = \"off\"").contains("both address families"));

    let only6 = Config::parse("[network]\nipv4 = \"off\"", "w.toml").unwrap();
    assert_eq!(only6.network.ipv4, None);
    let only4 = Config::parse("[network]\nipv6 = \"off\"\nmtu = 576", "w.toml").unwrap();
    assert_eq!((only4.network.ipv6, only4.network.mtu), (Ipv6Pool::Off, 576));
}

#[test]
fn remotes_are_read_in_every_usual_form() {
    for (text, host, port) in [
        ("vpn.example.org", "vpn.example.org", None),
        ("vpn.example.org:443", "vpn.example.org", Some(443)),
        ("192.0.2.1", "192.0.2.1", None),
        ("192.0.2.1:1194", "192.0.2.1", Some(1194)),
        ("2001:db8::1", "2001:db8::1", None),
        ("[2001:db8::1]:1194", "2001:db8::1", Some(1194)),
    ] {
        let remote: Remote = text.parse().unwrap();
        assert_eq!((remote.host.as_str(), remote.port), (host, port), "{text}");
    }
}

#[test]
fn a_missing_or_binary_file_is_named() {
    let missing = std::path::Path::new("/nonexistent/warren.toml");
    assert_eq!(
        Config::load(Some(missing)).unwrap_err().to_string(),
        "/nonexistent/warren.toml: there is no such file; `warren config example` writes one"
    );

    let program = std::env::current_exe().unwrap();
    let sentence = Config::load(Some(&program)).unwrap_err().to_string();
    assert!(sentence.ends_with("this is not text (UTF-8); is it the right file?"), "{sentence}");

    let folder = std::env::temp_dir();
    let sentence = Config::load(Some(&folder)).unwrap_err().to_string();
    assert!(sentence.contains("cannot be read"), "{sentence}");
}

#[test]
fn no_prefix_of_a_good_file_panics() {
    for len in 0..EVERYTHING_CHANGED.len() {
        if let Some(text) = EVERYTHING_CHANGED.get(..len)
            && let Err(error) = Config::parse(text, "w.toml")
        {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
