use super::*;
use crate::testing::{Lab, sh};

fn server(masquerade: bool, guard: bool) -> Ruleset {
    Ruleset::Server {
        tun: "warren0".into(),
        pool4: Some("10.86.0.0/15".parse().unwrap()),
        pool6: Some("fd00:86::/60".parse().unwrap()),
        behind: Vec::new(),
        masquerade,
        guard4: guard,
        guard6: guard,
        bridge: None,
    }
}

#[test]
fn what_is_bridged_is_neither_an_impostors_nor_masqueraded() {
    Lab::run(|_| {
        let Ruleset::Server { tun, masquerade, .. } = server(true, true) else { return };
        let bridged = Ruleset::Server {
            tun,
            masquerade,
            pool4: Some("10.86.0.0/15".parse().unwrap()),
            pool6: None,
            behind: Vec::new(),
            guard4: true,
            guard6: false,
            bridge: Some(("br-warren0".into(), [2, 0, 0, 0, 0, 7])),
        };
        bridged.install("warren-0").unwrap();

        let expected = r#"table inet warren-0 {
	chain preraw {
		type filter hook prerouting priority raw; policy accept;
		iifname "br-warren0" ip saddr 10.86.0.0/15 notrack accept
		iifname "br-warren0" ip daddr 10.86.0.0/15 notrack accept
		iifname != "warren0" iifname != "lo" ip saddr 10.86.0.0/15 drop
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.86.0.0/15 oifname != "warren0" masquerade
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname "br-warren0" oifname "br-warren0" accept
		iifname "br-warren0" drop
		iifname "warren0" accept
		oifname "warren0" ct state established,related accept
		oifname "warren0" drop
		iifname "warren*" accept
		oifname "warren*" accept
		iifname "br-warren*" oifname "br-warren*" accept
		meta nfproto ipv4 drop
	}

	chain input {
		type filter hook input priority filter; policy accept;
		iifname "br-warren0" drop
	}
}
"#;
        assert_eq!(sh("nft list ruleset"), expected);
    });
}

#[test]
fn on_a_bridge_of_the_hosts_own_it_is_reached_and_by_nobody_in_a_members_name() {
    Lab::run(|_| {
        let Ruleset::Server { tun, pool4, pool6, behind, .. } = server(false, false) else {
            return;
        };
        let bridge = Some(("br0".into(), [2, 0, 0, 0, 0, 7]));
        let (masquerade, guard4, guard6) = (false, false, false);
        let bridged =
            Ruleset::Server { tun, pool4, pool6, behind, masquerade, guard4, guard6, bridge };
        bridged.install("warren-0").unwrap();

        let expected = r#"table inet warren-0 {
	chain preraw {
		type filter hook prerouting priority raw; policy accept;
		iifname "br0" fib daddr type local ip saddr 10.86.0.0/15 drop
		iifname "br0" fib daddr type local ip6 saddr fd00:86::/60 drop
		iifname "br0" @ll,0,48 != 0x20000000007 ip saddr 10.86.0.0/15 notrack accept
		iifname "br0" @ll,0,48 != 0x20000000007 ip daddr 10.86.0.0/15 notrack accept
		iifname "br0" @ll,0,48 != 0x20000000007 ip6 saddr fd00:86::/60 notrack accept
		iifname "br0" @ll,0,48 != 0x20000000007 ip6 daddr fd00:86::/60 notrack accept
		iifname != "warren0" iifname != "lo" ip saddr 10.86.0.0/15 drop
		iifname != "warren0" iifname != "lo" ip6 saddr fd00:86::/60 drop
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname "br0" oifname "br0" accept
		iifname "br0" ip saddr 10.86.0.0/15 drop
		iifname "br0" ip6 saddr fd00:86::/60 drop
		iifname "warren0" accept
		oifname "warren0" ct state established,related accept
		oifname "warren0" drop
	}
}
"#;
        assert_eq!(sh("nft list ruleset"), expected);
    });
}

#[test]
fn the_kernel_understands_the_servers_table_as_meant() {
    Lab::run(|_| {
        server(true, true).install("warren-0").unwrap();

        let expected = r#"table inet warren-0 {
	chain preraw {
		type filter hook prerouting priority raw; policy accept;
		iifname != "warren0" iifname != "lo" ip saddr 10.86.0.0/15 drop
		iifname != "warren0" iifname != "lo" ip6 saddr fd00:86::/60 drop
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.86.0.0/15 oifname != "warren0" masquerade
		ip6 saddr fd00:86::/60 oifname != "warren0" masquerade
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname "warren0" accept
		oifname "warren0" ct state established,related accept
		oifname "warren0" drop
		iifname "warren*" accept
		oifname "warren*" accept
		iifname "br-warren*" oifname "br-warren*" accept
		meta nfproto ipv4 drop
		meta nfproto ipv6 drop
	}
}
"#;
        assert_eq!(sh("nft list ruleset"), expected);
    });
}

#[test]
fn the_kernel_understands_the_clients_table_as_meant() {
    Lab::run(|_| {
        let addresses = vec!["10.8.0.2".parse().unwrap(), "fd00:8::2".parse().unwrap()];
        let client = Ruleset::Client { tun: "warren0".into(), mark: 0x5741_0007, addresses };

        client.install("warren-client-warren0").unwrap();

        let expected = r#"table inet warren-client-warren0 {
	chain preraw {
		type filter hook prerouting priority raw; policy accept;
		iifname != "warren0" iifname != "lo" ip daddr 10.8.0.2 drop
		iifname != "warren0" iifname != "lo" ip6 daddr fd00:8::2 drop
	}

	chain premangle {
		type filter hook prerouting priority mangle; policy accept;
		ct mark 0x57410007 meta mark set 0x57410007
	}

	chain postmangle {
		type filter hook postrouting priority mangle; policy accept;
		meta mark 0x57410007 ct mark set 0x57410007
	}
}
"#;
        assert_eq!(sh("nft list ruleset"), expected);
    });
}

#[test]
fn a_table_takes_the_place_of_its_former_self_and_of_no_other() {
    Lab::run(|_| {
        sh("nft add table inet theirs");
        sh("nft add table ip warren-0");
        server(true, true).install("warren-0").unwrap();

        server(false, false).install("warren-0").unwrap();

        let ruleset = sh("nft list ruleset");
        assert!(!ruleset.contains("masquerade"), "{ruleset}");
        assert_eq!(ruleset.matches("iifname \"warren0\"").count(), 1, "{ruleset}");
        assert_eq!(tables().unwrap(), ["theirs", "warren-0"]);

        assert!(remove("warren-0").unwrap());
        assert!(!remove("warren-0").unwrap());
        assert_eq!(sh("nft list ruleset"), "table inet theirs {\n}\ntable ip warren-0 {\n}\n");
    });
}

#[test]
fn a_batch_with_one_bad_order_changes_nothing() {
    Lab::run(|_| {
        server(true, false).install("warren-0").unwrap();
        let before = sh("nft list ruleset");
        let mut orders = deletion("warren-0");
        orders.push(new_table("warren-0"));
        orders.push(Rule::new().verdict(NF_DROP).message("warren-0", "no-such-chain"));

        let error = commit(orders).unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(sh("nft list ruleset"), before);
    });
}

#[test]
fn a_whole_address_needs_no_mask() {
    Lab::run(|_| {
        let ruleset = Ruleset::Server {
            tun: "warren0".into(),
            pool4: Some("192.0.2.7/32".parse().unwrap()),
            pool6: None,
            behind: Vec::new(),
            masquerade: true,
            guard4: false,
            guard6: true,
            bridge: None,
        };

        ruleset.install("warren-0").unwrap();

        let listed = sh("nft list ruleset");
        assert!(
            listed.contains("ip saddr 192.0.2.7 oifname != \"warren0\" masquerade"),
            "{listed}"
        );
        assert!(listed.contains("ip saddr 192.0.2.7 drop"), "{listed}");
        assert!(!listed.contains("nfproto ipv4"), "{listed}");
    });
}

#[test]
fn chains_of_others_that_drop_what_is_forwarded_are_found() {
    Lab::run(|_| {
        server(true, true).install("warren-0").unwrap();
        assert_eq!(forward_droppers().unwrap(), Vec::<String>::new());

        sh("nft add table ip filter");
        sh(
            "nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
        );
        sh("nft add chain ip filter INPUT { type filter hook input priority 0 ; policy drop ; }");

        assert_eq!(forward_droppers().unwrap(), ["filter FORWARD"]);
    });
}
