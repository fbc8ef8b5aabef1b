//! OpenVPN's management protocol at `warren connect`: what graphical user interfaces say to a
//! client and hear from it, beside what they hear from a stock one.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use lab::openvpn::{Proof, Server, with_block};
use lab::warren::{Home, Warren, config};
use lab::{
    HostState, Lab, PATIENCE, Peer, Pki, World, eventually, openvpn, reach, scenario, warren,
};
use nix::sys::signal::Signal;

trait Line: Read + Write + Send {}

impl<T: Read + Write + Send> Line for T {}

/// A user interface, and everything that it has said and heard.
struct Gui {
    lines: BufReader<Box<dyn Line>>,
    dialogue: Vec<String>,
    /// How much of the dialogue has been searched for notices.
    noticed: usize,
    /// Where answers to the last command begin.
    asked: usize,
}

impl Gui {
    fn new(stream: Box<dyn Line>) -> Self {
        Self { lines: BufReader::new(stream), dialogue: Vec::new(), noticed: 0, asked: 0 }
    }

    fn unix(socket: &Path) -> Result<Self> {
        let stream = eventually(PATIENCE, || Ok(UnixStream::connect(socket)?))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::new(Box::new(stream)))
    }

    /// The next line; `None` at the end.
    fn read(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        if self.lines.read_line(&mut line).with_context(|| self.dialogue.join("\n"))? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_owned();
        self.dialogue.push(line.clone());
        Ok(Some(line))
    }

    /// The rest of the next line that begins so: a notice, or an answer to the last command.
    fn hear(&mut self, beginning: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is_notice = beginning.starts_with('>');
            let seen = if is_notice { &mut self.noticed } else { &mut self.asked };
            while let Some(line) = self.dialogue.get(*seen) {
                *seen += 1;
                if let Some(rest) = line.strip_prefix(beginning) {
                    return Ok(rest.to_owned());
                }
            }
            ensure!(Instant::now() < deadline, "no {beginning} in {:#?}", self.dialogue);
            if self.read()?.is_none() {
                bail!("closed before {beginning}: {:#?}", self.dialogue);
            }
        }
    }

    /// Waits for a state that contains this.
    fn state(&mut self, name: &str) -> Result<String> {
        loop {
            let state = self.hear(">STATE:")?;
            if state.split(',').nth(1) == Some(name) {
                return Ok(state);
            }
        }
    }

    fn say(&mut self, command: &str) -> Result<()> {
        self.dialogue.push(format!("> {command}"));
        self.asked = self.dialogue.len();
        Ok(writeln!(self.lines.get_mut(), "{command}")?)
    }

    /// Says it and waits for the answer, which begins so.
    fn ask(&mut self, command: &str, answer: &str) -> Result<String> {
        self.say(command)?;
        self.hear(answer)
    }

    fn log_in(&mut self, kind: &str, user: &str, password: &str) -> Result<()> {
        self.hear(&format!(">PASSWORD:Need '{kind}' username/password"))?;
        self.ask(&format!("username \"{kind}\" {user}"), "SUCCESS: ")?;
        self.ask(&format!("password \"{kind}\" \"{password}\""), "SUCCESS: ")?;
        Ok(())
    }

    /// Everything up to the end.
    fn finish(mut self) -> Result<Vec<String>> {
        while self.read()?.is_some() {}
        Ok(self.dialogue)
    }
}

/// The dialogue without what cannot be the same twice, or need not be.
fn normalised(dialogue: &[String]) -> Vec<String> {
    let numbers = |text: &str| {
        let mut out = String::new();
        for c in text.chars() {
            match c {
                '0'..='9' if out.ends_with('#') => {}
                '0'..='9' => out.push('#'),
                c => out.push(c),
            }
        }
        out
    };
    let mut lines = Vec::new();
    for line in dialogue {
        let fields = line.split(',').collect::<Vec<_>>();
        let line = match (fields.first().copied().unwrap_or_default(), fields.get(1)) {
            // A stock client does not ask a server that pushes early.
            (_, Some(&"GET_CONFIG")) => continue,
            (head, Some(_)) if head.starts_with(">STATE:") || head.parse::<u64>().is_ok() => {
                format!("T,{}", fields[1..].join(","))
            }
            (head, Some(_)) if head.starts_with(">ECHO:") => format!(">ECHO:T,{}", fields[1]),
            ("Updated", _) => "Updated,T".to_owned(),
            (head, Some(_)) if head.contains(" bytes") => format!("{head},#"),
            (head, _) if head.starts_with(">BYTECOUNT:") => {
                if lines.iter().any(|line: &String| line.starts_with(">BYTECOUNT:")) {
                    continue;
                }
                ">BYTECOUNT:#,#".to_owned()
            }
            // Ours does not follow the profile's "verb".
            (head, _) if head.starts_with("SUCCESS: verb=") => numbers(line),
            (head, _) if head.starts_with("SUCCESS: pid=") => numbers(line),
            (head, _) if head.starts_with("SUCCESS: nclients=") => numbers(line),
            _ => line.clone(),
        };
        lines.push(line);
    }
    lines
}

struct Stage {
    world: World,
    server: Peer,
    /// The client's.
    key: String,
    profile: String,
}

impl Stage {
    /// A stock server that asks for a password, with these lines; and a profile for it.
    fn new(lab: &Lab, extra: &[&str]) -> Result<Self> {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(world.server.folder())?;
        let extra = extra.iter().map(ToString::to_string).collect();
        let server = Server { proof: Proof::Both, extra, ..Server::default() };
        let running = server.start(&world.server, &pki)?;
        let identity = pki.client(Server::USER)?;
        let profile = server.profile(&pki, &identity, &[(World::SERVER4.into(), 1194)]);
        Ok(Self { world, server: running, key: identity.key, profile })
    }

    fn socket(&self, name: &str) -> PathBuf {
        lab::console::socket(&format!("client-{name}"))
    }

    fn connect(&self, profile: &str, options: &[&str]) -> Result<warren::Client> {
        warren::Client::start_with(&self.world.clients[0], profile, options)
    }

    fn check_ping(&self) -> Result<()> {
        reach(&self.world.clients[0], Server::GATEWAY4.parse()?)?;
        Ok(())
    }
}

const OPTIONS: &[&str] =
    &["--management-hold", "--management-query-passwords", "--auth-retry", "interact"];

/// Each has one line of answer, while the client is held back.
const COMMANDS: &[&str] = &[
    "hold",
    "hold foo",
    "bytecount",
    "verb",
    "verb 99",
    "mute",
    "log",
    "log foo",
    "state foo",
    "auth-retry",
    "auth-retry interact",
    "username Auth x",
    "username Auth",
    "password Auth x",
    "needok a ok",
    "needok a",
    "needstr a b",
    "net",
    "remote ACCEPT",
    "proxy NONE",
    "kill foo",
    "client-kill 1",
    "client-auth-nt 0 0",
    "client-deny 1 1 x",
    "env-filter 2",
    "pk-sig",
    "certificate",
    "signal",
    "foo",
    "pid",
    "forget-passwords",
    "load-stats",
    "hold off",
    "hold",
    "hold on",
];

/// What a user interface does in an hour, in seconds.
fn script(gui: &mut Gui, check_ping: impl Fn() -> Result<()>) -> Result<()> {
    gui.hear(">HOLD:Waiting for hold release:")?;
    gui.ask("state on", "SUCCESS: ")?;
    gui.ask("echo on all", "END")?;
    for command in COMMANDS {
        gui.say(command)?;
        gui.read()?;
    }
    gui.ask("state all", "END")?;

    gui.ask("hold release", "SUCCESS: ")?;
    gui.log_in("Auth", Server::USER, "wrong")?;
    gui.hear(">PASSWORD:Verification Failed: 'Auth'")?;
    gui.state("RECONNECTING")?;
    gui.hear(">HOLD:Waiting for hold release:")?;
    gui.ask("hold release", "SUCCESS: ")?;
    gui.log_in("Auth", Server::USER, Server::PASSWORD)?;
    gui.state("CONNECTED")?;
    check_ping()?;

    gui.ask("state", "END")?;
    gui.ask("status", "END")?;
    gui.ask("status 3", "END")?;
    gui.ask("bytecount 1", "SUCCESS: ")?;
    let count = gui.hear(">BYTECOUNT:")?;
    ensure!(count.split(',').all(|bytes| bytes.parse::<u64>().is_ok_and(|n| n > 0)), "{count}");
    gui.ask("bytecount 0", "SUCCESS: ")?;
    gui.ask("echo all", "END")?;
    gui.ask("hold off", "SUCCESS: ")?;
    gui.ask("signal SIGUSR1", "SUCCESS: ")?;
    gui.state("RECONNECTING")?;
    gui.state("CONNECTED")?;
    check_ping()?;
    gui.ask("state all", "END")?;
    gui.ask("signal SIGTERM", "SUCCESS: ")?;
    gui.state("EXITING")?;
    Ok(())
}

#[test]
fn a_user_interface_hears_from_warren_what_it_hears_from_openvpn() {
    scenario("dialogue", |lab| {
        let pushed = ["push \"echo hello there\"", "push \"route 10.99.0.0 255.255.0.0\""];
        let stage = Stage::new(lab, &pushed)?;
        let profile = format!("static-challenge \"Code, please\" 1\n{}", stage.profile);
        let host = &stage.world.clients[0];
        let before = HostState::of(host)?;

        let at = stage.socket("stock");
        let path = at.display().to_string();
        let options = [&["--management", &path, "unix"], OPTIONS].concat();
        let stock = openvpn::Client::start(host, &profile, None, &options)?;
        let mut gui = Gui::unix(&at)?;
        script(&mut gui, || stage.check_ping())?;
        let expected = normalised(&gui.finish()?);
        stock.peer().wait_exit(PATIENCE)?;

        let at = stage.socket("warren");
        let path = at.display().to_string();
        let options = [&["--management", &path, "unix"], OPTIONS].concat();
        let client = stage.connect(&profile, &options)?;
        let mut gui = Gui::unix(&at)?;
        let played = script(&mut gui, || stage.check_ping());
        played.with_context(|| client.peer().said("").join("\n"))?;
        let heard = normalised(&gui.finish()?);
        let output = client.peer().wait_exit(PATIENCE)?;

        assert_eq!(heard, expected);
        ensure!(output.success(), "{output}");
        assert!(!at.exists(), "the socket stays behind");
        before.check_unchanged(host)?;
        let said = client.peer().said(Server::PASSWORD);
        assert!(said.is_empty(), "the password is in the log: {said:?}");
        ensure!(stage.server.is_running(), "the server is gone");
        Ok(())
    });
}

#[test]
fn the_passphrase_and_the_server_are_asked_for() {
    scenario("questions", |lab| {
        let stage = Stage::new(lab, &[])?;
        let key = stage.world.clients[0].folder().join("plain.key");
        std::fs::write(&key, &stage.key)?;
        let name = key.display().to_string();
        let locked = stage.world.clients[0]
            .run("openssl", &["pkey", "-in", &name, "-aes128", "-passout", "pass:a \"key\""])?;
        let profile = with_block(&stage.profile, "key", &locked)?;
        let nowhere = "remote 203.0.113.9 1194 udp4\nremote 203.0.113.8 1194 udp4";
        let profile = format!("{nowhere}\n{}", openvpn::without_remotes(&profile));
        let at = stage.socket("questions");
        let path = at.display().to_string();
        // As some profiles have it.
        let profile = format!(
            "management {path} unix\nmanagement-query-passwords\nmanagement-query-remote\n\
             management-up-down\nauth-retry interact\n{profile}"
        );
        let client = stage.connect(&profile, &[])?;
        let mut gui = Gui::unix(&at)?;

        gui.hear(">PASSWORD:Need 'Private Key' password")?;
        gui.ask("password \"Private Key\" wrong", "SUCCESS: ")?;
        gui.hear(">PASSWORD:Verification Failed: 'Private Key'")?;
        gui.hear(">PASSWORD:Need 'Private Key' password")?;
        gui.ask("password \"Private Key\" \"a \\\"key\\\"\"", "SUCCESS: ")?;
        gui.ask("state on", "SUCCESS: ")?;
        gui.log_in("Auth", Server::USER, Server::PASSWORD)?;
        gui.hear(">REMOTE:203.0.113.9,1194,udp4")?;
        gui.ask("remote SKIP", "SUCCESS: remote command succeeded")?;
        gui.hear(">REMOTE:203.0.113.8,1194,udp4")?;
        gui.ask("remote MOD 203.0.113.1 1194", "SUCCESS: remote command succeeded")?;
        gui.hear(">UPDOWN:UP")?;
        gui.hear(">UPDOWN:ENV,trusted_ip=203.0.113.1")?;
        let state = gui.state("CONNECTED")?;
        ensure!(state.contains(",203.0.113.1,1194,"), "{state}");
        stage.check_ping()?;
        gui.ask("remote-entry-get all", "0,203.0.113.9,1194,udp4,enabled")?;

        // What comes from outside is told, too.
        client.peer().signal(Signal::SIGTERM)?;
        gui.hear(">UPDOWN:DOWN")?;
        gui.state("EXITING")?;
        client.peer().wait_exit(PATIENCE)?;
        Ok(())
    });
}

#[test]
fn a_client_that_calls_its_user_interface_ends_with_it() {
    scenario("called", |lab| {
        let stage = Stage::new(lab, &[])?;
        let at = stage.socket("called");
        let _ = std::fs::remove_file(&at);
        let listener = UnixListener::bind(&at)?;
        let path = at.display().to_string();
        let options =
            ["--management", &path, "unix", "--management-client", "--management-query-passwords"];
        let before = HostState::of(&stage.world.clients[0])?;
        let client = stage.connect(&stage.profile, &options)?;
        let (stream, _) = listener.accept()?;
        std::fs::remove_file(&at)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut gui = Gui::new(Box::new(stream));

        gui.ask("state on", "SUCCESS: ")?;
        gui.log_in("Auth", Server::USER, Server::PASSWORD)?;
        gui.state("CONNECTED")?;
        drop(gui);

        let output = client.peer().wait_exit(PATIENCE)?;
        ensure!(output.success(), "{output}");
        before.check_unchanged(&stage.world.clients[0])
    });
}

#[test]
fn a_refused_login_ends_the_client_unless_it_is_asked_for_again() {
    scenario("auth-retry", |lab| {
        let stage = Stage::new(lab, &[])?;
        let at = stage.socket("refused");
        let path = at.display().to_string();
        let options = ["--management", &path, "unix", "--management-query-passwords"];
        let client = stage.connect(&stage.profile, &options)?;
        let mut gui = Gui::unix(&at)?;
        gui.ask("state on", "SUCCESS: ")?;

        gui.log_in("Auth", Server::USER, "wrong")?;
        gui.hear(">PASSWORD:Verification Failed: 'Auth'")?;
        let state = gui.state("EXITING")?;

        ensure!(state.contains(",auth-failure,"), "{state}");
        let output = client.peer().wait_exit(PATIENCE)?;
        ensure!(!output.success(), "{output}");
        ensure!(!output.to_string().contains("wrong"), "the password is in the log: {output}");
        Ok(())
    });
}

#[test]
fn strangers_at_the_tcp_port_have_to_know_the_password() {
    scenario("port", |lab| {
        let stage = Stage::new(lab, &[])?;
        let host = &stage.world.clients[0];
        let password = host.folder().join("password");
        std::fs::write(&password, "sesame\n")?;
        let file = password.display().to_string();
        // Not where others could come to without any password.
        let open = stage.connect(&stage.profile, &["--management", "0.0.0.0", "7505"])?;
        let output = open.peer().wait_exit(PATIENCE)?;
        ensure!(output.to_string().contains("others can reach it"), "{output}");

        let options = [
            &["--management", "127.0.0.1", "7505", &file][..],
            &["--management-hold", "--management-query-passwords"],
        ]
        .concat();
        let client = stage.connect(&stage.profile, &options)?;
        let mut guess =
            eventually(PATIENCE, || Ok(host.enter(|| TcpStream::connect(("127.0.0.1", 7505)))?))?;
        guess.set_read_timeout(Some(PATIENCE))?;
        for _ in 0..3 {
            guess.write_all(b"guess\n")?;
        }
        let mut said = String::new();
        guess.read_to_string(&mut said)?;
        assert_eq!(said, "ENTER PASSWORD:".repeat(3));

        let stream = host.enter(|| TcpStream::connect(("127.0.0.1", 7505)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut gui = Gui::new(Box::new(stream));
        gui.ask("sesame", "ENTER PASSWORD:SUCCESS: password is correct")?;
        gui.hear(">HOLD:Waiting for hold release:0")?;
        gui.ask("signal SIGTERM", "SUCCESS: ")?;
        let output = client.peer().wait_exit(PATIENCE)?;
        ensure!(output.success(), "{output}");
        Ok(())
    });
}

/// A Warren server whose console decides, and a client that asks its own.
fn with_two_consoles(lab: &Lab) -> Result<(World, Warren, Gui, warren::Client, Gui)> {
    let world = World::new(lab, 1)?;
    let socket = lab::console::socket("server-side");
    let place = format!("management = \"{}\"", socket.display());
    let text = config(&[], &[&place, "management_client_auth = true"]);
    let server = Warren::start(&Home::new(&world.server, "warren", &text)?)?;
    let profile = server.user_with_profile("alice", "long enough", &World::SERVER4.to_string())?;
    let console = Gui::unix(&socket)?;
    let at = lab::console::socket("client-side");
    let path = at.display().to_string();
    let options = [
        &["--management", &path, "unix", "--management-query-passwords"][..],
        &["--auth-retry", "interact"],
    ]
    .concat();
    let client = warren::Client::start_with(&world.clients[0], &profile, &options)?;
    let mut gui = Gui::unix(&at)?;
    gui.ask("state on", "SUCCESS: ")?;
    gui.log_in("Auth", "alice", "long enough")?;
    Ok((world, server, console, client, gui))
}

#[test]
fn the_servers_questions_are_answered_by_the_user_interface() {
    scenario("challenges", |lab| {
        let (_world, _server, mut console, client, mut gui) = with_two_consoles(lab)?;
        let ids = console.hear(">CLIENT:CONNECT,")?.replace(',', " ");
        let question = "CRV1:R,E:abc:YWxpY2U=:The code: please";
        console.ask(&format!("client-deny {ids} \"one more\" \"{question}\""), "SUCCESS: ")?;

        let asked = gui.hear(">PASSWORD:Verification Failed: 'Auth' ['CRV1:R,E:")?;
        ensure!(asked.ends_with(":The code: please']"), "{asked}");
        let state = asked.split(':').next().unwrap().to_owned();
        gui.log_in("Auth", "alice", &format!("CRV1::{state}::123456"))?;
        let ids = console.hear(">CLIENT:CONNECT,")?.replace(',', " ");
        console.hear(">CLIENT:ENV,password=CRV1::abc::123456")?;

        let pending = format!("client-pending-auth {ids} CR_TEXT:R,E:code 120");
        console.ask(&pending, "SUCCESS: ")?;
        let state = gui.state("AUTH_PENDING")?;
        ensure!(state.contains(",timeout "), "{state}");
        gui.hear(">INFOMSG:CR_TEXT:R,E:code")?;
        gui.ask("cr-response MTIzNDU2", "SUCCESS: command succeeded")?;
        console.hear(">CLIENT:CR_RESPONSE,")?;
        console.ask(&format!("client-auth-nt {ids}"), "SUCCESS: ")?;
        gui.state("CONNECTED")?;
        client.stop()?;
        Ok(())
    });
}
