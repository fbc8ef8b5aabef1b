//! Where a running client gets its answers: the file or the terminal that it was started with.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Seek as _};
use std::sync::{Mutex, PoisonError};

use contract::Secret;
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

use super::{Login, LoginSource, ask_line, two_lines};
use crate::password;

/// Answers for one client.
#[derive(Debug)]
pub(crate) struct Desk {
    source: LoginSource,
    /// The file of the source, open: it may be out of reach once rights have been given up.
    file: Option<Mutex<File>>,
    /// One question at a time.
    asking: Mutex<()>,
}

/// The terminal as it was found. A client that is told to stop while a password is being typed
/// must not leave it without an echo; whoever waits for the password may wait for ever, so this
/// belongs to the client's main thread.
#[derive(Debug)]
pub(super) struct Restore(Option<Termios>);

impl Restore {
    pub(super) fn terminal() -> Self {
        let is_terminal = io::stdin().is_terminal();
        Self(is_terminal.then(|| tcgetattr(io::stdin()).ok()).flatten())
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, settings);
        }
    }
}

impl Desk {
    pub(super) fn new(source: LoginSource) -> Self {
        let file = match &source {
            LoginSource::File(path) => File::open(path).ok().map(Mutex::new),
            LoginSource::Stdin(_) | LoginSource::Terminal(_) => None,
        };
        Self { source, file, asking: Mutex::default() }
    }

    /// What the file says now.
    fn read_again(file: &Mutex<File>) -> anyhow::Result<Login> {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.rewind()?;
        two_lines(BufReader::new(&mut *file))
    }

    /// User and password before anything is connected.
    pub(super) fn first_login(&self, user: Option<&str>) -> anyhow::Result<Login> {
        match user {
            Some(user) => self.source.clone().or_user(user).login(),
            None => self.source.login(),
        }
    }
}

impl shell::Desk for Desk {
    fn login(&self, user: Option<&str>) -> Result<(String, Secret), String> {
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(self.source, LoginSource::Stdin(_)) {
            return Err("the password is wanted again, and --password-stdin gives it once; give \
                        --auth-user-pass FILE"
                .to_owned());
        }
        let login = match &self.file {
            Some(file) => Self::read_again(file),
            None => self.first_login(user),
        };
        let login = login.map_err(|error| format!("{error:#}"))?;
        Ok((login.user, login.password.to_secret()))
    }

    fn answer(&self, question: &str, echo: bool) -> Result<Secret, String> {
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_attended() {
            return Err(format!(
                "a login needs an answer to {question:?}, and there is no terminal to ask at; \
                 run this in one"
            ));
        }
        let question = format!("{question}: ");
        if echo {
            let line = ask_line(&question);
            return line.map(Secret::new).map_err(|error| format!("the terminal: {error}"));
        }
        let typed = password::prompt(&question).map_err(|error| format!("{error:#}"))?;
        Ok(typed.to_secret())
    }

    fn is_attended(&self) -> bool {
        io::stdin().is_terminal()
    }

    fn asks_for_login(&self) -> bool {
        !matches!(self.source, LoginSource::File(_))
    }
}

#[cfg(test)]
mod tests {
    use shell::Desk as _;

    use super::*;

    #[test]
    fn a_login_in_a_file_is_nobodys_to_change_at_the_terminal() {
        let desk = |source| Desk::new(source);
        assert!(!desk(LoginSource::File("/nowhere/login".into())).asks_for_login());
        assert!(desk(LoginSource::Terminal(None)).asks_for_login());
    }

    #[test]
    fn a_login_is_read_again_when_its_file_has_changed() {
        let file = std::env::temp_dir().join(format!("warren-login-{}", std::process::id()));
        std::fs::write(&file, "ann\none\n").expect("a file");
        let desk = Desk::new(LoginSource::File(file.clone()));
        let password = || desk.login(Some("ann")).expect("it has two lines").1.expose().to_vec();

        assert_eq!(password(), b"one");
        std::fs::write(&file, "ann\ntwo\n").expect("a file");
        assert_eq!(password(), b"two");
        std::fs::remove_file(&file).expect("it was made above");
    }
}
