//! The segment joined to a host's interface: members that carry Ethernet are on the site's network,
//! those that do not are reached by IP; and bridges of stock servers.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::openvpn::{Client, Server};
use lab::warren::{self, Home, Warren, config};
use lab::{
    Capture, HostState, Lab, Namespace, PATIENCE, Pki, SourceMirror, Switch, World, eventually,
    ping, scenario, source_seen, transfer,
};

const PASSWORD: &str = "long enough for a test";
const USERS: [&str; 3] = ["alice", "bob", "carol"];
/// A host of the site's network.
const PRINTER: &str = "192.168.7.20";
const PRINTER6: &str = "fd77::20";
/// A pool that is a part of the site's network.
const PART: [&str; 2] =
    ["ipv4 = \"192.168.7.192/26\"", "bridge_networks = [\"192.168.7.0/24\", \"fd77::/64\"]"];

/// A Warren whose segment is joined to a site's network, a host there, and members.
struct House {
    world: World,
    warren: Warren,
    site: Switch,
    printer: Namespace,
    /// The printer's own device.
    printers: String,
    members: Vec<Client>,
}

impl House {
    /// With a stock client for each of these kinds of devices.
    fn new(lab: &Lab, devices: &[&str], network: &[&str]) -> Result<Self> {
        let world = World::new(lab, devices.len())?;
        let (site, printer, interface, printers) = site(lab, &world.server)?;
        Self::with(world, (site, printer, printers), &interface, devices, network)
    }

    fn with(
        world: World,
        (site, printer, printers): (Switch, Namespace, String),
        interface: &str,
        devices: &[&str],
        network: &[&str],
    ) -> Result<Self> {
        let bridge = format!("bridge = \"{interface}\"");
        let network = [&[&bridge[..]], network].concat();
        let warren = Warren::up(&world.server, "warren", &config(&network, &[]))?;
        let mut members = Vec::new();
        for ((namespace, user), device) in world.clients.iter().zip(USERS).zip(devices) {
            warren.home().add_user(user, PASSWORD)?;
            let remote = World::SERVER4.to_string();
            let profile = ["profile", user, "--door", "openvpn", "--remote", &remote];
            let profile = warren.home().run(&[&profile[..], &["--dev", device]].concat())?;
            let credentials = Some((user, PASSWORD));
            members.push(Client::connect(namespace, &profile, credentials, &[])?);
        }
        Ok(Self { world, warren, site, printer, printers, members })
    }

    fn drops(&self, why: &str) -> Result<u64> {
        let status: serde_json::Value =
            serde_json::from_str(&self.warren.home().run(&["status", "--json"])?)?;
        status["drops"][why].as_u64().with_context(|| format!("no counter {why}: {status}"))
    }
}

/// A switch with a printer, and a cable from it to `server`: the names of both ends' devices.
fn site(lab: &Lab, server: &Namespace) -> Result<(Switch, Namespace, String, String)> {
    let site = lab.switch("site")?;
    let interface = site.attach(server, &[])?;
    let printer = lab.namespace("printer")?;
    let addresses = [format!("{PRINTER}/24"), format!("{PRINTER6}/64")];
    let printers = site.attach(&printer, &[&addresses[0], &addresses[1]])?;
    Ok((site, printer, interface, printers))
}

/// Gives the host a bridge with the interface in it, and an address there.
fn bridge_of(server: &Namespace, interface: &str) -> Result<()> {
    for arguments in [
        "link add br0 type bridge",
        &format!("link set {interface} master br0"),
        "link set br0 up",
        "addr add 192.168.7.1/24 dev br0",
    ] {
        server.run("ip", &arguments.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Pings until the first answer, which a lost question for a hardware address may delay.
fn reaches(from: &Namespace, to: IpAddr) -> Result<()> {
    eventually(PATIENCE, || {
        let report = ping(from, to, 2)?;
        ensure!(report.received > 0, "{} does not reach {to}", from.name());
        Ok(())
    })
}

fn device(client: &Client) -> Result<String> {
    client.namespace().device_with(client.address4()?)
}

/// Sends one frame to everybody, from a hardware address that ends with `host` (octal): of an
/// experimental type (802), with `tail` behind it; with a tag of VLAN 7 if `tagged`.
fn shout(from: &Namespace, device: &str, host: &str, tagged: bool, tail: &str) -> Result<()> {
    let tag = if tagged { "\\201\\000\\000\\007" } else { "" };
    let source = format!("\\002\\000\\000\\000\\000\\{host}");
    let script = format!(
        "printf '\\377\\377\\377\\377\\377\\377{source}{tag}\\210\\265{tail}' | \
         socat -u - INTERFACE:{device}"
    );
    from.run("sh", &["-c", &script])?;
    Ok(())
}

/// Sends a datagram of UDP for one host in a frame for everybody.
fn whisper_aloud(
    from: &Namespace,
    device: &str,
    source: IpAddr,
    to: SocketAddr,
    text: &str,
) -> Result<()> {
    let script = format!(
        "import socket, struct\n\
         ip = lambda text: socket.inet_aton(text)\n\
         udp = struct.pack('>4H', 4000, {}, 8 + len('{text}'), 0) + b'{text}'\n\
         head = lambda check: struct.pack('>2B3H2BH', 0x45, 0, 20 + len(udp), 7, 0, 64, 17, check) + ip('{source}') + ip('{}')\n\
         total = sum(struct.unpack('>10H', head(0)))\n\
         total = (total & 0xffff) + (total >> 16)\n\
         frame = b'\\xff' * 6 + bytes([2, 0, 0, 0, 0, 9]) + b'\\x08\\x00' + head(~total & 0xffff) + udp\n\
         s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
         s.bind(('{device}', 0))\n\
         s.send(frame)\n",
        to.port(),
        to.ip(),
    );
    from.run("python3", &["-c", &script])?;
    Ok(())
}

/// Addresses, routes, settings, and the interfaces with what they are part of.
fn everything(server: &Namespace) -> Result<(HostState, String)> {
    // A device gets its link-local address a moment after its cable is plugged in.
    eventually(PATIENCE, || {
        let listing: serde_json::Value = serde_json::from_str(&server.run("ip", &["-j", "addr"])?)?;
        for device in listing.as_array().into_iter().flatten() {
            let flags = device["flags"].as_array().context("no flags")?;
            let is = |flag: &str| flags.iter().any(|other| other == flag);
            let addresses = device["addr_info"].as_array().into_iter().flatten();
            let mut scopes = addresses.map(|address| &address["scope"]);
            let is_settled = is("LOOPBACK") || !is("UP") || scopes.any(|scope| scope == "link");
            ensure!(is_settled, "{device} is not settled");
        }
        Ok(())
    })?;
    let links = server.run("ip", &["-o", "link"])?;
    Ok((HostState::of(server)?, links))
}

fn same(server: &Namespace, (state, links): &(HostState, String)) -> Result<()> {
    // A cable says that it is up a moment after it was touched.
    eventually(Duration::from_secs(5), || {
        let after = server.run("ip", &["-o", "link"])?;
        ensure!(after == *links, "the interfaces were\n{links}and are\n{after}");
        Ok(())
    })?;
    state.check_unchanged(server)
}

#[test]
fn members_of_both_kinds_and_hosts_of_the_site_reach_each_other() {
    scenario("bridge", |lab| {
        let house = House::new(lab, &["tap", "tun"], &PART)?;
        let printer = &house.printer;

        for member in &house.members {
            reaches(member.namespace(), PRINTER.parse()?)?;
            reaches(printer, member.address4()?)?;
            let at_member = SocketAddr::new(member.address4()?, 7000);
            transfer(printer, member.namespace(), at_member, 3_000_000)?;
            let at_printer = SocketAddr::new(PRINTER.parse()?, 7000);
            transfer(member.namespace(), printer, at_printer, 3_000_000)?;
        }
        // The members' IPv6 is not the site's: on that link, it has to be told the way.
        printer.run("ip", &["route", "add", "fd86::/64", "dev", &house.printers])?;
        for member in &house.members {
            reaches(member.namespace(), PRINTER6.parse()?)?;
            reaches(printer, member.address6()?)?;
        }
        // The host itself is not on the site's network, and reaches it through the segment.
        reaches(&house.world.server, PRINTER.parse()?)
    });
}

#[test]
fn frames_of_any_kind_pass_both_ways() {
    scenario("bridge frames", |lab| {
        let house = House::new(lab, &["tap"], &["mtu = 1500"])?;
        let member = &house.members[0];
        let (tap, filter) = (device(member)?, "ether proto 0x88b5 or vlan");
        member.namespace().run("ip", &["addr", "add", "192.168.7.90/24", "dev", &tap])?;
        member.namespace().run("ip", &["addr", "add", "fd77::90/64", "dev", &tap, "nodad"])?;
        let ends = [(member.namespace(), &tap), (&house.printer, &house.printers)];

        for ((from, out), (to, ear)) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            let capture = Capture::start(to, ear, filter)?;
            let host = if from.name() == "printer" { "007" } else { "005" };
            shout(from, out, host, false, "hello")?;
            shout(from, out, host, true, "hello")?;
            // What was sent later has arrived, so those have.
            reaches(
                from,
                if from.name() == "printer" { "192.168.7.90" } else { PRINTER }.parse()?,
            )?;

            let pcap = capture.finish()?;
            assert_eq!(pcap.frames("eth.type == 0x88b5")?, 1, "to {}", to.name());
            assert_eq!(pcap.frames("vlan.id == 7 && vlan.etype == 0x88b5")?, 1);
        }
        reaches(member.namespace(), PRINTER6.parse()?)?;
        reaches(&house.printer, "fd77::90".parse()?)?;
        // Full-sized frames, too.
        let full = ["-c", "3", "-W", "5", "-M", "do", "-s", "1472", "192.168.7.90"];
        house.printer.run("ping", &full)?;
        Ok(())
    });
}

#[test]
fn a_member_gets_an_address_of_the_sites_own_dhcp_server() {
    scenario("bridge dhcp", |lab| {
        let house = House::new(lab, &["tap"], &[])?;
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--log-dhcp"]);
        command.args(["--log-facility=-", "--leasefile-ro", "--user=root", "--bind-interfaces"]);
        command.arg(format!("--interface={}", house.printers));
        command.arg("--dhcp-range=192.168.7.100,192.168.7.150,1h");
        let dhcp = house.printer.spawn("dnsmasq", command)?;
        dhcp.wait_for("DHCP, IP range", PATIENCE)?;
        let (member, tap) = (house.members[0].namespace(), device(&house.members[0])?);
        let script = "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\n\
                      ip addr add \"$ip/$mask\" dev \"$interface\"\n";
        let script = lab.file("bound.sh", script)?;
        member.run("chmod", &["+x", &script.to_string_lossy()])?;

        let mut command = Command::new("udhcpc");
        command.args(["-f", "-q", "-n", "-t", "10", "-i", &tap, "-s"]).arg(&script);
        let output = member.output(command, Duration::from_secs(60))?;

        ensure!(output.success(), "{output}");
        let addresses = member.addresses()?;
        let leased = |address: &IpAddr| address.to_string().starts_with("192.168.7.1");
        let leased = addresses.iter().find(|(_, address)| leased(address));
        let (_, address) = leased.with_context(|| format!("no lease: {addresses:?}"))?;
        member.run("ping", &["-c", "2", "-W", "5", "-I", &address.to_string(), PRINTER])?;
        reaches(&house.printer, *address)?;
        // What Warren itself gave it is still good.
        reaches(member, warren::GATEWAY4.parse()?)
    });
}

#[test]
fn the_hosts_own_bridge_is_joined_and_its_own_routes_serve_members() {
    scenario("existing bridge", |lab| {
        let world = World::new(lab, 2)?;
        let (site, printer, interface, printers) = site(lab, &world.server)?;
        bridge_of(&world.server, &interface)?;
        let before = everything(&world.server)?;
        let parts = (site, printer, printers);
        let house = House::with(world, parts, "br0", &["tap", "tun"], &["nat = true"])?;

        // By IP, through this host and under its address; with frames, as a host like any other.
        let (tap, tun) = (&house.members[0], &house.members[1]);
        let way = ["route", "add", "192.168.7.0/24", "dev", &device(tun)?];
        tun.namespace().run("ip", &way)?;
        let own = ["addr", "add", "192.168.7.90/24", "dev", &device(tap)?];
        tap.namespace().run("ip", &own)?;
        for member in [tap, tun] {
            reaches(member.namespace(), PRINTER.parse()?)?;
            reaches(member.namespace(), "192.168.7.1".parse()?)?;
        }
        reaches(&house.printer, "192.168.7.90".parse()?)?;
        reaches(&house.world.server, "192.168.7.90".parse()?)?;

        let server = house.world.server.clone();
        let home = house.warren.stop()?;
        same(&server, &before)?;
        let home = Warren::start(&home)?.kill()?;
        Warren::start(&home)?.stop()?;
        same(&server, &before)
    });
}

#[test]
fn the_pool_may_be_a_part_of_the_network_of_the_hosts_own_bridge() {
    scenario("part of a bridge", |lab| {
        let world = World::new(lab, 2)?;
        let (site, printer, interface, printers) = site(lab, &world.server)?;
        bridge_of(&world.server, &interface)?;
        let before = everything(&world.server)?;
        let network = [&PART[..], &["nat = true"]].concat();
        let parts = (site, printer, printers);
        let house = House::with(world, parts, "br0", &["tap", "tun"], &network)?;

        let (server, printer) = (&house.world.server, &house.printer);
        for member in &house.members {
            let own = member.address4()?;
            for to in [PRINTER, "192.168.7.1", "192.168.7.193"] {
                reaches(member.namespace(), to.parse()?)?;
            }
            reaches(printer, own)?;
            reaches(server, own)?;
            // Nobody is hidden behind the host's address.
            let at_printer = SocketAddr::new(PRINTER.parse()?, 8080);
            let _mirror = SourceMirror::start(printer, at_printer)?;
            assert_eq!(source_seen(member.namespace(), at_printer)?, own);
        }
        // The host may get another address at any time.
        server.run("ip", &["addr", "add", "192.168.7.2/24", "dev", "br0"])?;
        for member in &house.members {
            reaches(member.namespace(), "192.168.7.2".parse()?)?;
        }
        server.run("ip", &["addr", "del", "192.168.7.2/24", "dev", "br0"])?;

        let server = house.world.server.clone();
        house.warren.stop()?;
        same(&server, &before)
    });
}

#[test]
fn the_host_is_afterwards_as_found_also_after_a_crash() {
    scenario("bridge restore", |lab| {
        for state in ["up", "down"] {
            let server = lab.namespace(&format!("server-{state}"))?;
            let (_site, _printer, interface, _) = site(lab, &server)?;
            server.run("ip", &["link", "set", &interface, state])?;
            let before = everything(&server)?;
            let bridge = format!("bridge = \"{interface}\"");
            let network = [&[&bridge[..]], &PART[..]].concat();

            let home = Warren::up(&server, state, &config(&network, &[]))?.stop()?;
            same(&server, &before).context("stopped")?;
            let home = Warren::start(&home)?.kill()?;
            let left = server.run("ip", &["-o", "link"])?;
            ensure!(left != before.1, "a crash leaves nothing behind");
            let home = Warren::start(&home)?.kill()?;
            Warren::start(&home)?.stop()?;
            same(&server, &before).context("repaired")?;
        }
        Ok(())
    });
}

#[test]
fn a_member_that_is_on_the_site_itself_closes_no_circle() {
    scenario("bridge loop", |lab| {
        let house = House::new(lab, &["tap", "tap", "tun"], &PART)?;
        let (mallory, bob, carol) = (&house.members[0], &house.members[1], &house.members[2]);
        reaches(bob.namespace(), PRINTER.parse()?)?;

        // Mallory's computer bridges its tunnel with the very network that it leads to.
        let cable = house.site.attach(mallory.namespace(), &[])?;
        let tap = device(mallory)?;
        for arguments in [
            "link add circle type bridge",
            &format!("link set {tap} master circle"),
            &format!("link set {cable} master circle"),
            "link set circle up",
        ] {
            mallory.namespace().run("ip", &arguments.split(' ').collect::<Vec<_>>())?;
        }
        let heard = |tail: &str| -> Result<usize> {
            let filter = "ether proto 0x88b5";
            let ears = [(bob.namespace(), device(bob)?), (&house.printer, house.printers.clone())];
            let mut counts = Vec::new();
            let captures = ears
                .iter()
                .map(|(namespace, device)| Capture::start(namespace, device, filter))
                .collect::<Result<Vec<_>>>()?;
            shout(&house.printer, &house.printers, "007", false, tail)?;
            reaches(bob.namespace(), PRINTER.parse()?)?;
            reaches(carol.namespace(), PRINTER.parse()?)?;
            for capture in captures {
                counts.push(capture.finish()?.frames("eth.type == 0x88b5")?);
            }
            // The printer's capture has what it said itself.
            Ok(counts[0] + counts[1] - 2)
        };

        let first = heard("first")?;
        // If Mallory's copy is there before the printer's own, it takes a while to find out.
        ensure!(first < 400, "the first words went round {first} times");
        eventually(PATIENCE, || {
            ensure!(house.drops("loop")? > 0, "nothing was dropped as a circle");
            Ok(())
        })?;
        assert_eq!(heard("second")?, 0, "and the second once and no more");
        house.warren.peer().wait_for("on the bridged network itself", PATIENCE)?;
        Ok(())
    });
}

#[test]
fn two_warrens_on_one_site_make_no_circle() {
    scenario("two bridges", |lab| {
        let world = World::new(lab, 2)?;
        let (site, printer, interface, printers) = site(lab, &world.server)?;
        let bridges = [interface, site.attach(&world.server, &[])?];
        let (mut warrens, mut ends) = (Vec::new(), vec![(printer, printers)]);
        for (n, interface) in bridges.iter().enumerate() {
            let (port, user) = (1194 + n, USERS[n]);
            let network = [
                format!("bridge = \"{interface}\""),
                format!("ipv4 = \"10.{}.0.0/16\"", 86 + n),
                format!("ipv6 = \"fd{}::/64\"", 86 + n),
            ];
            let door = [
                format!("listen = [\"0.0.0.0:{port}\"]"),
                format!("listen_tcp = [\"0.0.0.0:{port}\"]"),
            ];
            let text = config(
                &network.each_ref().map(|line| &line[..]),
                &door.each_ref().map(|line| &line[..]),
            );
            let warren = Warren::up(&world.server, &format!("warren{n}"), &text)?;
            warren.home().add_user(user, PASSWORD)?;
            let remote = format!("{}:{port}", World::SERVER4);
            let profile = ["profile", user, "--door", "openvpn", "--remote", &remote];
            let profile = warren.home().run(&[&profile[..], &["--dev", "tap"]].concat())?;
            let credentials = Some((user, PASSWORD));
            let member = Client::connect(&world.clients[n], &profile, credentials, &[])?;
            let tap = device(&member)?;
            let address = format!("192.168.7.9{n}/24");
            member.namespace().run("ip", &["addr", "add", &address, "dev", &tap])?;
            ends.push((member.namespace().clone(), tap));
            warrens.push((warren, member));
        }
        let member = |n: usize| IpAddr::from([192, 168, 7, 90 + n as u8]);
        reaches(&world.clients[0], member(1))?;

        for (n, (from, device)) in ends.iter().enumerate() {
            let others = ends.iter().filter(|(namespace, _)| namespace.name() != from.name());
            let captures = others
                .map(|(namespace, device)| Capture::start(namespace, device, "ether proto 0x88b5"))
                .collect::<Result<Vec<_>>>()?;
            shout(from, device, &format!("01{n}"), false, "hello")?;
            // What was sent later has arrived, all the way round.
            reaches(&world.clients[0], member(1))?;
            reaches(&world.clients[0], PRINTER.parse()?)?;
            for capture in captures {
                assert_eq!(capture.finish()?.frames("eth.type == 0x88b5")?, 1, "from {n}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_flood_from_the_site_disturbs_nobody() {
    scenario("bridge floods", |lab| {
        let house = House::new(lab, &["tap", "tap", "tun"], &PART)?;
        let (alice, bob, carol) = (&house.members[0], &house.members[1], &house.members[2]);
        reaches(alice.namespace(), bob.address4()?)?;
        reaches(bob.namespace(), carol.address4()?)?;
        let before = house.warren.peer().rss_kib()?;

        // To everybody, from another hardware address every time.
        let script = format!(
            "import random, socket, struct\n\
             s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
             s.bind(('{}', 0))\n\
             for n in range(60000):\n\
             \x20   try: s.send(b'\\xff' * 6 + struct.pack('>HI', 0x0200, n) + b'\\x88\\xb5' + random.randbytes(100))\n\
             \x20   except OSError: pass\n",
            house.printers
        );
        let mut command = Command::new("python3");
        command.args(["-c", &script]);
        let flood = house.printer.spawn("flood", command)?;
        let report = ping(bob.namespace(), carol.address4()?, 20)?;
        ensure!(report.lost() == 0, "bob and carol lost {}", report.lost());
        flood.wait_exit(Duration::from_secs(120))?;

        ensure!(house.drops("rate_limited")? > 0, "the flood was no flood");
        let growth = house.warren.peer().rss_kib()?.saturating_sub(before);
        ensure!(growth < 8192, "{growth} KiB more");
        reaches(alice.namespace(), bob.address4()?)?;
        reaches(carol.namespace(), PRINTER.parse()?)
    });
}

#[test]
fn a_frame_for_everybody_brings_a_host_that_is_not_on_the_bridge_nothing() {
    scenario("whispers", |lab| listens(lab, false));
}

#[test]
fn a_frame_for_everybody_brings_the_host_nothing_in_a_members_name() {
    scenario("forged whispers", |lab| listens(lab, true));
}

/// What the host hears of packets for itself in frames for everybody, on a bridge of its own or of
/// ours.
fn listens(lab: &Lab, is_its_own: bool) -> Result<()> {
    let world = World::new(lab, 1)?;
    let (site, printer, interface, printers) = site(lab, &world.server)?;
    if is_its_own {
        bridge_of(&world.server, &interface)?;
    }
    let name = if is_its_own { "br0" } else { &interface };
    let house = House::with(world, (site, printer, printers), name, &["tap"], &PART)?;
    let script = "import socket\n\
                  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  s.bind(('0.0.0.0', 7007))\n\
                  print('hears', flush=True)\n\
                  while True: print(s.recv(99).decode(), flush=True)\n";
    let mut command = Command::new("python3");
    command.args(["-c", script]);
    let ear = house.world.server.spawn("ear", command)?;
    ear.wait_for("hears", PATIENCE)?;
    let own = if is_its_own { "192.168.7.1".parse()? } else { World::SERVER4.into() };
    let at_host = SocketAddr::new(own, 7007);
    let say = |source, text| whisper_aloud(&house.printer, &house.printers, source, at_host, text);

    say(house.members[0].address4()?, "forged")?;
    say(PRINTER.parse()?, "honest")?;
    // What was sent later has arrived, so those have.
    reaches(&house.printer, house.members[0].address4()?)?;
    let words = format!("echo outside | socat -u - UDP4-SENDTO:{}:7007", World::SERVER4);
    house.world.clients[0].run("sh", &["-c", &words])?;
    ear.wait_for("outside", PATIENCE)?;

    let heard = ear.stdout();
    ensure!(!heard.contains("forged"), "in a member's name: {heard}");
    ensure!(heard.contains("honest") == is_its_own, "{heard}");
    Ok(())
}

#[test]
fn what_cannot_be_bridged_is_refused_in_one_line() {
    scenario("bridge refused", |lab| {
        let server = lab.namespace("server")?;
        let (_site, _printer, free, _) = site(lab, &server)?;
        let other = lab.switch("other")?;
        let used = other.attach(&server, &["10.7.0.1/24"])?;
        server.run("ip", &["link", "add", "br0", "type", "bridge"])?;
        server.run("ip", &["link", "add", "eth7", "type", "veth", "peer", "name", "eth8"])?;
        server.run("ip", &["link", "set", "eth7", "master", "br0"])?;
        let before = everything(&server)?;
        let part = "bridge_networks = [\"192.168.7.0/24\"]";
        for (number, (interface, more, code, words)) in [
            ("eth99", "", 1, "there is no such interface"),
            ("lo", "", 1, "loopback"),
            (&used[..], "", 1, "10.7.0.1/24"),
            ("eth7", "", 1, "a part of br0 already: write bridge = \"br0\""),
            (&free[..], "client_to_client = false", 2, "client_to_client"),
            ("", part, 2, "nothing is bridged"),
            (&free[..], "bridge_networks = [\"10.86.0.0/16\"]", 2, "network.ipv4"),
        ]
        .into_iter()
        .enumerate()
        {
            let bridge = format!("bridge = \"{interface}\"");
            let text = config(&[&bridge, more], &[]);
            let home = Home::new(&server, &format!("warren{number}"), &text)?;

            let output = home.up_to_exit()?;

            ensure!(output.status.code() == Some(code), "{interface}: {output}");
            let mut lines = output.stderr.lines().filter(|line| !line.trim().is_empty());
            let last = lines.next_back().unwrap_or_default();
            ensure!(last.contains("network.bridge") && last.contains(words), "{output}");
            let file = home.config_path().to_string_lossy().into_owned();
            let check = home.try_run(&["check", "--config", &file])?;
            ensure!(check.status.code() == Some(code), "{check}");
            ensure!(format!("{}{}", check.stdout, check.stderr).contains(words), "{check}");
            same(&server, &before)?;
        }
        Ok(())
    });
}

#[test]
fn warrens_own_client_is_on_the_site_of_a_stock_bridge() {
    scenario("server-bridge", |lab| {
        let world = World::new(lab, 2)?;
        let (_site, printer, interface, _) = site(lab, &world.server)?;
        for arguments in [
            "tuntap add dev tap7 mode tap",
            "link add br0 type bridge",
            &format!("link set {interface} master br0"),
            "link set tap7 master br0",
            "link set tap7 up",
            "link set br0 up",
            "addr add 192.168.7.1/24 dev br0",
        ] {
            world.server.run("ip", &arguments.split(' ').collect::<Vec<_>>())?;
        }
        let pki = Pki::new(lab.folder())?;
        let bridge = "server-bridge 192.168.7.1 255.255.255.0 192.168.7.200 192.168.7.220";
        let server = Server {
            extra: ["dev tap7", bridge, "client-to-client"].map(str::to_owned).to_vec(),
            ..Server::default()
        };
        let stock = server.start(&world.server, &pki)?;
        let remotes = [(World::SERVER4.into(), server.port)];
        let profile = |name: &str| -> Result<String> {
            let identity = pki.client(name)?;
            Ok(server.profile(&pki, &identity, &remotes).replace("dev tun", "dev tap"))
        };
        let ours = warren::Client::connect(&world.clients[0], &profile("alice")?, None)?;
        let other = Client::connect(&world.clients[1], &profile("bob")?, None, &[])?;

        let own = ours.address(true)?;
        ensure!(own.to_string().starts_with("192.168.7.2"), "{own} is not of the server's");
        let (a, b) = (&world.clients[0], other.namespace());
        for to in ["192.168.7.1", PRINTER] {
            reaches(a, to.parse()?)?;
        }
        reaches(a, other.address4()?)?;
        reaches(b, own)?;
        reaches(&printer, own)?;
        transfer(a, &printer, SocketAddr::new(PRINTER.parse()?, 7000), 3_000_000)?;
        transfer(&printer, a, SocketAddr::new(own, 7000), 3_000_000)?;
        stock.stop(PATIENCE)?;
        Ok(())
    });
}
