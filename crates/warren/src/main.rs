//! One program that is every VPN server and client a network needs.
//!
//! This crate is the command line: it reads arguments, files and passwords, asks a running server
//! or the state folder, and prints. What the commands do is in `mgmt`, `shell` and `config`.
#![forbid(unsafe_code)]

mod admin;
mod banner;
mod certificate;
mod check;
mod cli;
mod client_key;
mod confine;
mod connect;
mod control;
mod failure;
mod logging;
mod management;
mod output;
mod password;
mod pkcs11;
mod profile;
mod qr;
mod running;
mod sessions;
mod signals;
mod status;
mod up;
mod user;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::cli::{Cli, Command, ConfigCommand, Global};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            output::remark(&failure::in_one_line(&error));
            failure::exit_code(&error)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { global, command } = cli;
    let output = Output { json: global.json };
    match command {
        Command::Up(config) => up::run(&global, &config)?,
        Command::Connect(args) => connect::run(&global, &args)?,
        Command::Check(config) => return check::run(&global, &config, output),
        Command::Pkcs11(command) => pkcs11::run(command, output)?,
        Command::Config(ConfigCommand::Example) => output::print(&config::Config::example())?,
        command => administer(&global, command, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The commands that ask a running server, or do without.
fn administer(global: &Global, command: Command, output: Output) -> anyhow::Result<()> {
    logging::start("warn");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(async {
        match command {
            Command::User(command) => user::run(global, command, output).await,
            Command::Certificate(command) => certificate::run(global, command, output).await,
            Command::ClientKey(command) => client_key::run(global, command, output).await,
            Command::Profile(args) => profile::run(global, args, output).await,
            Command::Sessions => sessions::list(global, output).await,
            Command::Kick(args) => sessions::kick(global, &args, output).await,
            Command::Status => status::show(global, output).await,
            Command::Reload => status::reload(global, output).await,
            Command::Up(_)
            | Command::Check(_)
            | Command::Config(_)
            | Command::Connect(_)
            | Command::Pkcs11(_) => {
                unreachable!("the caller runs these itself")
            }
        }
    })
}
