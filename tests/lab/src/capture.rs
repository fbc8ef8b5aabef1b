//! Packet captures and what tshark makes of them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::PATIENCE;
use crate::namespace::Namespace;
use crate::peer::Peer;

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    peer: Peer,
    file: PathBuf,
}

/// A finished capture.
#[derive(Debug)]
pub struct Pcap {
    file: PathBuf,
    namespace: Namespace,
}

impl Capture {
    /// Captures what passes `device` and matches the pcap `filter` (empty: everything); returns
    /// when the capture is running.
    ///
    /// # Errors
    /// If tcpdump does not start.
    pub fn start(namespace: &Namespace, device: &str, filter: &str) -> Result<Self> {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let file = namespace.folder().join(format!("{}-{device}-{number}.pcap", namespace.name()));
        let mut command = Command::new("tcpdump");
        command.args([
            "-n",
            "--immediate-mode",
            "-B",
            "32768",
            "-U",
            "-Z",
            "root",
            "-i",
            device,
            "-w",
        ]);
        command.arg(&file).args((!filter.is_empty()).then_some(filter));
        let peer = namespace.spawn(&format!("tcpdump-{}-{device}", namespace.name()), command)?;
        peer.wait_for("listening on", PATIENCE)?;
        Ok(Self { peer, file })
    }

    /// Ends the capture.
    ///
    /// # Errors
    /// If tcpdump does not end, or the kernel dropped frames, which would make counts lies.
    pub fn finish(self) -> Result<Pcap> {
        self.peer.signal(Signal::SIGINT)?;
        let output = self.peer.wait_exit(PATIENCE)?;
        ensure!(output.stderr.contains("\n0 packets dropped by kernel"), "tcpdump: {output}");
        Ok(Pcap { file: self.file, namespace: self.peer.namespace().clone() })
    }
}

impl Pcap {
    /// How many frames match a tshark display filter (empty: all of them).
    ///
    /// # Errors
    /// If tshark fails.
    pub fn frames(&self, filter: &str) -> Result<usize> {
        Ok(self.fields(filter, "frame.number")?.len())
    }

    /// One field of every frame that matches.
    ///
    /// # Errors
    /// If tshark fails.
    pub fn fields(&self, filter: &str, field: &str) -> Result<Vec<String>> {
        let mut command = Command::new("tshark");
        command.arg("-n").arg("-r").arg(&self.file).args(["-T", "fields", "-e", field]);
        if !filter.is_empty() {
            command.args(["-Y", filter]);
        }
        let output = self.namespace.output(command, Duration::from_secs(60))?;
        ensure!(output.success(), "tshark: {output}");
        Ok(output.stdout.lines().map(str::to_owned).collect())
    }

    /// Checks that at least `at_least` frames were seen and that tshark calls none malformed.
    ///
    /// # Errors
    /// If there are too few, or a malformed one.
    pub fn check_well_formed(&self, at_least: usize) -> Result<()> {
        let seen = self.frames("")?;
        ensure!(seen >= at_least, "captured {seen} frames, expected at least {at_least}");
        let malformed = self.fields("_ws.malformed", "frame.number").context("malformed")?;
        ensure!(malformed.is_empty(), "malformed: frames {}", malformed.join(", "));
        Ok(())
    }
}
