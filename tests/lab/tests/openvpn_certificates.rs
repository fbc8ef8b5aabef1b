//! Certificates of every kind of file, with stock peers.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lab::console::Terminal;
use lab::openvpn::Server;
use lab::warren::{Client, binary};
use lab::{Identity, Namespace, PATIENCE, Pki, World, eventually, reach, scenario};

const PASSPHRASE: &str = "under the burrow";

fn check_ping(from: &Namespace) -> Result<()> {
    reach(from, Server::GATEWAY4.parse()?)?;
    Ok(())
}

fn openssl(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new("openssl").args(arguments).current_dir(namespace.folder()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "openssl {}: {said}", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// Writes what a client may come with beside its profile.
fn write_files(namespace: &Namespace, pki: &Pki, identity: &Identity) -> Result<()> {
    let folder = namespace.folder();
    fs::write(folder.join("ca.pem"), &pki.ca)?;
    fs::write(folder.join("own.pem"), &identity.certificate)?;
    fs::write(folder.join("own.key"), &identity.key)?;
    fs::write(folder.join("passphrase"), format!("{PASSPHRASE}\n"))?;
    let pass = format!("pass:{PASSPHRASE}");
    let bundle =
        ["pkcs12", "-export", "-inkey", "own.key", "-in", "own.pem", "-certfile", "ca.pem"];
    let new = ["-passout", &pass, "-out", "own.p12"];
    openssl(namespace, &[&bundle[..], &new].concat())?;
    let old = ["-legacy", "-passout", &pass, "-out", "old.p12"];
    openssl(namespace, &[&bundle[..], &old].concat())?;
    let open = ["-passout", "pass:", "-out", "open.p12"];
    openssl(namespace, &[&bundle[..], &open].concat())?;
    let key = ["pkcs8", "-topk8", "-in", "own.key", "-passout", &pass, "-out", "locked.key"];
    openssl(namespace, &key).map(drop)
}

/// A profile without some of its inline blocks.
fn without_blocks(profile: &str, tags: &[&str]) -> Result<String> {
    let mut profile = profile.to_owned();
    for tag in tags {
        let (before, rest) = profile.split_once(&format!("<{tag}>\n")).unwrap();
        let (_, after) = rest.split_once(&format!("</{tag}>\n")).unwrap();
        profile = format!("{before}{after}");
    }
    Ok(profile)
}

#[test]
fn warren_takes_its_certificate_from_bundles_and_encrypted_keys() {
    scenario("bundles", |lab| {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(world.server.folder())?;
        let identity = pki.client("alice")?;
        let server = Server::default();
        let _running = server.start(&world.server, &pki)?;
        let namespace = &world.clients[0];
        write_files(namespace, &pki, &identity)?;
        let whole = server.profile(&pki, &identity, &[(World::SERVER4.into(), server.port)]);
        let bare = without_blocks(&whole, &["ca", "cert", "key"])?;
        let with_ca = without_blocks(&whole, &["cert", "key"])?;
        let keyless = without_blocks(&whole, &["key"])?;
        let inline = STANDARD.encode(fs::read(namespace.folder().join("own.p12"))?);

        for profile in [
            format!("pkcs12 own.p12\naskpass passphrase\n{bare}"),
            format!("pkcs12 old.p12\naskpass passphrase\n{with_ca}"),
            format!("pkcs12 open.p12\n{bare}"),
            format!("<pkcs12>\n{inline}\n</pkcs12>\naskpass passphrase\n{bare}"),
            format!("key locked.key\naskpass passphrase\n{keyless}"),
        ] {
            let client = Client::connect(namespace, &profile, None)?;
            check_ping(namespace)?;
            client.stop()?;
        }

        // With nobody to ask, and with the wrong passphrase, it says so and ends.
        fs::write(namespace.folder().join("wrong"), "above\n")?;
        for (profile, words) in [
            (format!("pkcs12 own.p12\n{bare}"), "the private key has a passphrase"),
            (format!("pkcs12 own.p12\naskpass wrong\n{bare}"), "the passphrase is wrong"),
        ] {
            let client = Client::start(namespace, &profile, None)?;
            client.peer().wait_for(words, PATIENCE)?;
            eventually(PATIENCE, || {
                ensure!(!client.peer().is_running(), "it still runs");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn warren_asks_at_the_terminal_for_the_passphrase() {
    scenario("passphrase", |lab| {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(world.server.folder())?;
        let identity = pki.client("alice")?;
        let server = Server::default();
        let _running = server.start(&world.server, &pki)?;
        let namespace = &world.clients[0];
        write_files(namespace, &pki, &identity)?;
        let whole = server.profile(&pki, &identity, &[(World::SERVER4.into(), server.port)]);
        let bare = without_blocks(&whole, &["ca", "cert", "key"])?;
        let file = namespace.folder().join("bundle.ovpn");
        fs::write(&file, format!("pkcs12 own.p12\n{bare}"))?;

        let state = namespace.folder().join("state-bundle");
        let (binary, file, state) = (binary()?, file.display(), state.display());
        let command = format!("{} connect {file} --state {state}", binary.display());
        let mut client = Terminal::start(namespace, "bundle", &command)?;
        client.answer("Passphrase of the private key: ", PASSPHRASE)?;

        client.peer().wait_for("connected to", PATIENCE)?;
        check_ping(namespace)
    });
}

#[test]
fn warren_holds_servers_to_what_the_profile_says_of_their_certificates() {
    scenario("server rules", |lab| {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(world.server.folder())?;
        let identity = pki.client("alice")?;
        let server = Server::default();
        let _running = server.start(&world.server, &pki)?;
        let namespace = &world.clients[0];
        write_files(namespace, &pki, &identity)?;
        let whole = server.profile(&pki, &identity, &[(World::SERVER4.into(), server.port)]);
        let fingerprint = |file: &str| -> Result<String> {
            let said =
                openssl(namespace, &["x509", "-in", file, "-noout", "-fingerprint", "-sha256"])?;
            Ok(said.trim().rsplit('=').next().unwrap_or_default().to_owned())
        };
        let (authority, other) = (fingerprint("ca.pem")?, fingerprint("own.pem")?);
        let issued = world.server.folder().join("pki/server.pem").display().to_string();
        let serial = openssl(namespace, &["x509", "-in", &issued, "-noout", "-serial"])?;
        let serial = decimal(serial.trim().rsplit('=').next().unwrap_or_default());
        for (folder, name) in [("revoked", serial.as_str()), ("others", "4711")] {
            fs::create_dir(namespace.folder().join(folder))?;
            fs::write(namespace.folder().join(folder).join(name), "")?;
        }

        // The lab's certificates are for digitalSignature (80) and keyAgreement (08).
        for line in [
            format!("verify-hash {authority} SHA256"),
            "remote-cert-ku a0 88".to_owned(),
            "crl-verify others dir".to_owned(),
        ] {
            let client = Client::connect(namespace, &format!("{line}\n{whole}"), None)?;
            check_ping(namespace)?;
            client.stop()?;
        }
        for (line, words) in [
            (format!("verify-hash {other} SHA256"), "is not signed by the one whose fingerprint"),
            ("remote-cert-ku a0".to_owned(), "is not meant for what is asked of it (key usage)"),
            ("crl-verify revoked dir".to_owned(), "the peer's certificate has been revoked"),
        ] {
            let client = Client::start(namespace, &format!("{line}\n{whole}"), None)?;
            client.peer().wait_for(words, PATIENCE)?;
            client.stop()?;
        }
        Ok(())
    });
}

/// A number of any length, from hexadecimal to decimal digits.
fn decimal(hex: &str) -> String {
    let mut digits = vec![0_u32];
    for sign in hex.chars() {
        let mut carry = sign.to_digit(16).unwrap();
        for digit in digits.iter_mut().rev() {
            carry += *digit * 16;
            *digit = carry % 10;
            carry /= 10;
        }
        while carry > 0 {
            digits.insert(0, carry % 10);
            carry /= 10;
        }
    }
    digits.iter().map(ToString::to_string).collect()
}
