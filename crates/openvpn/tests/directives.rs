//! The table of directives against OpenVPN's own list, the documentation, and the profile reader.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use openvpn::{DIRECTIVES, Profile, Standing, directives_page};

/// Every name in the option parser of OpenVPN, one a line.
const ALL: &str = include_str!("openvpn-directives.txt");

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openvpn-directives.md");

fn parse(line: &str) -> Result<Profile, String> {
    let profile = format!(
        "{line}\nclient\ndev tun\nremote vpn.example.org\nremote-cert-tls server\n\
         auth-user-pass\n<ca>\nx\n</ca>\n"
    );
    Profile::parse(&profile, &mut |_| Err("no files here".to_owned()))
        .map_err(|error| error.to_string())
}

#[test]
fn every_directive_of_openvpn_has_its_line() {
    for name in ALL.lines() {
        assert!(DIRECTIVES.iter().any(|directive| directive.name == name), "{name}");
    }
    let in_order = DIRECTIVES.windows(2).all(|pair| pair[0].name < pair[1].name);
    assert!(in_order, "the table is searched by name, so it has to be in order");
}

/// Run with WARREN_WRITE_DOCS=1 to write the page.
#[test]
fn the_documentation_says_what_the_table_says() {
    if std::env::var_os("WARREN_WRITE_DOCS").is_some() {
        std::fs::write(PAGE, directives_page()).unwrap();
    }
    let page = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        page == directives_page(),
        "docs/openvpn-directives.md is not what the table says; \
         WARREN_WRITE_DOCS=1 cargo test -p openvpn --test directives writes it"
    );
}

#[test]
fn the_reader_does_what_the_table_says() {
    for directive in DIRECTIVES {
        let name = directive.name;
        let read = parse(name);
        match directive.standing {
            // Many need words to be of use; but none is unknown.
            Standing::Obeyed => {
                let error = read.err().unwrap_or_default();
                assert!(!error.contains("not supported; remove the line"), "{error}");
            }
            Standing::Moot => assert_eq!(read.unwrap().notes, [""; 0], "{name}"),
            Standing::Ignored => {
                let notes = read.unwrap().notes;
                assert!(notes[0].starts_with(&format!("line 1: {name} ignored")), "{notes:?}");
            }
            Standing::Unsupported | Standing::Dangerous | Standing::Server | Standing::Command => {
                let error = read.unwrap_err();
                assert!(error.starts_with(&format!("1: {name}: ")), "{error}");
            }
        }
    }
}

#[test]
fn what_is_not_supported_may_be_allowed_to_be_unknown_but_not_what_is_dangerous() {
    for directive in DIRECTIVES {
        let name = directive.name;
        let forms =
            [format!("ignore-unknown-option {name}\n{name} x"), format!("setenv opt {name} x")];
        for form in forms {
            match directive.standing {
                Standing::Unsupported | Standing::Server => {
                    let notes = parse(&form).unwrap().notes;
                    assert!(notes.iter().any(|note| note.contains(name)), "{form}: {notes:?}");
                }
                Standing::Dangerous | Standing::Command => {
                    assert!(parse(&form).is_err(), "{form}");
                }
                Standing::Obeyed | Standing::Moot | Standing::Ignored => {}
            }
        }
    }
}

#[test]
fn an_optional_directive_that_is_known_is_obeyed() {
    assert_eq!(parse("setenv opt tun-mtu 1400").unwrap().mtu, 1400);
    assert!(parse("setenv opt tun-mtu x").is_err());
    assert_eq!(parse("setenv opt frobnicate 1").unwrap().notes.len(), 1);
    assert!(parse("setenv opt setenv opt up /bin/sh").is_err());
}
