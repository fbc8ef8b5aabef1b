use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use contract::{DnsSettings, Lease};

use super::*;
use crate::change::Ledger;
use crate::client::{ClientHost, ClientPlan, mark_for};
use crate::dns::ResolvConf;
use crate::server::{ServerHost, ServerPlan};
use crate::testing::{Lab, set_sysctl, sh};

const CHILD: &str = "WARREN_HOST_TEST_CHILD";

fn world(lab: &Lab) {
    lab.neighbour("gate", "wan0", &["192.0.2.10/24"], &["192.0.2.1/24"]);
    sh("ip route add default via 192.0.2.1");
    for tun in ["warren0", "warren1"] {
        lab.neighbour(&format!("behind-{tun}"), tun, &[], &[]);
    }
    set_sysctl("net/ipv4/conf/all/accept_redirects", "0");
    sh("mount -t tmpfs tmpfs /etc");
    fs::write("/etc/resolv.conf", "nameserver 192.0.2.53\n").unwrap();
}

/// Every kind of change there is.
fn change_everything(journal: &Journal) -> (ServerHost, ClientHost) {
    let server = ServerPlan {
        tun: "warren0".into(),
        address4: Some("10.86.0.1/16".parse().unwrap()),
        address6: Some("fd00:86::1/64".parse().unwrap()),
        mtu: 1400,
        nat: true,
        behind: Vec::new(),
        table: "warren-0".into(),
        bridge: None,
    };
    let client = ClientPlan {
        tun: "warren1".into(),
        is_ethernet: false,
        lease: Lease {
            ipv4: Some(("10.8.0.2".parse().unwrap(), 24)),
            dns: DnsSettings {
                servers: vec!["10.8.0.1".parse().unwrap()],
                ..DnsSettings::default()
            },
            excluded: vec!["9.9.9.0/24".parse().unwrap()],
            redirect4: true,
            mtu: 1400,
            ..Lease::default()
        },
        servers: vec!["198.51.100.9".parse().unwrap()],
        mark: Some(mark_for(7)),
        set_dns: true,
        forward: false,
    };
    let server = ServerHost::apply(journal, &server).unwrap();
    (server, ClientHost::apply(journal, client).unwrap())
}

fn resolv_conf() -> String {
    fs::read_to_string("/etc/resolv.conf").unwrap()
}

/// Runs only as the child of the test below, in its namespaces: changes the host, says so, and
/// waits to be killed.
#[test]
fn child_that_is_killed() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    let journal = Journal::open(Path::new("/run/state")).unwrap();
    let hosts = change_everything(&journal);
    // Not captured by the test harness, and with a line of its own.
    fs::write("/proc/self/fd/2", "\nchanged\n").unwrap();
    std::thread::park();
    drop(hosts);
}

#[test]
fn the_next_start_repairs_what_a_killed_run_left() {
    Lab::run(|lab| {
        world(&lab);
        let (before, resolvers) = (lab.snapshot(), resolv_conf());
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "journal::tests::child_that_is_killed"])
            .env(CHILD, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        assert!(said.lines().any(|line| line.unwrap() == "changed"), "the child failed");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_ne!(lab.snapshot(), before);
        assert_ne!(resolv_conf(), resolvers);
        // As the kernel does with a device that is not persistent.
        sh("ip link del warren0");

        let journal = lab.journal();
        let lines = journal.repair().unwrap();

        lab.snapshot().without("warren0").assert_same(&before.without("warren0"));
        assert_eq!(resolv_conf(), resolvers);
        for part in [
            "table inet warren-0",
            "table inet warren-client-warren1",
            "net.ipv4.ip_forward",
            "net.ipv4.conf.all.src_valid_mark",
            "IPv4 rule",
            "route 9.9.9.0/24 via 192.0.2.1 through wan0",
            "/etc/resolv.conf",
        ] {
            let found = lines.iter().filter(|line| line.contains(part)).count();
            assert!(found >= 1, "{part} in {lines:#?}");
        }
        assert!(!lines.iter().any(|line| line.contains("warren0")), "gone by itself: {lines:#?}");
        assert_eq!(journal.repair().unwrap(), Vec::<String>::new(), "once is enough");
        assert_eq!(fs::read_dir(lab.state()).unwrap().count(), 0);
    });
}

#[test]
fn what_an_earlier_boot_or_another_namespace_left_is_forgotten() {
    Lab::run(|lab| {
        world(&lab);
        drop(change_everything(&lab.journal()));
        fs::write("/etc/resolv.conf", "nameserver 192.0.2.53\n").unwrap();
        let changed = lab.snapshot();
        let path = lab.state().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        let here = Place::here().unwrap();
        let elsewhere = format!("\"netns\": {}", here.netns.wrapping_add(1));

        for other in [
            text.replace(&here.boot, "00000000-0000-0000-0000-000000000000"),
            text.replace(&format!("\"netns\": {}", here.netns), &elsewhere),
        ] {
            assert_ne!(text, other);
            fs::write(&path, other).unwrap();
            assert_eq!(lab.journal().repair().unwrap(), Vec::<String>::new());
            lab.snapshot().assert_same(&changed);
            assert!(!path.exists());
        }
    });
}

#[test]
fn resolv_conf_comes_back_after_a_power_cut_or_from_another_namespace() {
    Lab::run(|lab| {
        world(&lab);
        drop(change_everything(&lab.journal()));
        let written = resolv_conf();
        let path = lab.state().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        let here = Place::here().unwrap();
        let elsewhere = format!("\"netns\": {}", here.netns.wrapping_add(1));

        for other in [
            text.replace(&here.boot, "00000000-0000-0000-0000-000000000000"),
            text.replace(&format!("\"netns\": {}", here.netns), &elsewhere),
        ] {
            assert_ne!(text, other);
            fs::write(&path, &other).unwrap();
            fs::write("/etc/resolv.conf", &written).unwrap();
            let lines = lab.journal().repair().unwrap();
            assert_eq!(lines, ["undone after a run that was cut off: /etc/resolv.conf"]);
            assert_eq!(resolv_conf(), "nameserver 192.0.2.53\n");
            assert!(!path.exists());

            fs::write(&path, &other).unwrap();
            fs::write("/etc/resolv.conf", "nameserver 9.9.9.9\n").unwrap();
            let lines = lab.journal().repair().unwrap();
            assert_eq!(lines.len(), 1, "{lines:#?}");
            assert!(lines[0].starts_with("/etc/resolv.conf stays"), "{lines:#?}");
            assert_eq!(resolv_conf(), "nameserver 9.9.9.9\n", "another program's");
        }
    });
}

#[test]
fn an_interface_that_only_has_the_name_is_left_alone() {
    Lab::run(|lab| {
        world(&lab);
        drop(change_everything(&lab.journal()));
        sh("ip link del warren0");
        sh("ip link add warren0 type veth peer name warren9");
        sh("ip addr add 10.86.0.1/16 dev warren0");

        lab.journal().repair().unwrap();

        assert!(sh("ip addr show dev warren0").contains("10.86.0.1/16"));
    });
}

#[test]
fn an_interface_that_only_has_the_number_is_left_alone() {
    Lab::run(|lab| {
        world(&lab);
        let index = nix::net::if_::if_nametoindex("warren0").unwrap();
        drop(change_everything(&lab.journal()));
        sh("ip link del warren0");
        sh(&format!("ip link add lan8 index {index} type veth peer name lan9"));
        sh("ip addr add 10.86.0.1/16 dev lan8");

        lab.journal().repair().unwrap();

        assert!(sh("ip addr show dev lan8").contains("10.86.0.1/16"));
    });
}

#[test]
fn the_last_change_is_undone_first() {
    Lab::run(|lab| {
        world(&lab);
        let file = |server: &str| {
            let servers = vec![server.parse().unwrap()];
            let settings = DnsSettings { servers, ..DnsSettings::default() };
            Change::ResolvConf(ResolvConf::plan(&settings).unwrap())
        };
        for killed in [false, true] {
            // Each finds what the one before it wrote.
            let mut ledger = Ledger::new(&lab.journal());
            let first = file("10.8.0.1");
            ledger.reconcile(std::slice::from_ref(&first)).unwrap();
            let second = file("10.8.0.2");
            ledger.reconcile(&[first, second]).unwrap();

            if killed {
                drop(ledger);
                assert_eq!(lab.journal().repair().unwrap().len(), 2);
            } else {
                assert_eq!(ledger.undo(), Vec::<String>::new());
            }
            assert_eq!(resolv_conf(), "nameserver 192.0.2.53\n");
        }
    });
}

#[test]
fn what_was_noted_but_never_made_is_no_trouble() {
    Lab::run(|lab| {
        world(&lab);
        let journal = lab.journal();
        drop(change_everything(&journal));
        let text = fs::read(lab.state().join(FILE)).unwrap();
        journal.repair().unwrap();
        let before = lab.snapshot();
        fs::write(lab.state().join(FILE), text).unwrap();

        let lines = lab.journal().repair().unwrap();

        assert_eq!(lines, Vec::<String>::new());
        lab.snapshot().assert_same(&before);
    });
}

#[test]
fn a_change_that_cannot_be_undone_does_not_stop_the_others() {
    Lab::run(|lab| {
        world(&lab);
        let (server, client) = change_everything(&lab.journal());
        sh("mount -o remount,ro /etc");

        let lines = client.undo();

        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(lines[0].starts_with("/etc/resolv.conf: cannot restore"), "{lines:#?}");
        assert!(!sh("ip rule").contains("fwmark"));
        assert_eq!(server.undo(), Vec::<String>::new());

        let lines = lab.journal().repair().unwrap();
        assert_eq!(lines.len(), 1, "it is tried again: {lines:#?}");
        sh("mount -o remount,rw /etc");
        let lines = lab.journal().repair().unwrap();
        assert_eq!(lines, ["undone after a run that was cut off: /etc/resolv.conf"]);
        assert_eq!(resolv_conf(), "nameserver 192.0.2.53\n");
    });
}

#[test]
fn a_journal_that_somebody_forged_gives_nobody_root() {
    Lab::run(|lab| {
        world(&lab);
        let settings =
            DnsSettings { servers: vec!["10.8.0.1".parse().unwrap()], ..DnsSettings::default() };
        let honest = ResolvConf::plan(&settings).unwrap();
        let file = serde_json::to_value(&honest).unwrap();
        for original in [
            serde_json::json!({ "File": { "content": [], "mode": 0o4755, "uid": 0, "gid": 0 } }),
            serde_json::json!({ "Symlink": { "target": "/etc/shadow" } }),
        ] {
            let mut forged = file.clone();
            forged["original"] = original;
            let forged = serde_json::from_value::<ResolvConf>(forged).unwrap();
            lab.journal().note(&[Change::ResolvConf(forged)]).unwrap();
            honest.make().unwrap();

            let lines = lab.journal().repair().unwrap();

            assert_eq!(lines.len(), 1, "{lines:#?}");
            assert!(lines[0].starts_with("/etc/resolv.conf stays: it would"), "{lines:#?}");
            let metadata = fs::symlink_metadata("/etc/resolv.conf").unwrap();
            assert!(metadata.is_file());
            assert_eq!(metadata.permissions().mode() & 0o7111, 0);
            assert_eq!(lab.journal().repair().unwrap(), Vec::<String>::new());
        }
    });
}

#[test]
fn a_journal_that_makes_no_sense_is_named_with_advice() {
    Lab::run(|lab| {
        fs::write(lab.state().join(FILE), "[{").unwrap();

        let error = Journal::open(&lab.state()).unwrap_err().to_string();

        assert!(error.starts_with("/run/state/host-changes.json: not a journal"), "{error}");
        assert!(error.contains("then delete the file"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    });
}
