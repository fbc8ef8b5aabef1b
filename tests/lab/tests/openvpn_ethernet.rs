//! Ethernet: stock clients with `dev tap` beside those with `dev tun`, Warren's own, and what is
//! for everybody.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::openvpn::{Client, Server};
use lab::warren::{self, GATEWAY4, GATEWAY6, Warren, config};
use lab::{
    Capture, Iperf, Lab, Namespace, PATIENCE, Pki, SourceMirror, World, eventually, ping, scenario,
    source_seen, transfer,
};

const PASSWORD: &str = "long enough for a test";
const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// A world with one Warren, and a stock client for each of these devices.
fn house(lab: &Lab, devices: &[&str], network: &[&str]) -> Result<(World, Warren, Vec<Client>)> {
    let world = World::new(lab, devices.len())?;
    let warren = Warren::up(&world.server, "warren", &config(network, &[]))?;
    let mut connected = Vec::new();
    for ((namespace, user), device) in world.clients.iter().zip(USERS).zip(devices) {
        warren.home().add_user(user, PASSWORD)?;
        let profile = profile(&warren, user, device)?;
        let credentials = Some((user, PASSWORD));
        connected.push(Client::connect(namespace, &profile, credentials, &[])?);
    }
    Ok((world, warren, connected))
}

fn profile(warren: &Warren, user: &str, device: &str) -> Result<String> {
    let remote = World::SERVER4.to_string();
    warren.home().run(&["profile", user, "--door", "openvpn", "--remote", &remote, "--dev", device])
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

#[test]
fn stations_and_members_reach_each_other_the_gateway_and_the_world() {
    scenario("ethernet", |lab| {
        let devices = ["tap", "tap", "tun"];
        let (world, warren, clients) = house(lab, &devices, &["redirect_gateway = true"])?;

        for from in &clients {
            for gateway in [GATEWAY4, GATEWAY6] {
                reaches(from.namespace(), gateway.parse()?)?;
            }
            for to in &clients {
                reaches(from.namespace(), to.address4()?)?;
                reaches(from.namespace(), to.address6()?)?;
            }
        }
        for (host, expected) in [(World::OUTSIDE4, World::NAT4), (World::OUTSIDE6, World::NAT6)] {
            let port = SocketAddr::new(host, 8080);
            let _mirror = SourceMirror::start(&world.outside, port)?;
            assert_eq!(source_seen(clients[0].namespace(), port)?, expected);
        }

        let (a, b, c) = (&clients[0], &clients[1], &clients[2]);
        for (from, to) in [(a, b), (a, c), (c, a)] {
            let to_address = SocketAddr::new(to.address4()?, 7000);
            transfer(from.namespace(), to.namespace(), to_address, 3_000_000)?;
        }
        warren.wait_sessions(3, Duration::from_secs(1))
    });
}

#[test]
fn stations_exchange_frames_of_any_kind() {
    scenario("any frame", |lab| {
        let (_world, _warren, clients) = house(lab, &["tap", "tap"], &[])?;
        let (from, to) = (&clients[0], &clients[1]);
        let frames = [
            // An experimental type (802), and a frame of a VLAN with a plan of its own.
            "\\377\\377\\377\\377\\377\\377\\002\\000\\000\\000\\000\\007\\210\\265hello",
            "\\377\\377\\377\\377\\377\\377\\002\\000\\000\\000\\000\\007\\201\\000\\000\\007\\210\\265hello",
        ];
        let capture = Capture::start(to.namespace(), &device(to)?, "ether src 02:00:00:00:00:07")?;

        for frame in frames {
            let script = format!("printf '{frame}' | socat -u - INTERFACE:{}", device(from)?);
            from.namespace().run("sh", &["-c", &script])?;
        }
        // What was sent later has arrived, so those have.
        reaches(from.namespace(), to.address4()?)?;

        let pcap = capture.finish()?;
        assert_eq!(pcap.frames("eth.type == 0x88b5")?, 1);
        assert_eq!(pcap.frames("vlan.id == 7 && vlan.etype == 0x88b5")?, 1);
        Ok(())
    });
}

#[test]
fn stations_can_be_kept_apart() {
    scenario("apart", |lab| {
        let devices = ["tap", "tap", "tun"];
        let (_world, _warren, clients) = house(lab, &devices, &["client_to_client = false"])?;

        reaches(clients[0].namespace(), GATEWAY4.parse()?)?;
        for to in &clients[1..] {
            assert_eq!(ping(clients[0].namespace(), to.address4()?, 2)?.received, 0);
        }
        Ok(())
    });
}

#[test]
fn a_door_without_ethernet_says_so() {
    scenario("off", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &["tap = false"]))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &World::SERVER4.to_string())?;
        let profile = profile.replace("dev tun", "dev tap");
        let credentials = Some(("alice", PASSWORD));

        let client = Client::start(&world.clients[0], &profile, credentials, &[])?;

        client.peer().wait_for("use a profile with dev tun", PATIENCE)?;
        Ok(())
    });
}

#[test]
fn what_one_sends_to_everybody_reaches_every_kind_of_member() {
    scenario("broadcast", |lab| {
        let (world, _warren, clients) = house(lab, &["tap", "tap", "tun"], &[])?;
        let everybody: SocketAddr = "10.86.255.255:9999".parse()?;
        let host = (world.server, IpAddr::from([10, 86, 0, 1]));
        let members =
            clients.iter().map(|client| Ok((client.namespace().clone(), client.address4()?)));
        let members = members.chain([Ok(host)]).collect::<Result<Vec<_>>>()?;
        let ears = members
            .iter()
            .map(|(namespace, _)| {
                let bind = move || UdpSocket::bind(("0.0.0.0", 9999));
                let ear = namespace.enter(bind).context("listen")?;
                ear.set_read_timeout(Some(Duration::from_secs(5)))?;
                Ok(ear)
            })
            .collect::<Result<Vec<_>>>()?;

        for (from, (namespace, address)) in members.iter().enumerate() {
            let mouth = namespace.enter(|| UdpSocket::bind(("0.0.0.0", 0)))?;
            mouth.set_broadcast(true)?;
            let words = format!("is anybody there? {from}");
            mouth.send_to(words.as_bytes(), everybody)?;

            for (to, ear) in ears.iter().enumerate().filter(|(to, _)| *to != from) {
                let mut room = [0; 100];
                let (len, source) = ear
                    .recv_from(&mut room)
                    .with_context(|| format!("from {from} to {to}: nothing heard"))?;
                ensure!(room[..len] == *words.as_bytes(), "{to} heard something else");
                ensure!(source.ip() == *address, "{to} heard it from {source}");
            }
            for (to, ear) in ears.iter().enumerate() {
                ear.set_nonblocking(true)?;
                // Linux gives a sender its own broadcast itself; nobody hears anything twice.
                let heard = std::iter::from_fn(|| ear.recv_from(&mut [0; 100]).ok()).count();
                ensure!(heard <= usize::from(to == from), "{to} heard {heard} too many");
                ear.set_nonblocking(false)?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_media_server_is_found_across_kinds_of_members() {
    scenario("discovery", |lab| {
        let (_world, _warren, clients) = house(lab, &["tap", "tun"], &[])?;
        for (server, seeker) in [(&clients[0], &clients[1]), (&clients[1], &clients[0])] {
            let (folder, address) =
                (lab.folder().join(server.namespace().name()), server.address4()?);
            std::fs::create_dir_all(&folder)?;
            let settings = format!(
                "media_dir={0}\ndb_dir={0}\nlog_dir={0}\nport=8200\nnetwork_interface={1}\n\
                 friendly_name=Warren test\nnotify_interval=600\n",
                folder.display(),
                device(server)?,
            );
            let settings = lab.file(&format!("{}.dlna", server.namespace().name()), &settings)?;
            let mut command = Command::new("minidlnad");
            command.args(["-S", "-r", "-f"]).arg(settings).arg("-P").arg(folder.join("pid"));
            let dlna = server.namespace().spawn("minidlnad", command)?;
            eventually(PATIENCE, || {
                let sockets = server.namespace().run("ss", &["-Hltn", "sport", "=", "8200"])?;
                ensure!(!sockets.is_empty(), "minidlna does not listen");
                Ok(())
            })?;

            let search = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\
                 MAN: \"ssdp:discover\"\r\nMX: 1\r\nST: upnp:rootdevice\r\n\r\n";
            let way = ["route", "replace", "239.255.255.250/32", "dev", &device(seeker)?];
            seeker.namespace().run("ip", &way)?;
            let socket = seeker.namespace().enter(|| UdpSocket::bind(("0.0.0.0", 0)))?;
            socket.set_multicast_ttl_v4(4)?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            let found = eventually(PATIENCE, || {
                socket.send_to(search.as_bytes(), ("239.255.255.250", 1900))?;
                let mut room = [0; 2048];
                let (len, from) = socket.recv_from(&mut room).context("no answer")?;
                ensure!(from.ip() == address, "{from} answers");
                Ok(String::from_utf8_lossy(&room[..len]).into_owned())
            })?;

            ensure!(found.contains(&format!("http://{address}:8200/")), "{found}");
            dlna.stop(PATIENCE)?;
        }
        Ok(())
    });
}

/// Starts a message bus and a responder for mDNS, which this client's device is the whole world of.
fn avahi(lab: &Lab, client: &Client) -> Result<[lab::Peer; 2]> {
    let (namespace, name) = (client.namespace(), client.namespace().name());
    // Both have a `/run` of their own in there.
    namespace.run("mkdir", &["-p", "/run/dbus", "/run/avahi-daemon"])?;
    let mut command = Command::new("dbus-daemon");
    command.args(["--system", "--nofork", "--nopidfile", "--nosyslog"]);
    let bus = namespace.spawn("dbus", command)?;
    eventually(PATIENCE, || {
        namespace.run("test", &["-S", "/run/dbus/system_bus_socket"])?;
        Ok(())
    })?;
    // mDNS over IPv6 comes from link-local addresses, which members without frames do not have.
    let settings = format!(
        "[server]\nhost-name={name}\nuse-ipv4=yes\nuse-ipv6=no\nallow-interfaces={}\n\
         allow-point-to-point=yes\nenable-dbus=yes\n[publish]\npublish-workstation=no\n",
        device(client)?,
    );
    let settings = lab.file(&format!("{name}.avahi"), &settings)?;
    let mut command = Command::new("avahi-daemon");
    command.args(["--no-drop-root", "--no-chroot", "--no-rlimits", "--no-proc-title", "--file"]);
    command.arg(settings);
    let daemon = namespace.spawn("avahi", command)?;
    daemon.wait_for("Server startup complete", PATIENCE)?;
    Ok([bus, daemon])
}

#[test]
fn a_printer_is_found_by_its_service_across_kinds_of_members() {
    scenario("mdns", |lab| {
        let (_world, _warren, clients) = house(lab, &["tap", "tun"], &[])?;
        let _daemons = [avahi(lab, &clients[0])?, avahi(lab, &clients[1])?];
        for (printer, seeker) in [(&clients[0], &clients[1]), (&clients[1], &clients[0])] {
            let name = format!("Printer of {}", printer.namespace().name());
            let mut command = Command::new("avahi-publish");
            command.args(["-s", &name, "_ipp._tcp", "631"]);
            let published = printer.namespace().spawn("avahi-publish", command)?;
            published.wait_for("Established under name", PATIENCE)?;

            let address = printer.address4()?;
            eventually(PATIENCE, || {
                let arguments = ["--parsable", "--resolve", "--terminate", "_ipp._tcp"];
                let found = seeker.namespace().run("avahi-browse", &arguments)?;
                let of_the_printer = |line: &&str| {
                    line.starts_with('=') && line.contains(&format!(";{address};631;"))
                };
                let line = found.lines().find(of_the_printer);
                ensure!(line.is_some(), "no printer at {address}: {found}");
                Ok(())
            })?;
            published.stop(PATIENCE)?;
        }
        Ok(())
    });
}

#[test]
fn a_flood_of_hardware_addresses_and_questions_disturbs_nobody() {
    scenario("floods", |lab| {
        let (_world, warren, clients) = house(lab, &["tap", "tap", "tun"], &[])?;
        let (mallory, bob, carol) = (&clients[0], &clients[1], &clients[2]);
        reaches(bob.namespace(), carol.address4()?)?;
        let before = warren.peer().rss_kib()?;
        let tap = device(mallory)?;

        // A new hardware address every time, and a question for every address of the network.
        let script = format!(
            "for n in $(seq 1 600); do \
               ip link set dev {tap} address 02:00:00:00:$(printf %02x $((n / 256))):$(printf %02x $((n % 256))); \
               ping -n -c 1 -W 0.01 -I {tap} 10.86.$((n / 250)).$((n % 250 + 3)) >/dev/null 2>&1; \
             done; true"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        let flood = mallory.namespace().spawn("flood", command)?;
        let report = ping(bob.namespace(), carol.address4()?, 20)?;
        ensure!(report.lost() == 0, "bob and carol lost {}", report.lost());
        flood.wait_exit(Duration::from_secs(120))?;

        let status = warren.home().run(&["status", "--json"])?;
        ensure!(status.contains("mac_limit"), "no counter of that name: {status}");
        let growth = warren.peer().rss_kib()?.saturating_sub(before);
        ensure!(growth < 4096, "{growth} KiB more");
        reaches(bob.namespace(), carol.address4()?)
    });
}

#[test]
fn warrens_own_client_is_a_station_at_a_stock_server() {
    scenario("client at stock server", |lab| {
        let world = World::new(lab, 2)?;
        let pki = Pki::new(lab.folder())?;
        let server = Server {
            extra: ["dev tap", "client-to-client"].map(str::to_owned).to_vec(),
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

        let (a, b) = (&world.clients[0], other.namespace());
        reaches(a, Server::GATEWAY4.parse()?)?;
        reaches(a, Server::GATEWAY6.parse()?)?;
        reaches(a, other.address4()?)?;
        reaches(b, ours.address(true)?)?;
        transfer(a, b, SocketAddr::new(other.address4()?, 7000), 3_000_000)?;
        transfer(b, a, SocketAddr::new(ours.address(true)?, 7000), 3_000_000)?;
        stock.stop(PATIENCE)?;
        Ok(())
    });
}

#[test]
fn warrens_own_client_is_a_station_at_warren() {
    scenario("client at warren", |lab| {
        let world = World::new(lab, 2)?;
        let network = ["redirect_gateway = true"];
        let warren = Warren::up(&world.server, "warren", &config(&network, &[]))?;
        let mut connected = Vec::new();
        for (namespace, (user, device)) in
            world.clients.iter().zip([("alice", "tap"), ("bob", "tun")])
        {
            warren.home().add_user(user, PASSWORD)?;
            let profile = profile(&warren, user, device)?;
            connected.push(warren::Client::connect(namespace, &profile, Some((user, PASSWORD)))?);
        }

        let (a, b) = (&world.clients[0], &world.clients[1]);
        for to in [GATEWAY4.parse()?, connected[1].address(true)?, World::OUTSIDE4] {
            reaches(a, to)?;
        }
        reaches(b, connected[0].address(true)?)?;
        reaches(a, World::OUTSIDE6)?;
        transfer(a, b, SocketAddr::new(connected[1].address(true)?, 7000), 3_000_000)?;
        transfer(b, a, SocketAddr::new(connected[0].address(true)?, 7000), 3_000_000)?;
        let report = Iperf::tcp(GATEWAY4.parse()?, 2).run(&world.server, a)?;
        ensure!(report.bps > 1e6, "{} bit/s", report.bps);
        Ok(())
    });
}
