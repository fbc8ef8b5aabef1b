//! The profile's grammar: one directive per line, quotes, comments, inline blocks.

use super::ProfileError;

/// The longest profile that is read, in bytes: a bundle of certificates is a few tens of KiB.
const MAX_PROFILE: usize = 1 << 20;
/// More words on one line have no meaning anywhere.
const MAX_WORDS: usize = 64;

/// One directive.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) name: String,
    pub(crate) words: Vec<String>,
    /// The content of `<name>` … `</name>`.
    pub(crate) block: Option<String>,
}

impl Line {
    pub(crate) fn error(&self, problem: impl std::fmt::Display) -> ProfileError {
        ProfileError { line: self.number, problem: format!("{}: {problem}", self.name) }
    }

    pub(crate) fn word(&self, at: usize) -> Option<&str> {
        self.words.get(at).map(String::as_str)
    }
}

/// Splits a profile into directives; `<connection>` and `</connection>` are lines of their own
/// around those inside.
pub(crate) fn split(text: &str) -> Result<Vec<Line>, ProfileError> {
    if text.len() > MAX_PROFILE {
        return Err(ProfileError::whole("the profile is larger than 1 MiB"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Vec::new();
    let mut source = text.lines().enumerate();
    while let Some((index, raw)) = source.next() {
        let number = index + 1;
        let trimmed = raw.trim();
        if let Some(tag) = trimmed.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
            if matches!(tag, "connection" | "/connection") {
                lines.push(Line {
                    number,
                    name: format!("<{tag}>"),
                    words: Vec::new(),
                    block: None,
                });
                continue;
            }
            if tag.starts_with('/') || tag.is_empty() {
                return Err(ProfileError {
                    line: number,
                    problem: format!("<{tag}> without a beginning"),
                });
            }
            let end = format!("</{tag}>");
            let mut block = String::new();
            loop {
                match source.next() {
                    Some((_, line)) if line.trim() == end => break,
                    Some((_, line)) => {
                        block.push_str(line);
                        block.push('\n');
                    }
                    None => {
                        return Err(ProfileError {
                            line: number,
                            problem: format!("<{tag}> has no {end}: the profile is cut off"),
                        });
                    }
                }
            }
            lines.push(Line {
                number,
                name: tag.to_owned(),
                words: Vec::new(),
                block: Some(block),
            });
            continue;
        }
        let mut words = words(trimmed).map_err(|problem| ProfileError { line: number, problem })?;
        if words.is_empty() {
            continue;
        }
        let name = words.remove(0);
        let name = name.strip_prefix("--").unwrap_or(&name).to_owned();
        lines.push(Line { number, name, words, block: None });
    }
    Ok(lines)
}

/// Splits one line the way OpenVPN does: blanks, both kinds of quotes, backslashes, comments.
pub(crate) fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.peek().is_some_and(|c| c.is_whitespace()) {
            chars.next();
        }
        let Some(&first) = chars.peek() else { return Ok(words) };
        if first == '#' || first == ';' {
            return Ok(words);
        }
        if words.len() == MAX_WORDS {
            return Err("too many words on one line".to_owned());
        }
        let mut word = String::new();
        let mut quote = None;
        loop {
            let Some(c) = chars.next() else {
                if quote.is_some() {
                    return Err("a quote is opened and never closed".to_owned());
                }
                break;
            };
            match (quote, c) {
                (None, '"' | '\'') => quote = Some(c),
                (Some(open), _) if c == open => quote = None,
                (Some('\''), _) => word.push(c),
                (_, '\\') => word.extend(chars.next()),
                (None, _) if c.is_whitespace() => break,
                _ => word.push(c),
            }
        }
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_follow_the_rules_of_openvpn() {
        assert_eq!(words(r#"a "b c" 'd "e' f\ g # h"#).unwrap(), ["a", "b c", "d \"e", "f g"]);
        assert_eq!(words("; remark").unwrap(), [""; 0]);
        assert!(words("a \"b").is_err());
    }

    #[test]
    fn blocks_keep_their_text_and_their_line() {
        let lines = split("\u{feff}--client\r\n<ca>\nA\nB\n</ca>\ndev tun\n").unwrap();

        assert_eq!(lines[0].name, "client");
        assert_eq!((lines[1].number, lines[1].block.as_deref()), (2, Some("A\nB\n")));
        assert_eq!((lines[2].number, lines[2].word(0)), (6, Some("tun")));
    }

    #[test]
    fn a_block_that_never_ends_is_named() {
        let error = split("client\n<key>\nabc\n").unwrap_err();
        assert_eq!(error.to_string(), "2: <key> has no </key>: the profile is cut off");
    }
}
