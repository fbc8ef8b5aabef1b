//! Side-by-side benchmarks in network namespaces: stock OpenVPN and Warren, in one run.
//!
//! Rows alternate, round by round, so that whatever else the machine does hits all of them alike;
//! a figure is the median of its rounds. Nothing here fails because it was slow: every target is
//! reported as reached or missed.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a benchmark talks to whoever started it")]

mod arena;
mod fleet;
mod handshakes;
mod idle;
mod limit;
mod machine;
mod report;
mod targets;
mod throughput;
mod tunnel;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use crate::arena::Arena;
use crate::machine::Machine;
use crate::report::Report;
use crate::throughput::Throughput;
use crate::tunnel::Row;

const HELP: &str = "\
cargo run --release -p bench -- [--json FILE] [--quick] [--only ROW]...

  --json FILE   where the figures go; target/bench.json otherwise
  --quick       one short round: shows that everything runs, not how fast
  --only ROW    only this; may be repeated. A ratio needs both of its rows.
                veth, limit, openvpn-openvpn, openvpn-warren, warren-warren,
                openvpn-openvpn-tcp, openvpn-warren-tcp, warren-warren-tcp, openvpn-openvpn-tap,
                warren-warren-tap, idle, handshakes

Needs root, iproute2, iputils-ping, iperf3, openssl, openvpn, util-linux, and the release build of
warren (or its path in WARREN_BIN). `cargo xtask bench` sees to all of that.
";

/// What to measure, and how thoroughly.
#[derive(Debug)]
pub(crate) struct Plan {
    json: PathBuf,
    quick: bool,
    only: Vec<String>,
}

impl Plan {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut plan = Self { json: default_json(), quick: false, only: Vec::new() };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--help" | "-h" => return Ok(None),
                "--quick" => plan.quick = true,
                "--json" => plan.json = args.next().context("--json needs a file")?.into(),
                "--only" => {
                    let row = args.next().context("--only needs the name of a row")?;
                    let names = Row::ALL.iter().map(|row| row.name());
                    let mut names = names.chain([idle::NAME, handshakes::NAME]);
                    if !names.any(|name| name == row) {
                        bail!("no row `{row}`; see --help");
                    }
                    plan.only.push(row);
                }
                other => bail!("no option `{other}`; see --help"),
            }
        }
        Ok(Some(plan))
    }

    fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == row)
    }

    /// How often everything is measured.
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    /// How long one transfer lasts, whole seconds.
    fn transfer_seconds(&self) -> u32 {
        if self.quick { 2 } else { 5 }
    }

    /// How many echo requests one round sends through each tunnel.
    fn pings(&self) -> u32 {
        if self.quick { 50 } else { 200 }
    }

    /// How many sessions idle.
    fn idle_sessions(&self) -> usize {
        if self.quick { 100 } else { 1000 }
    }

    /// How long they do.
    fn idle_time(&self) -> Duration {
        Duration::from_secs(if self.quick { 5 } else { 30 })
    }

    /// How long handshakes are counted in each round.
    fn handshake_time(&self) -> Duration {
        Duration::from_secs(if self.quick { 2 } else { 6 })
    }
}

fn default_json() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target =
        target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"));
    target.join("bench.json")
}

fn main() -> ExitCode {
    let outcome = Plan::parse(env::args().skip(1)).and_then(|plan| match plan {
        Some(plan) => run(&plan),
        None => {
            print!("{HELP}");
            Ok(true)
        }
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, prints, writes; whether everything could be measured.
fn run(plan: &Plan) -> Result<bool> {
    let machine = Machine::prepare()?;
    println!("{machine}");
    let arena = Arena::build()?;
    let mut report = Report::new(plan, machine);

    let rows: Vec<Row> = Row::ALL.into_iter().filter(|row| plan.wants(row.name())).collect();
    let mut throughput = Throughput::default();
    for round in 1..=plan.rounds() {
        for row in &rows {
            println!("round {round} of {}: {}", plan.rounds(), row.title());
            let measured = throughput.measure(*row, &arena, plan);
            report.note(row.name(), measured.map(Some));
        }
    }
    report.throughput = throughput.figures();
    report.ping = throughput.pings();

    if plan.wants(idle::NAME) {
        println!("{} idle sessions", plan.idle_sessions());
        report.idle = report.note(idle::NAME, idle::measure(&arena, plan).map(Some));
    }
    if plan.wants(handshakes::NAME) {
        println!("new sessions per second");
        let measured = handshakes::measure(&arena, plan);
        report.handshakes = report.note(handshakes::NAME, measured.map(Some));
    }

    report.judge();
    print!("\n{report}");
    if let Some(folder) = plan.json.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&plan.json, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("write {}", plan.json.display()))?;
    println!("\nfigures: {}", plan.json.display());
    Ok(report.failures.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Result<Option<Plan>> {
        Plan::parse(args.iter().map(|arg| (*arg).to_owned()))
    }

    #[test]
    fn everything_is_measured_unless_rows_are_named() {
        let all = plan(&[]).unwrap().unwrap();
        let some = plan(&["--only", "veth", "--only", "idle"]).unwrap().unwrap();

        assert!(all.wants("limit") && all.wants("handshakes"));
        assert!(some.wants("veth") && some.wants("idle") && !some.wants("limit"));
    }

    #[test]
    fn a_misspelt_row_is_named() {
        let error = plan(&["--only", "vet"]).unwrap_err().to_string();

        assert!(error.contains("`vet`"), "{error}");
    }
}
