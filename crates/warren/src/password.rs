//! Where passwords come from: stdin, or a person at a terminal; never the command line.

use std::io::{self, BufRead, IsTerminal};

use anyhow::Context;
use mgmt::types::Password;

use crate::cli::PasswordSource;
use crate::failure::Usage;

/// More than any protocol here carries.
const MAX_LINE: u64 = 1024;

/// The new password of `user`, or none if a random one shall be made.
pub(crate) fn new(user: &str, source: PasswordSource) -> anyhow::Result<Option<Password>> {
    if source.password_stdin {
        return first_line(io::stdin().lock()).map(Some);
    }
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    let first = prompt(&format!("Password for {user} (nothing: a random one): "))?;
    if first.expose().is_empty() {
        return Ok(None);
    }
    let second = prompt("The same again: ")?;
    if first != second {
        return Err(Usage("the two passwords differ; nothing was changed".to_owned()).into());
    }
    Ok(Some(first))
}

/// Asks the person at the terminal.
pub(crate) fn prompt(question: &str) -> anyhow::Result<Password> {
    rpassword::prompt_password(question)
        .map(Password::new)
        .context("cannot read a password from the terminal; use --password-stdin")
}

/// The first line of what `--password-stdin` reads.
pub(crate) fn first_line(input: impl BufRead) -> anyhow::Result<Password> {
    let mut line = String::new();
    input.take(MAX_LINE + 1).read_line(&mut line).context("cannot read the password from stdin")?;
    while line.ends_with(['\n', '\r']) {
        line.pop();
    }
    let password = Password::new(line);
    if password.expose().is_empty() {
        return Err(
            Usage("--password-stdin: stdin has no password on its first line".into()).into()
        );
    }
    if password.expose().len() as u64 > MAX_LINE {
        return Err(Usage(format!("--password-stdin: longer than {MAX_LINE} bytes")).into());
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line_without_its_ending() {
        let read = |bytes: &[u8]| first_line(bytes).map(|p| p.expose().to_owned());

        assert_eq!(read(b"s3cret\n").expect("a line"), "s3cret");
        assert_eq!(read(b"s3cret\r\nmore\n").expect("a line"), "s3cret");
        assert_eq!(read(b" with spaces ").expect("a line"), " with spaces ");
        assert!(read(b"").is_err());
        assert!(read(b"\nsecond\n").is_err());
        assert!(read(&[b'x'; 2000]).is_err());
        assert!(read(b"\xff\xfe\n").is_err());
    }
}
