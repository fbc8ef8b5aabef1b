//! `warren profile NAME`

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;
use mgmt::types::{NewProfile, Profile};

use crate::admin::Admin;
use crate::cli::{ClientProgram, Device, Global, ProfileArgs};
use crate::failure::Usage;
use crate::output::{self, Output, remark};
use crate::qr;

/// Makes a profile, and prints it or writes it to a file.
pub(crate) async fn run(global: &Global, args: ProfileArgs, output: Output) -> anyhow::Result<()> {
    // What cannot be drawn is known before a certificate is made.
    let address = match &args.qr {
        Some(_) if output.json => {
            return Err(Usage("--qr draws and --json does not; take one".to_owned()).into());
        }
        Some(Some(_)) if args.out.is_none() => {
            let why = "--qr=URL needs --out FILE: the file to put at that address";
            return Err(Usage(why.to_owned()).into());
        }
        Some(Some(address)) => {
            Some(qr::Content::address(address).map_err(|error| Usage(error.to_string()))?)
        }
        _ => None,
    };
    let mut admin = Admin::open(global, &args.config).await?;
    let new = NewProfile {
        user: args.name,
        door: args.door.name().to_owned(),
        remote: args.remote,
        // A phone's is the shortest, too.
        client: args
            .client
            .or_else(|| args.qr.is_some().then_some(ClientProgram::Connect))
            .map(|client| client.name().to_owned()),
        tap: args.dev == Device::Tap,
    };
    let profile = admin.new_profile(&new).await?;
    // The file is written by whoever calls, wherever that user may.
    drop(admin);

    if let Some(file) = args.out.as_ref().filter(|_| args.qr.is_some()) {
        write(file, &profile.text)?;
    }
    if args.qr.is_some() {
        let content = match address {
            Some(address) => address,
            None => qr::Content::profile(&profile.text, &profile.file_name)?,
        };
        let (drawn, columns) = content.draw()?;
        output::print(&drawn)?;
        remark(&content.advice);
        remark(&format!("it is {columns} columns wide; if lines wrap, make the letters smaller"));
        return Ok(());
    }
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
