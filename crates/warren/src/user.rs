//! `warren user ...`

use mgmt::types::{
    Ended, Fingerprints, NewAddresses, NewFingerprints, NewPassword, NewSettings, NewTotp, NewUser,
    Password, User,
};

use crate::admin::Admin;
use crate::cli::{ConfigFile, Global, Setting, UserCommand};
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
        UserCommand::Show { name } => {
            let user = open(global).await?.user(&name).await?;
            output.show(&user, details)
        }
        UserCommand::Set { name, iroute, push, session_timeout, idle_timeout, clear, config } => {
            let is_cleared = |setting| clear.contains(&setting);
            let list = |given: bool, setting| given || is_cleared(setting);
            let limit =
                |given: Option<u64>, setting| given.or_else(|| is_cleared(setting).then_some(0));
            let new = NewSettings {
                behind: list(!iroute.is_empty(), Setting::Iroute).then_some(iroute),
                openvpn_options: list(!push.is_empty(), Setting::Push).then_some(push),
                session_timeout: limit(session_timeout, Setting::SessionTimeout),
                idle_timeout: limit(idle_timeout, Setting::IdleTimeout),
            };
            let mut admin = Admin::open(global, &config).await?;
            let user = admin.set_settings(&name, &new).await?;
            output.show(&user, details)
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
        UserCommand::Totp { name, off } => {
            let changed = open(global).await?.set_totp(&name, NewTotp { enabled: !off }).await?;
            output.show(&changed, |changed| {
                let line = |label: &str, text: &Option<Password>| {
                    text.as_ref().map_or(String::new(), |text| {
                        format!("\n{label}  {}    (shown this once)", text.expose())
                    })
                };
                let what = if off { "is asked for no code" } else { "is asked for a code" };
                let (secret, uri) = (line("secret", &changed.secret), line("uri", &changed.uri));
                format!("user {} {what}{secret}{uri}", changed.user)
            })
        }
        UserCommand::Fingerprint { name, add, remove } => {
            let new = NewFingerprints { add, remove };
            let changed = open(global).await?.change_fingerprints(&name, &new).await?;
            output.show(&changed, fingerprints)
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

/// One certificate a line, and what became of sessions.
fn fingerprints(changed: &Fingerprints) -> String {
    let what = match changed.fingerprints.as_slice() {
        [] => format!("user {} comes in with no certificate by fingerprint", changed.user),
        some => some.join("\n"),
    };
    with_sessions(what, &Ended { sessions: changed.sessions })
}

/// Everything about one user, a line each.
fn details(user: &User) -> String {
    let mut lines = vec![
        ("name", user.name.clone()),
        ("state", if user.enabled { "enabled" } else { "disabled" }.to_owned()),
        ("password", if user.has_password { "yes" } else { "no" }.to_owned()),
        ("addresses", addresses(user)),
        ("devices", user.devices.to_string()),
        ("created", user.created.clone()),
    ];
    lines.extend(user.behind.iter().map(|net| ("iroute", net.to_string())));
    lines.extend(user.openvpn_options.iter().map(|option| ("push", option.clone())));
    let limits = [("session-timeout", user.session_timeout), ("idle-timeout", user.idle_timeout)];
    lines.extend(
        limits.into_iter().filter_map(|(what, seconds)| Some((what, format!("{} s", seconds?)))),
    );
    let lines =
        lines.iter().map(|(what, value)| format!("{what:<16}{value}").trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn addresses(user: &User) -> String {
    let addresses: Vec<String> = user.addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}
