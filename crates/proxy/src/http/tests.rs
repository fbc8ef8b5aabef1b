use contract::Secret;

use super::*;

fn login() -> Option<Login> {
    Some(Login { user: "Mufasa".to_owned(), password: Secret::new("Circle of Life") })
}

fn attempt(allowed: Authentication, login: Option<Login>) -> HttpConnect {
    let target = Target::new("vpn.example", 443).unwrap();
    let mut attempt =
        HttpConnect::new(target, HttpOptions::default(), allowed, login, [7; 16]).unwrap();
    attempt.request().unwrap();
    attempt
}

fn text(request: &[u8]) -> String {
    String::from_utf8(request.to_vec()).unwrap()
}

fn challenge(header: &str) -> Vec<u8> {
    format!("HTTP/1.1 407 Proxy Authentication Required\r\n{header}\r\n\r\n").into_bytes()
}

const BASIC: &str = "Proxy-Authenticate: Basic realm=\"x\"";
const DIGEST: &str = "Proxy-Authenticate: Digest realm=\"a \\\"b\\\"\", nonce=\"n1\", \
    qop=\"auth-int, auth\", algorithm=SHA-256, opaque=\"o\"";

#[test]
fn the_first_request_names_the_target_and_no_password() {
    let target = Target::new("2001:db8::1", 1194).unwrap();
    let mut options = HttpOptions::default();
    options.set_version(Version::Http11);
    options.set_agent("Mozilla/5.0 (x)").unwrap();
    options.add_header("X-Forwarded-For", "127.0.0.1").unwrap();
    let login = login();

    let mut attempt =
        HttpConnect::new(target, options, Authentication::Basic, login, [0; 16]).unwrap();

    assert_eq!(
        text(&attempt.request().unwrap()),
        "CONNECT [2001:db8::1]:1194 HTTP/1.1\r\nHost: [2001:db8::1]:1194\r\n\
         User-Agent: Mozilla/5.0 (x)\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
    );
}

#[test]
fn what_comes_behind_the_response_belongs_to_the_tunnel() {
    let mut attempt = attempt(Authentication::None, None);
    let response = b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n\x00\x0e8";
    for byte in &response[..response.len() - 4] {
        assert_eq!(attempt.read(&[*byte]).unwrap(), HttpStep::More);
    }

    let step = attempt.read(&response[response.len() - 4..]).unwrap();

    assert_eq!(step, HttpStep::Through { rest: b"\x00\x0e8".to_vec() });
}

#[test]
fn basic_is_given_when_it_is_asked_for() {
    let mut attempt = attempt(Authentication::Basic, login());

    assert_eq!(attempt.read(&challenge(BASIC)).unwrap(), HttpStep::Again);

    let request = text(&attempt.request().unwrap());
    assert!(request.contains("\r\nProxy-Authorization: Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl\r\n"));
    assert_eq!(attempt.read(&challenge(BASIC)), Err(ProxyError::LoginRefused));

    let mut other = self::attempt(Authentication::Basic, login());
    assert!(matches!(other.read(b"HTTP/1.0 401 No\r\n\r\n"), Err(ProxyError::Refused(_))));
    let mut other = self::attempt(Authentication::Basic, login());
    other.read(&challenge(BASIC)).unwrap();
    other.request().unwrap();
    assert_eq!(other.read(b"HTTP/1.0 401 No\r\n\r\n"), Err(ProxyError::LoginRefused));
}

#[test]
fn a_password_in_the_clear_is_not_given_where_the_profile_forbids_it() {
    let mut strict = attempt(Authentication::Digest, login());
    let error = strict.read(&challenge(BASIC)).unwrap_err();
    assert!(error.to_string().contains("in the clear (Basic)"), "{error}");

    let mut strict = attempt(Authentication::Digest, login());
    strict.read(&challenge(&format!("{BASIC}\r\n{DIGEST}"))).unwrap();
    assert!(text(&strict.request().unwrap()).contains("Proxy-Authorization: Digest "));
}

#[test]
fn digest_is_preferred_and_its_values_are_repeated_as_they_were() {
    let md5 = "Proxy-Authenticate: Digest realm=r, nonce=md5, qop=auth";
    let mut attempt = attempt(Authentication::Basic, login());

    attempt.read(&challenge(&format!("{BASIC}\r\n{md5}\r\n{DIGEST}"))).unwrap();

    let request = text(&attempt.request().unwrap());
    for part in [
        "Digest username=\"Mufasa\", realm=\"a \\\"b\\\"\", nonce=\"n1\", uri=\"vpn.example:443\"",
        "algorithm=SHA-256, opaque=\"o\", qop=auth, nc=00000001, cnonce=\"0707",
    ] {
        assert!(request.contains(part), "{request}");
    }
}

/// The example of RFC 7616, 3.9.1.
#[test]
fn digests_are_those_of_the_rfc() {
    let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
    for (algorithm, response) in [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ] {
        let header = format!(
            "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", \
             algorithm={algorithm}, nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
             opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
        );
        let parsed = challenge::parse(header.as_bytes());
        let [Challenge::Digest(digest)] = parsed.as_slice() else { panic!("{parsed:?}") };

        let answer = digest.answer_to(&login().unwrap(), "GET", "/dir/index.html", cnonce);

        assert!(answer.contains(&format!("response=\"{response}\"")), "{}", *answer);
    }
}

#[test]
fn a_stale_nonce_is_replaced_once() {
    let stale = DIGEST.replace("n1", "n2") + ", stale=TRUE";
    let mut attempt = attempt(Authentication::Basic, login());
    attempt.read(&challenge(DIGEST)).unwrap();
    attempt.request().unwrap();

    assert_eq!(attempt.read(&challenge(&stale)).unwrap(), HttpStep::Again);
    assert!(text(&attempt.request().unwrap()).contains("nonce=\"n2\""));
    assert_eq!(attempt.read(&challenge(&stale)), Err(ProxyError::LoginRefused));

    let mut wrong = self::attempt(Authentication::Basic, login());
    wrong.read(&challenge(DIGEST)).unwrap();
    wrong.request().unwrap();
    assert_eq!(wrong.read(&challenge(DIGEST)), Err(ProxyError::LoginRefused));
}

#[test]
fn what_cannot_be_answered_is_named() {
    let error = |header: &str, login| {
        attempt(Authentication::Basic, login).read(&challenge(header)).unwrap_err().to_string()
    };
    assert!(error("Proxy-Authenticate: NTLM", login()).contains("asks for NTLM, which"));
    assert!(error("X: y", login()).contains("a login, but not how"));
    assert!(error(BASIC, None).contains("the profile has none"));
    let integrity = "Proxy-Authenticate: Digest realm=r, nonce=n, qop=\"auth-int\"";
    assert!(error(integrity, login()).contains("asks for Digest"));
}

#[test]
fn lies_and_nonsense_end_the_attempt() {
    let read = |bytes: &[u8]| attempt(Authentication::Basic, login()).read(bytes);

    let endless = [b"HTTP/1.0 200 OK\r\n".as_slice(), &[b'x'; MAX_HEAD]].concat();
    assert_eq!(read(&endless), Err(ProxyError::Protocol("its answer has no end")));
    let late = [endless.as_slice(), b"\r\n\r\n"].concat();
    assert_eq!(read(&late), Err(ProxyError::Protocol("its answer has no end")));
    assert_eq!(read(b"SSH-2.0-x\r\n"), Err(ProxyError::Protocol("it is no HTTP proxy")));
    for line in
        ["HTTP/1.0 2", "HTTP/1.0 20x OK", "HTTP/1.12 200 OK", "HTTP/1.0  200", "HTTP/1.2 200"]
    {
        let response = format!("{line}\r\n\r\n");
        assert!(matches!(read(response.as_bytes()), Err(ProxyError::Protocol(_))), "{line}");
    }
    let refused = read(b"HTTP/1.1 403 For\x1b[31mbidden\r\n\r\n").unwrap_err().to_string();
    assert_eq!(refused, "the proxy refuses: 403 For_[31mbidden");
}

#[test]
fn nothing_can_be_smuggled_into_a_request() {
    let mut options = HttpOptions::default();
    assert!(options.set_agent("x\r\nProxy-Authorization: y").is_err());
    assert!(options.add_header("X\r\nY", "z").is_err());
    assert!(options.add_header("X", "y\nz").is_err());
    assert!(options.add_header("proxy-authorization", "Basic eA==").is_err());

    let target = Target::new("h", 1).unwrap();
    let user = Login { user: "a\r\nX: y".to_owned(), password: Secret::new("x") };
    let options = HttpOptions::default();
    assert!(HttpConnect::new(target, options, Authentication::Basic, Some(user), [0; 16]).is_err());

    // Neither can the proxy have us repeat what ends a header.
    let header = b"Digest realm=\"a\\\rX: y\", nonce=\"n\"";
    assert_eq!(challenge::parse(header), []);
}

#[test]
fn every_cut_and_every_damaged_challenge_is_survived() {
    let whole = challenge(DIGEST);
    for end in 0..whole.len() {
        let step = attempt(Authentication::Basic, login()).read(&whole[..end]).unwrap();
        assert_eq!(step, HttpStep::More, "{end}");
    }
    for at in 0..whole.len() {
        for byte in [0, b'"', b'\\', b',', b'=', b'\r', 0xff] {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            let mut attempt = attempt(Authentication::Basic, login());
            if attempt.read(&damaged) == Ok(HttpStep::Again) {
                let request = text(&attempt.request().unwrap());
                assert_eq!(request.matches("\r\n").count(), 4, "{request}");
            }
        }
    }
}
