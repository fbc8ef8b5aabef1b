use std::os::unix::fs::PermissionsExt;
use std::thread;

use super::*;
use crate::testing::Lab;
use crate::watched::WatchedFiles;

/// A keeper on a thread of this process, and its end.
fn keeper(config: Option<PathBuf>) -> (Keeper, thread::JoinHandle<io::Result<()>>) {
    keeper_of(Readable { config, watched: Vec::new() })
}

fn keeper_of(readable: Readable) -> (Keeper, thread::JoinHandle<io::Result<()>>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let life = thread::spawn(move || serve(&mut theirs, &readable));
    (Keeper::with(ours, None), life)
}

fn settings(server: &str) -> DnsSettings {
    DnsSettings {
        servers: vec![server.parse().unwrap()],
        search: vec!["example.org".into()],
        ..DnsSettings::default()
    }
}

fn plain() -> LinkDns {
    LinkDns::new("tun0", &DnsSettings::default(), true)
}

#[test]
fn the_configuration_is_read_as_it_is_now_or_the_reason_is_told() {
    let file = std::env::temp_dir().join(format!("warren-keeper-{}", std::process::id()));
    let (keeper, life) = keeper(Some(file.clone()));

    fs::write(&file, "[log]\n").unwrap();
    assert_eq!(keeper.read_config().unwrap(), "[log]\n");
    fs::write(&file, "[server]\n").unwrap();
    assert_eq!(keeper.read_config().unwrap(), "[server]\n");
    fs::write(&file, b"\xff").unwrap();
    assert_eq!(keeper.read_config().unwrap_err().kind(), io::ErrorKind::InvalidData);
    fs::remove_file(&file).unwrap();
    assert_eq!(keeper.read_config().unwrap_err().kind(), io::ErrorKind::NotFound);

    drop(keeper);
    life.join().unwrap().unwrap();
}

#[test]
fn a_configuration_that_became_a_link_is_not_read_with_roots_rights() {
    Lab::run(|_| {
        let file = PathBuf::from("/run/state/warren.toml");
        std::os::unix::fs::chown("/run/state", Some(61_086), Some(61_086)).unwrap();
        fs::write("/run/secret", "root's").unwrap();
        fs::set_permissions("/run/secret", fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("/run/secret", &file).unwrap();
        let (keeper, _life) = keeper(Some(file));

        let error = keeper.read_config().unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("link"), "{error}");
    });
}

#[test]
fn a_keeper_that_is_gone_is_an_error_that_says_what_to_do() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);

    let error = Keeper::with(ours, None).read_config().unwrap_err().to_string();

    assert!(error.contains("restart Warren"), "{error}");
}

#[test]
fn name_servers_are_changed_and_put_back_through_the_keeper() {
    Lab::run(|_| {
        crate::testing::sh("mount -t tmpfs tmpfs /etc");
        fs::write("/etc/resolv.conf", "nameserver 192.0.2.53\noptions ndots:2\n").unwrap();
        // The thread is in the namespaces of the one that starts it.
        let (keeper, _life) = keeper(None);
        let names = Names(Some(&keeper));

        let file = names.plan(&settings("10.86.0.53")).unwrap();
        names.write(&file).unwrap();
        let written = fs::read_to_string("/etc/resolv.conf").unwrap();
        assert!(written.contains("nameserver 10.86.0.53\n"), "{written}");
        let other = names.replan(&file, &settings("10.86.0.54")).unwrap();
        names.write(&other).unwrap();
        assert_eq!(names.restore(&other).unwrap(), Restored::Yes);

        let back = fs::read_to_string("/etc/resolv.conf").unwrap();
        assert_eq!(back, "nameserver 192.0.2.53\noptions ndots:2\n");
    });
}

#[test]
fn an_order_that_could_give_somebody_root_is_refused() {
    Lab::run(|_| {
        crate::testing::sh("mount -t tmpfs tmpfs /etc");
        fs::write("/etc/resolv.conf", "nameserver 192.0.2.53\n").unwrap();
        fs::set_permissions("/etc/resolv.conf", fs::Permissions::from_mode(0o4755)).unwrap();
        let (keeper, _life) = keeper(None);
        let names = Names(Some(&keeper));

        // Restoring this would make a set-user-id program of whatever the file holds.
        let planned = ResolvConf::plan(&settings("10.86.0.53")).unwrap();
        assert!(names.write(&planned).unwrap_err().to_string().contains("refused"));
        for link in ["--help", "", "a/b", "a b", "sixteen-bytes-it"] {
            let dns = LinkDns { link: link.into(), ..plain() };
            assert!(names.set_link(&dns).unwrap_err().to_string().contains("refused"), "{link}");
        }
        let option = || "--interface=eth0".to_owned();
        for dns in [
            LinkDns { domains: vec![option()], ..plain() },
            LinkDns { domains: vec!["~--x".to_owned()], ..plain() },
            LinkDns { dnssec: Some(option()), ..plain() },
            LinkDns { sni: Some(option()), ..plain() },
        ] {
            assert!(names.set_link(&dns).unwrap_err().to_string().contains("refused"), "{dns:?}");
        }
    });
}

/// As somebody would order it who took the process over.
fn forged(original: &serde_json::Value) -> ResolvConf {
    let header = "# Written by Warren while it is connected; the former content comes back.\n";
    let written = format!("{header}nameserver 192.0.2.53\n");
    let file = serde_json::json!({ "original": original, "written": written });
    serde_json::from_value(file).unwrap()
}

#[test]
fn an_order_that_leads_to_another_file_or_makes_a_program_is_refused() {
    Lab::run(|_| {
        crate::testing::sh("mount -t tmpfs tmpfs /etc");
        fs::write("/etc/secret", "options for-root-only\n").unwrap();
        fs::set_permissions("/etc/secret", fs::Permissions::from_mode(0o600)).unwrap();
        let (keeper, _life) = keeper(None);
        let names = Names(Some(&keeper));

        for original in [
            serde_json::json!({ "Symlink": { "target": "/etc/secret" } }),
            serde_json::json!({ "Symlink": { "target": "secret" } }),
            serde_json::json!({ "File": { "content": [], "mode": 0o755, "uid": 0, "gid": 0 } }),
            serde_json::json!({ "File": { "content": [], "mode": 0o2644, "uid": 0, "gid": 0 } }),
        ] {
            let file = forged(&original);
            // So that there is something to put back.
            file.make().unwrap();
            for answer in [
                names.write(&file).map(drop),
                names.restore(&file).map(drop),
                names.replan(&file, &settings("10.86.0.53")).map(drop),
            ] {
                let refused = answer.unwrap_err().to_string();
                assert!(refused.contains("refused"), "{original}: {refused}");
            }
        }
        std::os::unix::fs::symlink("/etc/secret", "/etc/link").unwrap();
        fs::rename("/etc/link", "/etc/resolv.conf").unwrap();
        let refused = names.plan(&settings("10.86.0.53")).unwrap_err().to_string();
        assert!(refused.contains("make a plain file"), "{refused}");
    });
}

#[test]
fn without_a_keeper_no_more_is_done_than_with_one() {
    Lab::run(|_| {
        crate::testing::sh("mount -t tmpfs tmpfs /etc");
        let names = Names(None);
        std::os::unix::fs::symlink("/etc/secret", "/etc/resolv.conf").unwrap();
        let file = forged(&serde_json::json!({ "Symlink": { "target": "/etc/secret" } }));
        let dns = LinkDns { link: "--help".to_owned(), ..plain() };

        for answer in [
            names.plan(&settings("10.86.0.53")).map(drop),
            names.replan(&file, &settings("10.86.0.53")).map(drop),
            names.write(&file),
        ] {
            let refused = answer.unwrap_err().to_string();
            assert!(refused.contains("make a plain file"), "{refused}");
        }
        file.make().unwrap();
        assert_eq!(names.restore(&file).unwrap(), Restored::Harmful);
        for answer in [names.set_link(&dns), names.revert_link(&dns)] {
            assert!(answer.unwrap_err().to_string().contains("never gives"));
        }
    });
}

#[test]
fn name_servers_change_where_the_file_could_be_run_and_it_cannot_be_afterwards() {
    Lab::run(|_| {
        crate::testing::sh("mount -t tmpfs tmpfs /etc");
        fs::write("/etc/resolv.conf", "nameserver 192.0.2.53\n").unwrap();
        fs::set_permissions("/etc/resolv.conf", fs::Permissions::from_mode(0o755)).unwrap();
        let (keeper, _life) = keeper(None);
        let names = Names(Some(&keeper));

        let file = names.plan(&settings("10.86.0.53")).unwrap();
        names.write(&file).unwrap();
        assert_eq!(names.restore(&file).unwrap(), Restored::Yes);

        let mode = fs::metadata("/etc/resolv.conf").unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
    });
}

#[test]
fn of_the_files_that_name_resolution_reads_only_those_for_everybody_are_told() {
    Lab::run(|_| {
        crate::testing::sh("mount -t tmpfs tmpfs /etc");
        fs::write("/etc/secret", "root's").unwrap();
        fs::set_permissions("/etc/secret", fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("secret", "/etc/resolv.conf").unwrap();
        // Nobody writes into it: opening it must not wait, and it is no file.
        crate::testing::sh("mkfifo -m 644 /etc/nsswitch.conf");
        fs::write("/etc/hosts", "127.0.0.1 localhost\n").unwrap();
        let (keeper, _life) = keeper(None);

        let reply = keeper.ask(&Request::NameFiles).unwrap();

        let Reply::Files(files) = reply else { panic!("{reply:?}") };
        assert_eq!(files, [("/etc/hosts".into(), b"127.0.0.1 localhost\n".to_vec())]);
    });
}

#[test]
fn every_damaged_byte_of_an_order_is_survived_and_none_makes_an_option_of_a_name() {
    let link = "tun0".to_owned();
    let servers = vec!["10.86.0.53".parse().unwrap()];
    let dns = LinkDns {
        link,
        servers,
        domains: vec!["example.org".into(), "~corp.example".into(), "~.".into()],
        ..plain()
    };
    let order = serde_json::to_vec(&Request::SetLink(dns)).unwrap();

    for at in 0..order.len() {
        assert!(serde_json::from_slice::<Request>(&order[..at]).is_err(), "cut at {at}");
        for value in 0..=u8::MAX {
            let mut bytes = order.clone();
            bytes[at] = value;
            if let Ok(Request::SetLink(dns)) = serde_json::from_slice(&bytes)
                && dns.is_harmless()
            {
                let words = dns.domains.iter().chain([&dns.link]);
                assert!(words.into_iter().all(|word| !word.starts_with('-')), "{dns:?}");
            }
        }
    }
}

#[test]
fn a_message_that_is_cut_off_or_too_long_ends_the_keeper_and_harms_nobody() {
    for bytes in [&b"\0\0\0\x09\"Con"[..], b"\xff\xff\xff\xff", b"\0\0", b"\0\0\0\x02{}"] {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.write_all(bytes).unwrap();
        drop(ours);

        // Half a length is the end like any other; the rest is an error.
        assert_eq!(serve(&mut theirs, &Readable::default()).is_ok(), bytes.len() < 4, "{bytes:?}");
    }
}

#[test]
fn watched_files_come_through_the_keeper_once_for_every_change() {
    let folder = std::env::temp_dir().join(format!("warren-watched-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let file = folder.join("ca.pem");
    fs::write(&file, "one\n").unwrap();
    let watched = vec![file.clone()];
    let (keeper, life) = keeper_of(Readable { config: None, watched });
    let files = WatchedFiles::Kept(keeper.clone());

    let first = files.read(None).unwrap().unwrap();
    assert_eq!(first.contents[0].as_ref().unwrap()[0].text, "one\n");
    assert!(files.read(Some(first.stamp)).unwrap().is_none());
    fs::write(&file, "two\n").unwrap();
    let second = files.read(Some(first.stamp)).unwrap().unwrap();
    assert_eq!(second.contents[0].as_ref().unwrap()[0].text, "two\n");

    fs::remove_dir_all(&folder).unwrap();
    drop((keeper, files));
    life.join().unwrap().unwrap();
}
