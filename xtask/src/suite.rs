//! `cargo xtask test`: everything that must hold, in the order that fails fastest.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process::{self, Workspace};
use crate::{deny, fuzz, layers, packages};

/// One thing that must hold.
struct Step {
    name: &'static str,
    about: &'static str,
    /// Whether `--fast` includes it.
    fast: bool,
    run: fn(&Workspace, &Plan, &mut Tally) -> Result<()>,
}

const STEPS: &[Step] = &[
    Step {
        name: "packages",
        about: "Debian packages that the tests need",
        fast: false,
        run: |_, _, _| packages::install(),
    },
    Step {
        name: "fmt",
        about: "formatting",
        fast: true,
        run: |workspace, _, _| process::run(&mut workspace.cargo(["fmt", "--all", "--check"])),
    },
    Step { name: "clippy", about: "lints, as errors", fast: true, run: clippy },
    Step {
        name: "layers",
        about: "no crate reaches across a layer",
        fast: true,
        run: |workspace, _, _| layers::run(workspace),
    },
    Step {
        name: "deny",
        about: "licences, bans and sources of dependencies",
        fast: false,
        run: |workspace, _, _| deny::check(workspace),
    },
    Step { name: "doc", about: "documentation, warnings as errors", fast: false, run: doc },
    Step {
        name: "unit",
        about: "unit, integration and documentation tests; fuzz corpora replayed",
        fast: true,
        run: unit,
    },
    Step { name: "fuzz", about: "every fuzz target for a while", fast: false, run: fuzzing },
    Step {
        name: "build",
        about: "the program as it is released",
        fast: false,
        run: |workspace, _, _| build_release(workspace).map(drop),
    },
    Step { name: "lab", about: "real peers in network namespaces", fast: false, run: lab },
];

/// What to run.
#[derive(Debug)]
pub(crate) struct Plan {
    fast: bool,
    only: Option<String>,
    fuzz_time: Duration,
}

impl Plan {
    /// Reads the arguments of `cargo xtask test`.
    ///
    /// # Errors
    ///
    /// An option or a step that does not exist.
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut plan = Self { fast: false, only: None, fuzz_time: Duration::from_secs(10) };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--fast" => plan.fast = true,
                "--only" => {
                    let step = args.next().context("--only needs the name of a step")?;
                    if !STEPS.iter().any(|known| known.name == step) {
                        let names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
                        bail!("no step `{step}`; the steps are {}", names.join(", "));
                    }
                    plan.only = Some(step.clone());
                }
                "--fuzz-seconds" => plan.fuzz_time = crate::seconds(arg, args.next())?,
                other => bail!("no option `{other}`; see `cargo xtask help`"),
            }
        }
        Ok(plan)
    }

    fn includes(&self, step: &Step) -> bool {
        match &self.only {
            Some(only) => step.name == only,
            None => step.fast || !self.fast,
        }
    }
}

/// Runs the steps of `plan` and prints one closing line.
///
/// # Errors
///
/// The first step that fails.
pub(crate) fn run(workspace: &Workspace, plan: &Plan) -> Result<()> {
    let began = Instant::now();
    let mut tally = Tally::default();
    let mut steps = 0;
    for step in STEPS.iter().filter(|step| plan.includes(step)) {
        println!("== {}: {}", step.name, step.about);
        let step_began = Instant::now();
        let result = (step.run)(workspace, plan, &mut tally);
        let took = step_began.elapsed().as_secs_f64();
        result.with_context(|| format!("step {} failed after {took:.0} s", step.name))?;
        println!("== {}: ok ({took:.1} s)", step.name);
        steps += 1;
    }
    println!(
        "ok: {steps} steps, {} tests passed, {} ignored, {:.0} s",
        tally.passed,
        tally.ignored,
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Tests counted from what the test programs print.
#[derive(Debug, Default, Eq, PartialEq)]
struct Tally {
    passed: u64,
    ignored: u64,
}

impl Tally {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn read(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ok. ") else { return };
        for count in counts.split("; ") {
            match count.split_once(' ').map(|(number, what)| (number.parse::<u64>(), what)) {
                Some((Ok(number), "passed")) => self.passed += number,
                Some((Ok(number), "ignored")) => self.ignored += number,
                _ => {}
            }
        }
    }
}

fn clippy(workspace: &Workspace, _: &Plan, _: &mut Tally) -> Result<()> {
    process::run(&mut workspace.cargo([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny=warnings",
    ]))
}

fn doc(workspace: &Workspace, _: &Plan, _: &mut Tally) -> Result<()> {
    process::run(
        workspace
            .cargo(["doc", "--quiet", "--workspace", "--no-deps"])
            .args(["--document-private-items", "--locked"])
            .env("RUSTDOCFLAGS", "--deny=warnings"),
    )
}

fn unit(workspace: &Workspace, _: &Plan, tally: &mut Tally) -> Result<()> {
    process::run_and_read(
        workspace.cargo(["test", "--workspace", "--locked", "--no-fail-fast"]).args([
            "--exclude",
            "lab",
            "--exclude",
            "bench",
        ]),
        |line| tally.read(line),
    )
}

fn fuzzing(workspace: &Workspace, plan: &Plan, _: &mut Tally) -> Result<()> {
    let session = fuzz::Session { only: None, time: plan.fuzz_time, merge: false, locked: true };
    fuzz::run(workspace, &session)
}

/// Builds the program and says where it is.
///
/// # Errors
///
/// It does not compile.
pub(crate) fn build_release(workspace: &Workspace) -> Result<PathBuf> {
    process::run(&mut workspace.cargo(["build", "--release", "--locked", "--package", "warren"]))?;
    Ok(workspace.target.join("release/warren"))
}

fn lab(workspace: &Workspace, _: &Plan, tally: &mut Tally) -> Result<()> {
    // A no-op after the step `build`; alone, the lab must not test last week's program.
    let binary = build_release(workspace)?;
    // Labs mostly wait for timers of protocols, so two cores run four of them; more than that
    // starve each other of processor time, and handshakes begin to time out.
    let threads = thread::available_parallelism().map_or(2, |cores| (2 * cores.get()).clamp(2, 4));
    process::run_and_read(
        workspace
            .cargo(["test", "--locked", "--no-fail-fast", "--package", "lab", "--"])
            .arg(format!("--test-threads={threads}"))
            .env("WARREN_BIN", binary),
        |line| tally.read(line),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Result<Plan> {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Plan::parse(&args)
    }

    fn names(plan: &Plan) -> Vec<&'static str> {
        STEPS.iter().filter(|step| plan.includes(step)).map(|step| step.name).collect()
    }

    #[test]
    fn without_options_every_step_runs() {
        assert_eq!(names(&plan(&[]).unwrap()).len(), STEPS.len());
    }

    #[test]
    fn a_fast_run_leaves_out_what_needs_root_or_minutes() {
        assert_eq!(names(&plan(&["--fast"]).unwrap()), ["fmt", "clippy", "layers", "unit"]);
    }

    #[test]
    fn one_step_can_run_alone_and_a_misspelt_one_is_named() {
        assert_eq!(names(&plan(&["--only", "lab"]).unwrap()), ["lab"]);

        let error = plan(&["--only", "labs"]).unwrap_err().to_string();
        assert!(error.contains("`labs`") && error.contains("clippy"), "{error}");
    }

    #[test]
    fn the_closing_line_counts_tests_of_every_program() {
        let mut tally = Tally::default();

        tally.read("running 3 tests");
        tally.read("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        tally.read("test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out");
        tally.read("test result: FAILED. 7 passed; 1 failed; 0 ignored; 0 measured");

        assert_eq!(tally, Tally { passed: 43, ignored: 1 });
    }
}
