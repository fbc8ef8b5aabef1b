//! What Warren does to its host: leaves it as found, and refuses bad input in one line.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use lab::openvpn::Client as OpenVpnClient;
use lab::warren::{Client, GATEWAY4, Home, Warren, binary, config};
use lab::{HostState, Lab, Output, PATIENCE, World, ping, scenario};

const PASSWORD: &str = "long enough for a test";
const FULL: [&str; 3] = ["redirect_gateway = true", "nat = true", "dns = [\"10.86.0.53\"]"];

/// The lines of standard error, blank ones left out.
fn complaint(output: &Output) -> Vec<&str> {
    output.stderr.lines().filter(|line| !line.trim().is_empty()).collect()
}

/// Checks that a command failed with this code and one line that has all of these words.
fn refused(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output}");
    let lines = complaint(output);
    assert_eq!(lines.len(), 1, "not one line: {output}");
    for word in words {
        assert!(lines[0].to_lowercase().contains(&word.to_lowercase()), "no {word}: {output}");
    }
}

#[test]
fn an_orderly_stop_leaves_the_host_as_found() {
    scenario("restore", |lab| {
        let world = World::new(lab, 1)?;
        world.server.run("nft", &["add table inet somebody_elses"])?;
        let before = HostState::of(&world.server)?;

        let warren = Warren::up(&world.server, "warren", &config(&FULL, &[]))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &World::SERVER4.to_string())?;
        let _client =
            OpenVpnClient::connect(&world.clients[0], &profile, Some(("alice", PASSWORD)), &[])?;
        assert!(before.check_unchanged(&world.server).is_err(), "it changed nothing");

        warren.stop()?;
        before.check_unchanged(&world.server)
    });
}

#[test]
fn a_start_after_a_crash_repairs_what_the_crash_left() {
    scenario("repair", |lab| {
        let world = World::new(lab, 0)?;
        let before = HostState::of(&world.server)?;

        let home = Warren::up(&world.server, "warren", &config(&FULL, &[]))?.kill()?;
        assert!(before.check_unchanged(&world.server).is_err(), "a crash leaves nothing behind");
        let home = Warren::start(&home)?.kill()?;
        Warren::start(&home)?.stop()?;

        before.check_unchanged(&world.server)
    });
}

#[test]
fn forwarding_that_was_on_stays_on() {
    scenario("was on", |lab| {
        let world = World::new(lab, 0)?;
        world.server.forward()?;
        let before = HostState::of(&world.server)?;

        Warren::up(&world.server, "warren", &config(&FULL, &[]))?.stop()?;

        before.check_unchanged(&world.server)
    });
}

#[test]
fn the_last_of_two_restores_whichever_it_is() {
    scenario("two restore", |lab| {
        let world = World::new(lab, 0)?;
        let before = HostState::of(&world.server)?;
        let other = ["ipv4 = \"10.87.0.0/16\"", "ipv6 = \"fd87::/64\""];
        let door = ["listen = [\"0.0.0.0:1195\"]", "listen_tcp = [\"0.0.0.0:1195\"]"];
        let other = config(&other, &door);

        let first = Warren::up(&world.server, "first", &config(&FULL, &[]))?;
        let second = Warren::up(&world.server, "second", &other)?;
        first.stop()?;
        assert_eq!(world.server.run("cat", &["/proc/sys/net/ipv4/ip_forward"])?, "1\n");
        let home = second.kill()?;
        Warren::start(&home)?.stop()?;

        before.check_unchanged(&world.server)
    });
}

#[test]
fn the_state_folder_is_private_and_kept() {
    scenario("state", |lab| {
        let world = World::new(lab, 0)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &[]))?;
        warren.home().add_user("alice", PASSWORD)?;
        let mode = fs::metadata(warren.home().state())?.permissions().mode();
        assert_eq!(mode & 0o777, 0o700);

        let home = warren.stop()?;
        let users = home.run(&["user", "list"])?;
        let warren = Warren::start(&home)?;

        assert_eq!(warren.home().run(&["user", "list"])?, users);
        assert!(users.contains("alice"), "{users}");
        Ok(())
    });
}

#[test]
fn the_first_start_shows_a_password_once_and_it_works() {
    scenario("first start", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &[]))?;
        let first = warren.first_user()?.unwrap();
        assert_eq!(fs::metadata(&first.profile)?.permissions().mode() & 0o777, 0o600);
        let profile = warren.home().profile(&first.name, &World::SERVER4.to_string())?;

        let credentials = Some((first.name.as_str(), first.password.as_str()));
        let client = OpenVpnClient::connect(&world.clients[0], &profile, credentials, &[])?;
        assert_eq!(ping(&world.clients[0], GATEWAY4.parse()?, 2)?.lost(), 0);
        client.stop()?;

        let home = warren.stop()?;
        let again = Warren::start(&home)?;
        assert!(again.first_user()?.is_none());
        assert!(!again.peer().stdout().contains(&first.password));
        OpenVpnClient::connect(&world.clients[0], &profile, credentials, &[])?;
        Ok(())
    });
}

#[test]
fn status_names_the_doors_and_counts() {
    scenario("status", |lab| {
        let world = World::new(lab, 0)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &[]))?;

        let status: serde_json::Value =
            serde_json::from_str(&warren.home().run(&["status", "--json"])?)?;

        assert_eq!(status["pid"], warren.peer().pid());
        assert_eq!(status["doors"][0]["name"], "openvpn");
        assert_eq!(status["doors"][0]["state"], "open");
        assert!(status["uptime_seconds"].is_u64() && status["drops"].is_object(), "{status}");
        Ok(())
    });
}

/// Starts Warren with a configuration that it should refuse, on a host it should not touch.
fn refused_config(name: &str, text: &str, words: &[&str]) {
    scenario(name, |lab| {
        let server = lab.namespace("server")?;
        let before = HostState::of(&server)?;
        let home = Home::new(&server, "warren", text)?;
        let file = home.config_path().to_string_lossy().into_owned();

        refused(&home.up_to_exit()?, 2, &[&[file.as_str()], words].concat());
        let check = home.config_path().to_string_lossy().into_owned();
        refused(&home.try_run(&["check", "--config", &check])?, 2, words);
        before.check_unchanged(&server)
    });
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    refused_config("unknown key", "[network]\nmtu = 1400\nipv5 = \"x\"\n", &[":3", "ipv5"]);
}

#[test]
fn a_wrong_type_is_named_with_its_line() {
    refused_config("wrong type", "[network]\nmtu = \"large\"\n", &[":2", "mtu"]);
}

#[test]
fn overlapping_networks_are_named() {
    let text = "[network]\nipv4 = \"10.86.0.0/16\"\nroutes = [\"10.86.4.0/24\"]\n";
    refused_config("overlap", text, &["10.86.4.0/24", "overlap"]);
}

#[test]
fn text_that_is_not_toml_is_named_with_its_line() {
    refused_config("no toml", "[network]\nmtu = = 3\n", &[":2"]);
}

#[test]
fn a_missing_configuration_file_is_named() {
    scenario("no config", |lab| {
        let server = lab.namespace("server")?;
        let home = Home::new(&server, "warren", "")?;
        fs::remove_file(home.config_path())?;

        refused(&home.up_to_exit()?, 2, &["warren.toml"]);
        Ok(())
    });
}

/// Runs `up` on a host that lacks something, and expects one line with these words.
fn refused_host(
    name: &str,
    words: &[&str],
    run: impl FnOnce(&Lab, &Home) -> Result<(lab::Namespace, Command)>,
) {
    scenario(name, |lab| {
        let server = lab.namespace("server")?;
        let home = Home::new(&server, "warren", &config(&[], &[]))?;
        let (namespace, command) = run(lab, &home)?;
        let before = HostState::of(&namespace)?;

        let output = namespace.output(command, PATIENCE)?;

        assert_eq!(output.status.code(), Some(1), "{output}");
        let last = complaint(&output).pop().unwrap_or_default().to_lowercase();
        for word in words {
            assert!(last.contains(word), "no {word}: {output}");
        }
        before.check_unchanged(&namespace)
    });
}

#[test]
fn a_port_in_use_is_named() {
    scenario("port", |lab| {
        let world = World::new(lab, 0)?;
        let relay =
            lab::Relay::start(&world.server, "0.0.0.0:1194".parse()?, "127.0.0.1:9".parse()?, 1)?;
        let before = HostState::of(&world.server)?;
        let home = Home::new(&world.server, "warren", &config(&[], &[]))?;

        let output = home.up_to_exit()?;

        assert_eq!(output.status.code(), Some(1), "{output}");
        let last = complaint(&output).pop().unwrap_or_default().to_owned();
        assert!(last.contains("1194") && last.contains("in use"), "{output}");
        before.check_unchanged(&world.server)?;
        drop(relay);
        Warren::start(&home)?.stop().map(drop)
    });
}

#[test]
fn a_machine_without_tun_is_told_what_it_lacks() {
    refused_host("no tun", &["/dev/net/tun"], |lab, home| {
        let server = lab.namespace("bare")?;
        let up = home.up_command();
        let mut command = Command::new("unshare");
        let hide = "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\"";
        command.args(["-m", "sh", "-c", hide]).arg(up.get_program()).args(up.get_args());
        Ok((server, command))
    });
}

#[test]
fn a_user_who_is_not_root_is_told_so() {
    const NOBODY: u32 = 65534;
    refused_host("not root", &["root"], |lab, home| {
        let server = lab.namespace("plain")?;
        // Everything but the privilege is there: a readable binary and a folder of its own.
        let copy = lab.folder().join("warren");
        fs::copy(binary()?, &copy)?;
        fs::set_permissions(lab.folder(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir_all(home.state())?;
        fs::set_permissions(home.state(), fs::Permissions::from_mode(0o700))?;
        chown(home.state(), Some(NOBODY), Some(NOBODY))?;
        let up = home.up_command();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(copy).args(up.get_args());
        Ok((server, command))
    });
}

#[test]
fn usage_errors_exit_with_2_and_failures_with_1() {
    scenario("codes", |lab| {
        let server = lab.namespace("server")?;
        let home = Home::new(&server, "warren", &config(&[], &[]))?;

        assert_eq!(home.try_run(&["no-such-command"])?.status.code(), Some(2));
        assert_eq!(home.try_run(&["kick"])?.status.code(), Some(2));
        assert_eq!(home.try_run(&["sessions"])?.status.code(), Some(1));
        assert_eq!(home.try_run(&["status"])?.status.code(), Some(1));
        assert_eq!(home.try_run(&["user", "list"])?.status.code(), Some(1));
        home.add_user("alice", PASSWORD)?;
        assert_eq!(home.try_run(&["user", "list"])?.status.code(), Some(0));
        assert_eq!(home.try_run(&["config", "example"])?.status.code(), Some(0));
        Ok(())
    });
}

#[test]
fn a_profile_that_is_missing_or_broken_is_refused_by_connect() {
    scenario("bad profiles", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &[]))?;
        let good = warren.user_with_profile("alice", PASSWORD, &World::SERVER4.to_string())?;
        let client = &world.clients[0];
        let before = HostState::of(client)?;
        let state = lab.folder().join("state-connect").to_string_lossy().into_owned();
        let connect = |file: &str| -> Result<Output> {
            let mut command = Command::new(binary()?);
            command.args(["connect", file, "--state", &state]);
            client.output(command, Duration::from_secs(20))
        };
        let given = |name: &str, text: &str| -> Result<Output> {
            let path = lab.file(name, text)?;
            connect(&path.to_string_lossy())
        };
        let cut = |tag: &str| {
            let end = good.find(&format!("</{tag}>")).unwrap();
            format!("{}{}", &good[..end - 100], &good[end..])
        };

        let missing = connect("/nonexistent/profile.ovpn")?;
        assert!(
            complaint(&missing).pop().unwrap_or_default().contains("/nonexistent/profile.ovpn")
        );
        let broken = [
            ("key.ovpn", cut("key"), "key"),
            ("cert.ovpn", cut("cert"), "cert"),
            ("ca.ovpn", cut("ca"), "ca"),
            ("static.ovpn", cut("tls-crypt-v2"), "tls-crypt-v2"),
            ("unknown.ovpn", format!("no-such-directive 1\n{good}"), "no-such-directive"),
            ("weak.ovpn", format!("cipher none\n{good}"), "cipher"),
            ("digest.ovpn", format!("auth none\n{good}"), "auth"),
            ("script.ovpn", format!("up /bin/true\n{good}"), "up"),
            ("empty.ovpn", String::new(), "empty.ovpn"),
        ];
        for (name, text, word) in broken {
            let output = given(name, &text)?;
            assert!(!output.success(), "{name}: {output}");
            let last = complaint(&output).pop().unwrap_or_default().to_owned();
            assert!(last.contains(word) && last.contains(name), "{name}: {output}");
        }

        before.check_unchanged(client)?;
        Client::connect(client, &good, Some(("alice", PASSWORD)))?;
        Ok(())
    });
}
