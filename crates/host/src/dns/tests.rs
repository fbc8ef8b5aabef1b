use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use super::*;
use crate::testing::{Lab, sh};

const FORMER: &str = "domain old.example\nnameserver 192.0.2.53\noptions edns0 trust-ad\n";

fn settings() -> DnsSettings {
    DnsSettings {
        servers: vec!["10.8.0.1".parse().unwrap(), "fd00:8::1".parse().unwrap()],
        search: vec!["corp.example".into()],
        ..DnsSettings::default()
    }
}

/// An `/etc` of the test's own.
fn etc() -> &'static Path {
    sh("mount -t tmpfs tmpfs /etc");
    Path::new(RESOLV_CONF)
}

#[test]
fn the_file_says_what_the_lease_says_and_keeps_options() {
    let text = content(&settings(), FORMER);

    assert_eq!(
        text,
        "# Written by Warren while it is connected; the former content comes back.\n\
         nameserver 10.8.0.1\nnameserver fd00:8::1\nsearch corp.example old.example\n\
         options edns0 trust-ad\n"
    );
}

#[test]
fn a_lease_with_search_domains_alone_keeps_the_resolvers() {
    let text = content(&DnsSettings { servers: Vec::new(), ..settings() }, FORMER);

    assert!(text.contains("nameserver 192.0.2.53\nsearch corp.example old.example\n"), "{text}");
}

#[test]
fn a_search_domain_that_is_no_host_name_is_left_out() {
    let hostile = ["a b", "x\nnameserver 6.6.6.6", "-rf", "~.", "", "a..b", "ok.example", "_tcp.x"];
    let domains = hostile.map(str::to_owned);

    assert_eq!(valid_domains(&domains), ["ok.example", "_tcp.x"]);
}

#[test]
fn with_a_redirect_every_name_is_resolved_in_the_tunnel() {
    let domains = |exclusive| LinkDns::new("warren0", &settings(), exclusive).domains;

    assert_eq!(domains(true), ["corp.example", "~."]);
    assert_eq!(domains(false), ["corp.example"]);
}

#[test]
fn split_names_and_nothing_else_are_resolved_in_the_tunnel() {
    let settings = DnsSettings { split: vec!["corp.example".into(), "a b".into()], ..settings() };

    for exclusive in [false, true] {
        let domains = LinkDns::new("warren0", &settings, exclusive).domains;
        assert_eq!(domains, ["corp.example", "~corp.example"]);
    }
    assert!(beyond_resolv_conf(&settings).is_some_and(|why| why.contains("some domains only")));
}

#[test]
fn resolved_is_told_of_tls_before_it_has_anybody_to_ask() {
    let settings = DnsSettings {
        servers: vec!["10.8.0.1".parse().unwrap()],
        search: Vec::new(),
        split: vec!["corp.example".into()],
        dnssec: Some(Dnssec::Optional),
        tls: Some(contract::DnsOverTls { name: Some("dns.corp.example".into()) }),
    };

    let orders = LinkDns::new("warren0", &settings, false).orders();

    assert_eq!(
        orders.iter().map(|order| order.join(" ")).collect::<Vec<_>>(),
        [
            "dnsovertls warren0 yes",
            "dns warren0 10.8.0.1#dns.corp.example",
            "domain warren0 ~corp.example",
            "dnssec warren0 allow-downgrade",
        ]
    );
    assert!(beyond_resolv_conf(&DnsSettings { split: Vec::new(), ..settings }).is_some());
}

#[test]
fn a_plain_file_comes_back_with_content_mode_and_owner() {
    Lab::run(|_| {
        let path = etc();
        fs::write(path, FORMER).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
        chown(path, Some(7), Some(8)).unwrap();

        let file = ResolvConf::plan(&settings()).unwrap();
        file.make().unwrap();
        assert!(fs::read_to_string(path).unwrap().contains("nameserver 10.8.0.1\n"));
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o644, "everybody resolves names");

        assert_eq!(file.undo().unwrap(), Restored::Yes);
        assert_eq!(fs::read_to_string(path).unwrap(), FORMER);
        let metadata = fs::metadata(path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 7, 8));
        assert_eq!(fs::read_dir("/etc").unwrap().count(), 1, "nothing else is left");
        assert_eq!(file.undo().unwrap(), Restored::NothingToDo);
    });
}

#[test]
fn a_symbolic_link_comes_back_and_its_target_is_not_touched() {
    Lab::run(|_| {
        let path = etc();
        fs::write("/run/their.conf", FORMER).unwrap();
        symlink("../run/their.conf", path).unwrap();

        let file = ResolvConf::plan(&settings()).unwrap();
        file.make().unwrap();
        assert!(fs::read_to_string(path).unwrap().contains("options edns0"));
        assert_eq!(fs::read_to_string("/run/their.conf").unwrap(), FORMER);

        assert_eq!(file.undo().unwrap(), Restored::Yes);
        assert_eq!(fs::read_link(path).unwrap(), Path::new("../run/their.conf"));
        assert_eq!(fs::read_to_string(path).unwrap(), FORMER);
    });
}

#[test]
fn a_file_that_was_not_there_is_gone_again() {
    Lab::run(|_| {
        let path = etc();

        let file = ResolvConf::plan(&settings()).unwrap();
        file.make().unwrap();
        assert!(path.exists());

        assert_eq!(file.undo().unwrap(), Restored::Yes);
        assert!(!path.exists());
    });
}

#[test]
fn a_file_that_is_a_mount_is_written_in_place() {
    Lab::run(|_| {
        let path = etc();
        fs::write(path, "").unwrap();
        fs::write("/run/mounted.conf", FORMER).unwrap();
        sh("mount --bind /run/mounted.conf /etc/resolv.conf");

        let file = ResolvConf::plan(&settings()).unwrap();
        file.make().unwrap();
        assert!(fs::read_to_string("/run/mounted.conf").unwrap().contains("10.8.0.1"));

        assert_eq!(file.undo().unwrap(), Restored::Yes);
        assert_eq!(fs::read_to_string("/run/mounted.conf").unwrap(), FORMER);
        assert_eq!(fs::read_dir("/etc").unwrap().count(), 1, "nothing else is left");
    });
}

#[test]
fn a_link_where_the_new_file_is_made_is_replaced_and_not_followed() {
    Lab::run(|_| {
        let path = etc();
        fs::write(path, FORMER).unwrap();
        fs::write("/run/victim", "theirs").unwrap();
        symlink("/run/victim", neighbour(path)).unwrap();

        let file = ResolvConf::plan(&settings()).unwrap();
        file.make().unwrap();

        assert_eq!(fs::read_to_string("/run/victim").unwrap(), "theirs");
        assert!(!fs::symlink_metadata(path).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(path).unwrap(), file.written);
    });
}

#[test]
fn a_link_that_cannot_be_put_back_is_not_left_beside_the_file() {
    Lab::run(|_| {
        let path = etc();
        fs::write(path, "").unwrap();
        fs::write("/run/mounted.conf", FORMER).unwrap();
        sh("mount --bind /run/mounted.conf /etc/resolv.conf");
        let target = "/run/systemd/resolve/resolv.conf".into();
        let file = ResolvConf {
            original: Original::Symlink { target },
            ..ResolvConf::plan(&settings()).unwrap()
        };
        file.make().unwrap();

        file.undo().unwrap_err();

        assert_eq!(fs::read_dir("/etc").unwrap().count(), 1, "something is left");
    });
}

#[test]
fn a_link_may_come_back_only_if_it_leads_to_a_resolvers_file() {
    for harmless in ["../run/systemd/resolve/stub-resolv.conf", "/run/resolvconf/resolv.conf"] {
        assert!(is_resolvers(Path::new(harmless)), "{harmless}");
    }
    for other in [
        "/etc/shadow",
        "shadow",
        "run/resolvconf/resolv.conf",
        "/run/resolvconf/../../etc/shadow",
        "//run/resolvconf/resolv.conf",
        "/../run/resolvconf/resolv.conf",
        "/run/resolvconf",
        "",
    ] {
        assert!(!is_resolvers(Path::new(other)), "{other}");
    }
}

#[test]
fn a_file_that_another_program_wrote_since_is_left_alone() {
    Lab::run(|_| {
        let path = etc();
        fs::write(path, FORMER).unwrap();
        let file = ResolvConf::plan(&settings()).unwrap();
        file.make().unwrap();
        fs::write(path, "nameserver 9.9.9.9\n").unwrap();

        assert_eq!(file.undo().unwrap(), Restored::ChangedByOthers);

        assert_eq!(fs::read_to_string(path).unwrap(), "nameserver 9.9.9.9\n");
    });
}

#[test]
fn another_lease_keeps_the_first_original() {
    Lab::run(|_| {
        let path = etc();
        fs::write(path, FORMER).unwrap();
        let first = ResolvConf::plan(&settings()).unwrap();
        first.make().unwrap();

        let second = first
            .with(&DnsSettings {
                servers: vec!["10.9.0.1".parse().unwrap()],
                ..DnsSettings::default()
            })
            .unwrap();
        second.make().unwrap();
        assert!(fs::read_to_string(path).unwrap().contains("10.9.0.1"));
        assert!(!fs::read_to_string(path).unwrap().contains("corp.example"));

        assert_eq!(second.undo().unwrap(), Restored::Yes);
        assert_eq!(fs::read_to_string(path).unwrap(), FORMER);
    });
}

#[test]
fn resolvectl_is_told_of_the_interface_and_told_to_forget_it() {
    Lab::run(|_| {
        fs::create_dir_all(RESOLVED).unwrap();
        if !Path::new("/usr/bin/resolvectl").exists() {
            // Only the name has to exist to be mounted over; a layer over /usr/bin gives it one.
            fs::create_dir_all("/run/upper").unwrap();
            fs::create_dir_all("/run/work").unwrap();
            sh(
                "mount -t overlay overlay -o lowerdir=/usr/bin,upperdir=/run/upper,workdir=/run/work /usr/bin",
            );
        }
        let program = "#!/bin/sh\necho \"$@\" >> /run/said\ntest \"$2\" != broken0\n";
        fs::write("/run/resolvectl", program).unwrap();
        fs::set_permissions("/run/resolvectl", fs::Permissions::from_mode(0o755)).unwrap();
        fs::write("/usr/bin/resolvectl", "").unwrap();
        sh("mount --bind /run/resolvectl /usr/bin/resolvectl");

        let dns = LinkDns::new("warren0", &settings(), true);
        dns.make().unwrap();
        dns.undo().unwrap();
        let error = LinkDns::new("broken0", &settings(), false).make().unwrap_err();

        assert_eq!(
            fs::read_to_string("/run/said").unwrap(),
            "dns warren0 10.8.0.1 fd00:8::1\ndomain warren0 corp.example ~.\nrevert warren0\n\
             dns broken0 10.8.0.1 fd00:8::1\nrevert broken0\n"
        );
        assert!(error.to_string().starts_with("resolvectl: `dns broken0"), "{error}");
    });
}
