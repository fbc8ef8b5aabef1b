//! `warren connect` against SoftEther's OpenVPN side, with the profiles that it writes itself.
#![allow(clippy::unwrap_used, reason = "tests")]

use anyhow::{Context, Result, ensure};
use lab::softether::{Mode, SoftEther};
use lab::warren::Client;
use lab::{Lab, PATIENCE, World, ping, reach, scenario};

/// Connects with the server's own profile and pings its gateway.
fn connects(world: &World, server: &SoftEther, profile: &str, keys: &str) -> Result<()> {
    let login = Some((SoftEther::USER, SoftEther::PASSWORD));
    let client = Client::start(&world.clients[0], profile, login)?;
    client.wait_connected_since(client.peer().mark_start())?;
    ensure!(!client.peer().said(keys).is_empty(), "the client does not speak {keys}");
    reach(&world.clients[0], SoftEther::GATEWAY4.parse()?)?;
    ensure!(server.peer().is_running(), "the server is gone");
    let output = client.stop()?;
    ensure!(output.success(), "{output}");
    Ok(())
}

fn with_server(lab: &Lab, body: impl FnOnce(&World, &SoftEther) -> Result<()>) -> Result<()> {
    let world = World::new(lab, 1)?;
    let server = SoftEther::start(&world.server)?;
    body(&world, &server)?;
    server.stop()
}

#[test]
fn every_cipher_that_both_know_is_spoken() {
    scenario("softether ciphers", |lab| {
        with_server(lab, |world, server| {
            for (cipher, digest) in [
                ("AES-128-CBC", "SHA1"),
                ("AES-256-CBC", "SHA256"),
                ("AES-128-CBC", "SHA512"),
                ("AES-256-GCM", "SHA1"),
                ("AES-128-GCM", "SHA1"),
                ("CHACHA20-POLY1305", "SHA1"),
            ] {
                let remote = World::SERVER4.to_string();
                let profile = server.profile(Mode::Ip, &remote, "udp", cipher, digest);
                connects(world, server, &profile, cipher)
                    .with_context(|| format!("{cipher} {digest}"))?;
            }
            Ok(())
        })
    });
}

#[test]
fn a_stream_carries_it_as_well() {
    scenario("softether tcp", |lab| {
        with_server(lab, |world, server| {
            let remote = World::SERVER4.to_string();
            let profile = server.profile(Mode::Ip, &remote, "tcp", "AES-256-GCM", "SHA1");
            connects(world, server, &profile, "AES-256-GCM")
        })
    });
}

#[test]
fn a_station_of_ours_is_on_its_ethernet() {
    scenario("softether tap", |lab| {
        with_server(lab, |world, server| {
            let remote = World::SERVER4.to_string();
            let profile = server.profile(Mode::Ethernet, &remote, "udp", "AES-128-CBC", "SHA1");
            let login = Some((SoftEther::USER, SoftEther::PASSWORD));
            let client = Client::start(&world.clients[0], &profile, login)?;
            let line = client.peer().wait_for("connected to", PATIENCE)?;
            // In this mode it leaves addresses to DHCP; one of its network will do.
            let device = line
                .split_whitespace()
                .skip_while(|word| *word != "on")
                .nth(1)
                .context("no device")?
                .to_owned();
            let host = &world.clients[0];
            host.run("ip", &["addr", "add", "192.168.30.200/24", "dev", &device])?;
            let report = ping(host, SoftEther::GATEWAY4.parse()?, 3)?;
            ensure!(report.received > 0, "{report:?}");
            let output = client.stop()?;
            ensure!(output.success(), "{output}");
            Ok(())
        })
    });
}
