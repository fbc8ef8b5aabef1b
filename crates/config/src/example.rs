use std::fmt::Write as _;

use crate::file::SECTIONS;
use crate::table::Section;

const WIDTH: usize = 90;

const HEAD: &str = "\
Warren's configuration, as it is when there is no file: every key with its default. \
Keep what you change and delete the rest. `warren check --config FILE` checks it; a running \
server takes a changed file on `warren reload`.";

/// The example file, written from the declarations.
pub(crate) fn example() -> String {
    let mut text = String::new();
    comment(&mut text, HEAD);
    for section in SECTIONS {
        table(&mut text, section);
    }
    text
}

fn table(text: &mut String, section: &Section) {
    text.push('\n');
    comment(text, section.about);
    let _ = writeln!(text, "[{}]", section.path);
    for key in section.keys {
        text.push('\n');
        comment(text, key.reason);
        let unit = if key.unit.is_empty() { "" } else { ", in " };
        comment(text, &format!("Takes {}{unit}{}.", (key.wants)(), key.unit));
        comment(text, &format!("Default: {}", key.default));
        let _ = writeln!(text, "{} = {}", key.name, key.default);
    }
}

/// Breaks at spaces.
fn comment(text: &mut String, sentence: &str) {
    let mut line = String::from("#");
    for word in sentence.split(' ') {
        if line.len() + 1 + word.len() > WIDTH && line.len() > 1 {
            text.push_str(&line);
            text.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
