//! `warren user ...`

use mgmt::types::{Ended, NewAddresses, NewPassword, NewUser, Password, User};

use crate::admin::Admin;
use crate::cli::{ConfigFile, Global, UserCommand};
use crate::output::{Output, Table};
use crate::password;

/// Runs one of the `user` commands.
pub(crate) async fn run(
    global: &Global,
    command: UserCommand,
    output: Output,
) -> anyhow::Result<()> {
    match command {
        UserCommand::Add { name, password, address, config } => {
            let password = password::new(&name, password)?;
            let mut admin = Admin::open_or_make(global, &config).await?;
            let created = admin.add_user(&NewUser { name, password, addresses: address }).await?;
            output.show(&created, |created| {
                told(
                    format!("user {} added", created.user.name),
                    created.generated_password.as_ref(),
                )
            })
        }
        UserCommand::List => {
            let users = open(global).await?.users().await?;
            output.show(&users, |users| table(users))
        }
        UserCommand::Passwd { name, password } => {
            let mut admin = open(global).await?;
            let password = password::new(&name, password)?;
            let changed = admin.set_password(&name, &NewPassword { password }).await?;
            output.show(&changed, |changed| {
                told(
                    format!("password of {} changed", changed.user),
                    changed.generated_password.as_ref(),
                )
            })
        }
        UserCommand::Enable { name } => {
            let ended = open(global).await?.set_enabled(&name, true).await?;
            output.show(&ended, |_| format!("user {name} enabled"))
        }
        UserCommand::Disable { name } => {
            let ended = open(global).await?.set_enabled(&name, false).await?;
            output.show(&ended, |ended| with_sessions(format!("user {name} disabled"), ended))
        }
        UserCommand::Remove { name } => {
            let ended = open(global).await?.remove_user(&name).await?;
            output.show(&ended, |ended| with_sessions(format!("user {name} removed"), ended))
        }
        UserCommand::Address { name, address, config } => {
            let mut admin = Admin::open(global, &config).await?;
            let user = admin.set_addresses(&name, &NewAddresses { addresses: address }).await?;
            output.show(&user, |user| match addresses(user).as_str() {
                "" => format!("user {name} has addresses from the pool"),
                fixed => format!("user {name} always has {fixed}"),
            })
        }
    }
}

async fn open(global: &Global) -> anyhow::Result<Admin> {
    Admin::open(global, &ConfigFile::default()).await
}

/// What was done to somebody's sessions, in one sentence.
pub(crate) fn with_sessions(what: String, ended: &Ended) -> String {
    match ended.sessions {
        0 => what,
        1 => format!("{what}; one session ended"),
        n => format!("{what}; {n} sessions ended"),
    }
}

fn told(what: String, generated: Option<&Password>) -> String {
    match generated {
        Some(password) => format!("{what}\npassword  {}    (shown this once)", password.expose()),
        None => what,
    }
}

fn table(users: &[User]) -> String {
    let mut table = Table::new(["NAME", "STATE", "PASSWORD", "ADDRESSES", "DEVICES", "CREATED"]);
    for user in users {
        table.row([
            user.name.clone(),
            if user.enabled { "enabled" } else { "disabled" }.to_owned(),
            if user.has_password { "yes" } else { "no" }.to_owned(),
            addresses(user),
            user.devices.to_string(),
            user.created.clone(),
        ]);
    }
    table.render()
}

fn addresses(user: &User) -> String {
    let addresses: Vec<String> = user.addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}
