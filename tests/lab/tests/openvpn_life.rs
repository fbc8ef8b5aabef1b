//! What happens to a stock client's session over time: keys, paths, restarts, refusals.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use lab::openvpn::{Client, renews_under_load, with_block};
use lab::warren::{GATEWAY4, Home, Session, Warren, config};
use lab::{
    Impairment, Lab, Namespace, PATIENCE, Pki, World, eventually, ping, ping_every, reach, scenario,
};
use nix::sys::signal::Signal;

const USER: &str = "alice";
const PASSWORD: &str = "long enough for a test";
const CREDENTIALS: Option<(&str, &str)> = Some((USER, PASSWORD));
/// How soon a live session has to end when its user or certificate is no longer good.
const EVICTION: Duration = Duration::from_secs(5);
/// Notices a dead peer soon.
const SHORT_PING: [&str; 2] = ["ping = 2", "ping_restart = 6"];

fn gateway4() -> IpAddr {
    GATEWAY4.parse().unwrap()
}

/// A world with one Warren, one user, and her profile.
fn house(lab: &Lab, clients: usize, door: &[&str]) -> Result<(World, Warren, String)> {
    let world = World::new(lab, clients)?;
    let warren = Warren::up(&world.server, "warren", &config(&[], door))?;
    let profile = warren.user_with_profile(USER, PASSWORD, &World::SERVER4.to_string())?;
    Ok((world, warren, profile))
}

fn check_ping(from: &Namespace) -> Result<()> {
    reach(from, gateway4())?;
    Ok(())
}

fn wait_gone(warren: &Warren, session: &Session, within: Duration) -> Result<()> {
    eventually(within, || {
        let still = warren.sessions()?.iter().any(|other| other.id == session.id);
        ensure!(!still, "session {} lives", session.id);
        Ok(())
    })
}

/// 40 seconds of pings and a stream beside them, keys renewed every 10.
fn renew_under_load(door: &[&str], options: &[&str]) {
    scenario("renewal", |lab| {
        let (world, warren, profile) = house(lab, 1, door)?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, options)?;
        check_ping(&world.clients[0])?;

        renews_under_load(&world.server, &world.clients[0], gateway4(), client.peer())?;
        assert_eq!(client.peer().said(lab::openvpn::UP).len(), 1);
        assert_eq!(warren.sessions()?.len(), 1);
        Ok(())
    });
}

#[test]
fn the_server_renews_keys_under_load_without_losing_a_ping() {
    renew_under_load(&["renegotiate = 10"], &[]);
}

#[test]
fn the_client_renews_keys_under_load_without_losing_a_ping() {
    renew_under_load(&[], &["--reneg-sec", "10"]);
}

#[test]
fn tls_1_2_sessions_and_cbc_ciphers_renew_too() {
    renew_under_load(
        &["renegotiate = 10", "ciphers = [\"AES-128-CBC\"]", "control = \"tls-auth\""],
        &["--tls-version-max", "1.2", "--data-ciphers", "AES-128-CBC"],
    );
}

#[test]
fn a_session_follows_its_client_to_a_new_address() {
    scenario("float", |lab| {
        let (world, warren, _) = house(lab, 1, &[])?;
        let relay = world.relay(1194, 1)?;
        let profile = warren.home().profile(USER, &World::RELAY4.to_string())?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        let pings = ping_every(Duration::from_millis(100), &world.clients[0], gateway4())?;
        check_ping(&world.clients[0])?;
        let before = warren.session_of(USER)?;

        for _ in 0..3 {
            let at = warren.session_of(USER)?.remote;
            relay.rebind();
            eventually(PATIENCE, || {
                ensure!(warren.session_of(USER)?.remote != at, "still at {at}");
                Ok(())
            })?;
            check_ping(&world.clients[0])?;
        }

        let after = warren.session_of(USER)?;
        assert_eq!(after.id, before.id);
        assert_eq!((after.address4, after.address6), (before.address4, before.address6));
        let pings = pings.finish()?;
        // A reply may be on its way to the old address at each of three moves.
        assert!(pings.lost() <= 8, "{pings:?}");
        assert_eq!(client.peer().said(lab::openvpn::UP).len(), 1);
        Ok(())
    });
}

#[test]
fn keys_are_renewed_after_a_move() {
    scenario("float, then renew", |lab| {
        let (world, warren, _) = house(lab, 1, &["renegotiate = 10"])?;
        let relay = world.relay(1194, 1)?;
        let profile = warren.home().profile(USER, &World::RELAY4.to_string())?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        let before = warren.session_of(USER)?;

        relay.rebind();
        eventually(PATIENCE, || check_ping(&world.clients[0]))?;
        let mark = client.peer().mark();
        client.peer().wait_from(mark, "Outgoing Data Channel: Cipher", PATIENCE)?;

        check_ping(&world.clients[0])?;
        assert_eq!(warren.session_of(USER)?.id, before.id);
        Ok(())
    });
}

#[test]
fn thirty_percent_loss_is_survived() {
    scenario("loss", |lab| {
        let (world, warren, _) = house(lab, 1, &["renegotiate = 15"])?;
        let relay = world.relay(1194, 3)?;
        let profile = warren.home().profile(USER, &World::RELAY4.to_string())?;
        let slow = Duration::from_millis(10);
        relay.impair(Impairment {
            loss: 0.3,
            duplicate: 0.05,
            corrupt: 0.01,
            delay: slow,
            jitter: slow,
        });

        let client = Client::start(&world.clients[0], &profile, CREDENTIALS, &[])?;
        client.peer().wait_for(lab::openvpn::UP, PATIENCE * 4)?;
        let mark = client.peer().mark();
        let pings = ping(&world.clients[0], gateway4(), 100)?;
        client.peer().wait_from(mark, "Outgoing Data Channel: Cipher", PATIENCE * 2)?;

        // Both ways must get through: 49 % of 100, five standard deviations either way.
        assert!((24..74).contains(&pings.received), "{pings:?}");
        relay.impair(Impairment::default());
        // A renewal may be half way through, its last acknowledgement lost.
        eventually(PATIENCE, || check_ping(&world.clients[0]))?;
        assert_eq!(warren.sessions()?.len(), 1);
        Ok(())
    });
}

/// Ends the server somehow, starts it again, and expects the client back at its address.
fn restart(end: impl FnOnce(Warren) -> Result<Home>) {
    scenario("restart", |lab| {
        let (world, warren, profile) = house(lab, 1, &SHORT_PING)?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        check_ping(&world.clients[0])?;
        let before = warren.session_of(USER)?;
        let mark = client.peer().mark();

        let home = end(warren)?;
        let warren = Warren::start(&home)?;
        // A client that kept its device says it only of the first tunnel: ask the server.
        let after = eventually(PATIENCE * 2, || {
            let mut sessions = warren.sessions()?;
            sessions.pop().ok_or_else(|| anyhow!("the client has not come back"))
        })?;

        assert_eq!((after.address4, after.address6), (before.address4, before.address6));
        client.wait_reconnected(mark)?;
        check_ping(&world.clients[0])?;
        Ok(())
    });
}

#[test]
fn a_client_comes_back_by_itself_after_an_orderly_restart() {
    restart(Warren::stop);
}

#[test]
fn a_client_comes_back_by_itself_after_a_crash() {
    restart(Warren::kill);
}

#[test]
fn an_orderly_stop_tells_the_clients() {
    scenario("stop tells", |lab| {
        let (world, warren, profile) = house(lab, 1, &[])?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        check_ping(&world.clients[0])?;
        let mark = client.peer().mark();

        warren.stop()?;

        // Long before the ping timeout of a minute.
        client.peer().wait_from(mark, "restart", Duration::from_secs(10))?;
        Ok(())
    });
}

#[test]
fn a_kicked_session_ends() {
    scenario("kick", |lab| {
        let (world, warren, profile) = house(lab, 2, &[])?;
        let other = warren.user_with_profile("bob", PASSWORD, &World::SERVER4.to_string())?;
        let _alice = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        let bob = Some(("bob", PASSWORD));
        let _bob = Client::connect(&world.clients[1], &other, bob, &[])?;
        let session = warren.session_of(USER)?;
        let bystander = warren.session_of("bob")?;

        let id = session.id.as_u64().map_or_else(
            || session.id.as_str().unwrap_or_default().to_owned(),
            |id| id.to_string(),
        );
        warren.home().run(&["kick", &id])?;
        wait_gone(&warren, &session, EVICTION)?;
        assert_eq!(warren.session_of("bob")?.id, bystander.id);

        warren.home().run(&["kick", "bob"])?;
        wait_gone(&warren, &bystander, EVICTION)?;
        let nobody = warren.home().try_run(&["kick", "nobody"])?;
        assert_eq!(nobody.status.code(), Some(1), "{nobody}");
        Ok(())
    });
}

#[test]
fn a_disabled_user_is_out_within_seconds_and_stays_out() {
    scenario("disable", |lab| {
        let (world, warren, profile) = house(lab, 1, &[])?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        let session = warren.session_of(USER)?;

        warren.home().run(&["user", "disable", USER])?;
        wait_gone(&warren, &session, EVICTION)?;
        client.stop()?;
        let again = Client::start(&world.clients[0], &profile, CREDENTIALS, &[])?;
        again.peer().wait_for("AUTH_FAILED", PATIENCE)?;
        assert!(warren.sessions()?.is_empty());
        again.stop()?;

        warren.home().run(&["user", "enable", USER])?;
        Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        Ok(())
    });
}

#[test]
fn a_revoked_certificate_is_out_within_seconds_and_the_users_others_are_not() {
    scenario("revoke", |lab| {
        let (world, warren, _) = house(lab, 2, &["auth = \"certificate\""])?;
        let serials = || -> Result<Vec<String>> {
            let text = warren.home().run(&["certificate", "list", "--json"])?;
            let list: Vec<serde_json::Value> = serde_json::from_str(&text)?;
            let own = list.iter().filter(|entry| entry["user"] == USER);
            Ok(own.filter_map(|entry| entry["serial"].as_str().map(str::to_owned)).collect())
        };
        let remote = World::SERVER4.to_string();
        let kept = warren.home().profile(USER, &remote)?;
        let before = serials()?;
        let lost = warren.home().profile(USER, &remote)?;
        let serial = serials()?.into_iter().find(|serial| !before.contains(serial)).unwrap();
        let keeps = Client::connect(&world.clients[0], &kept, None, &[])?;
        let kept_session = warren.session_of(USER)?;
        let loses = Client::connect(&world.clients[1], &lost, None, &[])?;
        warren.wait_sessions(2, PATIENCE)?;

        warren.home().run(&["certificate", "revoke", &serial])?;
        warren.wait_sessions(1, EVICTION)?;
        loses.stop()?;
        let again = Client::start(&world.clients[1], &lost, None, &[])?;
        // Its key is of no use either: no word over UDP, and no connection over TCP.
        again.peer().wait_for("Server poll timeout", PATIENCE)?;
        again.peer().wait_for("Connection reset", PATIENCE)?;

        assert_eq!(warren.session_of(USER)?.id, kept_session.id);
        check_ping(keeps.namespace())?;
        Ok(())
    });
}

#[test]
fn a_wrong_password_or_a_stranger_is_refused_with_auth_failed() {
    scenario("wrong password", |lab| {
        let (world, warren, profile) = house(lab, 2, &["auth = \"password\""])?;

        for (namespace, credentials) in
            world.clients.iter().zip([(USER, "not her password"), ("mallory", PASSWORD)])
        {
            let client = Client::start(namespace, &profile, Some(credentials), &[])?;
            client.peer().wait_for("AUTH_FAILED", PATIENCE)?;
        }

        assert!(warren.sessions()?.is_empty());
        Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        Ok(())
    });
}

#[test]
fn guessing_passwords_is_slowed_down_for_the_guesser_only() {
    scenario("guessing", |lab| {
        let (world, warren, _) = house(lab, 2, &["auth = \"password\""])?;
        let remote = World::SERVER4.to_string();
        let profile = warren.home().profile(USER, &remote)?;
        let bob = warren.user_with_profile("bob", PASSWORD, &remote)?;

        let insist = ["--auth-retry", "nointeract", "--dev", "null", "--ifconfig-noexec"];
        let guess = Some((USER, "a guess"));
        let guessers: Vec<Client> = (0..8)
            .map(|_| Client::start(&world.clients[0], &profile, guess, &insist))
            .collect::<Result<_>>()?;
        eventually(PATIENCE * 2, || {
            let slowed = guessers.iter().any(|guesser| {
                guesser.peer().said("AUTH_FAILED").iter().any(|line| line.contains("too many"))
            });
            ensure!(slowed, "nobody was told to wait");
            Ok(())
        })?;

        Client::connect(&world.clients[1], &bob, Some(("bob", PASSWORD)), &[])?;
        Ok(())
    });
}

#[test]
fn a_certificate_of_another_user_does_not_fit_a_password() {
    scenario("mixed proofs", |lab| {
        let (world, warren, alices) = house(lab, 1, &["auth = \"both\""])?;
        warren.home().add_user("bob", PASSWORD)?;

        let client = Client::start(&world.clients[0], &alices, Some(("bob", PASSWORD)), &[])?;

        client.peer().wait_for("AUTH_FAILED", PATIENCE)?;
        assert!(warren.sessions()?.is_empty());
        Ok(())
    });
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    scenario("wrong authority", |lab| {
        let (world, warren, profile) = house(lab, 1, &["auth = \"certificate\""])?;
        let forged = Pki::new(lab.folder())?.client(USER)?;
        let profile = with_block(&profile, "cert", &forged.certificate)?;
        let profile = with_block(&profile, "key", &forged.key)?;

        let client = Client::start(&world.clients[0], &profile, None, &["--hand-window", "8"])?;
        client.peer().wait_until(client.peer().mark_start(), "a refusal", PATIENCE, |line| {
            ["TLS handshake failed", "AUTH_FAILED", "alert"].iter().any(|way| line.contains(way))
        })?;

        assert!(client.peer().said(lab::openvpn::UP).is_empty());
        assert!(warren.sessions()?.is_empty());
        Ok(())
    });
}

#[test]
fn a_client_that_says_goodbye_is_gone_at_once() {
    scenario("goodbye", |lab| {
        let (world, warren, profile) = house(lab, 1, &[])?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        let session = warren.session_of(USER)?;

        client.stop()?;

        wait_gone(&warren, &session, Duration::from_secs(2))
    });
}

#[test]
fn a_client_that_dies_is_gone_after_the_ping_timeout() {
    scenario("dies", |lab| {
        let (world, warren, profile) = house(lab, 1, &SHORT_PING)?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        let session = warren.session_of(USER)?;

        client.peer().kill()?;

        // The server waits twice as long as it tells the clients to.
        wait_gone(&warren, &session, Duration::from_secs(20))
    });
}

#[test]
fn an_idle_session_is_kept_alive() {
    scenario("idle", |lab| {
        let (world, warren, profile) = house(lab, 1, &SHORT_PING)?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        let before = warren.session_of(USER)?;

        // Three timeouts of silence; there is no condition to wait for but time itself.
        std::thread::sleep(Duration::from_secs(18));

        assert_eq!(warren.session_of(USER)?.id, before.id);
        assert_eq!(client.peer().said(lab::openvpn::UP).len(), 1);
        check_ping(&world.clients[0])
    });
}

#[test]
fn a_reload_that_does_not_concern_a_session_leaves_it_alone() {
    scenario("reload", |lab| {
        let (world, warren, profile) = house(lab, 2, &[])?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        let before = warren.session_of(USER)?;

        warren.home().write_config(&config(&["dns = [\"10.86.0.99\"]"], &[]))?;
        warren.home().run(&["reload"])?;
        let second = Client::connect(&world.clients[1], &profile, CREDENTIALS, &[])?;
        second.peer().wait_for("dhcp-option DNS 10.86.0.99", PATIENCE)?;
        assert!(warren.sessions()?.iter().any(|session| session.id == before.id));

        warren.home().write_config("[network]\nnonsense = 1\n")?;
        let bad = warren.home().try_run(&["reload"])?;
        assert!(!bad.success());
        assert!(format!("{bad}").contains("nonsense"), "{bad}");
        assert!(warren.sessions()?.iter().any(|session| session.id == before.id));
        check_ping(client.namespace())
    });
}

#[test]
fn addresses_open_and_close_while_other_sessions_go_on() {
    scenario("listen", |lab| {
        let world = World::new(lab, 2)?;
        let listening = |ports: &str| config(&[], &[ports]);
        let one = "listen = [\"0.0.0.0:1194\"]";
        let two = "listen = [\"0.0.0.0:1194\", \"0.0.0.0:1200\"]";
        let other = "listen = [\"0.0.0.0:1200\"]";
        let warren = Warren::up(&world.server, "warren", &listening(one))?;
        let profile = warren.user_with_profile(USER, PASSWORD, &World::SERVER4.to_string())?;
        let _first = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        let first = warren.session_of(USER)?;

        warren.home().write_config(&listening(two))?;
        warren.peer().signal(Signal::SIGHUP)?;
        warren.peer().wait_for("configuration read again", PATIENCE)?;
        let away = format!("{}:1200", World::SERVER4);
        let profile = warren.user_with_profile("bob", PASSWORD, &away)?;
        let second = Client::connect(&world.clients[1], &profile, Some(("bob", PASSWORD)), &[])?;
        assert_eq!(warren.session_of(USER)?.id, first.id);

        // Only who came through the address that closes has to go.
        let bob = warren.session_of("bob")?;
        warren.home().write_config(&listening(other))?;
        warren.home().run(&["reload"])?;
        wait_gone(&warren, &first, Duration::from_secs(5))?;
        assert_eq!(warren.session_of("bob")?.id, bob.id);
        check_ping(second.namespace())?;

        warren.home().write_config(&listening("enabled = false"))?;
        warren.home().run(&["reload"])?;
        wait_gone(&warren, &bob, Duration::from_secs(5))?;
        let status = warren.home().run(&["status"])?;
        ensure!(status.contains("disabled"), "{status}");
        Ok(())
    });
}
