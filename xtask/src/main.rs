//! The project's own chores: `cargo xtask help` lists them.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a chore talks to whoever started it")]

mod deny;
mod fuzz;
mod layers;
mod packages;
mod process;
mod suite;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process::Workspace;

const HELP: &str = "\
cargo xtask COMMAND

  test [--fast] [--only STEP] [--fuzz-seconds N]
                      every check and test, in order; stops at the first step that fails
  layers              fails if a crate reaches across a layer
  fuzz [TARGET] [--seconds N] [--merge]
                      coverage-guided fuzzing of one target or all (60 s each by default);
                      --merge adds inputs that reach new code to the committed corpus
  bench [ARGS]        installs what the benchmark needs and runs it
  packages            installs the Debian packages that the tests need
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let Some((command, rest)) = args.split_first() else {
        print!("{HELP}");
        return Ok(());
    };
    match command.as_str() {
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        "test" => {
            let plan = suite::Plan::parse(rest)?;
            suite::run(&Workspace::find()?, &plan)
        }
        "layers" => none_left(rest).and_then(|()| layers::run(&Workspace::find()?)),
        "packages" => none_left(rest).and_then(|()| packages::install()),
        "fuzz" => {
            let session = parse_fuzz(rest)?;
            fuzz::run(&Workspace::find()?, &session)
        }
        "bench" => bench(&Workspace::find()?, rest),
        other => bail!("no command `{other}`; `cargo xtask help` lists them"),
    }
}

fn parse_fuzz(args: &[String]) -> Result<fuzz::Session> {
    let mut session =
        fuzz::Session { only: None, time: Duration::from_secs(60), merge: false, locked: false };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => session.time = seconds(arg, args.next())?,
            "--merge" => session.merge = true,
            flag if flag.starts_with('-') => bail!("no option `{flag}`; see `cargo xtask help`"),
            target => session.only = Some(target.to_owned()),
        }
    }
    Ok(session)
}

fn bench(workspace: &Workspace, args: &[String]) -> Result<()> {
    packages::install()?;
    let binary = suite::build_release(workspace)?;
    process::run(
        workspace
            .cargo(["run", "--release", "--locked", "--package", "bench", "--"])
            .args(args)
            .env("WARREN_BIN", binary),
    )
}

fn none_left(args: &[String]) -> Result<()> {
    match args.first() {
        None => Ok(()),
        Some(arg) => bail!("unexpected argument `{arg}`; see `cargo xtask help`"),
    }
}

/// The value of a flag that takes a number of seconds.
fn seconds(flag: &str, value: Option<&String>) -> Result<Duration> {
    let value = value.with_context(|| format!("{flag} needs a number of seconds"))?;
    let seconds =
        value.parse().with_context(|| format!("{flag} {value}: not a number of seconds"))?;
    Ok(Duration::from_secs(seconds))
}
