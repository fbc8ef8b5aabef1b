//! `warren profile NAME`

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;
use mgmt::types::{NewProfile, Profile};

use crate::admin::Admin;
use crate::cli::{Global, ProfileArgs};
use crate::output::Output;

/// Makes a profile, and prints it or writes it to a file.
pub(crate) async fn run(global: &Global, args: ProfileArgs, output: Output) -> anyhow::Result<()> {
    let mut admin = Admin::open(global, &args.config).await?;
    let new = NewProfile {
        user: args.name,
        door: args.door.name().to_owned(),
        remote: args.remote,
        client: args.client.map(|client| client.name().to_owned()),
    };
    let profile = admin.new_profile(&new).await?;
    // The file is written by whoever calls, wherever that user may.
    drop(admin);

    let Some(file) = &args.out else {
        return output.show(&profile, |profile| profile.text.clone());
    };
    write(file, &profile.text)?;
    output.show(&without_text(&profile)?, |_| {
        format!("profile of {} for {} written to {}", profile.user, profile.remote, file.display())
    })
}

/// Writes a profile, which holds a private key: mode 0600, whatever the file was before.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let attempt = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file: File =
            options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        if file.metadata()?.is_file() {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        file.write_all(text.as_bytes())
    };
    attempt().with_context(|| format!("{}: cannot write the profile", path.display()))
}

/// The key is in the file; a program that asked for a file has no use for it on stdout.
fn without_text(profile: &Profile) -> anyhow::Result<serde_json::Value> {
    let mut value = serde_json::to_value(profile).context("cannot print the result as JSON")?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("text");
    }
    Ok(value)
}
