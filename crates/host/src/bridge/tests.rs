use super::*;
use crate::testing::{Lab, sh};

fn join(lab: &Lab, interface: &str) -> Result<BridgeHost, HostError> {
    BridgeHost::join(&lab.journal(), interface, "warren0-tap", "warren0")
}

/// A device of frames of ours, and an interface with a host behind it.
fn world(lab: &Lab, here: &[&str]) -> sys::Tun {
    lab.neighbour("site", "lan0", here, &["192.168.7.20/24"]);
    sys::Tun::open_tap("warren0-tap", 1).unwrap()
}

fn ports(bridge: &str) -> Vec<String> {
    let listing = sh(&format!("ip -o link show master {bridge}"));
    let name = |line: &str| line.split([' ', ':', '@']).nth(2).map(str::to_owned);
    listing.lines().filter_map(name).collect()
}

#[test]
fn a_bare_interface_gets_a_bridge_and_is_afterwards_as_found() {
    for is_up in ["up", "down"] {
        Lab::run(move |lab| {
            let _tap = world(&lab, &[]);
            sh(&format!("ip link set lan0 {is_up}"));
            let (before, link) = (lab.snapshot(), sh("ip link show lan0"));

            let joined = join(&lab, "lan0").unwrap();
            assert_eq!(ports("br-warren0"), ["lan0", "warren0-tap"]);
            assert!(sh("ip link show lan0").contains(",UP"));
            assert!(sh("ip link show br-warren0").contains("NOARP"));
            assert!(joined.is_own() && joined.mtu() == 1500);

            assert_eq!(joined.undo(), Vec::<String>::new());
            lab.snapshot().without("warren0").assert_same(&before.without("warren0"));
            assert_eq!(sh("ip link show lan0"), link);
            assert_eq!(std::fs::read_dir(lab.state()).unwrap().count(), 0);
        });
    }
}

#[test]
fn the_next_start_takes_away_what_a_killed_run_left() {
    Lab::run(|lab| {
        let tap = world(&lab, &[]);
        sh("ip link set lan0 down");
        let link = sh("ip link show lan0");
        drop(join(&lab, "lan0").unwrap());
        drop(tap);

        let lines = lab.journal().repair().unwrap();

        assert!(lines[0].contains("bridge br-warren0"), "{lines:?}");
        assert_eq!(sh("ip link show lan0"), link);
        assert!(!sh("ip link").contains("warren0"));
    });
}

#[test]
fn what_another_run_has_made_since_is_not_taken_away() {
    Lab::run(|lab| {
        let tap = world(&lab, &[]);
        sh("ip link set lan0 down");
        drop(join(&lab, "lan0").unwrap());
        drop(tap);
        // As after a crash, and the start of another with a folder of its own.
        sh("ip link del br-warren0");
        sh("ip link add lan1 type veth peer name far1");
        sh("ip link add br-warren0 type bridge");
        sh("ip link set lan1 master br-warren0");

        lab.journal().repair().unwrap();

        assert_eq!(ports("br-warren0"), ["lan1"]);
        assert!(!sh("ip link show lan0").contains(",UP"), "as it was found all the same");
    });
}

#[test]
fn an_existing_bridge_keeps_all_it_has() {
    Lab::run(|lab| {
        let tap = world(&lab, &[]);
        sh("ip link add br0 type bridge");
        sh("ip link set lan0 master br0");
        sh("ip link set br0 up");
        sh("ip addr add 192.168.7.1/24 dev br0");
        let (before, bridge) = (lab.snapshot(), sh("ip link show br0"));

        let joined = join(&lab, "br0").unwrap();
        assert_eq!(ports("br0"), ["lan0", "warren0-tap"]);
        assert_eq!(sh("ip link show br0"), bridge, "its hardware address is another now");
        let own: IpAddr = "192.168.7.1".parse().unwrap();
        assert!(!joined.is_own() && joined.name() == "br0" && joined.addresses() == [own]);
        // As when a lease comes later.
        sh("ip addr del 192.168.7.1/24 dev br0");
        sh("ip addr add 192.168.7.9/24 dev br0");
        let now = OnBridge::read("br0").unwrap();
        assert_eq!(now.addresses, ["192.168.7.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(OnBridge::read("br0").unwrap(), now);
        sh("ip addr del 192.168.7.9/24 dev br0");
        sh("ip addr add 192.168.7.1/24 dev br0");

        assert_eq!(joined.undo(), Vec::<String>::new());
        drop(tap);
        lab.snapshot().without("warren0").assert_same(&before.without("warren0"));
        assert_eq!(ports("br0"), ["lan0"]);
    });
}

#[test]
fn what_cannot_be_bridged_is_refused_and_nothing_has_changed() {
    Lab::run(|lab| {
        let _tap = world(&lab, &["192.168.7.1/24"]);
        sh("ip link add br0 type bridge");
        sh("ip link add eth7 type veth peer name eth8");
        sh("ip link set eth7 master br0");
        let (before, links) = (lab.snapshot(), sh("ip link"));
        for (interface, words) in [
            ("eth9", "there is no such interface; there are "),
            ("lo", "loopback"),
            ("warren0-tap", "a device of Warren's"),
            ("eth7", "a part of br0 already: write bridge = \"br0\""),
            ("lan0", "this host has its address 192.168.7.1/24 there"),
        ] {
            let error = join(&lab, interface).unwrap_err().to_string();

            let start = format!("network.bridge: {interface}: ");
            assert!(error.starts_with(&start) && error.contains(words), "{error}");
            assert!(!error.contains('\n'), "{error}");
            let checked = check_bridge(interface).unwrap_err().to_string();
            assert_eq!(checked, error);
        }
        lab.snapshot().assert_same(&before);
        assert_eq!(sh("ip link"), links);
    });
}

#[test]
fn what_the_kernel_refuses_is_said_and_undone() {
    Lab::run(|lab| {
        let _tap = world(&lab, &[]);
        sh("ip link add m0 link lan0 type macvlan mode bridge");
        sh("ip link set m0 up");
        sh("ip link set lan0 down");
        let link = sh("ip link show lan0");

        let error = join(&lab, "lan0").unwrap_err().to_string();

        assert!(
            error.contains("network.bridge: lan0: another device, such as a macvlan"),
            "{error}"
        );
        assert!(!sh("ip link").contains("br-warren0"));
        assert_eq!(sh("ip link show lan0"), link);
        assert_eq!(lab.journal().repair().unwrap(), Vec::<String>::new());
        // A wireless interface cannot be had here; this is what the kernel says of one.
        let port = Link { index: 7, name: "wlan0".into() };
        let refused = refusal(&port, Errno::EOPNOTSUPP.into()).to_string();
        assert!(refused.starts_with("network.bridge: wlan0: ") && refused.contains("wireless"));
    });
}

#[test]
fn a_bridge_whose_name_is_taken_is_an_error_and_stays() {
    Lab::run(|lab| {
        let _tap = world(&lab, &[]);
        sh("ip link add br-warren0 type bridge");

        let error = join(&lab, "lan0").unwrap_err().to_string();

        assert!(error.contains("br-warren0") && error.contains("exists"), "{error}");
        assert!(sh("ip link").contains("br-warren0"));
        assert_eq!(lab.journal().repair().unwrap(), Vec::<String>::new());
    });
}
