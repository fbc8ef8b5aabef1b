//! One scenario's folder and the registry of what it started.

use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::namespace::{Link, Namespace, Switch};
use crate::peer::Log;

const PREFIX: &str = "warren-lab-";
/// How much of each peer's output a failed scenario shows: a handshake and what went wrong in it.
const LINES_SHOWN: usize = 60;

/// A scenario: makes namespaces and keeps a folder for its peers' files.
///
/// The folder is removed on drop unless the environment has `LAB_KEEP`.
#[derive(Debug)]
pub struct Lab {
    shared: Arc<Shared>,
}

/// What the namespaces and peers of one lab have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    folder: PathBuf,
    logs: Mutex<Vec<Arc<Log>>>,
}

impl Shared {
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn register(&self, log: Arc<Log>) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).push(log);
    }

    fn tails(&self) -> String {
        let mut text = String::new();
        for log in self.logs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(text, "--- {}", log.name());
            for line in log.tail(LINES_SHOWN) {
                let _ = writeln!(text, "    {line}");
            }
        }
        text
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::env::var_os("LAB_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

impl Lab {
    /// Prepares a lab; `name` becomes part of its folder's name.
    ///
    /// # Errors
    /// If the process is not root or the folder cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab makes network namespaces: run these tests as root"
        );
        remove_leftovers();

        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let word: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let folder =
            std::env::temp_dir().join(format!("{PREFIX}{}-{number}-{word}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;

        Ok(Self { shared: Arc::new(Shared { folder, logs: Mutex::new(Vec::new()) }) })
    }

    /// The folder for this scenario's files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.shared.folder()
    }

    /// Writes a file into the lab's folder and returns its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder().join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Makes a network namespace with its own mounts; `lo` is up.
    ///
    /// # Errors
    /// If the kernel refuses one.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        Namespace::new(name, &self.shared)
    }

    /// Joins two namespaces by a veth pair with these addresses (`192.0.2.1/24`, `2001:db8::1/64`).
    ///
    /// # Errors
    /// If the devices or addresses are refused.
    pub fn link(&self, a: &Namespace, on_a: &[&str], b: &Namespace, on_b: &[&str]) -> Result<Link> {
        Link::new(a, on_a, b, on_b)
    }

    /// Makes a namespace that is an Ethernet switch.
    ///
    /// # Errors
    /// If the bridge is refused.
    pub fn switch(&self, name: &str) -> Result<Switch> {
        Switch::new(self.namespace(name)?)
    }

    /// Makes `router` forward, hiding what it forwards out of `outside` behind its own address.
    ///
    /// # Errors
    /// If the kernel refuses the setting or the rules.
    pub fn nat_router(&self, router: &Namespace, outside: &str) -> Result<()> {
        router.forward()?;
        let rules = format!(
            "table inet lab {{ chain post {{ type nat hook postrouting priority 100; oifname \"{outside}\" masquerade; }}; }}"
        );
        router.run("nft", &[&rules])?;
        Ok(())
    }
}

/// Runs a scenario; when it fails, shows what every peer said last, then fails the test.
///
/// # Panics
/// If the body returns an error or panics, or the lab cannot be made.
pub fn scenario(name: &str, body: impl FnOnce(&Lab) -> Result<()>) {
    let lab = match Lab::new(name) {
        Ok(lab) => lab,
        Err(error) => panic!("{error:#}"),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&lab)));
    if !matches!(outcome, Ok(Ok(()))) {
        eprintln!("{}", lab.shared.tails());
    }
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{name}: {error:#}"),
        Err(panic) => resume_unwind(panic),
    }
}

/// Removes the folders of runs whose process is gone; others are left alone.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        let Some(owner) = owner else { continue };
        if !Path::new(&format!("/proc/{owner}")).exists() && std::env::var_os("LAB_KEEP").is_none()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
