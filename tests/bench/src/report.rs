//! The figures, as a table and as JSON.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::Plan;
use crate::handshakes::Handshakes;
use crate::idle::Idle;
use crate::machine::Machine;
use crate::targets::{self, Target};
use crate::throughput::{Column, Figure, Latency, columns};
use crate::tunnel::{MTU, Row};

/// The median of some samples, and how far they lie apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    samples: Vec<f64>,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min, max, samples: samples.to_vec() })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let Self { median, min, max, .. } = self;
        let text = format!("{median:.digits$} ({min:.digits$}–{max:.digits$})");
        // Not `pad`: it takes the precision for the longest that the text may be.
        let width = f.width().unwrap_or_default();
        write!(f, "{text:>width$}")
    }
}

/// Everything that one run found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rounds: usize,
    transfer_seconds: u32,
    mtu: u16,
    cipher: &'static str,
    pub(crate) throughput: Vec<Figure>,
    pub(crate) ping: Vec<Latency>,
    pub(crate) idle: Option<Idle>,
    pub(crate) handshakes: Option<Handshakes>,
    pub(crate) targets: Vec<Target>,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(plan: &Plan, machine: Machine) -> Self {
        Self {
            machine,
            rounds: plan.rounds(),
            transfer_seconds: plan.transfer_seconds(),
            mtu: MTU,
            cipher: "AES-256-GCM",
            throughput: Vec::new(),
            ping: Vec::new(),
            idle: None,
            handshakes: None,
            targets: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Takes a result; a row that cannot be measured does not keep the others from it.
    pub(crate) fn note<T>(&mut self, row: &str, measured: Result<Option<T>>) -> Option<T> {
        measured.unwrap_or_else(|error| {
            eprintln!("bench: {row}: {error:#}");
            self.failures.push(format!("{row}: {error:#}"));
            None
        })
    }

    /// Compares with the targets whatever there are figures for.
    pub(crate) fn judge(&mut self) {
        self.targets = targets::of(self);
    }

    pub(crate) fn figure(&self, row: Row, (direction, streams): Column) -> Option<&Figure> {
        let is_it = |figure: &&Figure| {
            (figure.row, figure.direction, figure.streams) == (row, direction, streams)
        };
        self.throughput.iter().find(is_it)
    }

    pub(crate) fn rate(&self, row: Row, column: Column) -> Option<f64> {
        Some(self.figure(row, column)?.gbit_per_second.median)
    }

    pub(crate) fn cost(&self, row: Row, column: Column) -> Option<f64> {
        Some(self.figure(row, column)?.server_cpu_seconds_per_gigabyte.as_ref()?.median)
    }

    pub(crate) fn round_trip(&self, row: Row) -> Option<f64> {
        Some(self.ping.iter().find(|latency| latency.row == row)?.median_ms.median)
    }

    fn table(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        cell: impl Fn(Row, Column) -> Option<String>,
    ) -> fmt::Result {
        if self.throughput.is_empty() {
            return Ok(());
        }
        writeln!(f, "{title}")?;
        write!(f, "{:<24}", "")?;
        for (direction, streams) in columns() {
            write!(f, "{:>21}", format!("{} × {streams}", direction.name()))?;
        }
        writeln!(f)?;
        for row in Row::ALL {
            let cells: Vec<_> = columns().map(|column| cell(row, column)).collect();
            if cells.iter().all(Option::is_none) {
                continue;
            }
            write!(f, "{:<24}", row.title())?;
            for cell in cells {
                write!(f, "{:>21}", cell.unwrap_or_else(|| "-".to_owned()))?;
            }
            writeln!(f)?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, transfer_seconds, mtu, cipher, .. } = self;
        writeln!(
            f,
            "Median (min–max) of {rounds} rounds of {transfer_seconds} s; {cipher}, MTU {mtu}; \
             up is client to server, × is TCP streams.\n"
        )?;
        self.table(f, "Gbit/s", |row, column| {
            Some(self.figure(row, column)?.gbit_per_second.to_string())
        })?;
        self.table(f, "Multiple of openvpn to openvpn", |row, column| {
            let yardstick = self.rate(row.yardstick(), column)?;
            Some(format!("{:.1}", self.rate(row, column)? / yardstick))
        })?;
        self.table(f, "Share of the limit", |row, column| {
            let share = self.rate(row, column)? / self.rate(Row::Limit, column)?;
            Some(format!("{:.0} %", share * 100.0))
        })?;
        self.table(f, "Server's CPU seconds per gigabyte", |row, column| {
            let cost = self.figure(row, column)?.server_cpu_seconds_per_gigabyte.as_ref()?;
            Some(cost.to_string())
        })?;
        if !self.ping.is_empty() {
            writeln!(f, "Ping, ms")?;
            for Latency { row, median_ms } in &self.ping {
                writeln!(f, "{:<24}{median_ms:>21.3}", row.title())?;
            }
            writeln!(f)?;
        }
        if let Some(Idle {
            sessions, rss_before_kib, rss_after_kib, seconds, cpu_seconds, ..
        }) = &self.idle
        {
            writeln!(
                f,
                "{sessions} idle sessions: memory {rss_before_kib} to {rss_after_kib} KiB, \
                 {cpu_seconds:.2} CPU seconds in {seconds:.0} s\n"
            )?;
        }
        if let Some(Handshakes { warren, openvpn }) = &self.handshakes {
            writeln!(f, "New sessions")?;
            for (name, rate) in [("Warren", warren), ("openvpn", openvpn)] {
                writeln!(
                    f,
                    "{name:<24}{:>21.0} per CPU second, {:.0} per second, {} failed",
                    rate.per_cpu_second, rate.per_second, rate.failed
                )?;
            }
            writeln!(f)?;
        }
        writeln!(f, "Targets")?;
        self.targets.iter().try_for_each(|target| writeln!(f, "{target}"))?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "not measured: {failure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]).unwrap().to_string(), "2.00 (1.00–3.00)");
        assert_eq!(format!("{:>9.0}", Spread::of(&[3.0]).unwrap()), "  3 (3–3)");
        assert_eq!(Spread::of(&[4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of(&[]), None);
    }
}
