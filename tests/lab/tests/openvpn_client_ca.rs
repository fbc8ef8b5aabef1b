//! Certificates that Warren has not issued, at its own door: those of an outside CA, and
//! self-signed ones that are known by their fingerprint.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::openvpn::{self, with_block};

use lab::warren::{self, GATEWAY4, Home, Warren, config};
use lab::{Namespace, PATIENCE, World, eventually, ping_every, reach, scenario};

const PASSWORD: &str = "long enough for a test";
/// How soon a revoked certificate must be out.
const SOON: Duration = Duration::from_secs(5);

fn run(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "openssl {}: {said}", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
const CA_USAGE: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";
const MEMBER_USAGE: &str =
    "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=clientAuth\n";

/// An office with a root, an authority below it, and what Warren is given of both.
struct Office {
    folder: PathBuf,
}

/// A certificate with what else its owner sends, and its key.
struct Card {
    chain: String,
    key: String,
}

impl Office {
    fn new(lab: &Path) -> Result<Self> {
        let folder = lab.join("office");
        fs::create_dir(&folder)?;
        let office = Self { folder };
        let folder = &office.folder;
        let name = ["req", "-x509", "-days", "30", "-subj", "/CN=Office Root"];
        let usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"];
        let files = ["-keyout", "root.key", "-out", "root.pem"];
        run(folder, &[&name[..], &KEY, &usage, &files].concat())?;
        office.issue("root", "middle", "/CN=Office Staff", CA_USAGE)?;
        let both = office.read("root.pem")? + &office.read("middle.pem")?;
        fs::write(folder.join("ca.pem"), both)?;
        let lists = "[lists]\nauthorityKeyIdentifier=keyid\n";
        let section = |name: &str| {
            format!(
                "[{name}]\ndatabase={name}.txt\ncertificate={name}.pem\nprivate_key={name}.key\n\
                 default_md=sha256\ndefault_crl_days=30\nunique_subject=no\ncrl_extensions=lists\n"
            )
        };
        fs::write(folder.join("ca.cnf"), section("root") + &section("middle") + lists)?;
        for name in ["root.txt", "middle.txt"] {
            fs::write(folder.join(name), "")?;
        }
        office.publish(&[])?;
        Ok(office)
    }

    fn read(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join(name))?)
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn issue(&self, by: &str, name: &str, subject: &str, usage: &str) -> Result<()> {
        let file = |kind: &str| format!("{name}.{kind}");
        let [key, csr, pem, ext] = ["key", "csr", "pem", "ext"].map(file);
        fs::write(self.folder.join(&ext), usage)?;
        let request = ["req", "-new", "-subj", subject, "-keyout", &key, "-out", &csr];
        run(&self.folder, &[&request[..], &KEY].concat())?;
        let (ca, ca_key) = (format!("{by}.pem"), format!("{by}.key"));
        let signing = ["x509", "-req", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key, "-days", "30"];
        let result = ["-extfile", &ext, "-out", &pem];
        run(&self.folder, &[&signing[..], &result].concat()).map(drop)
    }

    /// A card for the mail address of a name.
    fn card(&self, name: &str) -> Result<Card> {
        let subject = format!("/O=Office/CN=Somebody/emailAddress={name}@example.org");
        self.issue("middle", name, &subject, MEMBER_USAGE)?;
        let [chain, key] = ["pem", "key"].map(|kind| self.read(&format!("{name}.{kind}")));
        Ok(Card { chain: chain?, key: key? })
    }

    /// Replaces the revocation lists, as a whole, by fresh ones.
    fn publish(&self, more: &[&str]) -> Result<()> {
        let mut both = String::new();
        for name in ["root", "middle"] {
            let section = ["ca", "-config", "ca.cnf", "-name", name, "-gencrl"];
            both += &run(&self.folder, &[&section[..], more].concat())?;
        }
        self.put("crl.pem", &both)
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        let fresh = self.folder.join("fresh");
        fs::write(&fresh, text)?;
        fs::rename(fresh, self.folder.join(name)).context("publish")
    }

    fn revoke(&self, name: &str) -> Result<()> {
        let file = format!("{name}.pem");
        run(&self.folder, &["ca", "-config", "ca.cnf", "-name", "middle", "-revoke", &file])?;
        Ok(())
    }

    fn door(&self) -> Vec<String> {
        vec![
            "auth = \"certificate\"".to_owned(),
            "ping = 2".to_owned(),
            format!("client_ca = {:?}", self.path("ca.pem")),
            format!("crl = {:?}", self.path("crl.pem")),
            "username_field = \"emailAddress\"".to_owned(),
            "verify_x509_name = \"staff- name-prefix\"".to_owned(),
        ]
    }
}

/// Somebody's certificate that nobody signed but they, and its fingerprint.
fn hermit(folder: &Path, name: &str) -> Result<(Card, String)> {
    let [key, pem] = ["key", "pem"].map(|kind| format!("{name}.{kind}"));
    let subject = format!("/CN={name}");
    let request = ["req", "-x509", "-days", "30", "-subj", &subject, "-keyout", &key, "-out", &pem];
    run(folder, &[&request[..], &KEY].concat())?;
    let print = ["x509", "-in", &pem, "-noout", "-fingerprint", "-sha256"];
    let said = run(folder, &print)?;
    let fingerprint = said.trim().rsplit('=').next().unwrap_or_default().to_owned();
    let [chain, key] = [pem, key].map(|name| fs::read_to_string(folder.join(name)));
    Ok((Card { chain: chain?, key: key? }, fingerprint))
}

fn mail(name: &str) -> String {
    format!("{name}@example.org")
}

/// A configuration that tells why a handshake ended.
fn text(door: &[&str]) -> String {
    config(&[], door) + "[log]\nlevel = \"debug\"\n"
}

/// A profile that shows the card in place of what Warren issued.
fn profile(home: &Home, user: &str, card: &Card) -> Result<String> {
    let own = home.profile(user, &World::SERVER4.to_string())?;
    let with_chain = with_block(&own, "cert", &card.chain)?;
    with_block(&with_chain, "key", &card.key)
}

fn has_session(warren: &Warren, user: &str) -> Result<bool> {
    Ok(warren.sessions()?.iter().any(|session| session.user == user))
}

fn wait_until_gone(warren: &Warren, user: &str) -> Result<()> {
    eventually(SOON, || {
        ensure!(!has_session(warren, user)?, "{user} is still in");
        Ok(())
    })
}

fn check_ping(from: &Namespace) -> Result<()> {
    reach(from, GATEWAY4.parse()?)?;
    Ok(())
}

#[test]
fn an_outside_ca_lets_its_members_in_until_it_revokes_them() {
    scenario("client ca", |lab| {
        let world = World::new(lab, 5)?;
        let office = Office::new(world.server.folder())?;
        let door = office.door();
        let door: Vec<&str> = door.iter().map(String::as_str).collect();
        // Before the server starts, whose clock counts whole seconds.
        let named = ["staff-anna", "staff-bo", "staff-cleo", "staff-dan", "guest-eve"];
        let cards = named.iter().map(|name| office.card(name)).collect::<Result<Vec<_>>>()?;
        let zoe = office.card("staff-zoe")?;
        let warren = Warren::up(&world.server, "office", &text(&door))?;
        let home = warren.home();
        let mut profiles = Vec::new();
        for (name, mut card) in named.into_iter().zip(cards) {
            home.add_user(&mail(name), PASSWORD)?;
            if name == "staff-bo" {
                // With what the server has already.
                card.chain += &office.read("middle.pem")?;
            }
            profiles.push(profile(home, &mail(name), &card)?);
        }
        let stock =
            |at: usize| openvpn::Client::connect(&world.clients[at], &profiles[at], None, &[]);
        let ours = |at: usize| warren::Client::connect(&world.clients[at], &profiles[at], None);

        let (anna, bo) = (stock(0)?, stock(1)?);
        let (cleo, dan) = (ours(2)?, ours(3)?);
        for (at, name) in named[..4].iter().enumerate() {
            check_ping(&world.clients[at])?;
            warren.session_of(&mail(name))?;
        }

        // A good certificate, and a user of that name, but not one of those that may come in.
        let start = warren.peer().mark();
        let eve = openvpn::Client::start(&world.clients[4], &profiles[4], None, &[])?;
        warren.peer().wait_from(start, "another name than the one required", PATIENCE)?;
        eve.stop()?;
        // A good certificate of nobody.
        let zoe = profile(home, &mail("staff-anna"), &zoe)?;
        let client = openvpn::Client::start(&world.clients[4], &zoe, None, &[])?;
        client.peer().wait_for("AUTH_FAILED", PATIENCE)?;
        client.stop()?;
        // Our own certificates are judged as ever.
        let own = home.profile(&mail("guest-eve"), &World::SERVER4.to_string())?;
        let own = openvpn::Client::connect(&world.clients[4], &own, None, &[])?;
        check_ping(&world.clients[4])?;

        let others = [1, 3].map(|at| {
            ping_every(Duration::from_millis(100), &world.clients[at], GATEWAY4.parse().unwrap())
        });
        for name in ["staff-anna", "staff-cleo"] {
            office.revoke(name)?;
        }
        office.publish(&[])?;
        let since = Instant::now();
        for name in ["staff-anna", "staff-cleo"] {
            wait_until_gone(&warren, &mail(name))?;
        }
        ensure!(since.elapsed() <= SOON, "{:?}", since.elapsed());
        for user in ["staff-bo", "staff-dan", "guest-eve"] {
            ensure!(has_session(&warren, &mail(user))?, "{user} was disturbed");
        }
        for user in ["staff-anna", "staff-cleo"] {
            ensure!(!has_session(&warren, &mail(user))?, "{user} is back");
        }

        // Nor do they come back.
        drop((anna, cleo));
        for at in [0, 2] {
            let start = warren.peer().mark();
            let again = openvpn::Client::start(&world.clients[at], &profiles[at], None, &[])?;
            warren.peer().wait_from(start, "has been revoked", PATIENCE)?;
            drop(again);
        }

        // The others did not notice.
        for pings in others {
            let pings = pings?.finish()?;
            ensure!(pings.sent > 0 && pings.lost() == 0, "{pings:?}");
        }

        // A user who is disabled is out whatever the certificate says.
        home.run(&["user", "disable", &mail("staff-dan")])?;
        wait_until_gone(&warren, &mail("staff-dan"))?;

        // A CA that is taken out is trusted no longer; what else waits for a restart keeps nobody.
        home.write_config(&text(&["auth = \"certificate\"", "ping = 2"]))?;
        home.run(&["reload"])?;
        wait_until_gone(&warren, &mail("staff-bo"))?;
        ensure!(has_session(&warren, &mail("guest-eve"))?, "our own are as good as ever");
        for client in [bo, own] {
            client.stop()?;
        }
        drop(dan);
        warren.stop().map(drop)
    });
}

#[test]
fn a_revocation_list_that_cannot_be_used_keeps_people_out_and_is_named() {
    const EXPIRED: [&str; 4] =
        ["-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z"];
    scenario("client ca, lists", |lab| {
        let world = World::new(lab, 2)?;
        let office = Office::new(world.server.folder())?;
        let door = office.door();
        let door: Vec<&str> = door.iter().map(String::as_str).collect();
        let home = Home::new(&world.server, "lists", &text(&door))?;
        let named = ["staff-anna", "staff-bo"];
        let cards = named.iter().map(|name| office.card(name)).collect::<Result<Vec<_>>>()?;

        // Not even a start, and nothing is changed by a reload.
        office.put("crl.pem", "nothing")?;
        let line = "doors.openvpn.crl: ";
        let output = home.up_to_exit()?;
        ensure!(!output.success() && output.stderr.contains("no revocation list here"), "{output}");
        ensure!(output.stderr.lines().filter(|it| it.contains(line)).count() == 1, "{output}");
        let path = home.config_path().display().to_string();
        office.publish(&EXPIRED)?;
        let output = home.try_run(&["check", "--config", &path])?;
        ensure!(output.stdout.contains("expired on 2020-02-01"), "{output}");
        office.publish(&[])?;
        let output = home.try_run(&["check", "--config", &path])?;
        ensure!(output.stdout.contains("CAs: 2, revocation lists: 2"), "{output}");

        // What has become too old keeps nobody out whom it does not concern.
        office.publish(&EXPIRED)?;
        let warren = Warren::start(&home)?;
        let mut profiles = Vec::new();
        for (name, card) in named.iter().zip(&cards) {
            home.add_user(&mail(name), PASSWORD)?;
            profiles.push(profile(&home, &mail(name), card)?);
        }
        let own = home.profile(&mail("staff-bo"), &World::SERVER4.to_string())?;
        let own = openvpn::Client::connect(&world.clients[1], &own, None, &[])?;
        check_ping(&world.clients[1])?;
        ensure!(warren.peer().said("expired on 2020-02-01").len() == 1, "said once");
        let start = warren.peer().mark();
        let shut = ["--hand-window", "5"];
        let anna = openvpn::Client::start(&world.clients[0], &profiles[0], None, &shut)?;
        warren.peer().wait_from(start, "cannot be used at the moment", PATIENCE)?;
        anna.stop()?;
        home.write_config(&text(&[&door[..], &["mssfix = 1300"]].concat()))?;
        home.run(&["reload"])?;
        check_ping(&world.clients[1])?;
        own.stop()?;
        let start = warren.peer().mark();
        office.publish(&[])?;
        warren.peer().wait_from(start, "were read again", SOON)?;
        let anna = openvpn::Client::connect(&world.clients[0], &profiles[0], None, &[])?;
        check_ping(&world.clients[0])?;

        let good = office.read("crl.pem")?;
        let bad = [
            (good[..good.len() - 40].to_owned(), "cut off"),
            // Two lists in one: what is wrong with that depends on their lengths.
            (good.replacen("-----END X509 CRL-----", "", 1), "crl.pem: "),
            ("nothing".to_owned(), "no revocation list here"),
        ];
        for (content, words) in bad {
            let start = warren.peer().mark();
            office.put("crl.pem", &content)?;
            warren.peer().wait_from(start, line, SOON)?;
            let refused = home.try_run(&["reload"])?;
            ensure!(!refused.success() && refused.stderr.contains(words), "{refused}");
            ensure!(refused.stderr.trim().lines().count() == 1, "{refused}");
        }
        let start = warren.peer().mark();
        office.publish(&EXPIRED)?;
        warren.peer().wait_from(start, "expired on 2020-02-01", SOON)?;
        fs::remove_file(office.folder.join("crl.pem"))?;
        warren.peer().wait_from(start, "there is no such file", SOON)?;

        // Nobody comes in meanwhile; who is in stays.
        let start = warren.peer().mark();
        let soon = ["--hand-window", "5"];
        let bo = openvpn::Client::start(&world.clients[1], &profiles[1], None, &soon)?;
        warren.peer().wait_from(start, "cannot be used at the moment", PATIENCE)?;
        check_ping(&world.clients[0])?;
        ensure!(!has_session(&warren, &mail("staff-bo"))?, "no list, and yet in");

        // With what is right everybody gets in again, without a word to the server.
        office.put("crl.pem", &good)?;
        bo.wait_connected()?;
        check_ping(&world.clients[1])?;
        home.run(&["reload"])?;
        check_ping(&world.clients[0])?;
        anna.stop()?;
        bo.stop()?;
        warren.stop().map(drop)
    });
}

#[test]
fn a_registered_fingerprint_needs_no_ca() {
    scenario("fingerprints", |lab| {
        let world = World::new(lab, 3)?;
        let door = ["auth = \"certificate\"", "ping = 2"];
        let folder = world.server.folder();
        let named = ["anna", "bo", "eve"];
        let hermits = named.iter().map(|name| hermit(folder, name)).collect::<Result<Vec<_>>>()?;
        let warren = Warren::up(&world.server, "prints", &text(&door))?;
        let home = warren.home();
        let mut cards = Vec::new();
        for (name, (card, fingerprint)) in named.iter().zip(hermits) {
            home.add_user(name, PASSWORD)?;
            cards.push((profile(home, name, &card)?, fingerprint));
        }
        let [(anna, of_anna), (bo, of_bo), (eve, of_eve)] = &cards[..] else { unreachable!() };

        let listed = home.run(&["user", "fingerprint", "anna", "--add", of_anna])?;
        ensure!(listed.trim() == of_anna, "{listed}");
        home.run(&["user", "fingerprint", "bo", "--add", &of_bo.replace(':', "").to_lowercase()])?;
        let output = home.try_run(&["user", "fingerprint", "bo", "--add", of_anna])?;
        ensure!(!output.success() && output.stderr.contains("user \"anna\" already"), "{output}");
        let output = home.try_run(&["user", "fingerprint", "bo", "--add", "12:34"])?;
        ensure!(!output.success() && output.stderr.contains("no SHA-256"), "{output}");

        let stock = openvpn::Client::connect(&world.clients[0], anna, None, &[])?;
        let ours = warren::Client::connect(&world.clients[1], bo, None)?;
        for (at, name) in ["anna", "bo"].iter().enumerate() {
            check_ping(&world.clients[at])?;
            warren.session_of(name)?;
        }
        let start = warren.peer().mark();
        let stranger = openvpn::Client::start(&world.clients[2], eve, None, &[])?;
        warren.peer().wait_from(start, "is not from our CA", PATIENCE)?;
        ensure!(!has_session(&warren, "eve")?, "a stranger is in");
        stranger.stop()?;

        let said = home.run(&["user", "fingerprint", "anna", "--remove", of_anna])?;
        ensure!(said.contains("one session ended"), "{said}");
        wait_until_gone(&warren, "anna")?;
        ensure!(has_session(&warren, "bo")?, "bo was disturbed");
        // Its user's end is its end.
        home.run(&["user", "remove", "bo"])?;
        wait_until_gone(&warren, "bo")?;
        home.run(&["user", "fingerprint", "eve", "--add", of_bo, "--add", of_eve])?;
        let eve = openvpn::Client::connect(&world.clients[2], eve, None, &[])?;
        check_ping(&world.clients[2])?;
        eve.stop()?;
        drop((stock, ours));
        warren.stop().map(drop)
    });
}
