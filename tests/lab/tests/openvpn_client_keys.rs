//! Keys of the clients' own (tls-crypt-v2), with stock OpenVPN 2.6 at either end.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::openvpn::{Client, Server};
use lab::warren::{self, GATEWAY4, Warren, config};
use lab::{Lab, Namespace, PATIENCE, Pki, World, all, eventually, reach, scenario};
use serde_json::Value;

const PASSWORD: &str = "long enough for a test";
/// How soon a revoked key must be out.
const SOON: Duration = Duration::from_secs(5);

fn server4() -> String {
    World::SERVER4.to_string()
}

fn check_ping(from: &Namespace, gateway: &str) -> Result<()> {
    reach(from, gateway.parse()?)?;
    Ok(())
}

/// What `sessions --json` says of a user.
fn control_of(warren: &Warren, user: &str) -> Result<(String, Value)> {
    let text = warren.home().run(&["sessions", "--json"])?;
    let sessions: Vec<Value> = serde_json::from_str(&text)?;
    let session = sessions.iter().find(|session| session["user"] == user);
    let session = session.with_context(|| format!("no session of {user}: {text}"))?;
    Ok((session["control"].as_str().unwrap_or_default().to_owned(), session["client_key"].clone()))
}

fn drops(warren: &Warren, counter: &str) -> Result<u64> {
    let status: Value = serde_json::from_str(&warren.home().run(&["status", "--json"])?)?;
    Ok(status["drops"][counter].as_u64().unwrap_or_default())
}

#[test]
fn one_door_takes_the_profiles_of_every_program() {
    scenario("client keys, every program", |lab| {
        let programs = [None, Some("2.4"), Some("2.5"), Some("2.6"), Some("connect")];
        let world = World::new(lab, programs.len())?;
        let warren = Warren::up(&world.server, "programs", &config(&[], &[]))?;
        let mut clients = Vec::new();
        for (namespace, program) in world.clients.iter().zip(programs) {
            let user = format!("user-{}", program.unwrap_or("any"));
            warren.home().add_user(&user, PASSWORD)?;
            let mut arguments = vec!["profile", &user, "--door", "openvpn", "--remote"];
            let remote = server4();
            arguments.push(&remote);
            arguments.extend(program.map(|program| ["--for", program]).into_iter().flatten());
            let profile = warren.home().run(&arguments)?;
            let client = Client::start(namespace, &profile, Some((&user, PASSWORD)), &[])?;
            clients.push((user, program, client));
        }
        all(clients, |(user, program, client)| {
            client.wait_connected().with_context(|| user.clone())?;
            check_ping(client.namespace(), GATEWAY4)?;
            let (control, key) = control_of(&warren, &user)?;
            let has_own_key = program != Some("2.4");
            let wrapping = if has_own_key { ", tls-crypt-v2" } else { ", tls-crypt" };
            ensure!(control.ends_with(wrapping), "{user}: {control}");
            ensure!(key.is_string() == has_own_key, "{user}: {key}");
            client.stop().map(drop)
        })?;
        warren.stop().map(drop)
    });
}

#[test]
fn a_revoked_key_is_out_within_seconds_and_the_others_are_not() {
    scenario("client keys, revoke", |lab| {
        let world = World::new(lab, 2)?;
        let warren = Warren::up(
            &world.server,
            "revoke",
            &config(&[], &["auth = \"password\"", "ping = 2"]),
        )?;
        let mut clients = Vec::new();
        for (namespace, user) in world.clients.iter().zip(["alice", "bob"]) {
            let profile = warren.user_with_profile(user, PASSWORD, &server4())?;
            let client = Client::connect(namespace, &profile, Some((user, PASSWORD)), &[])?;
            clients.push((profile, client));
        }
        let (_, key) = control_of(&warren, "alice")?;
        let key = key.as_str().context("alice has no client key")?.to_owned();
        let bob = warren.session_of("bob")?;

        warren.home().run(&["client-key", "revoke", &key])?;

        warren.wait_sessions(1, SOON)?;
        let (profile, alice) = clients.swap_remove(0);
        alice.stop()?;
        let again = Client::start(&world.clients[0], &profile, Some(("alice", PASSWORD)), &[])?;
        eventually(PATIENCE, || {
            ensure!(drops(&warren, "key_refused")? >= 2, "nothing of alice was counted");
            Ok(())
        })?;
        let heard = again.peer().said("TLS: Initial packet");
        ensure!(heard.is_empty(), "alice was answered: {heard:?}");
        ensure!(warren.sessions()?.len() == 1);
        check_ping(&world.clients[1], GATEWAY4)?;
        ensure!(warren.session_of("bob")?.id == bob.id, "bob's session is another");
        warren.stop().map(drop)
    });
}

#[test]
fn a_server_that_demands_cookies_keeps_old_clients_out() {
    scenario("client keys, cookie", |lab| {
        let world = World::new(lab, 2)?;
        let warren = Warren::up(&world.server, "cookie", &config(&[], &[]))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &server4())?;
        let old = format!("compat-mode 2.5.0\n{profile}");
        let credentials = Some(("alice", PASSWORD));

        let client = warren::Client::connect(&world.clients[0], &old, credentials)?;
        check_ping(&world.clients[0], GATEWAY4)?;
        ensure!(control_of(&warren, "alice")?.0.ends_with(", tls-crypt-v2"));
        client.stop()?;
        warren.wait_sessions(0, PATIENCE)?;

        let strict = config(&[], &["tls_crypt_v2_cookie = \"required\"", "shared_key = false"]);
        warren.home().write_config(&strict)?;
        warren.home().run(&["reload"])?;
        let refused = drops(&warren, "unwanted")?;
        let _old = warren::Client::start(&world.clients[0], &old, credentials)?;
        eventually(PATIENCE, || {
            ensure!(drops(&warren, "unwanted")? > refused, "the old client was not refused");
            Ok(())
        })?;
        let _stock = Client::connect(&world.clients[1], &profile, credentials, &[])?;
        check_ping(&world.clients[1], GATEWAY4)?;
        ensure!(warren.sessions()?.len() == 1);
        warren.stop().map(drop)
    });
}

/// A stock server that takes both kinds of profiles, and a client key that it has made.
struct Stock {
    world: World,
    server: Server,
    profile: String,
    pki: Pki,
}

impl Stock {
    fn new(lab: &Lab, policy: &str) -> Result<Self> {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(lab.folder())?;
        let (server_key, client_key) = (lab.folder().join("v2.key"), lab.folder().join("v2c.key"));
        let run = |arguments: &[&str]| {
            let mut command = Command::new("openvpn");
            command.args(arguments);
            let output = world.server.output(command, PATIENCE)?;
            ensure!(output.success(), "openvpn {arguments:?}: {output}");
            Ok(())
        };
        let (server_path, client_path) =
            (server_key.to_str().unwrap(), client_key.to_str().unwrap());
        run(&["--genkey", "tls-crypt-v2-server", server_path])?;
        run(&["--tls-crypt-v2", server_path, "--genkey", "tls-crypt-v2-client", client_path])?;
        let line = format!("tls-crypt-v2 {server_path} {policy}");
        let server = Server { extra: vec![line], ..Server::default() };
        let profile = with_client_key(&server, &pki, &fs::read_to_string(&client_key)?)?;
        Ok(Self { world, server, profile, pki })
    }
}

fn with_client_key(server: &Server, pki: &Pki, key: &str) -> Result<String> {
    let remotes = [(World::SERVER4.into(), server.port)];
    let profile = server.profile(pki, &pki.client("alice")?, &remotes);
    let (head, rest) = profile.split_once("<tls-crypt>").context("no tls-crypt")?;
    let (_, tail) = rest.split_once("</tls-crypt>").context("no end of tls-crypt")?;
    Ok(format!("{head}<tls-crypt-v2>\n{key}</tls-crypt-v2>{tail}"))
}

#[test]
fn a_stock_server_takes_our_client_whether_it_keeps_state_or_not() {
    for (policy, prefix) in
        [("", ""), ("allow-noncookie", "compat-mode 2.5.0\n"), ("force-cookie", "")]
    {
        scenario(&format!("stock tls-crypt-v2 {policy} {prefix}"), |lab| {
            let stock = Stock::new(lab, policy)?;
            let peer = stock.server.start(&stock.world.server, &stock.pki)?;
            let client = &stock.world.clients[0];

            let ours =
                warren::Client::connect(client, &format!("{prefix}{}", stock.profile), None)?;
            check_ping(client, Server::GATEWAY4)?;
            ours.stop()?;

            let stock_client = Client::connect(client, &stock.profile, None, &[])?;
            check_ping(client, Server::GATEWAY4)?;
            stock_client.stop()?;
            peer.stop(PATIENCE).map(drop)
        });
    }
}

#[test]
fn a_stock_server_reads_what_our_keys_say_of_themselves() {
    scenario("stock metadata", |lab| {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(lab.folder())?;
        let key = openvpn::ServerKey::from_bytes([0x5a; 128]);
        let path = lab.folder().join("ours.key");
        fs::write(&path, key.to_pem().as_bytes())?;
        let (script, heard) = (lab.folder().join("verify.sh"), lab.folder().join("heard"));
        let (say, read) = (heard.display(), "od -An -tx1 -v \"$metadata_file\" | tr -d ' \\n'");
        fs::write(&script, format!("#!/bin/sh\n{{ echo \"$metadata_type\"; {read}; }} > {say}\n"))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700))?;
        let server = Server {
            extra: vec![
                format!("tls-crypt-v2 {}", path.display()),
                "script-security 2".to_owned(),
                format!("tls-crypt-v2-verify {}", script.display()),
            ],
            ..Server::default()
        };
        let metadata = openvpn::Metadata::write(0x6a18_2580, openvpn::ClientKeyId([0xab; 16]));
        let client = key.wrap(&openvpn::StaticKey::from_bytes([7; 256]), &metadata).unwrap();
        let profile = with_client_key(&server, &pki, &client.to_pem())?;
        let _peer = server.start(&world.server, &pki)?;

        let _client = Client::connect(&world.clients[0], &profile, None, &[])?;

        let heard = fs::read_to_string(heard)?;
        ensure!(heard == format!("1\n000000006a182580{}", "ab".repeat(16)), "{heard}");
        Ok(())
    });
}
