use std::path::PathBuf;

use backends::StateDir;

use super::*;
use crate::types::NewFingerprints;

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
    NewProfile {
        user: "anna".into(),
        door: "openvpn".into(),
        remote: Some("h.example".into()),
        client: None,
        tap: false,
    }
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
        "remote h.example 1194 tcp-client",
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
fn a_profile_for_ethernet_is_for_a_door_that_has_it() {
    let scratch = Scratch::new("ethernet");
    let new = NewProfile { tap: true, ..for_anna() };
    let profile = new_profile(&scratch.store, &Config::default(), &new).expect("it is on");
    assert!(profile.text.lines().any(|line| line == "dev tap"), "{}", profile.text);

    let off = Config::parse("[doors.openvpn]\ntap = false", "w.toml").expect("a configuration");
    let refused = new_profile(&scratch.store, &off, &new).expect_err("it is off");
    assert_eq!(refused.reason, Reason::Invalid);
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

#[test]
fn every_profile_has_a_client_key_of_its_own_unless_its_program_knows_none() {
    let scratch = Scratch::new("client-keys");
    let made = |client: Option<&str>, config: &str| {
        let config = Config::parse(config, "test").expect("a valid configuration");
        let new = NewProfile { client: client.map(str::to_owned), ..for_anna() };
        new_profile(&scratch.store, &config, &new)
    };
    let own = made(None, "").expect("a profile");
    assert!(own.text.contains("<tls-crypt-v2>") && !own.text.contains("<tls-crypt>"));
    let shared = made(Some("2.4"), "").expect("a profile");
    assert!(shared.text.contains("<tls-crypt>") && shared.client_key.is_none());
    let without = "[doors.openvpn]\ncontrol = \"tls-auth\"";
    assert!(made(Some("2.4"), without).expect("a profile").text.contains("<tls-auth>"));
    let password = made(Some("connect"), "[doors.openvpn]\nauth = \"password\"");
    let password = password.expect("a profile");

    let keys = client_keys(&scratch.store, Some("anna")).expect("a list");
    let names = keys.iter().map(|key| Some(key.id.clone())).collect::<Vec<_>>();
    assert!(names.contains(&own.client_key) && names.contains(&password.client_key));
    assert_eq!(names.len(), 2);
    let key = keys.iter().find(|key| Some(&key.id) == own.client_key.as_ref()).expect("ours");
    assert_eq!(key.certificate, own.serial);

    let name = own.client_key.expect("it has one").to_uppercase();
    revoke_client_key(&scratch.store, &name).expect("it is there");
    let certificates = certificates(&scratch.store, Some("anna")).expect("a list");
    assert!(
        certificates
            .iter()
            .any(|one| Some(&one.serial) == own.serial.as_ref() && one.revoked.is_some())
    );
    let unknown = revoke_client_key(&scratch.store, "00").expect_err("no such key");
    assert_eq!(unknown.reason, Reason::NotFound);
}

#[test]
fn no_profile_is_made_for_a_program_that_would_stay_outside() {
    let scratch = Scratch::new("outside");
    let refused = |client: &str, config: &str| {
        let config = Config::parse(config, "test").expect("a valid configuration");
        let new = NewProfile { client: Some(client.to_owned()), ..for_anna() };
        new_profile(&scratch.store, &config, &new).expect_err("it would be of no use").reason
    };

    let door = "[doors.openvpn]\n";
    assert_eq!(refused("2.4", &format!("{door}shared_key = false")), Reason::Conflict);
    let strict = format!("{door}tls_crypt_v2_cookie = \"required\"");
    assert_eq!(refused("2.5", &strict), Reason::Conflict);
    assert_eq!(refused("2.3", ""), Reason::Invalid);
    assert!(certificates(&scratch.store, None).expect("a list").is_empty());
}

#[test]
fn fingerprints_are_taken_in_every_usual_form_and_shown_in_one() {
    let scratch = Scratch::new("fingerprints");
    let (colons, plain) = ("ab:".repeat(31) + "AB", "0f".repeat(32));
    let change = |add: &[&str], remove: &[&str]| {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let new = NewFingerprints { add: owned(add), remove: owned(remove) };
        change_fingerprints(&scratch.store, "anna", &new)
    };

    let (changed, ended) = change(&[&colons, &plain], &[]).expect("both are good");
    assert_eq!(changed.fingerprints.len(), 2);
    assert!(changed.fingerprints.contains(&"AB:".repeat(32)[..95].to_owned()));
    assert!(ended.is_empty());
    let (left, ended) = change(&[], &[&colons]).expect("it is there");
    assert_eq!(left.fingerprints, ["0F:".repeat(32)[..95].to_owned()]);
    assert_eq!(ended, [format!("sha256:{}", "ab".repeat(32))]);
    assert_eq!(change(&[], &[]).expect("a list").0, left);

    for wrong in ["", "12", &"0f".repeat(33), &"0g".repeat(32)] {
        let failure = change(&[wrong], &[]).expect_err(wrong);
        assert_eq!(failure.reason, Reason::Invalid);
        assert!(failure.to_string().contains("is no SHA-256 fingerprint"), "{failure}");
    }
    assert_eq!(change(&[], &[&colons]).expect_err("gone").reason, Reason::NotFound);
    let bo = change_fingerprints(&scratch.store, "bo", &NewFingerprints::default());
    assert_eq!(bo.expect_err("nobody").reason, Reason::NotFound);
}
