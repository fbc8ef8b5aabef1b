//! The program as scripts see it: exit codes, stdout, stderr, files. No server runs here.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("warren-cli-{}-{count}", std::process::id()));
        std::fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    /// Runs the program on this folder's state.
    fn warren(&self, args: &[&str]) -> Ran {
        self.warren_with(args, "")
    }

    fn warren_with(&self, args: &[&str], stdin: &str) -> Ran {
        let state = self.state();
        let mut all = vec!["--state", path(&state)];
        all.extend(args);
        warren(&all, stdin)
    }

    /// Adds a user, whose password does not matter.
    fn add(&self, name: &str) {
        self.warren_with(&["user", "add", name, "--password-stdin"], "s3cret-enough\n").expect(0);
    }

    fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        let out = self.warren(&all).expect(0).stdout;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Ended with `code`, printed nothing but one line to stderr, and that line says all of these.
    #[track_caller]
    fn complains(self, code: i32, says: &[&str]) {
        let ran = self.expect(code);
        assert_eq!(ran.stdout, "", "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        for what in says {
            assert!(ran.stderr.contains(what), "{what:?} is missing: {ran:?}");
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn warren(args: &[&str], stdin: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_warren"))
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut input = child.stdin.take().expect("piped");
    // A program that reads nothing may be gone before this is written.
    let _ = input.write_all(stdin.as_bytes());
    drop(input);
    let output = child.wait_with_output().expect("the program ends");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

#[test]
fn wrong_usage_is_two_and_help_is_not_an_error() {
    for args in [&["frobnicate"][..], &["user"], &["kick"], &["up", "--konfig", "x"], &[]] {
        warren(args, "").expect(2);
    }
    let help = warren(&["--help"], "").expect(0);
    assert!(help.stdout.contains("Exit codes"), "{help:?}");
    let version = warren(&["--version"], "").expect(0);
    assert_eq!(version.stdout, concat!("warren ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn the_example_configuration_is_one() {
    let example = warren(&["config", "example"], "").expect(0).stdout;
    assert!(example.contains("[doors.openvpn]"), "{example}");

    let folder = Folder::new();
    let file = folder.file("warren.toml", &example);
    let checked = folder.warren(&["check", "--config", path(&file)]);
    assert!(checked.code == Some(0) || checked.code == Some(1), "{checked:?}");
    assert!(checked.stdout.contains(path(&file)), "{checked:?}");
}

#[test]
fn a_wrong_configuration_is_two_names_the_line_and_changes_nothing() {
    let folder = Folder::new();
    let wrong = folder.file("wrong.toml", "[network]\nmtu = 1400\nnta = true\n");

    for command in ["up", "check"] {
        folder
            .warren(&[command, "--config", path(&wrong)])
            .complains(2, &["wrong.toml:3: ", "network.nta", "did you mean"]);
    }
    folder.warren(&["check", "--config", "/nowhere/w.toml"]).complains(2, &["/nowhere/w.toml"]);
    assert!(!folder.state().exists());
}

#[test]
fn the_state_folder_may_hold_the_configuration() {
    let folder = Folder::new();
    folder.add("anna");
    std::fs::write(folder.state().join("warren.toml"), "[network]\nmtu = 0\n").expect("written");

    folder.warren(&["check"]).complains(2, &["warren.toml:2: ", "network.mtu"]);
    folder.warren(&["up"]).complains(2, &["warren.toml:2: "]);
    folder.warren(&["profile", "anna", "--door", "openvpn"]).complains(2, &["warren.toml:2: "]);
    // What does not need it works.
    assert_eq!(folder.json(&["user", "list"])[0]["name"], "anna");
}

#[test]
fn what_needs_a_server_says_that_there_is_none() {
    let folder = Folder::new();
    let state = folder.state();

    for command in [&["sessions"][..], &["kick", "1"], &["status"], &["reload"]] {
        folder.warren(command).complains(1, &[path(&state), "warren up"]);
    }
    assert!(!state.exists());
}

#[test]
fn what_needs_a_state_folder_says_that_there_is_none() {
    let folder = Folder::new();

    for command in [
        &["user", "list"][..],
        &["user", "remove", "anna"],
        &["certificate", "list"],
        &["profile", "anna", "--door", "openvpn"],
    ] {
        folder.warren(command).complains(1, &[path(&folder.state()), "no such state folder"]);
    }
    assert!(!folder.state().exists());
}

#[test]
fn a_user_lives_and_dies_without_a_server() {
    let folder = Folder::new();

    let added = folder
        .warren_with(&["user", "add", "anna", "--password-stdin"], "hush-hush-hush\n")
        .expect(0);
    assert!(!added.stdout.contains("hush"), "{added:?}");
    folder.add("bo");
    folder.warren(&["user", "disable", "bo"]).expect(0);
    folder.warren(&["user", "address", "anna", "--address", "10.86.0.77"]).expect(0);

    let users = folder.json(&["user", "list"]);
    assert_eq!(users.as_array().map(Vec::len), Some(2));
    assert_eq!((&users[0]["name"], &users[0]["enabled"]), (&"anna".into(), &true.into()));
    assert_eq!(users[0]["addresses"][0], "10.86.0.77");
    assert_eq!((&users[1]["name"], &users[1]["enabled"]), (&"bo".into(), &false.into()));
    let table = folder.warren(&["user", "list"]).expect(0).stdout;
    assert!(table.starts_with("NAME") && table.contains("10.86.0.77"), "{table}");

    folder
        .warren(&["user", "set", "bo", "--iroute", "192.168.7.0/24", "--iroute", "fd77::/48"])
        .expect(0);
    let set = ["user", "set", "bo", "--push", "block-ipv6", "--session-timeout", "7200"];
    folder.warren(&set).expect(0);
    let bo = folder.json(&["user", "show", "bo"]);
    assert_eq!(bo["behind"], serde_json::json!(["192.168.7.0/24", "fd77::/48"]));
    assert_eq!(
        (&bo["openvpn_options"][0], &bo["session_timeout"]),
        (&"block-ipv6".into(), &7200.into())
    );
    folder.warren(&["user", "set", "bo", "--clear", "iroute", "--clear", "push"]).expect(0);
    let bo = folder.json(&["user", "list"])[1].clone();
    assert_eq!((&bo["behind"], &bo["session_timeout"]), (&serde_json::json!([]), &7200.into()));
    folder.warren(&["user", "set", "bo"]).expect(2);
    folder
        .warren(&["user", "set", "anna", "--iroute", "10.86.1.0/24"])
        .complains(2, &["10.86.1.0/24", "overlaps the network itself"]);

    folder.warren(&["user", "enable", "bo"]).expect(0);
    assert_eq!(folder.json(&["user", "list"])[1]["enabled"], true);
    folder.warren(&["user", "remove", "anna"]).expect(0);
    assert_eq!(folder.json(&["user", "list"]).as_array().map(Vec::len), Some(1));
    folder.warren(&["user", "remove", "anna"]).complains(1, &["anna"]);
}

#[test]
fn the_state_folder_is_for_its_owner() {
    let folder = Folder::new();
    folder.add("anna");

    let mode = |path: &Path| std::fs::metadata(path).expect("it exists").permissions().mode();
    assert_eq!(mode(&folder.state()) & 0o777, 0o700);
    assert_eq!(mode(&folder.state().join("warren.db")) & 0o777, 0o600);
}

#[test]
fn without_a_terminal_a_random_password_is_made_and_shown() {
    let folder = Folder::new();

    let added = folder.warren(&["user", "add", "anna"]).expect(0).stdout;
    let password = added.lines().find_map(|line| line.strip_prefix("password  "));
    assert!(password.is_some_and(|rest| rest.len() > 16), "{added}");

    let changed = folder.json(&["user", "passwd", "anna"]);
    assert_eq!(changed["user"], "anna");
    assert!(changed["generated_password"].as_str().is_some_and(|p| p.len() >= 16), "{changed}");

    let given = folder
        .warren_with(&["user", "passwd", "anna", "--password-stdin", "--json"], "from-stdin-1\n")
        .expect(0);
    assert!(given.stdout.contains("\"generated_password\": null"), "{given:?}");
    folder
        .warren(&["user", "passwd", "anna", "--password-stdin"])
        .complains(2, &["--password-stdin"]);
}

#[test]
fn what_cannot_be_meant_is_two_and_what_is_taken_is_one() {
    let folder = Folder::new();
    folder.add("anna");
    let add = |name: &str, address: &str| {
        let args = ["user", "add", name, "--password-stdin", "--address", address];
        folder.warren_with(&args, "s3cret-enough\n")
    };

    add("a b", "10.86.0.9").complains(2, &["a b"]);
    add("bo", "192.0.2.1").complains(2, &["192.0.2.1"]);
    add("anna", "10.86.0.9").complains(1, &["anna"]);
    add("cy", "10.86.0.9").expect(0);
    add("dee", "10.86.0.9").complains(1, &["10.86.0.9"]);

    let users = folder.json(&["user", "list"]);
    let names: Vec<_> = users.as_array().expect("a list").iter().map(|u| &u["name"]).collect();
    assert_eq!(names, ["anna", "cy"]);
}

#[test]
fn each_profile_has_a_certificate_of_its_own_that_can_be_revoked() {
    let folder = Folder::new();
    folder.add("anna");
    let profile = ["profile", "anna", "--door", "openvpn", "--remote", "vpn.example:443"];

    let text = folder.warren(&profile).expect(0).stdout;
    for part in ["remote vpn.example 443", "<ca>", "<cert>", "<key>", "<tls-crypt-v2>"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    let second = folder.json(&profile);
    assert_eq!(second["user"], "anna");
    assert_ne!(second["text"], text);

    let serial = second["serial"].as_str().expect("a text");
    let revoked_of = |list: &Value| -> Vec<(bool, bool)> {
        let list = list.as_array().expect("a list");
        list.iter().map(|c| (c["serial"] == serial, !c["revoked"].is_null())).collect()
    };
    let mut before = revoked_of(&folder.json(&["certificate", "list", "--user", "anna"]));
    before.sort_unstable();
    assert_eq!(before, [(false, false), (true, false)]);
    folder.warren(&["certificate", "revoke", serial]).expect(0);
    let mut after = revoked_of(&folder.json(&["certificate", "list"]));
    after.sort_unstable();
    assert_eq!(after, [(false, false), (true, true)]);

    let keys = folder.json(&["client-key", "list", "--user", "anna"]);
    let keys = keys.as_array().expect("a list");
    for key in keys {
        assert_eq!(key["certificate"] == serial, !key["revoked"].is_null(), "{key}");
    }
    let left = keys.iter().find(|key| key["revoked"].is_null()).expect("one is left");
    let id = left["id"].as_str().expect("a text");
    folder.warren(&["client-key", "revoke", id]).expect(0);
    let mut gone = revoked_of(&folder.json(&["certificate", "list"]));
    gone.sort_unstable();
    assert_eq!(gone, [(false, true), (true, true)], "a key takes its certificate along");
    folder.warren(&["client-key", "revoke", "00ff"]).complains(1, &["00ff"]);

    folder.warren(&["certificate", "revoke", "00ff"]).complains(1, &["00ff"]);
    folder.warren(&["profile", "nobody", "--door", "openvpn"]).complains(1, &["nobody"]);
    folder
        .warren(&["profile", "anna", "--door", "openvpn", "--remote", "a b"])
        .complains(2, &["a b"]);
}

#[test]
fn a_profile_in_a_file_is_for_its_owner_and_nobody_else_sees_the_key() {
    let folder = Folder::new();
    folder.add("anna");
    let file = folder.file("anna.ovpn", "something longer than nothing that everybody may read");
    let args = ["profile", "anna", "--door", "openvpn", "--remote", "h", "--out", path(&file)];

    let said = folder.warren(&args).expect(0);
    assert!(said.stdout.contains(path(&file)) && !said.stdout.contains("PRIVATE"), "{said:?}");
    let said = folder.json(&args);
    assert!(said["serial"].is_string() && said.get("text").is_none(), "{said}");

    let mode = std::fs::metadata(&file).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).expect("text");
    assert!(text.contains("PRIVATE KEY") && !text.contains("everybody"), "{text}");

    let nowhere = ["profile", "anna", "--door", "openvpn", "--remote", "h", "--out", "/no/w.ovpn"];
    folder.warren(&nowhere).complains(1, &["/no/w.ovpn"]);
}

#[test]
fn a_profile_can_be_drawn_for_a_phone() {
    let folder = Folder::new();
    folder.add("anna");
    let file = folder.file("anna.ovpn", "");
    let draw = |more: &[&str]| {
        let profile = ["profile", "anna", "--door", "openvpn", "--remote", "vpn.example"];
        folder.warren(&[&profile[..], more].concat())
    };

    let whole = draw(&["--qr"]).expect(0);
    let widths = whole.stdout.lines().map(|line| line.chars().count()).collect::<Vec<_>>();
    assert!(widths.len() > 80 && widths.iter().all(|width| *width == widths[0]), "{widths:?}");
    assert!(!whole.stdout.contains("PRIVATE"));
    let at = draw(&["--qr=https://vpn.example/anna.ovpn", "--out", path(&file)]).expect(0);
    assert!(at.stdout.lines().count() < 30, "an address is short");
    assert!(std::fs::read_to_string(&file).expect("written").contains("PRIVATE KEY"));

    let before = folder.json(&["certificate", "list"]);
    draw(&["--qr=https://vpn.example/anna.ovpn"]).complains(2, &["--out"]);
    draw(&["--qr=ftp://x", "--out", path(&file)]).complains(2, &["ftp://x"]);
    draw(&["--qr", "--json"]).complains(2, &["--json"]);
    assert_eq!(folder.json(&["certificate", "list"]), before, "nothing was issued for them");
}

#[test]
fn a_profile_that_cannot_be_read_is_two() {
    let folder = Folder::new();
    folder.warren(&["connect", "/nowhere/home.ovpn"]).complains(2, &["/nowhere/home.ovpn"]);
}

#[test]
fn a_reader_that_has_read_enough_is_not_an_error() {
    let folder = Folder::new();
    folder.add("anna");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);

    let state = folder.state();
    let status = Command::new(env!("CARGO_BIN_EXE_warren"))
        .args(["--state", path(&state), "user", "list"])
        .stdout(writer)
        .status()
        .expect("the program starts");

    assert_eq!(status.code(), Some(0));
}
