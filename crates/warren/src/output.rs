//! Results for people and for programs.

use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// As JSON, for programs.
    pub(crate) json: bool,
}

impl Output {
    /// Prints `value` as JSON, or what `human` makes of it.
    pub(crate) fn show<T: Serialize + ?Sized>(
        self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = if self.json {
            serde_json::to_string_pretty(value).context("cannot print the result as JSON")?
        } else {
            human(value)
        };
        print(&text)
    }
}

/// Prints to stdout, and ends the last line.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let mut result = stdout.write_all(text.as_bytes());
    if result.is_ok() && !text.is_empty() && !text.ends_with('\n') {
        result = stdout.write_all(b"\n");
    }
    match result.and_then(|()| stdout.flush()) {
        // Whoever reads has read enough: `warren sessions | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}

/// Says something that is not a result.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(io::stderr().lock(), "warren: {text}");
}

/// Columns with a heading, as wide as their widest cell.
#[derive(Debug)]
pub(crate) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// An empty table with these headings.
    pub(crate) fn new(headings: [&str; COLUMNS]) -> Self {
        Self { rows: vec![headings.map(str::to_owned)] }
    }

    /// Adds a row. What peers said about themselves cannot reach the terminal's control codes.
    pub(crate) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells.map(|cell| match cell.is_empty() {
            true => "-".to_owned(),
            false => printable(&cell),
        }));
    }

    /// The text, one line a row.
    pub(crate) fn render(&self) -> String {
        let mut widths = [0; COLUMNS];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }

        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The text without what a terminal would act on.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A count of bytes as people read it.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A span of seconds as people read it.
pub(crate) fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let mut table = Table::new(["ID", "USER", "DOOR"]);
        table.row(["1".into(), "annabelle".into(), "openvpn".into()]);
        table.row(["1234".into(), "bo".into(), String::new()]);

        assert_eq!(
            table.render(),
            "ID    USER       DOOR\n1     annabelle  openvpn\n1234  bo         -\n"
        );
    }

    #[test]
    fn what_a_peer_says_cannot_move_the_cursor() {
        let mut table = Table::new(["SOFTWARE"]);
        table.row(["\x1b[2J\u{9b}evil\nrow".into()]);

        assert_eq!(table.render(), "SOFTWARE\n?[2J?evil?row\n");
    }

    #[test]
    fn sizes_and_spans_are_short() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(span(59), "59 s");
        assert_eq!(span(61), "1 min 1 s");
        assert_eq!(span(7260), "2 h 1 min");
        assert_eq!(span(90_000), "1 d 1 h");
    }
}
