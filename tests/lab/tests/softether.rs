//! `warren connect` against SoftEther's OpenVPN side, with the profiles that it writes itself.
#![allow(clippy::unwrap_used, reason = "tests")]

use anyhow::{Context, Result, ensure};
use lab::softether::{Mode, SoftEther};
use lab::warren::Client;
use lab::{Lab, World, ping, scenario};

/// Connects with the server's own profile and pings its gateway.
fn connects(world: &World, server: &SoftEther, profile: &str, keys: &str) -> Result<()> {
    let login = Some((SoftEther::USER, SoftEther::PASSWORD));
    let client = Client::start(&world.clients[0], profile, login)?;
    client.wait_connected_since(client.peer().mark_start())?;
    ensure!(!client.peer().said(keys).is_empty(), "the client does not speak {keys}");
    let report = ping(&world.clients[0], SoftEther::GATEWAY4.parse()?, 3)?;
    ensure!(report.lost() == 0, "{report:?}");
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
