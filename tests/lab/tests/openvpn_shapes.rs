//! Compression's framings, fragments and segment sizes, with stock OpenVPN 2.6 at the other end.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lab::openvpn::{self, Server};
use lab::warren::{self, GATEWAY4, Warren, config};
use lab::{Capture, Namespace, PATIENCE, Pcap, Pki, World, reach, scenario, transfer};

const PASSWORD: &str = "long enough for a test";

/// Pings with so many bytes of a pattern that shrinks well.
fn ping_large(from: &Namespace, to: &str, size: u32) -> Result<()> {
    let (size, pattern) = (size.to_string(), ["-p", "41"]);
    let ping = ["-c", "3", "-i", "0.2", "-W", "3", "-s", &size, pattern[0], pattern[1], to];
    let report = from.run("ping", &ping)?;
    ensure!(report.contains(" 0% packet loss"), "{report}");
    Ok(())
}

/// A world whose cables carry datagrams one by one, as the captures are to see them.
fn world(lab: &lab::Lab) -> Result<World> {
    let world = World::new(lab, 1)?;
    for namespace in [&world.server, &world.clients[0]] {
        for (device, _) in namespace.addresses()? {
            if device != "lo" {
                namespace.run("ip", &["link", "set", "dev", &device, "gso_max_segs", "1"])?;
            }
        }
    }
    Ok(world)
}

fn sizes(pcap: &Pcap, filter: &str) -> Result<Vec<u32>> {
    let lens = pcap.fields(filter, "udp.length")?;
    lens.iter().map(|len| len.parse().context("udp.length")).collect()
}

/// A stock server and `warren connect`, both with these lines; what crossed while it pinged.
fn as_client(
    lab: &lab::Lab,
    at_server: &[&str],
    at_client: &[&str],
    size: u32,
) -> Result<(World, Pcap)> {
    let world = world(lab)?;
    let pki = Pki::new(lab.folder())?;
    let server = Server {
        extra: at_server.iter().map(|line| (*line).to_owned()).collect(),
        ..Server::default()
    };
    let peer = server.start(&world.server, &pki)?;
    let remotes = [(World::SERVER4.into(), server.port)];
    let profile = server.profile(&pki, &pki.client("alice")?, &remotes);
    let profile = format!("{}\n{profile}", at_client.join("\n"));
    let client = warren::Client::connect(&world.clients[0], &profile, None)?;
    let capture = Capture::start(&world.server, &world.server_device, "udp port 1194")?;

    ping_large(&world.clients[0], Server::GATEWAY4, size)?;
    let to = SocketAddr::new(Server::GATEWAY4.parse()?, 9000);
    transfer(&world.clients[0], &world.server, to, 300_000)?;

    let pcap = capture.finish()?;
    ensure!(client.stop()?.success(), "warren connect does not end well");
    peer.stop(PATIENCE)?;
    Ok((world, pcap))
}

#[test]
fn every_framing_of_a_server_is_understood() {
    // Without "disable-dco" the profile is as it would be found; the server compresses if it may.
    for (line, compresses) in [
        ("comp-lzo yes", true),
        ("comp-lzo no", false),
        ("compress lzo", true),
        ("compress lz4", true),
        ("compress lz4-v2", true),
        ("compress stub", false),
        ("compress stub-v2", false),
    ] {
        scenario(line, |lab| {
            let server = ["allow-compression yes", line];
            let (_world, pcap) = as_client(lab, &server, &[line], 1200)?;

            let from_server = sizes(&pcap, "ip.src == 203.0.113.1 && udp.length > 1200")?;
            let to_server = sizes(&pcap, "ip.dst == 203.0.113.1 && udp.length > 1200")?;
            ensure!(to_server.len() >= 3, "we never compress: {to_server:?}");
            // The answers to pings; the transfer is noise, which does not shrink.
            let answers = from_server.iter().filter(|len| **len < 1320).count();
            ensure!((answers < 3) == compresses, "{from_server:?}");
            Ok(())
        });
    }
}

#[test]
fn a_framing_that_is_pushed_is_understood() {
    for line in ["compress lz4-v2", "compress stub-v2", "comp-lzo no"] {
        scenario(line, |lab| {
            let push = format!("push \"{line}\"");
            let server = ["allow-compression yes", line, &push];
            as_client(lab, &server, &[], 1200).map(drop)
        });
    }
}

#[test]
fn fragments_cross_in_both_directions_to_a_stock_server() {
    for extra in [None, Some("compress lz4-v2")] {
        scenario("fragment client", |lab| {
            let mut lines = vec!["fragment 1300", "mssfix 1250"];
            lines.extend(extra);
            let server = [&lines[..], &["allow-compression yes"]].concat();

            let (_world, pcap) = as_client(lab, &server, &lines, 1440)?;

            let sizes = sizes(&pcap, "")?;
            ensure!(sizes.iter().all(|len| *len <= 1308), "{sizes:?}");
            ensure!(sizes.len() > 200, "{} packets", sizes.len());
            Ok(())
        });
    }
}

#[test]
fn segments_are_held_to_the_size_that_a_profile_asks_for() {
    for (line, most) in [("mssfix 1000", 1000), ("mssfix 1000 mtu", 972)] {
        scenario(line, |lab| {
            let (_world, pcap) = as_client(lab, &[], &[line], 100)?;

            let sizes = sizes(&pcap, "")?;
            let largest = sizes.iter().max().copied().unwrap_or_default();
            ensure!((most - 60..=most + 8).contains(&largest), "{largest}");
            Ok(())
        });
    }
}

/// Warren and a stock client whose options are these.
fn as_server(lab: &lab::Lab, door: &[&str], options: &[&str], size: u32) -> Result<Pcap> {
    let world = world(lab)?;
    let warren = Warren::up(&world.server, "warren", &config(&[], door))?;
    let profile = warren.user_with_profile("alice", PASSWORD, &World::SERVER4.to_string())?;
    let login = Some(("alice", PASSWORD));
    let _client = openvpn::Client::connect(&world.clients[0], &profile, login, options)?;
    let capture = Capture::start(&world.server, &world.server_device, "udp port 1194")?;

    ping_large(&world.clients[0], GATEWAY4, size)?;
    let to = SocketAddr::new(GATEWAY4.parse()?, 9000);
    transfer(&world.clients[0], &world.server, to, 300_000)?;
    let address = warren.session_of("alice")?.address4.context("no address")?;
    ping_large(&world.server, &address.to_string(), size)?;

    capture.finish()
}

#[test]
fn clients_that_compress_are_served_where_that_is_allowed() {
    for options in [
        &["--allow-compression", "yes", "--comp-lzo", "yes"][..],
        &["--allow-compression", "yes", "--compress", "lz4"],
        &["--allow-compression", "yes", "--compress", "lz4-v2"],
        &["--compress", "stub"],
        &["--comp-lzo", "no"],
    ] {
        scenario(&options.join(" "), |lab| {
            as_server(lab, &["compression = \"decompress\""], options, 1200).map(drop)
        });
    }
}

#[test]
fn clients_that_compress_are_turned_away_by_default() {
    scenario("refuse", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &[]))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &World::SERVER4.to_string())?;
        let options = ["--comp-lzo", "no"];
        let login = Some(("alice", PASSWORD));

        let client = openvpn::Client::start(&world.clients[0], &profile, login, &options)?;

        client.peer().wait_for("AUTH_FAILED,compression is not allowed here", PATIENCE)?;
        warren.peer().wait_for("doors.openvpn.compression", PATIENCE)?;
        Ok(())
    });
}

#[test]
fn fragments_cross_in_both_directions_from_a_stock_client() {
    scenario("fragment server", |lab| {
        // The profile brings the line along.
        let pcap = as_server(lab, &["fragment = 1300"], &[], 1380)?;

        let sizes = sizes(&pcap, "")?;
        ensure!(sizes.iter().all(|len| *len <= 1308), "{sizes:?}");
        let gateway: IpAddr = GATEWAY4.parse()?;
        ensure!(gateway.is_ipv4() && sizes.len() > 200, "{} packets", sizes.len());
        Ok(())
    });
}

#[test]
fn a_door_holds_segments_to_its_size() {
    scenario("mssfix server", |lab| {
        let pcap = as_server(lab, &["mssfix = 900"], &["--mssfix", "0"], 100)?;

        let sizes = sizes(&pcap, "")?;
        let largest = sizes.iter().max().copied().unwrap_or_default();
        ensure!((840..=908).contains(&largest), "{largest}");
        Ok(())
    });
}

#[test]
fn warren_cuts_for_warren() {
    scenario("fragment both", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &["fragment = 500"]))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &World::SERVER4.to_string())?;
        let login = Some(("alice", PASSWORD));
        let _client = warren::Client::connect(&world.clients[0], &profile, login)?;

        ping_large(&world.clients[0], GATEWAY4, 1380)?;
        reach(&world.clients[0], GATEWAY4.parse()?)?;
        Ok(())
    });
}
