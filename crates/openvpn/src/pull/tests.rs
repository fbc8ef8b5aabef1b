use std::net::IpAddr;

use contract::{DnsOverTls, Dnssec};

use super::*;
use crate::push::Pushed;

fn pushed(pull: &Pull, options: &str) -> Pushed {
    let mut pushed = Pushed::new(pull);
    pushed.read(options, pull);
    pushed.finish(pull);
    pushed
}

fn lease(options: &str) -> Lease {
    let pushed = pushed(&Pull::default(), options);
    assert_eq!(pushed.remarks, [""; 0], "{options}");
    pushed.lease
}

fn remark(options: &str) -> String {
    let pushed = pushed(&Pull::default(), options);
    assert_eq!(pushed.remarks.len(), 1, "{options}: {:?}", pushed.remarks);
    pushed.remarks[0].clone()
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

const ADDRESS: &str = "topology subnet,ifconfig 10.8.0.2 255.255.255.0,route-gateway 10.8.0.1,";

#[test]
fn on_ethernet_the_second_word_is_always_a_mask() {
    let pull = Pull { layer: Layer::Ethernet, ..Pull::default() };
    let pushed = pushed(&pull, "route-gateway 10.8.0.1,ifconfig 10.8.0.6 255.255.255.0");

    assert_eq!(pushed.lease.ipv4, Some(([10, 8, 0, 6].into(), 24)));
    assert_eq!(pushed.lease.routes, []);
}

#[test]
fn gateways_decide_on_which_side_of_the_tunnel_a_route_is() {
    let lease = lease(&format!(
        "{ADDRESS}route 10.1.0.0 255.255.0.0,route 10.2.0.0 255.255.0.0 vpn_gateway,\
         route 10.3.0.0 255.255.0.0 10.8.0.1,route 10.4.0.0 255.255.0.0 net_gateway,\
         route 203.0.113.5,route remote_host 255.255.255.255 net_gateway,\
         route-ipv6 fd01::/48,route-ipv6 fd02::/48 net_gateway_ipv6,route-ipv6 fd03::1"
    ));

    let inside =
        ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "203.0.113.5/32", "fd01::/48", "fd03::1/128"];
    assert_eq!(lease.routes, nets(&inside));
    assert_eq!(lease.excluded, nets(&["10.4.0.0/16", "fd02::/48"]));
}

/// It would lead packets for the private network out of the tunnel, to whoever has that address.
#[test]
fn a_gateway_outside_of_the_tunnel_is_not_obeyed() {
    let pushed =
        pushed(&Pull::default(), &format!("{ADDRESS}route 10.1.0.0 255.255.0.0 192.168.1.1"));

    assert_eq!(pushed.lease.routes, []);
    assert!(pushed.remarks[0].contains("its gateway 192.168.1.1 is not in the tunnel"));
}

#[test]
fn a_metric_is_the_routes_own_or_that_of_all() {
    let lease = lease(&format!(
        "{ADDRESS}route 10.1.0.0 255.255.0.0 vpn_gateway 7,route 10.2.0.0 255.255.0.0,\
         route 10.3.0.0 255.255.0.0 default default,route-ipv6 fd01::/48 default 9,route-metric 50"
    ));

    let metrics = lease.metrics.iter().map(|(net, metric)| format!("{net} {metric}"));
    assert_eq!(
        metrics.collect::<Vec<_>>(),
        ["10.1.0.0/16 7", "10.2.0.0/16 50", "10.3.0.0/16 50", "fd01::/48 9"]
    );
}

#[test]
fn every_flag_of_redirect_gateway_is_understood() {
    for (flags, expected) in [
        ("def1", (true, false, false)),
        ("def1 bypass-dhcp ipv6", (true, true, false)),
        ("!ipv4 ipv6", (false, true, false)),
        ("local block-local", (true, false, true)),
        ("autolocal def1", (true, false, false)),
    ] {
        let lease = lease(&format!("redirect-gateway {flags}"));
        assert_eq!((lease.redirect4, lease.redirect6, lease.block_local), expected, "{flags}");
    }
    let private = lease("redirect-private def1 block-local ipv6");
    assert!(!private.redirect4 && !private.redirect6 && private.block_local);
    assert!(remark("redirect-gateway bypass-dns").contains("not exempted from the tunnel"));
    assert!(remark("redirect-gateway everything").contains("a flag that does not exist"));
}

#[test]
fn resolvers_and_domains_come_in_old_words() {
    let dns = lease(
        "dhcp-option DNS 10.8.0.1,dhcp-option DNS6 fd00::1,dhcp-option DOMAIN corp.example,\
         dhcp-option DOMAIN-SEARCH lab.example,dhcp-option ADAPTER_DOMAIN_SUFFIX corp.example",
    )
    .dns;

    let servers: [IpAddr; 2] = ["10.8.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert_eq!(dns.servers, servers);
    assert_eq!(dns.search, ["corp.example", "lab.example"]);
    assert_eq!(dns.split, [""; 0]);
    assert!(remark("dhcp-option WINS 10.8.0.1").contains("only resolvers and domains"));
}

#[test]
fn of_several_resolvers_the_first_that_can_be_used_is() {
    let dns = lease_with_remarks(
        "dhcp-option DNS 192.0.2.1,dns search-domains corp.example,\
         dns server -1 address 10.8.0.9,dns server -1 transport DoH,\
         dns server 0 address 10.8.0.8:5353,\
         dns server 1 address 10.8.0.1 [fd00::1]:853,dns server 1 transport DoT,\
         dns server 1 sni dns.corp.example,dns server 1 resolve-domains corp.example,\
         dns server 1 dnssec yes,dns server 2 address 10.8.0.7",
        2,
    );

    let servers: [IpAddr; 2] = ["10.8.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert_eq!(dns.servers, servers);
    assert_eq!(
        (dns.search, dns.split),
        (vec!["corp.example".to_owned()], vec!["corp.example".to_owned()])
    );
    assert_eq!(dns.dnssec, Some(Dnssec::Yes));
    assert_eq!(dns.tls, Some(DnsOverTls { name: Some("dns.corp.example".to_owned()) }));
}

fn lease_with_remarks(options: &str, remarks: usize) -> contract::DnsSettings {
    let pushed = pushed(&Pull::default(), options);
    assert_eq!(pushed.remarks.len(), remarks, "{:?}", pushed.remarks);
    pushed.lease.dns
}

#[test]
fn what_is_wrong_is_left_out_and_said() {
    for option in [
        "dhcp-option DNS ::g",
        "dhcp-option DOMAIN $(reboot)",
        "dhcp-option DOMAIN -x",
        "dns server 200 address 10.8.0.1",
        "dns server 0 address 10.8.0.1;reboot",
        "dns server 0 dnssec maybe",
        "dns server 0 sni a_b/c",
        "route 10.0.0.0 255.0.255.0",
        "route 10.0.0.0 255.0.0.0 fd00::1",
        "route vpn.example.org",
        "route-ipv6 10.0.0.0/8",
        "route-metric -1",
        "inactive soon",
        "session-timeout -5",
        "tun-mtu 99999",
        "ifconfig 10.8.0.2 x",
        "up /bin/sh",
        "setenv LD_PRELOAD x",
        "remote evil.example 1194",
        "ca other.pem",
        "script-security 2",
        "route \"10.0.0.0",
    ] {
        assert!(remark(option).starts_with("ignored what the server pushed: "), "{option}");
        assert_eq!(pushed(&Pull::default(), option).lease, Lease { mtu: 1500, ..Lease::default() });
    }
}

#[test]
fn a_server_that_pushes_without_end_fills_nothing() {
    let pull = Pull::default();
    let mut pushed = Pushed::new(&pull);
    for round in 0..64 {
        let route =
            |n| format!("route 10.{round}.{n}.0 255.255.255.0,dns server {n} address ::{n}");
        let options = (0..120).map(route).collect::<Vec<_>>().join(",");
        pushed.read(&options, &pull);
    }
    pushed.finish(&pull);

    assert_eq!(pushed.lease.routes.len(), 1024);
    assert!(pushed.lease.dns.servers.len() <= 16);
}

#[test]
fn limits_are_limits_and_zero_is_none() {
    let limits = lease("inactive 300 5000,session-timeout 7200").limits;
    assert_eq!(limits.idle, Some(Duration::from_secs(300)));
    assert_eq!((limits.idle_bytes, limits.session), (5000, Some(Duration::from_secs(7200))));
    assert_eq!(lease("inactive 0,session-timeout 0").limits, SessionLimits::default());
}

#[test]
fn filters_are_tried_in_order() {
    let pull = Pull {
        filters: vec![
            (FilterAction::Accept, "route 10.1.".to_owned()),
            (FilterAction::Ignore, "route ".to_owned()),
            (FilterAction::Reject, "redirect-gateway".to_owned()),
        ],
        ..Pull::default()
    };

    let some =
        pushed(&pull, "route 10.1.0.0 255.255.0.0,route 10.2.0.0 255.255.0.0,route-ipv6 fd01::/48");
    assert_eq!(some.lease.routes, nets(&["10.1.0.0/16", "fd01::/48"]));
    assert_eq!((some.remarks.len(), some.rejected), (1, None));
    assert_eq!(
        pushed(&pull, "redirect-gateway def1").rejected.as_deref(),
        Some("redirect-gateway def1")
    );
}

#[test]
fn a_profile_may_keep_its_own_routes_and_resolvers() {
    let own = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let push = format!("{ADDRESS}redirect-gateway def1,dhcp-option DNS 10.8.0.1,route 10.1.0.0");
    let mut pull = Pull {
        own: vec![own("route 10.9.0.0 255.255.0.0 vpn_gateway 5"), own("dhcp-option DNS 9.9.9.9")],
        refuses_routes: true,
        ..Pull::default()
    };

    let kept = pushed(&pull, &push).lease;
    assert_eq!(kept.routes, nets(&["10.9.0.0/16"]));
    assert_eq!(kept.dns.servers, ["9.9.9.9".parse::<IpAddr>().unwrap()]);
    assert!(!kept.redirect4 && kept.ipv4.is_some() && kept.gateway4.is_some());

    pull.refuses_routes = false;
    let both = pushed(&pull, &push).lease;
    assert_eq!(both.routes.len(), 2);
    assert!(both.redirect4);

    pull.leaves_routes_alone = true;
    let none = pushed(&pull, &push).lease;
    assert!(none.routes.is_empty() && !none.redirect4 && none.ipv4.is_some());
}

fn updated(before: &[&str], messages: &[&str]) -> Result<Vec<String>, UpdateError> {
    let before = before.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut update = Update::new(&before);
    for (n, message) in messages.iter().enumerate() {
        assert_eq!(update.read(message)?, n + 1 == messages.len(), "{message}");
    }
    Ok(update.finish())
}

#[test]
fn an_update_replaces_a_kind_of_option_and_leaves_the_others() {
    let before = ["route 10.1.0.0", "dns server 0 address 9.9.9.9", "route 10.2.0.0", "ping 10"];

    let after = updated(&before, &["route 10.3.0.0,route 10.4.0.0,-dns,?frobnicate 1"]).unwrap();

    assert_eq!(after, ["ping 10", "route 10.3.0.0", "route 10.4.0.0"]);
}

#[test]
fn an_update_in_parts_counts_as_one() {
    let parts = ["route 10.3.0.0,push-continuation 2", "route 10.4.0.0,push-continuation 1"];
    let after = updated(&["route 10.1.0.0"], &parts).unwrap();
    assert_eq!(after, ["route 10.3.0.0", "route 10.4.0.0"]);
}

#[test]
fn what_cannot_change_is_an_error_unless_the_server_does_not_mind() {
    let fixed = UpdateError::Fixed("cipher".to_owned());
    assert_eq!(updated(&[], &["cipher AES-128-GCM"]), Err(fixed));
    assert_eq!(updated(&[], &["?cipher AES-128-GCM"]), Ok(Vec::new()));
    assert_eq!(updated(&["ping 1"], &["-?up,?-peer-id"]), Ok(vec!["ping 1".to_owned()]));

    let flood = (0..3000).map(|n| format!("route 10.0.0.{n}")).collect::<Vec<_>>().join(",");
    assert_eq!(updated(&[], &[&flood]), Err(UpdateError::TooMuch));
}

#[test]
fn options_to_push_are_checked_before_anybody_gets_them() {
    for good in [
        "route 10.0.0.0 255.0.0.0 vpn_gateway 7",
        "dns server 0 resolve-domains corp.example",
        "dhcp-option WINS 10.0.0.1",
        "block-outside-dns",
        "explicit-exit-notify 1",
        "redirect-gateway def1 block-local",
    ] {
        assert_eq!(check_option(good), Ok(()), "{good}");
    }
    for (bad, why) in [
        ("", "empty"),
        ("up /bin/sh", "up is nothing that clients take"),
        ("setenv X y", "setenv is nothing"),
        ("peer-id 5", "what the server decides"),
        ("ifconfig 1.2.3.4 255.0.0.0", "what the server decides"),
        ("route 10.0.0.0 255.0.255.0", "needs NETWORK"),
        ("route 10.0.0.0,up x", "neither commas"),
        ("route 10.0.0.0\nEXIT", "printable"),
    ] {
        let error = check_option(bad).unwrap_err();
        assert!(error.contains(why), "{bad}: {error}");
    }
}
