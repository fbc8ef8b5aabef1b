//! Namespaces for tests: each test is alone in the world, and its world ends with its thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;

use crate::journal::Journal;

/// A network and mount namespace that only the calling thread and its children are in, with an
/// empty `/run`.
#[derive(Debug)]
pub(crate) struct Lab;

impl Lab {
    /// Runs the test in a namespace of its own; without root, says so and skips it.
    pub(crate) fn run(test: impl FnOnce(Self) + Send + 'static) {
        if !Uid::effective().is_root() {
            eprintln!("skipped: needs root for a network namespace");
            return;
        }
        let thread = thread::spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).is_err() {
                eprintln!("skipped: may not make a namespace");
                return;
            }
            sh("mount --make-rprivate /");
            sh("mount -t tmpfs tmpfs /run");
            fs::create_dir("/run/state").unwrap();
            // Link-local addresses come when they please, which makes snapshots differ.
            fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
            sh("ip link set lo up");
            test(Self);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    pub(crate) fn state(&self) -> PathBuf {
        PathBuf::from("/run/state")
    }

    pub(crate) fn journal(&self) -> Journal {
        Journal::open(&self.state()).unwrap()
    }

    /// Makes a namespace `name`, joined by a link that is `link` here and `eth0` there.
    pub(crate) fn neighbour(&self, name: &str, link: &str, here: &[&str], there: &[&str]) {
        sh(&format!("ip netns add {name}"));
        sh(&format!("ip -n {name} link set lo up"));
        sh(&format!("ip link add {link} type veth peer name eth0 netns {name}"));
        sh(&format!("ip link set {link} up"));
        sh(&format!("ip -n {name} link set eth0 up"));
        for address in here {
            sh(&format!("ip addr add {address} dev {link} {}", nodad(address)));
        }
        for address in there {
            sh(&format!("ip -n {name} addr add {address} dev eth0 {}", nodad(address)));
        }
    }

    /// Everything this crate may change, but for the device named `warren*` itself.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut snapshot = BTreeMap::new();
        for command in [
            "ip -4 addr",
            "ip -6 addr",
            "ip -4 route show table all",
            "ip -6 route show table all",
            "ip -4 rule",
            "ip -6 rule",
            "nft list ruleset",
        ] {
            snapshot.insert(command.to_owned(), sh(command));
        }
        for folder in ["ipv4/conf", "ipv6/conf"] {
            for link in fs::read_dir(Path::new("/proc/sys/net").join(folder)).unwrap() {
                let link = link.unwrap().path();
                if link.file_name().unwrap().to_string_lossy().starts_with("warren") {
                    continue;
                }
                for file in fs::read_dir(link).unwrap() {
                    let file = file.unwrap().path();
                    let value = fs::read_to_string(&file).unwrap_or_default();
                    snapshot.insert(file.display().to_string(), value);
                }
            }
        }
        Snapshot(snapshot)
    }
}

/// What the host looked like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    /// Without the lines that mention `word`.
    pub(crate) fn without(mut self, word: &str) -> Self {
        for text in self.0.values_mut() {
            let kept: Vec<_> = text.lines().filter(|line| !line.contains(word)).collect();
            *text = kept.join("\n");
        }
        self
    }

    /// Panics with what differs, and with nothing else.
    #[track_caller]
    pub(crate) fn assert_same(&self, before: &Self) {
        let keys: BTreeSet<_> = self.0.keys().chain(before.0.keys()).collect();
        for key in keys {
            assert_eq!(self.0.get(key), before.0.get(key), "{key} differs");
        }
    }
}

fn nodad(address: &str) -> &'static str {
    if address.contains(':') { "nodad" } else { "" }
}

/// Runs a command of words without spaces, and returns what it printed.
pub(crate) fn sh(command: &str) -> String {
    let (success, output) = attempt(command);
    assert!(success, "`{command}`: {output}");
    output
}

/// As [`sh`], but may fail.
pub(crate) fn attempt(command: &str) -> (bool, String) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        text.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    (output.status.success(), text)
}

/// Whether a ping from the namespace is answered.
pub(crate) fn reaches(namespace: &str, address: &str) -> bool {
    let address: IpAddr = address.parse().unwrap();
    attempt(&format!("ip netns exec {namespace} ping -n -c 1 -W 1 {address}")).0
}

/// How many echo requests this host's own IPv4 has taken in.
pub(crate) fn echo_requests() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "InEchos").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// The same for IPv6.
pub(crate) fn echo_requests6() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix("Icmp6InEchos")).unwrap();
    value.trim().parse().unwrap()
}

/// The value of a sysctl.
pub(crate) fn sysctl(path: &str) -> String {
    fs::read_to_string(Path::new("/proc/sys").join(path)).unwrap().trim().to_owned()
}

/// Sets a sysctl.
pub(crate) fn set_sysctl(path: &str, value: &str) {
    fs::write(Path::new("/proc/sys").join(path), value).unwrap();
}
