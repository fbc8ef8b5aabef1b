//! Directives about the host: the profile's own, and what it lets the server push.

use super::{Draft, Line, ProfileError};
use crate::pull::{FilterAction, HostOptions, Outcome};

/// Directives of one profile that are kept, and filters of each: nobody writes so many.
const MAX_OPTIONS: usize = 1024;

/// `route-nopull`, `route-noexec` and `pull-filter`.
pub(super) fn rule(draft: &mut Draft, line: &Line) -> Result<(), ProfileError> {
    match line.name.as_str() {
        "route-nopull" => draft.pull.refuses_routes = true,
        "route-noexec" => draft.pull.leaves_routes_alone = true,
        _ => {
            let action = match line.word(0) {
                Some("accept") => FilterAction::Accept,
                Some("ignore") => FilterAction::Ignore,
                Some("reject") => FilterAction::Reject,
                _ => return Err(line.error("needs accept, ignore or reject, and a text")),
            };
            let text = line.word(1).ok_or_else(|| {
                line.error("needs the text that pushed options begin with; \"\" is all of them")
            })?;
            if draft.pull.filters.len() >= MAX_OPTIONS {
                return Err(line.error("more than 1024 of them"));
            }
            draft.pull.filters.push((action, text.to_owned()));
        }
    }
    Ok(())
}

/// Options that a server could push as well.
pub(super) fn option(draft: &mut Draft, line: &Line) -> Result<(), ProfileError> {
    let words = std::iter::once(&line.name).chain(&line.words);
    let words = words.map(String::as_str).collect::<Vec<_>>();
    match HostOptions::default().option(&words) {
        Outcome::Done => {}
        Outcome::Noted(why) => {
            draft.notes.push(format!("line {}: {}: {why}", line.number, line.name));
        }
        Outcome::Bad(why) => return Err(line.error(why)),
        Outcome::Unknown => return Err(line.error("needs other words than these")),
    }
    if draft.pull.own.len() >= MAX_OPTIONS {
        return Err(line.error("more than 1024 directives like this"));
    }
    draft.pull.own.push(words.into_iter().map(str::to_owned).collect());
    Ok(())
}
