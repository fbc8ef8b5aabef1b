//! The forms that answers have.

use std::collections::VecDeque;

use openvpn::management::Show;

pub(crate) fn success(text: &str) -> String {
    format!("SUCCESS: {text}\n")
}

pub(crate) fn error(text: &dyn std::fmt::Display) -> String {
    format!("ERROR: {text}\n")
}

/// A command that the other role has.
pub(crate) fn unsupported(command: &str) -> String {
    error(&format!("The '{command}' command is not supported by the current daemon mode"))
}

pub(crate) fn toggled(what: &str, is_on: bool) -> String {
    let state = if is_on { "ON" } else { "OFF" };
    success(&format!("real-time {what} notification set to {state}"))
}

/// What has been switched, and the past up to `END`.
pub(crate) fn answer(live: Option<String>, past: Option<Vec<String>>, past_first: bool) -> String {
    let live = live.unwrap_or_default();
    let mut list = String::new();
    if let Some(lines) = past {
        for line in lines {
            list.push_str(&line);
            list.push('\n');
        }
        list.push_str("END\n");
    }
    if past_first { list + &live } else { live + &list }
}

/// The last of what is remembered.
pub(crate) fn last<T: Clone>(past: &VecDeque<T>, show: Show) -> Vec<T> {
    let count = match show {
        Show::All => past.len(),
        Show::Last(count) => count.min(past.len()),
    };
    past.iter().skip(past.len() - count).cloned().collect()
}
