use super::super::Profile;
use super::*;

fn read(lines: &str) -> Result<Management, String> {
    let text = format!(
        "client\ndev tun\nremote vpn.example.org\nauth-user-pass\n<ca>\nx\n</ca>\n{lines}\n"
    );
    let mut file = |name: &str| match name {
        "password" => Ok(b"sesame\r\nmore\n".to_vec()),
        "empty" => Ok(b"\n".to_vec()),
        _ => Err("no file".to_owned()),
    };
    let profile = Profile::parse(&text, &mut file).map_err(|error| error.to_string())?;
    Ok(profile.management)
}

#[test]
fn a_console_is_found_by_a_path_or_an_address() {
    let unix = read("management /run/console unix\nmanagement-hold").unwrap();
    assert_eq!(unix.place, Some(ManagementPlace::Unix("/run/console".into())));
    assert!(unix.holds && unix.password.is_none() && !unix.is_homeless());

    let tcp = read("management localhost 7505 password\nmanagement-client").unwrap();
    assert_eq!(tcp.place, Some(ManagementPlace::Tcp("127.0.0.1:7505".parse().unwrap())));
    assert_eq!(tcp.password.unwrap().expose(), b"sesame");
    assert!(tcp.calls);
    assert!(read("management-query-passwords").unwrap().is_homeless());
    assert!(!read("").unwrap().is_homeless());
}

#[test]
fn nobody_else_is_let_at_the_client() {
    let open = read("management 192.0.2.1 7505").unwrap_err();
    assert_eq!(open, "8: management: others can reach it; name a password file, or use 127.0.0.1");
    assert!(read("management 192.0.2.1 7505 password").is_ok());
    for clear in [
        "management 192.0.2.1 7505 password\nmanagement-client",
        "management-client\nmanagement 192.0.2.1 7505 password",
    ] {
        let clear = read(clear).unwrap_err();
        assert!(clear.ends_with("in the clear; use 127.0.0.1"), "{clear}");
    }
}

#[test]
fn what_cannot_be_meant_is_named_with_its_line() {
    for (line, why) in [
        ("management", "needs SOCKET unix [FILE]"),
        ("management tunnel 7505", "needs SOCKET unix, or an IP address"),
        ("management 127.0.0.1 0", "from 1 to 65535"),
        ("management 127.0.0.1 7505 nothing", "nothing: no file"),
        ("management 127.0.0.1 7505 empty", "empty: its first line"),
        ("management-log-cache 0", "is not a number from 1"),
        ("management-client-user", "the name of an account"),
        ("management-external-key", "not supported: "),
    ] {
        let error = read(line).unwrap_err();
        assert!(error.starts_with("8: management") && error.contains(why), "{line}: {error}");
    }
}
