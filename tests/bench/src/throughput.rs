//! How much a tunnel carries, what that costs its server, and how long a packet takes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::{Iperf, Namespace, PATIENCE, eventually};
use serde::Serialize;

use crate::Plan;
use crate::arena::Arena;
use crate::machine::cpu_seconds;
use crate::report::Spread;
use crate::tunnel::Row;

/// Who sends.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

impl Direction {
    pub(crate) const ALL: [Self; 2] = [Self::Up, Self::Down];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// How many TCP connections at the same time.
pub(crate) const STREAMS: [u32; 2] = [1, 4];

/// A column of the table.
pub(crate) type Column = (Direction, u32);

/// The columns in the order of the table.
pub(crate) fn columns() -> impl Iterator<Item = Column> {
    Direction::ALL.into_iter().flat_map(|direction| STREAMS.map(|streams| (direction, streams)))
}

/// What was measured of one row in one column.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) row: Row,
    pub(crate) direction: Direction,
    pub(crate) streams: u32,
    pub(crate) gbit_per_second: Spread,
    /// Of the server's process; none if the row has none.
    pub(crate) server_cpu_seconds_per_gigabyte: Option<Spread>,
}

/// Round trips through one row, in milliseconds; each sample is the median of one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) row: Row,
    pub(crate) median_ms: Spread,
}

/// Everything measured so far.
#[derive(Debug, Default)]
pub(crate) struct Throughput {
    samples: BTreeMap<(usize, Column), Samples>,
    pings: BTreeMap<usize, Vec<f64>>,
}

#[derive(Debug, Default)]
struct Samples {
    rate: Vec<f64>,
    cost: Vec<f64>,
}

impl Throughput {
    /// One round of one row.
    ///
    /// # Errors
    /// If the tunnel does not come up, or a measurement fails.
    pub(crate) fn measure(&mut self, row: Row, arena: &Arena, plan: &Plan) -> Result<()> {
        let tunnel = row.open(arena)?;
        eventually(PATIENCE, || round_trips(&arena.client, tunnel.target, 1))?;

        let trips = round_trips(&arena.client, tunnel.target, plan.pings())?;
        self.pings.entry(row as usize).or_default().push(median(trips)?);
        for (direction, streams) in columns() {
            let iperf = Iperf {
                streams,
                reverse: direction == Direction::Down,
                ..Iperf::tcp(tunnel.target, plan.transfer_seconds())
            };
            let before = tunnel.server_pid().map(cpu_seconds).transpose()?;
            let report = iperf.run(&arena.server, &arena.client)?;
            let after = tunnel.server_pid().map(cpu_seconds).transpose()?;

            let samples = self.samples.entry((row as usize, (direction, streams))).or_default();
            samples.rate.push(report.bps / 1e9);
            let bytes = &report.json["end"]["sum_received"]["bytes"];
            let bytes = bytes.as_f64().filter(|bytes| *bytes > 0.0).context("nothing arrived")?;
            if let (Some(before), Some(after)) = (before, after) {
                samples.cost.push((after - before) / (bytes / 1e9));
            }
        }
        tunnel.close()
    }

    pub(crate) fn figures(&self) -> Vec<Figure> {
        let figure = |(&(row, (direction, streams)), samples): (&(usize, Column), &Samples)| {
            Some(Figure {
                row: Row::ALL[row],
                direction,
                streams,
                gbit_per_second: Spread::of(&samples.rate)?,
                server_cpu_seconds_per_gigabyte: Spread::of(&samples.cost),
            })
        };
        self.samples.iter().filter_map(figure).collect()
    }

    pub(crate) fn pings(&self) -> Vec<Latency> {
        let latency = |(row, medians): (&usize, &Vec<f64>)| {
            Some(Latency { row: Row::ALL[*row], median_ms: Spread::of(medians)? })
        };
        self.pings.iter().filter_map(latency).collect()
    }
}

/// Round trips in milliseconds, 10 ms apart.
fn round_trips(from: &Namespace, to: IpAddr, count: u32) -> Result<Vec<f64>> {
    let mut ping = Command::new("ping");
    ping.args(["-n", "-i", "0.01", "-W", "1", "-c", &count.to_string(), &to.to_string()]);
    let output = from.output(ping, Duration::from_secs(u64::from(count) / 50 + 20))?;
    let trips = times(&output.stdout);
    ensure!(!trips.is_empty(), "ping {to}: {output}");
    Ok(trips)
}

fn times(text: &str) -> Vec<f64> {
    let time = |line: &str| line.split_once("time=")?.1.split(' ').next()?.parse().ok();
    text.lines().filter_map(time).collect()
}

fn median(trips: Vec<f64>) -> Result<f64> {
    Ok(Spread::of(&trips).context("no round trips")?.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_read_from_the_lines_of_ping() {
        let text = "PING 10.8.0.1 56(84) bytes of data.\n\
                    64 bytes from 10.8.0.1: icmp_seq=1 ttl=64 time=0.213 ms\n\
                    64 bytes from 10.8.0.1: icmp_seq=2 ttl=64 time=1.5 ms\n\n\
                    2 packets transmitted, 2 received, 0% packet loss, time 10ms\n";

        assert_eq!(times(text), [0.213, 1.5]);
    }
}
