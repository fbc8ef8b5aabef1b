//! OpenVPN's management protocol beside a client: what the command line says of it, and a client
//! that a user interface runs.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use contract::Secret;
use openvpn::{AuthRetry, Management, ManagementPlace, Profile};
use openvpn_management::{Attendant, ClientEntrance, ClientManagement, LogTap};
use shell::Orders;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{Start, connect};
use crate::failure::Usage;

/// The largest password file that is read, in bytes.
const MAX_PASSWORD_FILE: u64 = 4096;

/// For graphical user interfaces: as OpenVPN's options of the same names, here or in the profile.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "OpenVPN's management protocol, for user interfaces")]
pub(crate) struct ConsoleArgs {
    /// Where it is spoken: SOCKET unix, or HOST PORT; then perhaps FILE, whose first line is asked of
    /// whoever connects
    #[arg(long, num_args = 2..=3, value_name = "PLACE")]
    management: Option<Vec<String>>,
    /// Call there instead of listening
    #[arg(long)]
    management_client: bool,
    /// Wait there for "hold release" before each connection
    #[arg(long)]
    management_hold: bool,
    /// Ask there for users, passwords and passphrases
    #[arg(long)]
    management_query_passwords: bool,
    /// Ask there before each connection which server it shall be
    #[arg(long)]
    management_query_remote: bool,
    /// Ask there before each connection for a proxy
    #[arg(long)]
    management_query_proxy: bool,
    /// Connect anew when whoever is there leaves
    #[arg(long)]
    management_signal: bool,
    /// Forget passwords when whoever is there leaves
    #[arg(long)]
    management_forget_disconnect: bool,
    /// Tell there what the tunnel's device has, when it comes up and goes down
    #[arg(long)]
    management_up_down: bool,
    /// How many lines of the log to keep for those who come later
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    management_log_cache: Option<u16>,
    /// The unix socket is this user's, besides root's
    #[arg(long, value_name = "USER")]
    management_client_user: Option<String>,
    /// The unix socket is also this group's
    #[arg(long, value_name = "GROUP")]
    management_client_group: Option<String>,
    /// What follows a login that is refused: none, interact or nointeract
    #[arg(long, value_name = "MODE", value_parser = auth_retry)]
    auth_retry: Option<AuthRetry>,
}

fn auth_retry(word: &str) -> Result<AuthRetry, String> {
    match word {
        "none" => Ok(AuthRetry::None),
        "interact" => Ok(AuthRetry::Ask),
        "nointeract" => Ok(AuthRetry::Same),
        _ => Err("it is none, interact or nointeract".to_owned()),
    }
}

impl ConsoleArgs {
    /// Adds what the command line says to what the profile does.
    pub(super) fn apply(&self, profile: &mut Profile) -> anyhow::Result<()> {
        let management = &mut profile.management;
        if let Some(words) = &self.management {
            let words = words.iter().map(String::as_str).collect::<Vec<_>>();
            let (Some(host), Some(port)) = (words.first(), words.get(1)) else {
                return Err(Usage("--management needs two or three words".to_owned()).into());
            };
            let place = ManagementPlace::parse(host, port)
                .map_err(|why| Usage(format!("--management: {why}")))?;
            management.place = Some(place);
            management.password = words.get(2).map(|file| read_password(file)).transpose()?;
        }
        management.calls |= self.management_client;
        management.holds |= self.management_hold;
        management.asks_passwords |= self.management_query_passwords;
        management.asks_remote |= self.management_query_remote;
        management.asks_proxy |= self.management_query_proxy;
        management.restarts_alone |= self.management_signal;
        management.forgets_alone |= self.management_forget_disconnect;
        management.tells_up_down |= self.management_up_down;
        if let Some(lines) = self.management_log_cache {
            management.log_lines = Some(lines.into());
        }
        if let Some(user) = &self.management_client_user {
            management.user = Some(user.clone());
        }
        if let Some(group) = &self.management_client_group {
            management.group = Some(group.clone());
        }
        if let Some(danger) = management.danger() {
            return Err(Usage(format!("--management: {danger}")).into());
        }
        if let Some(retry) = self.auth_retry {
            profile.auth_retry = retry;
        }
        Ok(())
    }
}

fn read_password(file: &str) -> anyhow::Result<Secret> {
    let mut text = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(MAX_PASSWORD_FILE).read_to_end(&mut text))
        .map_err(|error| Usage(format!("--management: {file}: {error}")))?;
    let password = Management::password_in(&Secret::new(text));
    let empty = || Usage(format!("--management: {file}: its first line, the password, is empty"));
    Ok(password.ok_or_else(empty)?)
}

/// The log that a user interface sees, if the profile names a place for one.
pub(super) fn tap(profile: &Profile) -> Option<LogTap> {
    let management = &profile.management;
    management.place.as_ref()?;
    Some(management.log_lines.map_or_else(LogTap::new, LogTap::remembering))
}

/// A client that a user interface runs, until `stopped`.
pub(super) async fn run(
    start: Start,
    entrance: ClientEntrance,
    tap: LogTap,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let desk = Arc::clone(&start.desk);
    let (management, attendant, restarts) =
        ClientManagement::open(entrance, &start.profile, tap, desk)?;
    let (finish, finished) = oneshot::channel::<()>();
    let serving = tokio::spawn(management.serve(async {
        let _ = finished.await;
    }));
    let result = attended(start, &attendant, stopped, restarts).await;
    match &result {
        Ok(()) => attendant.exiting("SIGTERM"),
        Err(error) => attendant.failed(&crate::failure::in_one_line(error)),
    }
    drop(finish);
    let _ = serving.await;
    result
}

async fn attended(
    mut start: Start,
    attendant: &Arc<Attendant>,
    mut stopped: oneshot::Receiver<()>,
    restarts: mpsc::UnboundedReceiver<&'static str>,
) -> anyhow::Result<()> {
    tokio::select! {
        () = attendant.start() => {}
        _ = &mut stopped => return Ok(()),
    }
    while start.profile.is_locked() {
        let passphrase = tokio::select! {
            passphrase = attendant.passphrase() => passphrase,
            _ = &mut stopped => return Ok(()),
        };
        let passphrase = passphrase.context("the private key has a passphrase")?;
        if let Err(error) = start.profile.unlock(&passphrase) {
            warn!("{error}");
            if !attendant.is_wrong_passphrase() {
                return Err(anyhow::Error::from(error)).context(file_of(&start.file));
            }
            tokio::select! {
                () = attendant.start() => {}
                _ = &mut stopped => return Ok(()),
            }
        }
    }
    connect(start, Some(attendant), Orders::new(stopped, restarts)).await
}

fn file_of(file: &Path) -> String {
    file.display().to_string()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        file: String,
        #[command(flatten)]
        console: ConsoleArgs,
    }

    fn profile() -> Profile {
        let text = "client\ndev tun\nremote a\nauth-user-pass\n<ca>\nx\n</ca>\nmanagement-hold\n";
        Profile::parse(text, &mut |_| Err("no file".to_owned())).expect("a profile")
    }

    fn apply(words: &[&str]) -> anyhow::Result<Profile> {
        let words = [&["connect", "a.ovpn"], words].concat();
        let line = Line::try_parse_from(words)?;
        assert_eq!(line.file, "a.ovpn");
        let mut profile = profile();
        line.console.apply(&mut profile)?;
        Ok(profile)
    }

    #[test]
    fn the_command_line_adds_to_what_the_profile_says() {
        let words = ["--management", "/run/console", "unix", "--management-query-passwords"];
        let profile = apply(&[&words[..], &["--auth-retry", "interact"]].concat()).expect("good");

        let management = &profile.management;
        assert_eq!(management.place, Some(ManagementPlace::Unix("/run/console".into())));
        assert!(management.holds && management.asks_passwords && !management.calls);
        assert_eq!(profile.auth_retry, AuthRetry::Ask);
        assert!(tap(&profile).is_some());
    }

    #[test]
    fn what_cannot_be_meant_is_one_line() {
        for words in [
            &["--management", "nowhere", "1"][..],
            &["--management", "127.0.0.1", "1", "/no/such/file"],
            &["--management", "127.0.0.1"],
            &["--management", "0.0.0.0", "7505"],
            &["--auth-retry", "sometimes"],
            &["--management-log-cache", "0"],
        ] {
            assert!(apply(words).is_err(), "{words:?}");
        }
        let nowhere = apply(&["--management-signal"]).map(|mut profile| {
            ClientEntrance::open(&mut profile).expect_err("no place").to_string()
        });
        assert!(nowhere.expect("good").contains("no \"management\" that says where"));
    }
}
