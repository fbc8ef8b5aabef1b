use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::*;

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refusal(line: &str) -> ErrorKind {
    match Cli::try_parse_from(line.split(' ')) {
        Ok(cli) => panic!("{line} was taken for {cli:?}"),
        Err(error) => error.kind(),
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn state_and_json_go_before_or_after_the_command() {
    for line in [
        "warren --state /tmp/w --json sessions",
        "warren sessions --state /tmp/w --json",
        "warren --json sessions --state /tmp/w",
    ] {
        let cli = parse(line);

        assert_eq!(cli.global.state, Path::new("/tmp/w"), "{line}");
        assert!(cli.global.json, "{line}");
    }
    let cli = parse("warren user list --json --state /tmp/w");
    assert!(cli.global.json);
    assert_eq!(cli.global.state, Path::new("/tmp/w"));
}

#[test]
fn the_state_folder_has_a_default() {
    assert_eq!(parse("warren status").global.state, Path::new("/var/lib/warren"));
}

#[test]
fn every_command_of_the_manual_is_one() {
    for line in [
        "warren up",
        "warren up --config /etc/warren.toml",
        "warren check",
        "warren check --config /etc/warren.toml",
        "warren config example",
        "warren user add anna",
        "warren user add anna --password-stdin --address 10.86.0.9 --address fd00::9",
        "warren user list",
        "warren pkcs11 list /usr/lib/module.so",
        "warren pkcs11 list /usr/lib/module.so --token card --login",
        "warren pkcs11 list /usr/lib/module.so --pin-file pin",
        "warren connect office.ovpn --pin-file pin",
        "warren user passwd anna --password-stdin",
        "warren user enable anna",
        "warren user disable anna",
        "warren user remove anna",
        "warren user address anna --address 10.86.0.9",
        "warren user address anna",
        "warren certificate list",
        "warren certificate list --user anna",
        "warren certificate revoke 00ff",
        "warren profile anna --door openvpn",
        "warren profile anna --door openvpn --remote vpn.example:443 --out anna.ovpn",
        "warren sessions",
        "warren kick 7",
        "warren kick anna",
        "warren status",
        "warren reload",
        "warren connect home.ovpn",
        "warren connect home.ovpn --auth-user-pass pass.txt",
        "warren connect home.ovpn --user anna --password-stdin",
    ] {
        parse(line);
    }
}

#[test]
fn a_profile_needs_a_door_that_exists() {
    assert_eq!(refusal("warren profile anna"), ErrorKind::MissingRequiredArgument);
    assert_eq!(refusal("warren profile anna --door pptp"), ErrorKind::InvalidValue);
}

#[test]
fn an_address_must_be_one() {
    assert_eq!(refusal("warren user add anna --address ten"), ErrorKind::ValueValidation);
}

#[test]
fn a_password_on_stdin_needs_to_know_whose() {
    assert_eq!(
        refusal("warren connect home.ovpn --password-stdin"),
        ErrorKind::MissingRequiredArgument
    );
    assert_eq!(
        refusal("warren connect home.ovpn --auth-user-pass f --user anna"),
        ErrorKind::ArgumentConflict
    );
}

#[test]
fn no_password_can_be_given_where_other_users_see_it() {
    for line in ["warren user add anna --password x", "warren connect home.ovpn --password x"] {
        assert_eq!(refusal(line), ErrorKind::UnknownArgument);
    }
}

#[test]
fn a_client_chooses_its_user_and_both_can_do_without_the_sandbox() {
    let Command::Connect(args) = parse("warren connect a.ovpn").command else { panic!() };
    assert_eq!((args.run_as, args.no_sandbox), (RunAs::Auto, false));
    let line = "warren connect a.ovpn --run-as vpn --no-sandbox";
    let Command::Connect(args) = parse(line).command else { panic!() };
    assert_eq!((args.run_as, args.no_sandbox), (RunAs::Account("vpn".into()), true));
    let Command::Up(args) = parse("warren up --no-sandbox --config w.toml").command else {
        panic!()
    };
    assert!(args.no_sandbox && args.config.config.is_some());

    assert_eq!(refusal("warren connect a.ovpn --run-as a:b"), ErrorKind::ValueValidation);
}
