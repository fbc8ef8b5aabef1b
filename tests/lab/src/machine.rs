//! A machine with an init of its own: systemd as the first process, on a copy of this machine's
//! files that it may change, in the network of a namespace.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::PATIENCE;
use crate::namespace::Namespace;
use crate::peer::{Output, Peer};
use crate::probe::eventually;

/// Mounts what the machine sees and becomes its first process.
const SCRIPT: &str = include_str!("machine.sh");

/// What a command inside may take: `systemctl` waits for what it starts.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);

/// A running machine; dropped, it and everything in it ends at once.
#[derive(Debug)]
pub struct Machine {
    init: Peer,
    /// The first process, as it is numbered outside.
    pid: String,
    namespace: Namespace,
    hierarchies: PathBuf,
    group: String,
}

/// A file that the machine has and this one has not.
#[derive(Clone, Copy, Debug)]
pub struct Install<'a> {
    /// Where it comes from.
    pub from: &'a Path,
    /// Where it goes, from the machine's root.
    pub to: &'a str,
    /// Its permissions.
    pub mode: u32,
}

impl Machine {
    /// Starts a machine with these files and waits until systemd has reached `basic.target`.
    ///
    /// # Errors
    /// If this machine has no systemd, or it does not come up.
    pub fn boot(namespace: &Namespace, files: &[Install<'_>]) -> Result<Self> {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let folder = namespace.folder().join(format!("machine-{number}"));
        for name in ["disk", "groups", "files"] {
            fs::create_dir_all(folder.join(name)).context("the machine's folder")?;
        }
        for file in files {
            let to = folder.join("files").join(file.to.trim_start_matches('/'));
            fs::create_dir_all(to.parent().context("a file in a folder")?)?;
            fs::copy(file.from, &to).with_context(|| format!("copy {}", file.from.display()))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(file.mode))?;
        }

        let group = format!("warren-lab-{}-{number}", std::process::id());
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "machine.sh"]).arg(&folder).arg(&group);
        let init = namespace.spawn(&format!("machine-{number}"), command)?;
        let mut machine = Self {
            init,
            pid: String::new(),
            namespace: namespace.clone(),
            hierarchies: folder.join("groups"),
            group,
        };
        machine.pid = eventually(PATIENCE, || machine.first_process())?;
        eventually(PATIENCE, || {
            let state = machine.try_run("systemctl", &["is-system-running"])?;
            match state.stdout.trim() {
                "running" | "degraded" => Ok(()),
                _ => bail!("systemd: {state}"),
            }
        })?;
        Ok(machine)
    }

    /// Runs a command inside and returns what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.try_run(program, arguments)?;
        ensure!(output.success(), "`{program} {}`: {output}", arguments.join(" "));
        Ok(output.stdout)
    }

    /// Runs a command inside and returns how it ended.
    ///
    /// # Errors
    /// If it does not end.
    pub fn try_run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("nsenter");
        let into = ["--mount", "--pid", "--cgroup", "--uts", "--ipc", "--root", "--wd"];
        command.arg("--target").arg(&self.pid).args(into).arg("--").arg(program).args(arguments);
        self.namespace.output(command, COMMAND_PATIENCE)
    }

    /// Shuts it down as a machine is shut down, and waits until it is off.
    ///
    /// # Errors
    /// If it does not go off.
    pub fn shut_down(self) -> Result<()> {
        self.run("systemctl", &["--no-block", "halt"])?;
        self.init.wait_exit(COMMAND_PATIENCE).map(drop)
    }

    /// The child of what was started, once it has become systemd.
    fn first_process(&self) -> Result<String> {
        ensure!(self.init.is_running(), "{}", self.init.said("").join(" | "));
        let parent = self.init.pid().to_string();
        let output =
            Command::new("pgrep").args(["--parent", &parent, "--exact", "systemd"]).output()?;
        let pid = String::from_utf8(output.stdout)?.trim().to_owned();
        ensure!(!pid.is_empty(), "systemd has not been started yet");
        Ok(pid)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.init.kill();
        // Empty now, or as soon as the kernel has put away what was in them.
        let groups = format!("{}/*/{}", self.hierarchies.display(), self.group);
        let remove = format!("find {groups} -depth -type d -exec rmdir {{}} \\;");
        let _ = eventually(PATIENCE, || self.namespace.run("sh", &["-c", &remove]));
    }
}
