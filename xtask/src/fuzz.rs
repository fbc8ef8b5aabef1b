//! Coverage-guided fuzzing of `tests/fuzz` with libFuzzer, on the stable compiler.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{self, Workspace};

/// What `-Z sanitizer` would pass on nightly, minus the sanitizer: coverage counters, a table of
/// their addresses, and the operands of comparisons (which is how magic numbers are found).
/// The binary's own `cfg(fuzzing)` links libFuzzer in.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

/// The longest input tried: longer than any datagram on an Ethernet path, short enough to be fast.
const MAX_INPUT_LEN: usize = 4096;

/// One input may take this long; a parser that needs more has a loop the peer controls.
const INPUT_TIMEOUT_SECONDS: u64 = 5;

/// A target may grow to this before it counts as unbounded.
const MEMORY_LIMIT_MIB: usize = 1024;

/// What to fuzz, and for how long.
#[derive(Debug)]
pub(crate) struct Session {
    /// One target by name, or all of them.
    pub(crate) only: Option<String>,
    /// Time for each target.
    pub(crate) time: Duration,
    /// Whether inputs that reach new code move to the committed corpus.
    pub(crate) merge: bool,
    /// Whether a lock file that needs a change is an error.
    pub(crate) locked: bool,
}

/// Builds the targets and runs as many at a time as there are cores.
///
/// # Errors
///
/// They do not compile, there is no such target, or an input makes one panic, hang or grow.
pub(crate) fn run(workspace: &Workspace, session: &Session) -> Result<()> {
    let binary = build(workspace, session.locked)?;
    let names = names(&binary)?;
    let mut queue: VecDeque<&str> = names.lines().collect();
    if let Some(only) = &session.only {
        ensure!(
            queue.contains(&only.as_str()),
            "no fuzz target `{only}`; the targets are {}",
            names.lines().collect::<Vec<_>>().join(", ")
        );
        queue.retain(|name| name == only);
    }

    let queue = Mutex::new(queue);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = || queue.lock().ok()?.pop_front();
    let work = || -> Result<()> {
        while let Some(target) = next() {
            Job::new(workspace, &binary, target)?.run(session)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        for result in results {
            result.unwrap_or_else(|_| bail!("a fuzzing thread of xtask panicked"))?;
        }
        Ok(())
    })
}

/// The targets that `binary` has; without one to run it lists them.
fn names(binary: &Path) -> Result<String> {
    let output = Command::new(binary)
        .env_remove("FUZZ_TARGET")
        .stdin(Stdio::null())
        .stderr(Stdio::null()) // libFuzzer misses the hooks of a sanitizer that is not there
        .output()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    ensure!(output.status.success(), "{} does not list its targets", binary.display());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Builds the fuzzing binary in a target folder of its own, so that the flags do not make Cargo
/// rebuild everything else.
fn build(workspace: &Workspace, locked: bool) -> Result<PathBuf> {
    let host = host()?;
    let target = workspace.target.join("fuzz");
    let mut command = workspace.cargo(["build", "--quiet", "--release", "--package", "fuzz"]);
    if locked {
        command.arg("--locked");
    }
    // With an explicit target Cargo keeps the flags away from build scripts, which could not link.
    command.args(["--target", &host]);
    command.arg("--target-dir").arg(&target);
    command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    command.env("CARGO_PROFILE_RELEASE_LTO", "off");
    process::run(&mut command)?;
    Ok(target.join(host).join("release/fuzz"))
}

fn host() -> Result<String> {
    let text = process::output(Command::new("rustc").arg("-vV"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(ToOwned::to_owned)
        .context("`rustc -vV` does not name its host")
}

/// One target with its folders.
struct Job<'a> {
    target: &'a str,
    binary: &'a Path,
    /// Inputs in the repository: starting points, never written to except by a merge.
    committed: PathBuf,
    /// Inputs found on this machine, kept from run to run.
    found: PathBuf,
    /// Inputs that broke something.
    crashes: PathBuf,
    log: PathBuf,
}

impl<'a> Job<'a> {
    fn new(workspace: &Workspace, binary: &'a Path, target: &'a str) -> Result<Self> {
        let folder = workspace.target.join("fuzz/runs").join(target);
        let job = Self {
            target,
            binary,
            committed: workspace.root.join("tests/fuzz/corpus").join(target),
            found: folder.join("found"),
            crashes: folder.join("crashes"),
            log: folder.join("log"),
        };
        for folder in [&job.found, &job.crashes] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(job)
    }

    fn run(&self, session: &Session) -> Result<()> {
        let began = Instant::now();
        let target = self.target;
        let mut prefix = self.crashes.clone().into_os_string();
        prefix.push("/");
        let mut command = self.libfuzzer(&[
            format!("-max_total_time={}", session.time.as_secs().max(1)),
            format!("-timeout={INPUT_TIMEOUT_SECONDS}"),
            format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"),
            format!("-max_len={MAX_INPUT_LEN}"),
            "-print_final_stats=1".to_owned(),
            format!("-artifact_prefix={}", prefix.display()),
        ]);
        let succeeded = self.succeeds(command.arg(&self.found).arg(&self.committed))?;
        let log = self.read_log()?;
        if !succeeded {
            print!("{}", last_lines(&log, 60));
            let input = log.lines().find_map(|line| line.split_once("Test unit written to "));
            match input {
                Some((_, input)) => bail!(
                    "fuzz target {target} failed on {input}; replay it with \
                     `cargo run -p fuzz -- {target} {input}`, and when it is fixed move it to {}",
                    self.committed.display()
                ),
                None => bail!("fuzz target {target} failed; see {}", self.log.display()),
            }
        }
        println!(
            "{target}: {} inputs tried, {} edges covered, {:.0} s",
            statistic(&log, "stat::number_of_executed_units:").unwrap_or("?"),
            edges(&log).unwrap_or("?"),
            began.elapsed().as_secs_f64()
        );

        if session.merge {
            let mut command = self.libfuzzer(&["-merge=1".to_owned()]);
            let merged = self.succeeds(command.arg(&self.committed).arg(&self.found))?;
            ensure!(merged, "merging the corpus of {target} failed; see {}", self.log.display());
        }
        Ok(())
    }

    fn libfuzzer(&self, options: &[String]) -> Command {
        let mut command = Command::new(self.binary);
        command.args(options).env("FUZZ_TARGET", self.target);
        command
    }

    /// Runs `command` with its output in the log, which libFuzzer fills by the thousand lines.
    fn succeeds(&self, command: &mut Command) -> Result<bool> {
        let log = File::create(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let status = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        Ok(status.success())
    }

    fn read_log(&self) -> Result<String> {
        let bytes =
            fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn statistic<'a>(log: &'a str, name: &str) -> Option<&'a str> {
    log.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The coverage that libFuzzer reported last, from a line such as
/// `#8192  pulse  cov: 45 ft: 60 corp: 12/300b`.
fn edges(log: &str) -> Option<&str> {
    let (_, rest) = log.rsplit_once(" cov: ")?;
    rest.split_whitespace().next()
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    let mut tail = lines[lines.len().saturating_sub(count)..].join("\n");
    tail.push('\n');
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
#2      INITED cov: 5 ft: 6 corp: 1/1b exec/s: 0 rss: 30Mb
#8192   pulse  cov: 45 ft: 60 corp: 12/300b lim: 80 exec/s: 4096 rss: 31Mb
Done 9000 runs in 2 second(s)
stat::number_of_executed_units: 9000
";

    #[test]
    fn the_report_of_a_run_is_read_from_its_log() {
        assert_eq!(statistic(LOG, "stat::number_of_executed_units:"), Some("9000"));
        assert_eq!(edges(LOG), Some("45"));
    }

    #[test]
    fn a_failed_run_shows_the_end_of_its_log() {
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc\n");
        assert_eq!(last_lines("a", 60), "a\n");
    }
}
