//! `cargo xtask layers`: which crate may know which, and what pure crates must not touch.
//!
//! [`LAYERS`] is the table of ARCHITECTURE.md. A crate may depend only on rows above its own, so
//! a protocol cannot reach into another protocol, and nothing that waits can creep into a parser.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process::{self, Workspace};

/// What the crates of a row are allowed to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// No unsafe code, clock, randomness, socket or runtime: everything arrives as an argument.
    Pure,
    /// The one place for unsafe code.
    Unsafe,
    /// May wait, and may ask the operating system.
    Shell,
    /// Test support: nothing that is shipped depends on it.
    Test,
}

/// From the top, which knows nobody, to the bottom, which nobody knows.
const LAYERS: &[(Kind, &[&str])] = &[
    (Kind::Pure, &["wire"]),
    (Kind::Pure, &["crypto"]),
    (Kind::Pure, &["contract"]),
    (Kind::Pure, &["kit", "telemetry"]),
    (Kind::Test, &["simnet"]),
    (Kind::Pure, &["pki", "proxy"]),
    (Kind::Pure, &["ppp"]),
    (Kind::Pure, &["hub", "aaa", "openvpn", "pptp"]),
    (Kind::Pure, &["dataplane"]),
    (Kind::Unsafe, &["sys"]),
    (Kind::Pure, &["config"]),
    (Kind::Shell, &["host", "token", "backends"]),
    (Kind::Shell, &["shell"]),
    (Kind::Shell, &["mgmt", "openvpn_management"]),
    (Kind::Shell, &["warren"]),
    (Kind::Test, &["fuzz"]),
    (Kind::Test, &["lab"]),
    (Kind::Test, &["bench"]),
    (Kind::Test, &["xtask"]),
];

/// What a pure crate must not reach, not even through somebody else's crate.
const IMPURE: &[&str] = &["tokio", "mio", "async-std", "smol", "socket2", "nix", "rustix"];

/// What a pure crate must not name itself; others may use it inside (`ring` does, to be seeded).
const IMPURE_BY_NAME: &[&str] = &["libc", "rand", "getrandom"];

/// Libraries that one crate wraps for everybody.
const WRAPPED: &[(&str, &[&str])] = &[
    ("crypto", &["ring", "aws-lc-rs", "aes", "cbc", "ctr", "hmac", "md-5", "sha1", "sha2"]),
    ("token", &["cryptoki"]),
];

/// What the `clippy.toml` of every pure crate bans, for what Cargo cannot see.
const BANNED_CALLS: &[&str] =
    &["std::time::Instant::now", "std::time::SystemTime::now", "std::env::var"];

/// Accepted spellings; the second is for the fuzzing binary, whose entry point libFuzzer calls.
const FORBID_UNSAFE: &[&str] =
    &["#![forbid(unsafe_code)]", "#![cfg_attr(not(fuzzing), forbid(unsafe_code))]"];

/// Checks the workspace.
///
/// # Errors
///
/// One line for every rule that is broken.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let metadata = process::json(&mut workspace.cargo(["metadata", "--format-version=1"]))?;
    let graph = Graph::parse(&metadata)?;
    let mut violations = graph.violations();
    for member in graph.members() {
        violations.extend(file_violations(member, &|path| fs::read_to_string(path).ok()));
    }
    if violations.is_empty() {
        return Ok(());
    }
    violations.sort();
    bail!("layers are violated:\n  {}", violations.join("\n  "))
}

/// The packages that Cargo resolved, and who depends on whom.
#[derive(Debug)]
struct Graph {
    packages: BTreeMap<String, Package>,
}

#[derive(Debug)]
struct Package {
    name: String,
    member: bool,
    folder: PathBuf,
    /// The files where its libraries and programs begin.
    roots: Vec<PathBuf>,
    edges: Vec<Edge>,
}

#[derive(Debug)]
struct Edge {
    to: String,
    /// Whether only tests, examples and benchmarks see it.
    dev_only: bool,
}

impl Package {
    /// The row of [`LAYERS`] and its kind.
    fn layer(&self) -> Option<(usize, Kind)> {
        LAYERS
            .iter()
            .enumerate()
            .find(|(_, (_, crates))| crates.contains(&self.name.as_str()))
            .map(|(row, (kind, _))| (row, *kind))
    }
}

impl Graph {
    /// Reads what `cargo metadata` prints.
    fn parse(metadata: &Value) -> Result<Self> {
        let members: BTreeSet<_> =
            list(metadata, "workspace_members")?.iter().filter_map(Value::as_str).collect();
        let mut packages = BTreeMap::new();
        for package in list(metadata, "packages")? {
            let id = text(package, "id")?;
            let manifest = Path::new(text(package, "manifest_path")?);
            let mut roots = Vec::new();
            for target in list(package, "targets")? {
                let kinds = list(target, "kind")?;
                if kinds.iter().any(|kind| kind == "lib" || kind == "bin") {
                    roots.push(PathBuf::from(text(target, "src_path")?));
                }
            }
            let package = Package {
                name: text(package, "name")?.to_owned(),
                member: members.contains(id),
                folder: manifest.parent().unwrap_or(manifest).to_owned(),
                roots,
                edges: Vec::new(),
            };
            packages.insert(id.to_owned(), package);
        }
        for node in list(&metadata["resolve"], "nodes")? {
            let mut edges = Vec::new();
            for dependency in list(node, "deps")? {
                let kinds = list(dependency, "dep_kinds")?;
                edges.push(Edge {
                    to: text(dependency, "pkg")?.to_owned(),
                    dev_only: kinds.iter().all(|kind| kind["kind"] == "dev"),
                });
            }
            if let Some(package) = packages.get_mut(text(node, "id")?) {
                package.edges = edges;
            }
        }
        Ok(Self { packages })
    }

    fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().filter(|package| package.member)
    }

    /// Broken rules that the graph alone shows.
    fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        for member in self.members() {
            let Some((row, kind)) = member.layer() else {
                violations.push(format!(
                    "{}: is in no row of LAYERS in xtask/src/layers.rs; give it one",
                    member.name
                ));
                continue;
            };
            for edge in &member.edges {
                let Some(to) = self.packages.get(&edge.to) else { continue };
                violations.extend(edge_violation(member, row, kind, to, edge.dev_only));
            }
            if kind == Kind::Pure {
                violations.extend(self.impurity(member));
            }
        }
        violations
    }

    /// The shortest way from a pure crate to something impure, tests aside.
    fn impurity(&self, member: &Package) -> Option<String> {
        let mut queue = VecDeque::from([(member, member.name.clone())]);
        let mut seen = BTreeSet::new();
        while let Some((package, way)) = queue.pop_front() {
            for edge in package.edges.iter().filter(|edge| !edge.dev_only) {
                let Some(next) = self.packages.get(&edge.to) else { continue };
                if !seen.insert(&edge.to) {
                    continue;
                }
                let way = format!("{way} -> {}", next.name);
                if IMPURE.contains(&next.name.as_str()) {
                    return Some(format!(
                        "{}: {way} (rule: a pure crate reaches none of {})",
                        member.name,
                        IMPURE.join(", ")
                    ));
                }
                queue.push_back((next, way));
            }
        }
        None
    }
}

/// What is wrong with a direct dependency of `member` on `to`.
fn edge_violation(
    member: &Package,
    row: usize,
    kind: Kind,
    to: &Package,
    dev_only: bool,
) -> Option<String> {
    let rule = if to.member {
        let (to_row, to_kind) = to.layer()?;
        if to_row >= row {
            "a crate depends only on rows above its own"
        } else if to_kind == Kind::Test && kind != Kind::Test && !dev_only {
            "test support is a dev-dependency"
        } else {
            return None;
        }
    } else if dev_only {
        return None;
    } else if kind == Kind::Pure && IMPURE_BY_NAME.contains(&to.name.as_str()) {
        "a pure crate gets randomness and system calls from its caller"
    } else if WRAPPED
        .iter()
        .any(|(owner, libraries)| *owner != member.name && libraries.contains(&to.name.as_str()))
    {
        "cryptographic libraries are named by the crate crypto alone"
    } else {
        return None;
    };
    Some(format!("{0}: {0} -> {1} (rule: {rule})", member.name, to.name))
}

/// Broken rules that only the crate's own files show.
fn file_violations(member: &Package, read: &dyn Fn(&Path) -> Option<String>) -> Vec<String> {
    let mut violations = Vec::new();
    let Some((_, kind)) = member.layer() else { return violations };
    if kind != Kind::Unsafe {
        for root in &member.roots {
            let source = read(root).unwrap_or_default();
            if !source.lines().any(|line| FORBID_UNSAFE.contains(&line.trim_end())) {
                violations.push(format!(
                    "{}: {} lacks {} (rule: unsafe code lives in the crate sys alone)",
                    member.name,
                    root.display(),
                    FORBID_UNSAFE[0]
                ));
            }
        }
    }
    let manifest = read(&member.folder.join("Cargo.toml")).unwrap_or_default();
    if !manifest.contains("[lints]\nworkspace = true") {
        violations.push(format!(
            "{}: Cargo.toml lacks `[lints] workspace = true` (rule: every crate has the \
             workspace's lints)",
            member.name
        ));
    }
    if kind == Kind::Pure {
        let clippy = read(&member.folder.join("clippy.toml")).unwrap_or_default();
        for call in BANNED_CALLS.iter().filter(|call| !clippy.contains(*call)) {
            violations.push(format!(
                "{}: its clippy.toml does not ban {call} (rule: a pure crate is told the time and \
                 its settings)",
                member.name
            ));
        }
    }
    violations
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key].as_array().with_context(|| format!("`cargo metadata` has no list {key}"))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("`cargo metadata` has no text {key}"))
}

#[cfg(test)]
mod tests;
