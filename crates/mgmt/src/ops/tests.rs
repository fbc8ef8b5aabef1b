use std::path::PathBuf;

use backends::StateDir;

use super::*;

/// A store that goes away with the test.
struct Scratch {
    folder: PathBuf,
    store: Store,
}

impl Scratch {
    /// With one user, anna.
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("warren-ops-{}-{name}", std::process::id()));
        let state = StateDir::open(&folder).expect("a new state folder");
        let store = Store::open(&state).expect("a new store");
        let anna = NewUser { name: "anna".into(), password: None, addresses: Vec::new() };
        add_user(&store, &Config::default(), &anna).expect("a new name");
        Self { folder, store }
    }

    fn profile(&self, config: &str) -> Profile {
        let config = Config::parse(config, "test").expect("a valid configuration");
        new_profile(&self.store, &config, &for_anna()).expect("a profile")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn for_anna() -> NewProfile {
    NewProfile { user: "anna".into(), door: "openvpn".into(), remote: Some("h.example".into()) }
}

#[test]
fn a_profile_has_what_the_door_asks_for_and_nothing_else() {
    let scratch = Scratch::new("auth");
    let parts = |auth: &str| {
        let profile = scratch.profile(&format!("[doors.openvpn]\nauth = \"{auth}\""));
        let has_key = profile.text.contains("<key>") && profile.text.contains("<cert>");
        assert_eq!(has_key, profile.serial.is_some(), "{auth}");
        assert_eq!(has_key, profile.not_after.is_some(), "{auth}");
        (has_key, profile.text.lines().any(|line| line == "auth-user-pass"))
    };

    assert_eq!(parts("both"), (true, true));
    assert_eq!(parts("certificate"), (true, false));
    assert_eq!(parts("password"), (false, true));
    let certificates = certificates(&scratch.store, Some("anna")).expect("she exists");
    assert_eq!(certificates.len(), 2);
}

#[test]
fn a_profile_follows_the_configuration() {
    let scratch = Scratch::new("follows");

    let profile = scratch.profile(
        "[network]\nmtu = 1400\n[doors.openvpn]\ncontrol = \"tls-auth\"\n\
         ciphers = [\"AES-128-GCM\"]\ndigest = \"SHA512\"\ntls_min = \"1.3\"\n\
         listen = [\"0.0.0.0:443\"]",
    );

    assert_eq!(
        (profile.remote.as_str(), profile.file_name.as_str()),
        ("h.example:443", "anna.ovpn")
    );
    for line in [
        "remote h.example 443 udp",
        "tun-mtu 1400",
        "<tls-auth>",
        "data-ciphers AES-128-GCM",
        "auth SHA512",
        "tls-version-min 1.3",
    ] {
        assert!(profile.text.lines().any(|own| own == line), "{line}: {}", profile.text);
    }
}

#[test]
fn a_profile_for_nobody_or_no_door_issues_nothing() {
    let scratch = Scratch::new("nobody");
    let config = Config::default();

    let nobody = NewProfile { user: "bo".into(), ..for_anna() };
    let nobody = new_profile(&scratch.store, &config, &nobody).expect_err("no such user");
    let nowhere = NewProfile { door: "pptp".into(), ..for_anna() };
    let nowhere = new_profile(&scratch.store, &config, &nowhere).expect_err("no such door");

    assert_eq!((nobody.reason, nowhere.reason), (Reason::NotFound, Reason::Invalid));
    assert!(certificates(&scratch.store, None).expect("a list").is_empty());
}

#[test]
fn the_certificates_of_a_removed_user_stay_listed_as_revoked() {
    let scratch = Scratch::new("removed");
    scratch.profile("");

    remove_user(&scratch.store, "anna").expect("she exists");

    let left = certificates(&scratch.store, Some("anna")).expect("they are remembered");
    assert!(left.len() == 1 && left[0].revoked.is_some(), "{left:?}");
    assert_eq!(
        certificates(&scratch.store, Some("bo")).expect_err("nobody").reason,
        Reason::NotFound
    );
}

#[test]
fn fixed_addresses_are_of_the_network_that_is_configured() {
    let scratch = Scratch::new("addresses");
    let fix = |config: &str, address: &str| {
        let config = Config::parse(config, "test").expect("a valid configuration");
        let new = NewAddresses { addresses: vec![address.parse().expect("an address")] };
        set_addresses(&scratch.store, &config, "anna", &new).map(|user| user.addresses)
    };
    let ula = scratch.store.unique_local_prefix().expect("there is one").network();
    let inside = (u128::from(ula) + 9).to_be_bytes();

    assert!(fix("", "10.86.3.3").is_ok());
    assert!(fix("[network]\nipv4 = \"10.9.0.0/16\"", "10.86.3.3").is_err());
    assert!(fix("", &std::net::Ipv6Addr::from(inside).to_string()).is_ok());
    assert!(
        fix("[network]\nipv6 = \"off\"", &std::net::Ipv6Addr::from(inside).to_string()).is_err()
    );
    assert!(fix("[network]\nipv6 = \"fd12::/64\"", "fd12::9").is_ok());
}
