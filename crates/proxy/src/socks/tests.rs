use contract::Secret;

use super::*;

fn login() -> Option<Login> {
    Some(Login { user: "ann".to_owned(), password: Secret::new("secret") })
}

fn connect(login: Option<Login>) -> Socks {
    let target = Target::new("vpn.example", 443).unwrap();
    Socks::new(Command::Connect(target), login).unwrap().0
}

fn sent(step: SocksStep) -> Vec<u8> {
    match step {
        SocksStep::Send(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_proxy_without_passwords_resolves_the_name() {
    let mut socks = connect(None);

    let request = sent(socks.read(&[5, 0]).unwrap());

    assert_eq!(request, b"\x05\x01\x00\x03\x0bvpn.example\x01\xbb");
    let reply = [5, 0, 0, 1, 192, 0, 2, 7, 0x10, 0x00, b'h', b'i'];
    let bound = Bound::Address("192.0.2.7:4096".parse().unwrap());
    assert_eq!(socks.read(&reply).unwrap(), SocksStep::Through { bound, rest: b"hi".to_vec() });
}

#[test]
fn a_password_is_sent_when_it_is_asked_for_and_only_then() {
    let (mut socks, greeting) = Socks::new(Command::Associate, login()).unwrap();
    assert_eq!(greeting, [5, 2, 0, 2]);
    assert_eq!(sent(socks.read(&[5, 2]).unwrap()), b"\x01\x03ann\x06secret");
    assert_eq!(sent(socks.read(&[1, 0]).unwrap()), [5, 3, 0, 1, 0, 0, 0, 0, 0, 0]);

    let mut unasked = connect(login());
    assert!(!sent(unasked.read(&[5, 0]).unwrap()).windows(6).any(|word| word == b"secret"));
    assert_eq!(connect(None).read(&[5, 2]), Err(ProxyError::LoginNeeded));
    assert_eq!(connect(None).read(&[5, 0xff]), Err(ProxyError::LoginNeeded));
    assert!(matches!(connect(login()).read(&[5, 1]), Err(ProxyError::Method(_))), "GSSAPI");
    let mut refused = connect(login());
    refused.read(&[5, 2]).unwrap();
    assert_eq!(refused.read(&[1, 9]), Err(ProxyError::LoginRefused));
}

#[test]
fn replies_may_arrive_byte_by_byte_and_never_pass_for_whole_when_cut() {
    for reply in [
        &[5, 0, 0, 1, 192, 0, 2, 7, 0x10, 0x00][..],
        b"\x05\x00\x00\x03\x04host\x10\x00",
        &[5, 0, 0, 4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x10, 0],
    ] {
        let mut socks = connect(None);
        assert_eq!(socks.read(&[5]).unwrap(), SocksStep::More);
        sent(socks.read(&[0]).unwrap());
        let (last, head) = reply.split_last().unwrap();
        for byte in head {
            assert_eq!(socks.read(&[*byte]).unwrap(), SocksStep::More);
        }
        assert!(matches!(socks.read(&[*last]).unwrap(), SocksStep::Through { .. }));
    }
}

#[test]
fn every_damaged_reply_is_survived() {
    let reply = [5, 0, 0, 1, 192, 0, 2, 7, 0x10, 0x00];
    for at in 0..reply.len() {
        for bit in 0..8 {
            let mut damaged = reply;
            damaged[at] ^= 1 << bit;
            let mut socks = connect(None);
            sent(socks.read(&[5, 0]).unwrap());
            let _ = socks.read(&damaged);
        }
    }
}

#[test]
fn a_refusal_is_put_in_words() {
    let mut socks = connect(None);
    socks.read(&[5, 0]).unwrap();

    let error = socks.read(&[5, 2]).unwrap_err().to_string();

    assert_eq!(error, "the proxy refuses: its rules do not allow it");
    assert!(matches!(connect(None).read(b"HTTP/1.1 400"), Err(ProxyError::Protocol(_))));
    assert!(matches!(connect(None).read(&[5, 0, 5]), Err(ProxyError::Protocol(_))));
}

#[test]
fn a_relay_is_where_it_can_be() {
    let proxy: IpAddr = "192.0.2.1".parse().unwrap();
    let at = |text: &str| Bound::Address(text.parse().unwrap()).relay(proxy);

    assert_eq!(at("0.0.0.0:99"), Ok("192.0.2.1:99".parse().unwrap()));
    assert_eq!(at("[::]:99"), Ok("192.0.2.1:99".parse().unwrap()));
    assert_eq!(at("198.51.100.2:99"), Ok("198.51.100.2:99".parse().unwrap()));
    for lie in ["192.0.2.1:0", "127.0.0.1:99", "224.0.0.1:99", "255.255.255.255:9", "[ff02::1]:9"] {
        assert!(at(lie).is_err(), "{lie}");
    }
    assert!(Bound::Name("x".to_owned(), 99).relay(proxy).is_err());
    let here = Bound::Address("127.0.0.1:99".parse().unwrap());
    assert!(here.relay("127.0.0.1".parse().unwrap()).is_ok(), "a proxy of this host");
}

#[test]
fn datagrams_have_the_server_in_front() {
    let head = Head::new("192.0.2.7:1194".parse().unwrap());
    assert_eq!(head.as_slice(), [0, 0, 0, 1, 192, 0, 2, 7, 4, 0xaa]);
    let head = Head::new("[2001:db8::1]:1194".parse().unwrap());
    assert_eq!(head.as_slice().len(), 22);
    assert_eq!((head.as_slice()[3], &head.as_slice()[20..]), (4, &[4, 0xaa][..]));
}

#[test]
fn a_login_that_does_not_fit_is_refused_before_anything_is_sent() {
    for (user, password) in [("", "x"), ("x", ""), (&*"x".repeat(256), "x")] {
        let login = Login { user: user.to_owned(), password: Secret::new(password) };
        assert!(Socks::new(Command::Associate, Some(login)).is_err());
    }
}
