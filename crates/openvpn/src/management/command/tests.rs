use super::*;

fn parsed(line: &str) -> Command {
    Command::parse(line).unwrap().unwrap_or_else(|| panic!("{line:?} is empty"))
}

fn refused(line: &str) -> String {
    match Command::parse(line) {
        Err(refusal) => refusal.0,
        read => panic!("{line:?} is taken as {read:?}"),
    }
}

/// One of each, as real consoles write them.
const LINES: &[&str] = &[
    "help",
    "version 3",
    "pid",
    "state on all",
    "status 3",
    "bytecount 5",
    "log on 20",
    "echo off",
    "hold release",
    "kill \"Test Client\"",
    "kill udp4:192.0.2.1:4000",
    "client-kill 7 \"HALT,bye\"",
    "load-stats",
    "verb 4",
    "mute 40",
    "signal SIGUSR1",
    "client-auth 7 1",
    "client-auth-nt 7 1",
    "client-deny 7 1 \"no \\\"way\" 'CRV1:R,E:abc:YWxpY2U=:Please enter'",
    "client-pending-auth 7 1 WEB_AUTH::https://example.org/x 120",
    "env-filter 1",
    "username \"Auth\" anna",
    "password \"Auth\" \"a \\\\ b \\\" c\"",
    "quit",
    "signal SIGINT",
    "log all on",
    "auth-retry interact",
    "needok token ok",
    "needstr name \"John\"",
    "net",
    "remote-entry-count",
    "remote-entry-get 0 2",
    "remote MOD vpn.example.org 1194",
    "remote SKIP 2",
    "proxy HTTP proxy.intranet 8080 nct",
    "proxy SOCKS fe00::1 1080",
    "cr-response MTIzNDU2",
    "pkcs11-id-count",
];

#[test]
fn the_past_may_be_asked_for_before_the_present() {
    let feed = Feed { live: Some(true), show: Some(Show::All), is_past_first: true };
    assert_eq!(parsed("log all on"), Command::Log(feed));
    let feed = Feed { is_past_first: false, ..feed };
    assert_eq!(parsed("log on all"), Command::Log(feed));
    assert_eq!(
        refused("state foo"),
        "state parameter must be 'on' or 'off' or some number n or 'all'"
    );
}

#[test]
fn a_client_is_told_where_to_connect_and_through_what() {
    let host = || "vpn.example.org".to_owned();
    assert_eq!(parsed("remote ACCEPT"), Command::Remote(RemoteAnswer::Accept));
    assert_eq!(parsed("remote SKIP"), Command::Remote(RemoteAnswer::Skip(1)));
    let other = RemoteAnswer::Mod { host: host(), port: 443 };
    assert_eq!(parsed("remote MOD vpn.example.org 443"), Command::Remote(other));
    for bad in ["remote FOO", "remote MOD", "remote MOD a b", "remote MOD a\\ b 1", "remote SKIP 0"]
    {
        assert_eq!(refused(bad), "remote command failed", "{bad}");
    }
    assert_eq!(parsed("proxy NONE"), Command::Proxy(ProxyAnswer::None));
    let proxy = ProxyAnswer::Proxy { is_socks: false, host: host(), port: 8080, is_careful: true };
    assert_eq!(parsed("proxy HTTP vpn.example.org 8080 nct"), Command::Proxy(proxy));
    for bad in ["proxy FOO", "proxy HTTP", "proxy SOCKS a 0", "proxy HTTP \"a:b c\" 1"] {
        assert_eq!(refused(bad), "proxy command failed", "{bad}");
    }
    let entries = Command::RemoteEntryGet { from: 1, to: Some(2) };
    assert_eq!(parsed("remote-entry-get 1"), entries);
    assert_eq!(
        refused("remote-entry-get x"),
        "the parameter of 'remote-entry-get' is not a number"
    );
}

#[test]
fn quotes_and_backslashes_are_read_as_in_a_profile() {
    assert_eq!(
        parsed(LINES[18]),
        Command::ClientDeny {
            cid: 7,
            kid: 1,
            reason: "no \"way".to_owned(),
            client_reason: Some("CRV1:R,E:abc:YWxpY2U=:Please enter".to_owned()),
        }
    );
    assert_eq!(
        parsed(LINES[22]),
        Command::Password { kind: "Auth".to_owned(), value: Secret::new(*b"a \\ b \" c") }
    );
    assert_eq!(
        parsed("username Auth 'a \\ b'"),
        Command::Username { kind: "Auth".to_owned(), value: "a \\ b".to_owned() }
    );
    assert_eq!(parsed("kill \\\"x\\ y"), Command::KillName("\"x y".to_owned()));
    assert_eq!(refused("kill \"never closed"), "a quote is opened and never closed");
}

#[test]
fn a_target_of_kill_is_an_address_if_it_looks_like_one() {
    let at = |text: &str| Command::KillAddress(text.parse().unwrap());
    assert_eq!(parsed("kill 192.0.2.1:4000"), at("192.0.2.1:4000"));
    assert_eq!(parsed("kill udp:192.0.2.1:4000"), at("192.0.2.1:4000"));
    assert_eq!(parsed("kill tcp4-server:[2001:db8::1]:4000"), at("[2001:db8::1]:4000"));
    assert_eq!(parsed("kill 2001:db8::1:4000"), at("[2001:db8::1]:4000"));
    assert_eq!(parsed("kill 192.0.2.1"), Command::KillName("192.0.2.1".to_owned()));
    assert_eq!(parsed("kill udp:anna"), Command::KillName("udp:anna".to_owned()));
}

#[test]
fn news_and_past_are_asked_for_together_or_alone() {
    let feed = |live, show| Feed { live, show, ..Feed::default() };
    assert_eq!(parsed("state"), Command::State(feed(None, Some(Show::Last(1)))));
    assert_eq!(parsed("state on"), Command::State(feed(Some(true), None)));
    assert_eq!(parsed("log on all"), Command::Log(feed(Some(true), Some(Show::All))));
    assert_eq!(parsed("log 20"), Command::Log(feed(None, Some(Show::Last(20)))));
    assert_eq!(parsed("echo off"), Command::Echo(feed(Some(false), None)));
    assert_eq!(refused("log"), "the 'log' command requires at least 1 parameter");
    let choice = "log parameter must be 'on' or 'off' or some number n or 'all'";
    for line in ["log x", "log off all", "log on x", "log -1", "log on all all"] {
        assert_eq!(refused(line), choice);
    }
}

#[test]
fn what_is_no_command_is_answered_as_openvpn_does() {
    assert_eq!(Command::parse(""), Ok(None));
    assert_eq!(Command::parse("  # a comment"), Ok(None));
    assert_eq!(refused("nonsense"), "unknown command, enter 'help' for more options");
    assert_eq!(refused("status 4"), "bad status format version number");
    assert_eq!(refused("hold foo"), "bad hold command parameter");
    assert_eq!(refused("verb 16"), "verb level is out of range");
    assert_eq!(refused("kill"), "the 'kill' command requires 1 parameter");
    assert_eq!(refused("client-auth x 1"), "cannot parse CID");
    assert_eq!(refused("client-auth 1"), "the 'client-auth' command requires 2 parameters");
    assert_eq!(
        refused("client-deny 1 1"),
        "the 'client-deny' command requires at least 3 parameters"
    );
}

#[test]
fn texts_for_clients_are_one_short_line() {
    let long = "x".repeat(MAX_TEXT + 1);
    assert!(refused(&format!("client-deny 1 1 a {long}")).contains("at most"));
    assert!(refused(&format!("client-pending-auth 1 1 {long} 20")).contains("at most"));
    for timeout in ["0", "601", "-1", "x"] {
        assert!(refused(&format!("client-pending-auth 1 1 a {timeout}")).contains("timeout"));
    }
    let Command::ClientDeny { client_reason, .. } = parsed("client-deny 1 1 a \"b\u{1b}\rc\"")
    else {
        panic!()
    };
    assert_eq!(client_reason.as_deref(), Some("b__c"));
}

#[test]
fn every_beginning_of_a_command_is_read_or_refused_in_one_line() {
    for line in LINES {
        parsed(line);
        for end in (0..line.len()).filter(|end| line.is_char_boundary(*end)) {
            if let Err(refusal) = Command::parse(&line[..end]) {
                assert!(!refusal.0.chars().any(char::is_control), "{refusal}");
            }
        }
    }
}

#[test]
fn a_damaged_command_is_survived_and_never_echoed() {
    for line in LINES {
        for position in 0..line.len() {
            for damage in [0x00, 0x09, 0x0d, 0x1b, b'"', b'\'', b'\\', b'#', 0x80, 0xff] {
                let mut bytes = line.as_bytes().to_vec();
                bytes[position] = damage;
                if let Err(refusal) = Command::parse(&String::from_utf8_lossy(&bytes)) {
                    assert!(!refusal.0.chars().any(char::is_control), "{refusal}");
                }
            }
        }
    }
}

#[test]
fn a_password_is_never_shown() {
    let command = parsed("password Auth sesame");
    assert!(!format!("{command:?}").contains("sesame"));
}
