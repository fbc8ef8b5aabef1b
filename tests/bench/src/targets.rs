//! What the project set out to reach.

use std::fmt;

use serde::Serialize;

use crate::report::Report;
use crate::throughput::{Column, Direction, STREAMS};
use crate::tunnel::Row;

/// One goal and how near the run came to it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    name: String,
    wanted: &'static str,
    measured: String,
    reached: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, wanted, measured, reached } = self;
        let verdict = if *reached { "reached" } else { "MISSED" };
        write!(f, "{verdict:<9}{name}: {measured} (wanted: {wanted})")
    }
}

/// A goal that is a ratio in every column.
struct Ratio {
    name: &'static str,
    wanted: &'static str,
    of: fn(&Report, Column) -> Option<f64>,
    show: fn(f64) -> String,
    good: fn(f64) -> bool,
}

const RATIOS: [Ratio; 5] = [
    Ratio {
        name: "Warren to Warren against openvpn to openvpn",
        wanted: "at least 10 times",
        of: |report, column| {
            let openvpn = report.rate(Row::OpenvpnOpenvpn, column)?;
            Some(report.rate(Row::WarrenWarren, column)? / openvpn)
        },
        show: |ratio| format!("{ratio:.1} times"),
        good: |ratio| ratio >= 10.0,
    },
    Ratio {
        name: "Warren to Warren against openvpn to openvpn, both over TCP",
        wanted: "at least 3 times",
        of: |report, column| {
            let openvpn = report.rate(Row::OpenvpnOpenvpnTcp, column)?;
            Some(report.rate(Row::WarrenWarrenTcp, column)? / openvpn)
        },
        show: |ratio| format!("{ratio:.1} times"),
        good: |ratio| ratio >= 3.0,
    },
    Ratio {
        name: "Warren to Warren against openvpn to openvpn, tap",
        wanted: "at least 5 times",
        of: |report, column| {
            let openvpn = report.rate(Row::OpenvpnOpenvpnTap, column)?;
            Some(report.rate(Row::WarrenWarrenTap, column)? / openvpn)
        },
        show: |ratio| format!("{ratio:.1} times"),
        good: |ratio| ratio >= 5.0,
    },
    Ratio {
        name: "Warren to Warren against the limit",
        wanted: "at least 60 %",
        of: |report, column| {
            let limit = report.rate(Row::Limit, column)?;
            Some(report.rate(Row::WarrenWarren, column)? / limit)
        },
        show: |ratio| format!("{:.0} %", ratio * 100.0),
        good: |ratio| ratio >= 0.6,
    },
    Ratio {
        name: "CPU per gigabyte for openvpn clients, Warren against openvpn",
        wanted: "at most a third",
        of: |report, column| {
            let openvpn = report.cost(Row::OpenvpnOpenvpn, column)?;
            Some(report.cost(Row::OpenvpnWarren, column)? / openvpn)
        },
        show: |ratio| format!("{ratio:.2}"),
        good: |ratio| ratio <= 1.0 / 3.0,
    },
];

/// Every goal that the report has figures for.
pub(crate) fn of(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for ratio in &RATIOS {
        targets
            .extend(Direction::ALL.iter().filter_map(|direction| ratio.judge(report, *direction)));
    }
    if let Some(idle) = &report.idle {
        targets.push(Target {
            name: "memory of an idle session".to_owned(),
            wanted: "at most 32 KiB",
            measured: format!("{:.1} KiB", idle.kib_per_session),
            reached: idle.kib_per_session <= 32.0,
        });
        targets.push(Target {
            name: format!("{} idle sessions", idle.sessions),
            wanted: "under 1 % of a core",
            measured: format!("{:.2} %", idle.percent_of_a_core),
            reached: idle.percent_of_a_core < 1.0,
        });
    }
    if let Some(handshakes) = &report.handshakes {
        let (ours, theirs) = (&handshakes.warren, &handshakes.openvpn);
        let (ours, theirs) = (ours.per_cpu_second.median, theirs.per_cpu_second.median);
        targets.push(Target {
            name: "new sessions per CPU second".to_owned(),
            wanted: "more than openvpn",
            measured: format!("{ours:.0} against {theirs:.0}, {:.1} times", ours / theirs),
            reached: ours > theirs,
        });
    }
    if let (Some(ours), Some(theirs)) =
        (report.round_trip(Row::WarrenWarren), report.round_trip(Row::OpenvpnOpenvpn))
    {
        targets.push(Target {
            name: "ping, Warren to Warren against openvpn to openvpn".to_owned(),
            wanted: "at most 0.1 ms more",
            measured: format!("{ours:.3} against {theirs:.3} ms, {:+.3} ms", ours - theirs),
            reached: ours - theirs <= 0.1,
        });
    }
    targets
}

impl Ratio {
    fn judge(&self, report: &Report, direction: Direction) -> Option<Target> {
        let ratios: Vec<_> = STREAMS
            .into_iter()
            .filter_map(|streams| Some((streams, (self.of)(report, (direction, streams))?)))
            .collect();
        let words = ratios.iter().map(|(streams, ratio)| {
            let plural = if *streams == 1 { "" } else { "s" };
            format!("{} with {streams} stream{plural}", (self.show)(*ratio))
        });
        (!ratios.is_empty()).then(|| Target {
            name: format!("{}, {}", self.name, direction.name()),
            wanted: self.wanted,
            measured: words.collect::<Vec<_>>().join(", "),
            reached: ratios.iter().all(|(_, ratio)| (self.good)(*ratio)),
        })
    }
}
