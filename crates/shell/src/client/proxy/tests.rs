//! Against proxies of the tests' own: honest ones and others.

use std::time::Duration;

use ::proxy::{Authentication, HttpOptions, Login};
use contract::Secret;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// A proxy that hears what `expected` says and answers, on one connection after the other; then
/// keeps the last open. What it heard is the outcome.
struct Fake {
    address: SocketAddr,
    heard: JoinHandle<Vec<Vec<u8>>>,
}

impl Fake {
    /// `script` has, for each connection, what to say after each message.
    async fn new(script: Vec<Vec<&'static [u8]>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            for answers in script {
                let (mut connection, _) = listener.accept().await.unwrap();
                for answer in answers {
                    let mut message = vec![0; 4096];
                    let len = connection.read(&mut message).await.unwrap_or(0);
                    message.truncate(len);
                    heard.push(message);
                    let _ = connection.write_all(answer).await;
                }
            }
            heard
        });
        Self { address, heard }
    }

    async fn stream(&self, proxy: &Proxy) -> Result<(TcpStream, Vec<u8>), Failure> {
        let target = Target::new("vpn.example", 1194).unwrap();
        let dial = dial(self.address);
        let asked = stream(proxy, target, &dial);
        timeout(Duration::from_secs(10), asked).await.expect("it never hangs on an answer")
    }

    async fn error(&self, proxy: &Proxy) -> String {
        self.stream(proxy).await.unwrap_err().to_string()
    }
}

fn dial(to: SocketAddr) -> Dial {
    Dial { to, local_port: None, mark: None, patience: Duration::from_secs(10) }
}

fn http(allowed: Authentication, login: bool) -> Proxy {
    Proxy {
        host: "127.0.0.1".to_owned(),
        port: 3128,
        login: login.then(|| Login { user: "ann".to_owned(), password: Secret::new("secret") }),
        kind: ProxyKind::Http { allowed, options: HttpOptions::default() },
        timeout: None,
    }
}

fn socks_proxy(login: bool) -> Proxy {
    Proxy { kind: ProxyKind::Socks, ..http(Authentication::None, login) }
}

const THROUGH: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nhello";
const WANTS_BASIC: &[u8] =
    b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 4\r\n\r\nbody";
const WANTS_DIGEST: &[u8] =
    b"HTTP/1.1 407 No\r\nProxy-Authenticate: Digest realm=\"x\", nonce=\"n\", qop=\"auth\"\r\n\r\n";

#[tokio::test]
async fn an_http_proxy_gives_the_way_and_what_came_with_it() {
    let fake = Fake::new(vec![vec![THROUGH]]).await;

    let (_, rest) = fake.stream(&http(Authentication::None, false)).await.unwrap();

    assert_eq!(rest, b"hello");
    let heard = fake.heard.await.unwrap();
    assert!(heard[0].starts_with(b"CONNECT vpn.example:1194 HTTP/1.0\r\nHost: "));
}

#[tokio::test]
async fn a_proxy_gets_the_password_on_a_connection_of_its_own() {
    for (wants, word) in [(WANTS_BASIC, "Basic YW5uOnNlY3JldA=="), (WANTS_DIGEST, "Digest ")] {
        let fake = Fake::new(vec![vec![wants], vec![THROUGH]]).await;

        fake.stream(&http(Authentication::Basic, true)).await.unwrap();

        let heard = fake.heard.await.unwrap();
        let text = |n: usize| String::from_utf8_lossy(&heard[n]).into_owned();
        assert!(!text(0).contains("Proxy-Authorization"), "{}", text(0));
        assert!(text(1).contains(&format!("Proxy-Authorization: {word}")), "{}", text(1));
    }
}

#[tokio::test]
async fn a_proxy_that_lies_or_falls_silent_is_an_error_in_one_line() {
    static ENDLESS: [u8; 20_000] = [b'x'; 20_000];
    let open = http(Authentication::None, false);
    for (answer, expected) in [
        (&b"HTTP/1.1 302 Found\r\nLocation: http://evil/\r\n\r\n"[..], "302 Found"),
        (b"HTTP/1.1 999 What\r\n\r\n", "999 What"),
        (b"HTTP/1.1 200", "hangs up"),
        (b"", "hangs up"),
        (b"220 smtp ready\r\n", "it is no HTTP proxy"),
        (&ENDLESS, "it is no HTTP proxy"),
        (b"HTTP/1.1 407 No\r\n\r\n", "asks for a user name and a password"),
    ] {
        let error = Fake::new(vec![vec![answer]]).await.error(&open).await;
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
    let headers = [b"HTTP/1.1 200 OK\r\n".as_slice(), &ENDLESS].concat().leak();
    let error = Fake::new(vec![vec![headers]]).await.error(&open).await;
    assert!(error.contains("its answer has no end"), "{error}");

    let fake = Fake::new(vec![vec![WANTS_BASIC], vec![WANTS_BASIC], vec![THROUGH]]).await;
    let error = fake.error(&http(Authentication::Basic, true)).await;
    assert!(error.contains("refused user name or password"), "{error}");
    let error = Fake::new(vec![vec![WANTS_BASIC]]).await;
    let error = error.error(&http(Authentication::Digest, true)).await;
    assert!(error.contains("in the clear"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Target::new("h", 1).unwrap();
    let dial = dial(address);
    let asked = stream(&open, target, &dial);
    let silent = timeout(Duration::from_millis(300), asked).await;
    assert!(silent.is_err(), "who is silent is waited for; the caller's limit ends that");
}

#[tokio::test]
async fn a_socks_proxy_leads_to_the_server_by_name() {
    let ready = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0, b'h', b'i'][..];
    let fake = Fake::new(vec![vec![&[5, 2], &[1, 0], ready]]).await;

    let (_, rest) = fake.stream(&socks_proxy(true)).await.unwrap();

    assert_eq!(rest, b"hi");
    let heard = fake.heard.await.unwrap();
    assert_eq!(heard[0], [5, 2, 0, 2]);
    assert_eq!(heard[1], b"\x01\x03ann\x06secret");
    assert_eq!(heard[2], b"\x05\x01\x00\x03\x0bvpn.example\x04\xaa");
}

#[tokio::test]
async fn a_relay_is_where_the_proxy_says_and_goes_with_its_connection() {
    let relay = &[5, 0, 0, 1, 0, 0, 0, 0, 0x11, 0x22][..];
    let fake = Fake::new(vec![vec![&[5, 0], relay]]).await;

    let (to, connection) = association(&socks_proxy(false), &dial(fake.address)).await.unwrap();

    assert_eq!(to, "127.0.0.1:4386".parse().unwrap());
    // The script is over, and the proxy has gone.
    let mut kept = Some(connection);
    timeout(Duration::from_secs(10), ended(&mut kept)).await.expect("its end is noticed");
    assert!(kept.is_none());
}

#[tokio::test]
async fn a_socks_proxy_that_lies_is_an_error_in_one_line() {
    for (answers, expected) in [
        (vec![&b"\x04\x5a"[..]], "it is no SOCKS 5 proxy"),
        (vec![&[5, 0xff]], "asks for a user name and a password"),
        (vec![&[5, 0, 5, 0]], "it talks before it is asked"),
        (vec![&[5, 0], &[5, 7, 0]], "it cannot do that"),
        (vec![&[5, 0], &[5, 0, 0, 9]], "an unknown kind"),
        (vec![&[5, 0], &[5, 0, 0, 1, 1]], "hangs up"),
        (vec![&[5, 0], &[5, 0, 0, 1, 224, 0, 0, 1, 1, 1]], "cannot be its own"),
        (vec![&[5, 0], &[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]], "its relay has no port"),
    ] {
        let fake = Fake::new(vec![answers]).await;
        let (proxy, dial) = (socks_proxy(false), dial(fake.address));
        let asked = timeout(Duration::from_secs(10), association(&proxy, &dial));
        let error = asked.await.expect("it never hangs").unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
    let nowhere = dial("127.0.0.1:1".parse().unwrap());
    let error = association(&http(Authentication::None, false), &nowhere).await;
    assert!(error.unwrap_err().to_string().contains("no datagrams"));
}
