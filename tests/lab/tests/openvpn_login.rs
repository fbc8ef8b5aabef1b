//! More than a password: tokens, one-time codes and questions, with stock peers at either end.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lab::console::{Console, socket, totp};
use lab::openvpn::Client;
use lab::warren::{GATEWAY4, Home, Warren, config};
use lab::{Namespace, PATIENCE, World, eventually, ping, scenario};

const USER: &str = "alice";
const PASSWORD: &str = "long enough for a test";

fn server4() -> String {
    World::SERVER4.to_string()
}

fn check_ping(from: &Namespace) -> Result<()> {
    let report = ping(from, GATEWAY4.parse()?, 3)?;
    ensure!(report.lost() == 0, "{}: {report:?}", from.name());
    Ok(())
}

/// A file with user and password that can be taken away.
fn credentials(namespace: &Namespace) -> Result<std::path::PathBuf> {
    let file = namespace.folder().join("credentials");
    fs::write(&file, format!("{USER}\n{PASSWORD}\n"))?;
    Ok(file)
}

#[test]
fn a_client_reconnects_by_its_token_even_after_the_server_was_restarted() {
    scenario("token", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "token", &config(&[], &["renegotiate = 5"]))?;
        let profile = warren.user_with_profile(USER, PASSWORD, &server4())?;
        let file = credentials(&world.clients[0])?;
        let name = file.display().to_string();
        let options = ["--auth-nocache", "--auth-user-pass", &name];
        let client = Client::connect(&world.clients[0], &profile, None, &options)?;
        fs::remove_file(&file)?;

        // Three renewals of the keys, and nobody who knows the password.
        eventually(PATIENCE, || {
            let renewed = client.peer().said("Outgoing Data Channel: Cipher").len();
            ensure!(renewed >= 4, "{renewed} sets of keys");
            Ok(())
        })?;
        check_ping(&world.clients[0])?;
        let mark = client.peer().mark();
        let home = warren.stop()?;
        let warren = Warren::start(&home)?;
        client.wait_reconnected(mark)?;
        check_ping(&world.clients[0])?;

        // A new password ends what the old one began.
        home.run_with_input(&["user", "passwd", USER, "--password-stdin"], "another password")?;
        client.peer().wait_from(mark, "AUTH_FAILED", PATIENCE)?;
        warren.wait_sessions(0, PATIENCE)
    });
}

#[test]
fn a_token_that_has_run_out_costs_a_reconnection_with_the_password() {
    scenario("token lifetime", |lab| {
        let world = World::new(lab, 1)?;
        let door = ["renegotiate = 5", "auth_token_renewal = 5", "auth_token_lifetime = 8"];
        let warren = Warren::up(&world.server, "token", &config(&[], &door))?;
        let profile = warren.user_with_profile(USER, PASSWORD, &server4())?;

        let client = Client::connect(&world.clients[0], &profile, Some((USER, PASSWORD)), &[])?;
        let mark = client.peer().mark();

        client.peer().wait_from(
            mark,
            "AUTH: Received control message: AUTH_FAILED,SESSION",
            PATIENCE,
        )?;
        client.wait_reconnected(mark)?;
        check_ping(&world.clients[0])
    });
}

/// Makes the user show codes from now on; returns the secret.
fn second_factor(home: &Home, user: &str) -> Result<String> {
    let said = home.run(&["user", "totp", user, "--json"])?;
    let changed: serde_json::Value = serde_json::from_str(&said)?;
    changed["secret"].as_str().map(str::to_owned).context("no secret")
}

#[test]
fn a_code_is_asked_for_by_the_profile_and_by_the_server() {
    scenario("codes", |lab| {
        let world = World::new(lab, 2)?;
        let warren = Warren::up(&world.server, "codes", &config(&[], &["renegotiate = 5"]))?;
        let plain = warren.user_with_profile(USER, PASSWORD, &server4())?;
        let secret = second_factor(warren.home(), USER)?;
        let asking = warren.home().profile(USER, &server4())?;
        assert!(asking.contains("static-challenge \"Code\" 1"));

        // The profile asks: code and password travel together.
        let at = socket("static");
        let options = Console::options(&at);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let client = Client::start(&world.clients[0], &asking, None, &options)?;
        let mut console = Console::connect(&at)?;
        let question = console.wait_for(">PASSWORD:Need 'Auth' username/password")?;
        assert_eq!(question, " SC:1,Code");
        let code = totp(&secret, 0)?;
        let encode = |text: &str| STANDARD.encode(text);
        console.log_in(USER, &format!("SCRV1:{}:{}", encode(PASSWORD), encode(&code)))?;
        client.wait_connected()?;
        check_ping(&world.clients[0])?;
        // Renewals need no further code.
        eventually(PATIENCE, || {
            let renewed = client.peer().said("Outgoing Data Channel: Cipher").len();
            ensure!(renewed >= 3, "{renewed} sets of keys");
            Ok(())
        })?;
        client.stop()?;

        // The profile does not: the server asks after the password, and a used code is no good.
        let at = socket("dynamic");
        let options = Console::options(&at);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let client = Client::start(&world.clients[1], &plain, None, &options)?;
        let mut console = Console::connect(&at)?;
        for (code, is_good) in [(code, false), (totp(&secret, 1)?, true)] {
            console.wait_for(">PASSWORD:Need 'Auth' username/password")?;
            console.log_in(USER, PASSWORD)?;
            let failed = console.wait_for(">PASSWORD:Verification Failed: 'Auth' ['CRV1:R,E:")?;
            let (state, rest) = failed.split_once(':').context("a state")?;
            assert!(rest.ends_with(":Enter the code of your authenticator app']"), "{rest}");
            console.wait_for(">PASSWORD:Need 'Auth' username/password")?;
            console.log_in(USER, &format!("CRV1::{state}::{code}"))?;
            if !is_good {
                console.wait_for(">PASSWORD:Verification Failed: 'Auth'")?;
            }
        }
        client.wait_connected()?;
        check_ping(&world.clients[1])?;

        warren.home().run(&["user", "totp", USER, "--off"])?;
        client.stop()?;
        Client::connect(&world.clients[1], &plain, Some((USER, PASSWORD)), &[]).map(drop)
    });
}
