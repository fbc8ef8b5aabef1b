use contract::{Engine, Lease, Output};

use super::*;
use crate::pull::FilterAction;

const START: &str = "topology subnet,ifconfig 10.8.0.2 255.255.255.0,route-gateway 10.8.0.1,\
    route 10.1.0.0 255.255.0.0,dhcp-option DNS 10.8.0.1,ping 10,ping-restart 60";

/// An initiator whose tunnel stands.
struct Standing {
    role: Initiator,
    core: Core,
    now: Instant,
}

impl Standing {
    fn new(pull: Pull) -> Self {
        Self::pushed(pull, START)
    }

    fn pushed(pull: Pull, start: &str) -> Self {
        let now = Instant::now();
        let tls = ClientConfig::builder_with_provider(crypto::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let config = InitiatorConfig {
            tls: Arc::new(tls),
            key_is_slow: false,
            protection: Arc::new(Protection::None),
            credentials: None,
            ciphers: vec![Cipher::Aes256Gcm],
            fallback: None,
            digest: Hash::Sha256,
            mtu: 1500,
            shape: ShapeRules::default(),
            handshake: Duration::from_secs(60),
            renegotiate: None,
            ping: Duration::from_secs(10),
            ping_restart: Duration::from_secs(60),
            exits_on_silence: false,
            pull,
            layer: Layer::Ip,
            is_before_2_6: false,
            version: "0",
            device: String::new(),
            started_at: 1,
        };
        let mut pushed = Pushed::new(&config.pull);
        pushed.read(start, &config.pull);
        let path = Path {
            local: None,
            remote: "192.0.2.1:1194".parse().unwrap(),
            carrier: contract::Carrier::Udp(contract::SocketId(1)),
        };
        let core = core(now, &config, path, PortId(1), [1; 32]);
        let role = Initiator {
            config: Arc::new(config),
            stage: Stage::Established,
            ours: None,
            token: None,
            conduct: Conduct::default(),
            user: String::new(),
            prompt: None,
            refusal: None,
            tidings: Tidings::default(),
            options: pushed.options,
            update: None,
            updating: None,
        };
        Self { role, core, now }
    }

    fn hear(&mut self, message: &str) -> Result<(), Fatal> {
        self.role.on_message(&mut self.core, self.now, message)
    }

    fn answer(&mut self, ask: AskId, result: Result<(), ()>) {
        let answer = Answer::Configured(result);
        self.role.on_answer(&mut self.core, self.now, ask, answer).unwrap();
    }

    /// What it asks of the host and what it remarks, from beginning to end.
    fn finish(self) -> (Vec<(AskId, Lease)>, Vec<String>) {
        let mut session = Session::initiator_with(self.core, self.role);
        let (mut leases, mut remarks) = (Vec::new(), Vec::new());
        loop {
            match session.poll(self.now) {
                Output::Ask { ask, question: Ask::Configure(lease) } => leases.push((ask, lease)),
                Output::Event(Event::Remark(text)) => remarks.push(text),
                Output::Wait(_) => return (leases, remarks),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn routes(lease: &Lease) -> Vec<String> {
    lease.routes.iter().map(ToString::to_string).collect()
}

#[test]
fn an_update_changes_the_lease_and_not_the_tunnel() {
    let mut standing = Standing::new(Pull::default());

    standing.hear("PUSH_UPDATE,route 10.2.0.0 255.255.0.0,-dhcp-option,ping-restart 90").unwrap();
    standing.answer(AskId(1), Ok(()));
    standing.hear("PUSH_UPDATE, block-ipv6, ?frobnicate 1").unwrap();

    assert_eq!(standing.core.timing.ping_restart, Duration::from_secs(90));
    let (leases, remarks) = standing.finish();
    let [(_, first), (_, second)] = leases.as_slice() else { panic!("{leases:?}") };
    assert_eq!(routes(first), ["10.2.0.0/16"]);
    assert_eq!(first.dns.servers, Lease::default().dns.servers);
    assert_eq!(first.ipv4, Some(("10.8.0.2".parse().unwrap(), 24)), "what is not named stays");
    assert!(!first.block6 && second.block6);
    assert_eq!(routes(second), ["10.2.0.0/16"], "the second builds on the first");
    assert_eq!(remarks, [""; 0]);
}

#[test]
fn an_update_leaves_long_options_as_they_were_pushed() {
    let domains: Vec<_> = (0..9).map(|n| format!("{n}.department.example")).collect();
    let start = format!("{START},dns search-domains {}", domains.join(" "));
    let mut standing = Standing::pushed(Pull::default(), &start);

    for (ask, route) in [(1, "10.2.0.0"), (2, "10.3.0.0")] {
        standing.hear(&format!("PUSH_UPDATE,route {route} 255.255.0.0")).unwrap();
        standing.answer(AskId(ask), Ok(()));
    }

    let (leases, remarks) = standing.finish();
    assert_eq!(leases.len(), 2);
    assert!(leases.iter().all(|(_, lease)| lease.dns.search == domains), "{leases:?}");
    assert_eq!(remarks, [""; 0]);
}

#[test]
fn a_host_that_cannot_follow_an_update_keeps_the_session() {
    let mut standing = Standing::new(Pull::default());

    standing.hear("PUSH_UPDATE,route 10.2.0.0 255.255.0.0").unwrap();
    standing.hear("PUSH_UPDATE,route 10.3.0.0 255.255.0.0").unwrap();
    standing.answer(AskId(1), Err(()));

    let (leases, remarks) = standing.finish();
    assert_eq!(leases.len(), 1, "the second came before the first was done");
    assert!(remarks[0].contains("at the wrong time"), "{remarks:?}");
    assert!(remarks[1].contains("it is as it was"), "{remarks:?}");
}

#[test]
fn what_cannot_change_takes_a_new_connection() {
    let mut standing = Standing::new(Pull::default());
    let fatal = standing.hear("PUSH_UPDATE,route 10.2.0.0,cipher AES-128-GCM").unwrap_err();
    assert_eq!(fatal, Fatal::Finished(TerminateCause::NasError));
    assert!(standing.finish().0.is_empty());
}

#[test]
fn an_update_passes_the_same_filters() {
    let filters = vec![
        (FilterAction::Ignore, "route ".to_owned()),
        (FilterAction::Reject, "redirect-gateway".to_owned()),
    ];
    let mut standing = Standing::new(Pull { filters, ..Pull::default() });

    standing.hear("PUSH_UPDATE,?route 10.2.0.0 255.255.0.0,dhcp-option DNS 10.8.0.9").unwrap();
    standing.answer(AskId(1), Ok(()));
    assert!(standing.hear("PUSH_UPDATE,?redirect-gateway def1").is_err());

    let (leases, _) = standing.finish();
    assert_eq!(routes(&leases[0].1), [""; 0], "the push was filtered, and so is the update");
    assert_eq!(leases[0].1.dns.servers, ["10.8.0.9".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn an_update_without_end_ends_the_session() {
    let mut standing = Standing::new(Pull::default());
    let part = "PUSH_UPDATE,route 10.2.0.0,push-continuation 2";
    let ended = (0..100).find_map(|_| standing.hear(part).err());
    assert_eq!(ended, Some(Fatal::ProtocolViolation("a push without end")));
}

#[test]
fn a_refused_token_of_this_connection_is_no_refusal_of_the_password() {
    for refusal in ["AUTH_FAILED", "AUTH_FAILED,no", "AUTH_FAILED,SESSION:token expired"] {
        let mut standing = Standing::new(Pull::default());
        standing.hear("PUSH_REPLY,auth-token SESS_ID").unwrap();

        let ended = standing.hear(refusal).unwrap_err();

        assert_eq!(ended, Fatal::Finished(TerminateCause::NasError), "{refusal}");
        assert!(standing.role.token.is_none(), "it is not shown again");
        // Without one, it was the password.
        assert!(matches!(Standing::new(Pull::default()).hear(refusal), Err(Fatal::Denied(_))));
    }
}

#[test]
fn what_a_server_says_on_the_way_is_kept_for_user_interfaces() {
    let mut standing = Standing::new(Pull::default());
    standing.hear("AUTH_PENDING,timeout 42").unwrap();
    standing.hear("INFO_PRE,WEB_AUTH::https://vpn.example.org/\u{7}").unwrap();
    standing.hear("AUTH_FAILED,CRV1:R,E:abc:YW5u:The code: please").unwrap_err();

    assert_eq!(
        standing.role.tidings.take(),
        [
            Tiding::Pending { seconds: 42 },
            Tiding::Info("WEB_AUTH::https://vpn.example.org/_".to_owned()),
            Tiding::Refused("CRV1:R,E:abc:YW5u:The code: please".to_owned()),
        ]
    );
    for _ in 0..1000 {
        standing.hear("INFO,again").unwrap();
    }
    assert_eq!(standing.role.tidings.take().len(), 64);
}
