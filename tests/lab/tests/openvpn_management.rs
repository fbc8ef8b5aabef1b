//! OpenVPN's management protocol at a Warren server: what consoles see and decide, with stock
//! clients at the other end.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lab::openvpn::Client;
use lab::warren::{GATEWAY4, Home, Warren, config};
use lab::{Lab, PATIENCE, World, eventually, reach, scenario};

const USER: &str = "alice";
const PASSWORD: &str = "long enough for a test";
const CREDENTIALS: Option<(&str, &str)> = Some((USER, PASSWORD));

/// A console at the unix socket.
#[derive(Debug)]
struct Console {
    stream: BufReader<UnixStream>,
    /// What was told between the answers.
    notices: Vec<String>,
}

impl Console {
    fn connect(path: &PathBuf) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| path.display().to_string())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut console = Self { stream: BufReader::new(stream), notices: Vec::new() };
        let greeting = console.line()?;
        ensure!(greeting.starts_with(">INFO:OpenVPN Management Interface Version "), "{greeting}");
        Ok(console)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let Some(line) = line.strip_suffix("\r\n") else { bail!("cut off at {line:?}") };
        Ok(line.to_owned())
    }

    fn send(&mut self, command: &str) -> Result<()> {
        Ok(self.stream.get_mut().write_all(format!("{command}\n").as_bytes())?)
    }

    /// The first line of the answer.
    fn ask(&mut self, command: &str) -> Result<String> {
        self.send(command)?;
        loop {
            let line = self.line()?;
            if !line.starts_with('>') {
                return Ok(line);
            }
            self.notices.push(line);
        }
    }

    /// The answer up to `END`, without it.
    fn list(&mut self, command: &str) -> Result<Vec<String>> {
        let mut lines = vec![self.ask(command)?];
        while lines.last().is_some_and(|line| line != "END") {
            let line = self.line()?;
            if line.starts_with('>') {
                self.notices.push(line);
            } else {
                lines.push(line);
            }
        }
        lines.pop();
        Ok(lines)
    }

    /// Where the next notice is that begins so; what comes before it stays.
    fn find(&mut self, prefix: &str) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.notices.iter().position(|line| line.starts_with(prefix)) {
                return Ok(at);
            }
            ensure!(Instant::now() < deadline, "no {prefix} among {:?}", self.notices);
            let line = self.line().with_context(|| format!("waiting for {prefix}"))?;
            self.notices.push(line);
        }
    }

    fn notice(&mut self, prefix: &str) -> Result<String> {
        let at = self.find(prefix)?;
        Ok(self.notices.remove(at))
    }

    /// The next client that wants in or has come in: its ids, and its environment.
    fn client(&mut self, event: &str) -> Result<(String, Vec<String>)> {
        let at = self.find(&format!(">CLIENT:{event},"))?;
        let head = self.notices.remove(at);
        let ids = head.split_once(',').unwrap().1.replace(',', " ");
        let mut environment = Vec::new();
        loop {
            let line = if at < self.notices.len() { self.notices.remove(at) } else { self.line()? };
            match line.strip_prefix(">CLIENT:ENV,") {
                Some("END") => return Ok((ids, environment)),
                Some(variable) => environment.push(variable.to_owned()),
                None => bail!("{line:?} between the lines of {head}"),
            }
        }
    }
}

struct House {
    world: World,
    warren: Warren,
    profile: String,
    socket: PathBuf,
}

impl House {
    /// A server that speaks the protocol, with these extra lines in `[doors.openvpn]`.
    fn new(lab: &Lab, door: &[&str]) -> Result<Self> {
        let world = World::new(lab, 1)?;
        let socket = world.server.folder().join("management");
        let management = format!("management = \"{}\"", socket.display());
        let door = [&[management.as_str()], door].concat();
        let home = Home::new(&world.server, "warren", &config(&[], &door))?;
        let warren = Warren::start(&home)?;
        let profile = warren.user_with_profile(USER, PASSWORD, &World::SERVER4.to_string())?;
        Ok(Self { world, warren, profile, socket })
    }

    fn console(&self) -> Result<Console> {
        Console::connect(&self.socket)
    }

    fn client(&self, credentials: Option<(&str, &str)>, options: &[&str]) -> Result<Client> {
        Client::start(&self.world.clients[0], &self.profile, credentials, options)
    }

    /// What the user's only certificate or client key is called.
    fn credential(&self, kind: &str, name: &str) -> Result<String> {
        let list = self.warren.home().run(&[kind, "list", "--json"])?;
        let list: Vec<serde_json::Value> = serde_json::from_str(&list)?;
        let own = list.iter().find(|entry| entry["user"] == USER);
        let name = own.and_then(|entry| entry[name].as_str());
        Ok(name.with_context(|| format!("{USER} has no {kind}"))?.to_owned())
    }

    fn check_ping(&self) -> Result<()> {
        reach(&self.world.clients[0], GATEWAY4.parse()?)?;
        Ok(())
    }
}

#[test]
fn a_console_watches_clients_come_and_go() {
    scenario("console", |lab| {
        let house = House::new(lab, &["ping = 2", "ping_restart = 6"])?;
        let mut console = house.console()?;
        assert!(console.list("state")?[0].contains(",CONNECTED,SUCCESS,10.86.0.1,"));
        assert_eq!(console.ask("load-stats")?, "SUCCESS: nclients=0,bytesin=0,bytesout=0");
        console.ask("log on")?;

        let client = house.client(CREDENTIALS, &[])?;
        client.wait_connected()?;
        house.check_ping()?;

        let (cid, environment) = console.client("ESTABLISHED")?;
        let address = client.address4()?.to_string();
        assert!(environment.contains(&format!("ifconfig_pool_remote_ip={address}")));
        assert!(environment.contains(&format!("common_name={USER}")), "{environment:?}");
        assert!(environment.contains(&"trusted_ip=192.0.2.10".to_owned()), "{environment:?}");
        let table = console.list("status 2")?;
        let row = table.iter().find(|line| line.starts_with("CLIENT_LIST,")).unwrap();
        let fields = row.split(',').collect::<Vec<_>>();
        assert_eq!((fields[1], fields[3], fields[9]), (USER, address.as_str(), USER), "{row}");
        assert!(fields[2].starts_with("192.0.2.10:") && fields[5] != "0", "{row}");
        assert_eq!((fields[10], fields[12]), (cid.as_str(), "AES-256-GCM"), "{row}");
        assert!(table.iter().any(|line| line.starts_with(&format!("ROUTING_TABLE,{address},"))));
        console.ask("bytecount 1")?;
        let count = console.notice(&format!(">BYTECOUNT_CLI:{cid},"))?;
        assert_ne!(count.split(',').nth(1), Some("0"), "{count}");
        console.ask("bytecount 0")?;
        console.notice(">LOG:").context("no line of the log")?;

        let mark = client.peer().mark();
        let remote = fields[2];
        let killed = format!("SUCCESS: 1 client(s) at address {remote} killed");
        assert_eq!(console.ask(&format!("kill {remote}"))?, killed);
        client.wait_reconnected(mark)?;
        let (next, _) = console.client("ESTABLISHED")?;
        assert_ne!(next, cid);
        let mark = client.peer().mark();
        let found = format!("SUCCESS: common name '{USER}' found, 1 client(s) killed");
        assert_eq!(console.ask(&format!("kill {USER}"))?, found);
        client.wait_reconnected(mark)?;
        house.check_ping()?;
        Ok(())
    });
}

#[test]
fn a_console_stops_the_server_and_hears_that_it_ends() {
    scenario("stop", |lab| {
        let house = House::new(lab, &[])?;
        let mut console = house.console()?;
        console.ask("state on")?;

        assert_eq!(console.ask("signal SIGTERM")?, "SUCCESS: signal SIGTERM thrown");

        assert!(console.notice(">STATE:")?.contains(",EXITING,SIGTERM,"));
        let output = house.warren.peer().wait_exit(PATIENCE)?;
        ensure!(output.success(), "{output}");
        assert!(!house.socket.exists(), "the socket stays behind");
        Ok(())
    });
}

#[test]
fn the_socket_is_not_for_others_and_a_password_is_asked_for() {
    scenario("password", |lab| {
        let world = World::new(lab, 0)?;
        let (socket, password) =
            (world.server.folder().join("management"), world.server.folder().join("password"));
        std::fs::write(&password, "sesame\n")?;
        let door = [
            format!("management = \"{}\"", socket.display()),
            format!("management_password_file = \"{}\"", password.display()),
        ];
        let text = config(&[], &[door[0].as_str(), door[1].as_str()]);
        let home = Home::new(&world.server, "warren", &text)?;
        // A file that everybody may read is no secret.
        let output = home.up_to_exit()?;
        ensure!(!output.success() && output.to_string().contains("chmod 600"), "{output}");

        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600))?;
        let _warren = Warren::start(&home)?;
        let mode = std::fs::metadata(&socket)?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"sesame\r\n")?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        assert_eq!(line, "ENTER PASSWORD:SUCCESS: password is correct\r\n");
        Ok(())
    });
}

#[test]
fn nobody_gets_in_while_nobody_is_there_to_decide() {
    scenario("nobody", |lab| {
        let house = House::new(lab, &["management_client_auth = true"])?;
        let client = house.client(CREDENTIALS, &["--connect-retry-max", "1"])?;

        client.peer().wait_for("AUTH_FAILED", PATIENCE)?;

        let why = "no management client is connected";
        house.warren.peer().wait_for(why, PATIENCE)?;
        assert!(house.warren.sessions()?.is_empty());
        Ok(())
    });
}

#[test]
fn a_console_decides_about_logins_and_renewals() {
    scenario("client-auth", |lab| {
        let door = ["management_client_auth = true", "renegotiate = 10"];
        let house = House::new(lab, &door)?;
        let mut console = house.console()?;
        // The console decides: the password need not be the list's.
        let client =
            house.client(Some((USER, "one \"time\" \\ password")), &["--push-peer-info"])?;

        let (ids, environment) = console.client("CONNECT")?;
        for expected in [
            format!("username={USER}"),
            "password=one \"time\" \\ password".to_owned(),
            format!("common_name={USER}"),
            "untrusted_ip=192.0.2.10".to_owned(),
            "IV_PLAT=linux".to_owned(),
        ] {
            assert!(environment.contains(&expected), "no {expected} in {environment:?}");
        }
        assert!(client.peer().said(lab::openvpn::UP).is_empty(), "in before it was let in");
        assert!(house.warren.sessions()?.is_empty());
        let succeeded = "SUCCESS: client-auth command succeeded";
        let auth = format!("client-auth {ids}\nifconfig-push 10.86.7.7 255.255.0.0\nEND");
        assert_eq!(console.ask(&auth)?, succeeded);
        client.wait_connected()?;
        assert_eq!(client.address4()?.to_string(), "10.86.7.7");
        console.notice(">CLIENT:ADDRESS,")?;
        let (cid, _) = console.client("ESTABLISHED")?;
        assert_eq!(ids.split(' ').next(), Some(cid.as_str()));

        let (again, _) = console.client("REAUTH")?;
        assert_eq!(again.split(' ').next(), Some(cid.as_str()));
        assert_ne!(again, ids);
        assert_eq!(console.ask(&format!("client-auth-nt {again}"))?, succeeded);
        house.check_ping()?;

        let mark = client.peer().mark();
        console.ask(&format!("client-kill {cid}"))?;
        let (ended, environment) = console.client("DISCONNECT")?;
        assert_eq!(ended, cid);
        let received = environment.iter().find_map(|line| line.strip_prefix("bytes_received="));
        assert!(received.is_some_and(|bytes| bytes != "0"), "{environment:?}");
        let (ids, _) = console.client("CONNECT")?;
        console.ask(&format!("client-auth-nt {ids}"))?;
        client.wait_reconnected(mark)?;
        Ok(())
    });
}

#[test]
fn a_login_that_waits_ends_when_its_client_key_is_revoked() {
    scenario("client key revoked while waiting", |lab| {
        let house = House::new(lab, &["management_client_auth = true"])?;
        let mut console = house.console()?;
        let _client = house.client(CREDENTIALS, &[])?;
        let (ids, _) = console.client("CONNECT")?;
        let key = house.credential("client-key", "id")?;

        house.warren.home().run(&["client-key", "revoke", &key])?;

        // Long before the handshake's own time is over.
        let revoked = Instant::now();
        let (ended, _) = console.client("DISCONNECT")?;
        assert!(revoked.elapsed() < Duration::from_secs(10), "{:?}", revoked.elapsed());
        assert_eq!(ids.split(' ').next(), Some(ended.as_str()));
        let answer = console.ask(&format!("client-auth-nt {ids}"))?;
        assert!(answer.starts_with("ERROR:"), "{answer}");
        assert!(house.warren.sessions()?.is_empty());
        Ok(())
    });
}

#[test]
fn users_that_only_the_console_knows_stay_in() {
    scenario("strangers", |lab| {
        let door = ["management_client_auth = true", "auth = \"password\""];
        let house = House::new(lab, &door)?;
        let mut console = house.console()?;
        let client = house.client(Some(("stranger", "whatever")), &[])?;
        let (ids, _) = console.client("CONNECT")?;
        console.ask(&format!("client-auth-nt {ids}"))?;
        client.wait_connected()?;

        // The server looks at its sessions again whenever the list changes.
        house.warren.home().add_user("somebody", PASSWORD)?;
        let (stable, deadline) = (Duration::from_secs(4), Instant::now());
        eventually(PATIENCE, || {
            house.check_ping()?;
            ensure!(deadline.elapsed() > stable, "not yet");
            Ok(())
        })?;
        assert_eq!(house.warren.session_of("stranger")?.user, "stranger");

        // A user of the list can still be shut out there.
        house.warren.home().add_user("stranger", PASSWORD)?;
        house.warren.home().run(&["user", "disable", "stranger"])?;
        house.warren.wait_sessions(0, PATIENCE)?;
        Ok(())
    });
}

#[test]
fn who_came_with_a_certificate_of_the_list_goes_with_the_list() {
    scenario("removed", |lab| {
        let house = House::new(lab, &["management_client_auth = true"])?;
        let mut console = house.console()?;
        let client = house.client(CREDENTIALS, &[])?;
        let (ids, _) = console.client("CONNECT")?;
        console.ask(&format!("client-auth-nt {ids}"))?;
        client.wait_connected()?;

        house.warren.home().run(&["user", "remove", USER])?;

        house.warren.wait_sessions(0, Duration::from_secs(5))
    });
}

#[test]
fn a_login_that_the_console_denies_fails() {
    scenario("client-deny", |lab| {
        let house = House::new(lab, &["management_client_auth = true"])?;
        let mut console = house.console()?;
        let client = house.client(CREDENTIALS, &["--connect-retry-max", "1"])?;
        let (ids, _) = console.client("CONNECT")?;

        let denied = console.ask(&format!("client-deny {ids} \"not today\""))?;

        assert_eq!(denied, "SUCCESS: client-deny command succeeded");
        client.peer().wait_for("AUTH_FAILED", PATIENCE)?;
        house.warren.peer().wait_for("not today", PATIENCE)?;
        let cid = ids.split(' ').next().unwrap().to_owned();
        assert_eq!(console.client("DISCONNECT")?.0, cid);
        assert!(house.warren.sessions()?.is_empty());
        Ok(())
    });
}

/// A stock client that asks a console of its own for its user's words.
fn asking(house: &House) -> Result<(Client, Console)> {
    let socket = house.world.clients[0].folder().join("client-management");
    let path = socket.display().to_string();
    let options = [
        "--management",
        &path,
        "unix",
        "--management-query-passwords",
        "--auth-retry",
        "interact",
        "--auth-user-pass",
        "--setenv",
        "IV_SSO",
        "webauth,crtext",
        "--push-peer-info",
    ];
    let client = house.client(None, &options)?;
    let mut console = eventually(PATIENCE, || Console::connect(&socket))?;
    log_in(&mut console, PASSWORD)?;
    Ok((client, console))
}

fn log_in(console: &mut Console, password: &str) -> Result<()> {
    console.notice(">PASSWORD:Need 'Auth' username/password")?;
    console.ask(&format!("username \"Auth\" {USER}"))?;
    console.ask(&format!("password \"Auth\" \"{password}\""))?;
    Ok(())
}

#[test]
fn a_client_is_told_why_it_is_denied() {
    scenario("client-deny with a reason", |lab| {
        let house = House::new(lab, &["management_client_auth = true"])?;
        let mut console = house.console()?;
        let client = house.client(CREDENTIALS, &["--connect-retry-max", "1"])?;
        let (ids, _) = console.client("CONNECT")?;

        console.ask(&format!("client-deny {ids} \"a note\" \"come back on Monday, please\""))?;

        client.peer().wait_for("AUTH_FAILED,come back on Monday, please", PATIENCE)?;
        house.warren.peer().wait_for("a note", PATIENCE)?;
        Ok(())
    });
}

#[test]
fn a_client_answers_the_question_of_client_deny() {
    scenario("dynamic challenge", |lab| {
        let house = House::new(lab, &["management_client_auth = true"])?;
        let mut console = house.console()?;
        let (client, mut user) = asking(&house)?;
        let (ids, _) = console.client("CONNECT")?;
        let question = "CRV1:R,E:abc:YWxpY2U=:The code: please";
        console.ask(&format!("client-deny {ids} \"one more question\" \"{question}\""))?;

        let asked = user.notice(">PASSWORD:Verification Failed: 'Auth' ['CRV1:")?;
        assert!(asked.ends_with(":The code: please']"), "{asked}");
        let state = asked.split(':').nth(4).unwrap().to_owned();
        log_in(&mut user, &format!("CRV1::{state}::123456"))?;

        let (ids, environment) = console.client("CONNECT")?;
        // The state is the console's own, however the server wrote it meanwhile.
        let answered = "password=CRV1::abc::123456".to_owned();
        assert!(environment.contains(&answered), "{environment:?}");
        console.ask(&format!("client-auth-nt {ids}"))?;
        client.wait_connected()?;
        house.check_ping()
    });
}

#[test]
fn a_client_waits_while_somebody_decides_elsewhere() {
    scenario("pending", |lab| {
        let house = House::new(lab, &["management_client_auth = true"])?;
        let mut console = house.console()?;
        let (client, mut user) = asking(&house)?;
        user.ask("state on")?;
        let (ids, environment) = console.client("CONNECT")?;
        assert!(environment.contains(&"IV_SSO=webauth,crtext".to_owned()), "{environment:?}");

        let pending = format!("client-pending-auth {ids} CR_TEXT:R,E:code 120");
        assert_eq!(console.ask(&pending)?, "SUCCESS: client-pending-auth command succeeded");
        assert!(user.notice(">INFOMSG:")?.ends_with("CR_TEXT:R,E:code"));
        assert!(client.peer().said(lab::openvpn::UP).is_empty(), "in before it was let in");
        user.ask("cr-response MTIzNDU2")?;
        let (answered, _) = console.client("CR_RESPONSE")?;
        assert_eq!(answered, format!("{ids} MTIzNDU2"));
        console.ask(&format!("client-auth-nt {ids}"))?;

        client.wait_connected()?;
        house.check_ping()
    });
}
