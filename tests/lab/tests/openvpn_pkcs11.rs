//! Private keys that stay in PKCS #11 tokens, at either end, with stock peers at the other.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::console::Terminal;
use lab::openvpn::{self, Server};
use lab::token::{Mischief, SOFTHSM, Token};
use lab::warren::{Client, Warren, binary, config};
use lab::{Identity, Namespace, PATIENCE, Pki, World, ping_every, reach, scenario};

/// As long as nobody should have to wait while somebody else's module hangs.
const AT_ONCE: Duration = Duration::from_secs(3);

fn check_ping(from: &Namespace) -> Result<()> {
    reach(from, Server::GATEWAY4.parse()?)
}

/// A stock server, its CA, and a profile that leaves certificate and key to a token.
struct Setting {
    server: Server,
    pki: Pki,
    bare: String,
}

impl Setting {
    fn new(world: &World) -> Result<Self> {
        let pki = Pki::new(world.server.folder())?;
        let server = Server::default();
        let nobody = Identity { certificate: String::new(), key: String::new() };
        let whole = server.profile(&pki, &nobody, &[(World::SERVER4.into(), server.port)]);
        let bare = whole.replace("<cert>\n\n</cert>\n", "").replace("<key>\n\n</key>\n", "");
        ensure!(!bare.contains("<key>"), "{bare}");
        Ok(Self { server, pki, bare })
    }

    fn profile(&self, token: &Token, id: &str) -> String {
        let module = token.module();
        format!("{}pkcs11-providers {module}\npkcs11-id '{id}'\n", self.bare)
    }
}

/// What `openvpn` itself calls the keys of a token.
fn serialized(token: &Token, id: &str) -> Result<String> {
    let output = Command::new("openvpn").args(["--show-pkcs11-ids", &token.module()]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut names = text.lines().filter_map(|line| line.split_once("Serialized id:"));
    let found = names.find(|(_, name)| name.ends_with(&format!("/{id}")));
    Ok(found.with_context(|| text.clone())?.1.trim().to_owned())
}

/// Runs `warren pkcs11 list`.
fn listed(namespace: &Namespace, arguments: &[&str]) -> Result<lab::Output> {
    let mut command = Command::new(binary()?);
    command.args(["pkcs11", "list"]).args(arguments);
    namespace.output(command, PATIENCE)
}

/// Ends with one line that holds these words.
fn refused(client: &Client, words: &str) -> Result<()> {
    let output = client.peer().wait_exit(PATIENCE)?;
    ensure!(!output.success(), "it went on: {output}");
    let lines = output.stderr.lines().filter(|line| line.starts_with("warren: "));
    let lines = lines.collect::<Vec<_>>();
    ensure!(lines.len() == 1 && lines[0].contains(words), "{words:?} is not in: {output}");
    Ok(())
}

#[test]
fn a_clients_key_in_a_token_makes_sessions_of_every_kind() {
    scenario("token client", |lab| {
        let world = World::new(lab, 1)?;
        let setting = Setting::new(&world)?;
        let _running = setting.server.start(&world.server, &setting.pki)?;
        let namespace = &world.clients[0];
        let token = Token::new(namespace.folder())?;
        let pki = world.server.folder().join("pki");
        let kinds = [("01", "RSA"), ("02", "P-256"), ("03", "P-384")];
        for (id, kind) in kinds {
            token.make_key(id, kind)?;
            token.certify(&pki, id, &format!("client-{id}"))?;
        }
        let pin = token.pin_file(Token::PIN)?;
        let shown = listed(namespace, &[&token.module()])?;

        for (id, _) in kinds {
            // Both names of the key: ours, and stock OpenVPN's.
            let mut lines = shown.stdout.lines();
            let line = lines.find(|line| line.starts_with(&format!("CN=client-{id} ")));
            let uri = line.and_then(|line| line.split_whitespace().last());
            let uri = uri.with_context(|| shown.to_string())?;
            ensure!(uri.contains("token=my%20tok%2Fen"), "{uri}");
            for (name, tls) in [(uri.to_owned(), "1.3"), (serialized(&token, id)?, "1.2")] {
                let profile = setting.profile(&token, &name);
                let profile = format!("{profile}tls-version-max {tls}\n");
                let client = Client::start_with(namespace, &profile, &["--pin-file", &pin])?;
                client.wait_connected_since(client.peer().mark_start())?;
                client.peer().wait_for(&format!("TLS {tls}"), PATIENCE)?;
                check_ping(namespace)?;
                client.stop()?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_pin_is_typed_at_the_terminal_and_shown_nowhere() {
    scenario("token pin", |lab| {
        let world = World::new(lab, 1)?;
        let setting = Setting::new(&world)?;
        let _running = setting.server.start(&world.server, &setting.pki)?;
        let namespace = &world.clients[0];
        let token = Token::new(namespace.folder())?;
        token.make_key("0a", "P-256")?;
        token.certify(&world.server.folder().join("pki"), "0a", "alice")?;
        let id = "pkcs11-id pkcs11:token=my%20tok%2Fen;id=%0a";
        let file = namespace.folder().join("token.ovpn");
        fs::write(&file, format!("{}pkcs11-providers {SOFTHSM}\n{id}\n", setting.bare))?;

        let (state, settings) = (namespace.folder().join("state-token"), token.settings());
        let command = format!(
            "RUST_LOG=trace SOFTHSM2_CONF={} {} connect {} --state {}",
            settings.display(),
            binary()?.display(),
            file.display(),
            state.display()
        );
        let mut client = Terminal::start(namespace, "token", &command)?;
        client.answer("PIN of token \"my tok/en\": ", Token::PIN)?;

        client.peer().wait_for("connected to", PATIENCE)?;
        check_ping(namespace)?;
        ensure!(client.peer().said(Token::PIN).is_empty(), "the PIN is in the log");
        Ok(())
    });
}

#[test]
fn what_is_wrong_with_a_token_is_one_line() {
    scenario("token errors", |lab| {
        let world = World::new(lab, 1)?;
        let setting = Setting::new(&world)?;
        let namespace = &world.clients[0];
        let token = Token::new(namespace.folder())?;
        token.make_key("01", "P-256")?;
        token.certify(&world.server.folder().join("pki"), "01", "alice")?;
        token.make_key("02", "P-256")?;
        let (right, wrong) = (token.pin_file(Token::PIN)?, token.pin_file("000000")?);
        let start = |profile: &str, pin: Option<&str>| {
            let pin = pin.map(|pin| ["--pin-file", pin]);
            Client::start_with(namespace, profile, pin.as_ref().map_or(&[], |pin| &pin[..]))
        };
        let with = |id: &str| setting.profile(&token, id);
        let good = with("pkcs11:id=%01");

        refused(&start(&good, Some(&wrong))?, "the PIN of token \"my tok/en\" is wrong")?;
        refused(&start(&good, None)?, "nobody is there to type it")?;
        refused(&start(&with("pkcs11:id=%07"), Some(&right))?, "has no private key pkcs11:id=%07")?;
        refused(&start(&with("pkcs11:id=%02"), Some(&right))?, "no certificate has the id")?;
        refused(&start(&with("pkcs11:token=x;id=%01"), Some(&right))?, "no token \"x\" is there")?;

        let other = |module: &str| good.replace(&token.module(), module);
        let libc = "/usr/lib/x86_64-linux-gnu/libm.so.6";
        refused(&start(&other(libc), Some(&right))?, "this is not a PKCS #11 module")?;
        refused(&start(&other("/nowhere/module.so"), Some(&right))?, "/nowhere/module.so")?;
        let open = namespace.folder().join("open.so");
        fs::copy(token.module(), &open)?;
        std::os::unix::fs::chown(&open, Some(61_086), None)?;
        let stolen = other(&open.display().to_string());
        refused(&start(&stolen, Some(&right))?, "others than root can change this library")?;

        token.misbehave(Mischief::HangLoading)?;
        refused(&start(&good, Some(&right))?, "does not answer within 10 s")?;
        let shown = listed(namespace, &[&token.module()])?;
        ensure!(!shown.success() && shown.stderr.contains("does not answer"), "{shown}");
        Ok(())
    });
}

#[test]
fn a_token_that_goes_costs_no_packet_and_is_used_again_when_it_is_back() {
    scenario("token gone", |lab| {
        let world = World::new(lab, 1)?;
        let setting = Setting::new(&world)?;
        let _running = setting.server.start(&world.server, &setting.pki)?;
        let namespace = &world.clients[0];
        let token = Token::new(namespace.folder())?;
        token.make_key("01", "RSA")?;
        token.certify(&world.server.folder().join("pki"), "01", "alice")?;
        let pin = token.pin_file(Token::PIN)?;
        let profile = setting.profile(&token, "pkcs11:id=%01");
        let profile = format!("{profile}reneg-sec 6\nhand-window 10\n");
        let client = Client::start_with(namespace, &profile, &["--pin-file", &pin])?;
        client.wait_connected_since(client.peer().mark_start())?;
        check_ping(namespace)?;
        let gateway = Server::GATEWAY4.parse()?;

        for mischief in [Mischief::Gone, Mischief::Crash] {
            let (ping, mark) =
                (ping_every(AT_ONCE / 10, namespace, gateway)?, client.peer().mark());
            token.misbehave(mischief)?;
            client.peer().wait_from(mark, "no signature", PATIENCE)?;
            let report = ping.finish()?;
            ensure!(report.lost() == 0 && report.sent > 5, "{mischief:?}: {report:?}");
            token.behave(mischief)?;
            // By a renegotiation, or by a new connection if the server has had enough of those.
            client.peer().wait_from(mark, "the key signs again", 2 * PATIENCE)?;
            check_ping(namespace)?;
        }
        client.stop()?;
        Ok(())
    });
}

/// The lines of a door whose key is in the token.
fn door(token: &Token, id: &str) -> Result<String> {
    let (module, pin) = (token.module(), token.pin_file(Token::PIN)?);
    Ok(format!("server_key = \"pkcs11:id=%{id}?module-path={module}&pin-source=file:{pin}\""))
}

/// The configuration, where root alone can write.
fn start(world: &World, lines: &[&str]) -> Result<Warren> {
    Warren::up(&world.server, "warren", &config(&[], lines))
}

#[test]
fn a_servers_key_in_a_token_serves_stock_clients() {
    scenario("token server", |lab| {
        let world = World::new(lab, 1)?;
        let token = Token::new(world.server.folder())?;
        for (id, kind) in [("01", "RSA"), ("02", "P-256"), ("03", "P-384")] {
            token.make_key(id, kind)?;
            let warren = start(&world, &[&door(&token, id)?])?;
            let user = format!("alice-{id}");
            let remote = World::SERVER4.to_string();
            let profile = warren.user_with_profile(&user, Server::PASSWORD, &remote)?;
            let login = Some((user.as_str(), Server::PASSWORD));
            for tls in ["1.2", "1.3"] {
                let options = ["--tls-version-max", tls];
                let client =
                    openvpn::Client::connect(&world.clients[0], &profile, login, &options)?;
                client.peer().wait_for(&format!("Control Channel: TLSv{tls}"), PATIENCE)?;
                reach(&world.clients[0], "10.86.0.1".parse()?)?;
                client.stop()?;
            }
            warren.stop()?;
        }
        Ok(())
    });
}

#[test]
fn a_module_that_hangs_disturbs_nobody_and_is_used_again_when_it_answers() {
    scenario("token hangs", |lab| {
        let world = World::new(lab, 2)?;
        let token = Token::new(world.server.folder())?;
        token.make_key("01", "RSA")?;
        let warren = start(&world, &[&door(&token, "01")?])?;
        let remote = World::SERVER4.to_string();
        let profile = |name| warren.user_with_profile(name, Server::PASSWORD, &remote);
        let (alice, bob) = (profile("alice")?, profile("bob")?);
        let login = |name| Some((name, Server::PASSWORD));
        let member = openvpn::Client::connect(&world.clients[0], &alice, login("alice"), &[])?;
        let gateway = "10.86.0.1".parse()?;
        reach(&world.clients[0], gateway)?;
        let memory = warren.peer().rss_kib()?;

        token.misbehave(Mischief::HangSigning)?;
        let ping = ping_every(AT_ONCE / 10, &world.clients[0], gateway)?;
        let options = ["--hand-window", "8", "--connect-retry", "1", "1"];
        let late = openvpn::Client::start(&world.clients[1], &bob, login("bob"), &options)?;
        late.peer().wait_for("TLS: Initial packet", PATIENCE)?;
        // While it hangs, the door goes on: it answers, and it lets go of a member.
        let deadline = Instant::now() + 2 * PATIENCE;
        while warren.peer().said("does not answer within 5 s").is_empty() {
            let asked = Instant::now();
            warren.session_of("alice")?;
            ensure!(asked.elapsed() < AT_ONCE, "the door waited for the module");
            ensure!(Instant::now() < deadline, "no line about the module");
        }
        let mark = late.peer().mark();
        late.peer().wait_from(mark, "TLS: Initial packet", 2 * PATIENCE)?;
        let report = ping.finish()?;
        ensure!(report.lost() == 0 && report.sent > 10, "{report:?}");
        let lines = warren.peer().said("no signature");
        ensure!(lines.len() <= 3, "a line for every attempt: {lines:?}");
        let grown = warren.peer().rss_kib()?.saturating_sub(memory);
        ensure!(grown < 8 * 1024, "{grown} KiB more");

        token.behave(Mischief::HangSigning)?;
        late.wait_reconnected(mark)?;
        warren.peer().wait_for("the key signs again", PATIENCE)?;
        reach(&world.clients[1], gateway)?;
        member.stop()?;
        late.stop()?;
        Ok(())
    });
}

#[test]
fn a_server_without_its_key_does_not_start_and_says_why_in_one_line() {
    scenario("token server errors", |lab| {
        let world = World::new(lab, 1)?;
        let token = Token::new(world.server.folder())?;
        token.make_key("01", "P-256")?;
        let good = door(&token, "01")?;
        let wrong = good.replace(&token.pin_file(Token::PIN)?, &token.pin_file("000000")?);
        let fail = |lines: &str, words: &str| -> Result<()> {
            let text = config(&[], &[lines]);
            let home = lab::warren::Home::new(&world.server, "refused", &text)?;
            let output = home.up_to_exit()?;
            let lines = output.stderr.lines().filter(|line| line.starts_with("warren: "));
            let lines = lines.collect::<Vec<_>>();
            ensure!(!output.success() && lines.len() == 1, "{output}");
            ensure!(lines[0].contains("doors.openvpn.server_key"), "{output}");
            ensure!(lines[0].contains(words), "{words:?} is not in: {output}");
            Ok(())
        };

        fail(&good.replace("%01", "%09"), "has no private key")?;
        fail(&wrong, "the PIN of token")?;
        fail(&good.replace("module.so", "missing.so"), "missing.so")?;
        token.misbehave(Mischief::HangLoading)?;
        fail(&good, "does not answer within 10 s")?;
        token.behave(Mischief::HangLoading)?;
        token.misbehave(Mischief::Gone)?;
        fail(&good, "no token is there")
    });
}
