//! More than a password: tokens, one-time codes and questions, with stock peers at either end.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lab::console::{Console, Terminal, socket, totp};
use lab::openvpn::{Client, Proof, Server};
use lab::warren::{self, GATEWAY4, Home, Warren, binary, config};
use lab::{Namespace, PATIENCE, Pki, World, eventually, ping, reach, scenario};

const USER: &str = "alice";
const PASSWORD: &str = "long enough for a test";

fn server4() -> String {
    World::SERVER4.to_string()
}

fn check_ping(from: &Namespace) -> Result<()> {
    reach(from, GATEWAY4.parse()?)?;
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

/// `warren connect` at a terminal.
fn at_terminal(namespace: &Namespace, name: &str, profile: &str) -> Result<Terminal> {
    let file = namespace.folder().join(format!("{name}.ovpn"));
    fs::write(&file, profile)?;
    let state = namespace.folder().join(format!("state-{name}"));
    let (binary, file, state) = (binary()?, file.display(), state.display());
    let command = format!("{} connect {file} --user {USER} --state {state}", binary.display());
    Terminal::start(namespace, name, &command)
}

#[test]
fn warren_asks_at_the_terminal_for_password_and_codes() {
    scenario("terminal", |lab| {
        let world = World::new(lab, 2)?;
        let warren = Warren::up(&world.server, "codes", &config(&[], &["renegotiate = 5"]))?;
        let plain = warren.user_with_profile(USER, PASSWORD, &server4())?;
        let secret = second_factor(warren.home(), USER)?;
        let asking = warren.home().profile(USER, &server4())?;
        let forgetful = format!("auth-nocache\n{asking}");

        let mut client = at_terminal(&world.clients[0], "static", &forgetful)?;
        client.answer("Password for alice: ", PASSWORD)?;
        client.answer("Code: ", &totp(&secret, 0)?)?;
        client.peer().wait_for("connected to", PATIENCE)?;
        check_ping(&world.clients[0])?;
        let mut other = at_terminal(&world.clients[1], "dynamic", &plain)?;
        other.answer("Password for alice: ", PASSWORD)?;
        other.answer("authenticator app: ", &totp(&secret, 1)?)?;
        other.peer().wait_for("connected to", PATIENCE)?;
        check_ping(&world.clients[1])?;

        // The password is typed no more: the token does, also after a restart.
        let (mark, other_mark) = (client.peer().mark(), other.peer().mark());
        let home = warren.stop()?;
        let warren = Warren::start(&home)?;
        client.peer().wait_from(mark, "connected to", PATIENCE)?;
        other.peer().wait_from(other_mark, "connected to", PATIENCE)?;
        check_ping(&world.clients[0])?;
        warren.wait_sessions(2, PATIENCE)
    });
}

#[test]
fn without_a_terminal_a_question_is_one_line() {
    scenario("no terminal", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "codes", &config(&[], &[]))?;
        let plain = warren.user_with_profile(USER, PASSWORD, &server4())?;
        second_factor(warren.home(), USER)?;
        let asking = warren.home().profile(USER, &server4())?;

        for (profile, words) in [
            (&plain, "run this in a terminal to answer"),
            (&asking, "there is no terminal to ask at"),
        ] {
            let client = warren::Client::start(&world.clients[0], profile, Some((USER, PASSWORD)))?;
            client.peer().wait_for(words, PATIENCE)?;
            eventually(PATIENCE, || {
                ensure!(!client.peer().is_running(), "it still runs");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn warren_lives_on_the_tokens_of_a_stock_server() {
    scenario("stock tokens", |lab| {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(world.server.folder())?;
        let key = world.server.folder().join("token.key");
        let key_name = key.display().to_string();
        world.server.run("openvpn", &["--genkey", "auth-token", &key_name])?;
        let server = Server {
            proof: Proof::Password,
            extra: vec![
                "auth-gen-token 0 3600".to_owned(),
                format!("auth-gen-token-secret {key_name}"),
                "reneg-sec 5".to_owned(),
            ],
            ..Server::default()
        };
        let running = server.start(&world.server, &pki)?;
        let identity = pki.client(Server::USER)?;
        let profile = server.profile(&pki, &identity, &[(World::SERVER4.into(), 1194)]);
        let profile = format!("auth-nocache\n{profile}");
        let file = world.clients[0].folder().join("login");
        fs::write(&file, format!("{}\n{}\n", Server::USER, Server::PASSWORD))?;

        let client = warren::Client::start_with(
            &world.clients[0],
            &profile,
            &["--auth-user-pass", &file.display().to_string()],
        )?;
        client.wait_connected_since(client.peer().mark_start())?;
        fs::remove_file(&file)?;
        let gateway = Server::GATEWAY4.parse()?;
        eventually(PATIENCE, || {
            let keys = running.said("Outgoing Data Channel: Cipher").len();
            ensure!(keys >= 4, "{keys} sets of keys");
            Ok(())
        })?;
        reach(&world.clients[0], gateway)?;

        let mark = client.peer().mark();
        running.stop(PATIENCE)?;
        let _running = server.start(&world.server, &pki)?;
        client.wait_connected_since(mark)?;
        reach(&world.clients[0], gateway)?;
        Ok(())
    });
}

#[test]
fn a_password_in_a_file_is_read_again_when_keys_are_renewed() {
    scenario("nocache file", |lab| {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(world.server.folder())?;
        let server = Server {
            proof: Proof::Password,
            extra: vec!["reneg-sec 5".to_owned()],
            ..Server::default()
        };
        let running = server.start(&world.server, &pki)?;
        let identity = pki.client(Server::USER)?;
        let profile = server.profile(&pki, &identity, &[(World::SERVER4.into(), 1194)]);
        let profile = format!("auth-nocache\n{profile}");
        let login = Some((Server::USER, Server::PASSWORD));

        let client = warren::Client::connect(&world.clients[0], &profile, login)?;

        eventually(PATIENCE, || {
            let keys = running.said("Outgoing Data Channel: Cipher").len();
            ensure!(keys >= 3, "{keys} sets of keys");
            Ok(())
        })?;
        reach(&world.clients[0], Server::GATEWAY4.parse()?)?;
        let lost = client.peer().said("disconnected");
        ensure!(lost.is_empty(), "{lost:?}");
        Ok(())
    });
}

/// What a stock server's own script does with a login: asks one question after the password.
const ASKING_SCRIPT: &str = r#"#!/bin/sh
{ read -r user; read -r password; } < "$1"
case "$password" in
  "CRV1::c3RhdGU=::cat") exit 0 ;;
  "PASSWORD") printf 'CRV1:R,E:c3RhdGU=:YWxpY2U=:Which pet' > "$auth_failed_reason_file"; exit 1 ;;
  *) exit 1 ;;
esac
"#;

/// And one that lets somebody else decide, after a question in between.
const PENDING_SCRIPT: &str = r#"#!/bin/sh
printf '30
crtext
CR_TEXT:R,E:Which pet
' > "$auth_pending_file"
printf '%s' "$auth_control_file" > FOLDER/decision
exit 2
"#;

/// Lets in whoever answers rightly.
const RESPONSE_SCRIPT: &str = r#"#!/bin/sh
[ "$(cat "$1")" = Y2F0 ] && printf 1 > "$(cat FOLDER/decision)"
"#;

fn script(namespace: &Namespace, name: &str, text: &str) -> Result<String> {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = namespace.folder().display().to_string();
    let path = namespace.folder().join(name);
    fs::write(&path, text.replace("FOLDER", &folder).replace("PASSWORD", PASSWORD))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    Ok(path.display().to_string())
}

#[test]
fn questions_of_a_stock_server_are_answered_at_the_terminal() {
    scenario("stock questions", |lab| {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(world.server.folder())?;
        let identity = pki.client(USER)?;
        let asking = script(&world.server, "asking.sh", ASKING_SCRIPT)?;
        let pending = script(&world.server, "pending.sh", PENDING_SCRIPT)?;
        let response = script(&world.server, "response.sh", RESPONSE_SCRIPT)?;

        for (name, lines) in [
            ("asks", vec![format!("auth-user-pass-verify {asking} via-file")]),
            (
                "pending",
                vec![
                    format!("auth-user-pass-verify {pending} via-file"),
                    format!("client-crresponse {response}"),
                ],
            ),
        ] {
            let extra = [vec!["script-security 2".to_owned()], lines].concat();
            let server = Server { extra, ..Server::default() };
            let running = server.start(&world.server, &pki)?;
            let profile = server.profile(&pki, &identity, &[(World::SERVER4.into(), 1194)]);
            let profile = format!("auth-user-pass\n{profile}");

            let mut client = at_terminal(&world.clients[0], name, &profile)?;
            client.answer("Password for alice: ", PASSWORD)?;
            client.answer("Which pet: ", "cat")?;
            client.peer().wait_for("connected to", PATIENCE)?;
            // A server that decided late takes a moment to listen to the data channel.
            let gateway = Server::GATEWAY4.parse()?;
            eventually(PATIENCE, || {
                ensure!(ping(&world.clients[0], gateway, 3)?.lost() == 0, "not yet");
                Ok(())
            })?;
            running.stop(PATIENCE)?;
        }
        Ok(())
    });
}
