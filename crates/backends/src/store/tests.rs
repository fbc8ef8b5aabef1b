use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;

use contract::{CertificateId, DenyReason};

use super::*;
use crate::authority::Authority;
use crate::clock;
use crate::scratch::Scratch;

fn pools() -> Pools {
    Pools {
        ipv4: Some("10.86.0.0/16".parse().unwrap()),
        ipv6: Some("fd00:1:2:3::/64".parse().unwrap()),
    }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn add(store: &Store, name: &str, fixed: &[&str]) -> Result<(), StoreError> {
    let password = Some(Secret::new("secret"));
    store.add_user(&NewUser { name: name.to_owned(), password, fixed: addresses(fixed) }, &pools())
}

fn lease(user: &str, device: &str, ipv4: &str, last_used: u64) -> StoredLease {
    StoredLease {
        user: user.to_owned(),
        device: device.to_owned(),
        ipv4: Some(ipv4.parse().unwrap()),
        ipv6: None,
        last_used,
    }
}

fn own(serial: &str) -> CertificateId {
    CertificateId::Own(serial.to_owned())
}

fn authority() -> Authority {
    Authority::from_pem(Authority::create(clock::now()).unwrap().expose()).unwrap()
}

#[test]
fn the_database_and_its_journal_are_for_their_owner_only() {
    let scratch = Scratch::new();
    let state = scratch.state();
    let store = Store::open(&state).unwrap();
    add(&store, "alice", &[]).unwrap();

    for file in state.path().read_dir().unwrap() {
        let file = file.unwrap();
        let metadata = file.metadata().unwrap();
        if metadata.is_file() {
            assert_eq!(metadata.mode() & 0o777, 0o600, "{:?}", file.path());
        }
    }
}

#[test]
fn users_are_kept_across_a_restart() {
    let scratch = Scratch::new();
    add(&scratch.store(), "bob", &[]).unwrap();
    add(&scratch.store(), "alice", &["10.86.0.7", "fd00:1:2:3::7"]).unwrap();

    let users = scratch.store().users().unwrap();

    assert_eq!(users.len(), 2);
    assert_eq!(users[0].name, "alice");
    assert_eq!(users[0].fixed, addresses(&["10.86.0.7", "fd00:1:2:3::7"]));
    assert!(users[0].enabled && users[0].has_password);
    assert!(clock::now() - users[0].created < 60);
    assert_eq!(users[1].name, "bob");
}

#[test]
fn passwords_are_not_in_the_file() {
    let scratch = Scratch::new();
    let state = scratch.state();
    let store = Store::open(&state).unwrap();
    let password = Some(Secret::new("plain-as-day-password"));
    store
        .add_user(&NewUser { name: "alice".to_owned(), password, fixed: Vec::new() }, &pools())
        .unwrap();

    for file in state.path().read_dir().unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(12).any(|window| window == b"plain-as-day");
            assert!(!found, "{path:?} holds the password");
        }
    }
}

#[test]
fn names_that_could_be_mistaken_for_something_else_are_refused() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let long = "x".repeat(65);

    for name in ["", "-v", ".hidden", "a/b", "a b", "a\nb", "ä", "$(reboot)", "..", &long] {
        assert!(matches!(add(&store, name, &[]), Err(StoreError::BadName(_))), "{name:?}");
    }
    for name in ["alice", "alice@example.org", "A.b_c-9", &long[1..]] {
        add(&store, name, &[]).unwrap();
    }
    assert!(matches!(add(&store, "alice", &[]), Err(StoreError::UserExists(_))));
}

#[test]
fn fixed_addresses_are_inside_the_pool_and_nobody_elses() {
    let scratch = Scratch::new();
    let store = scratch.store();
    add(&store, "alice", &["10.86.0.7"]).unwrap();

    for bad in [
        "10.87.0.1",
        "10.86.0.0",
        "10.86.0.1",
        "10.86.255.255",
        "fd00:1:2:3::",
        "fd00:1:2:3::1",
        "fd00:1:2:4::7",
    ] {
        let refused = add(&store, "bob", &[bad]);
        assert!(matches!(refused, Err(StoreError::BadAddress { .. })), "{bad}: {refused:?}");
    }
    let two = add(&store, "bob", &["10.86.0.8", "10.86.0.9"]);
    assert!(matches!(two, Err(StoreError::BadAddress { .. })));
    let taken = add(&store, "bob", &["10.86.0.7"]);
    assert!(matches!(taken, Err(StoreError::AddressTaken { user, .. }) if user == "alice"));
    assert_eq!(store.users().unwrap().len(), 1, "a refused user was added all the same");

    add(&store, "bob", &["10.86.0.8"]).unwrap();
    let taken = store.set_addresses("bob", &addresses(&["10.86.0.7"]), &pools());
    assert!(matches!(taken, Err(StoreError::AddressTaken { .. })));
    store.set_addresses("alice", &[], &pools()).unwrap();
    store.set_addresses("bob", &addresses(&["10.86.0.7"]), &pools()).unwrap();
    assert_eq!(store.user("bob").unwrap().fixed, addresses(&["10.86.0.7"]));
}

#[test]
fn changing_nobody_is_an_error() {
    let scratch = Scratch::new();
    let store = scratch.store();

    let results = [
        store.set_enabled("x", true),
        store.set_password("x", Some(&Secret::new("secret"))),
        store.set_addresses("x", &[], &pools()),
        store.remove_user("x"),
        store.user("x").map(|_| ()),
        store.issue_certificate(&authority(), "x", 1).map(|_| ()),
    ];

    for result in results {
        assert_eq!(
            result.unwrap_err().to_string(),
            "there is no user \"x\"; `warren user list` shows who there is"
        );
    }
}

#[test]
fn a_removed_user_leaves_no_lease_and_no_good_certificate() {
    let scratch = Scratch::new();
    let store = scratch.store();
    add(&store, "alice", &[]).unwrap();
    let issued = store.issue_certificate(&authority(), "alice", 30).unwrap();
    let serial = issued.facts.serial.as_str();
    store.remember_lease(&lease("alice", serial, "10.86.0.2", 1)).unwrap();
    assert_eq!(store.user("alice").unwrap().devices, 1);

    store.remove_user("alice").unwrap();

    assert!(store.leases().unwrap().is_empty());
    assert!(store.certificates("alice").unwrap()[0].revoked.is_some());
    let gone = Standing::Unwelcome(DenyReason::BadCredentials);
    assert_eq!(store.standing("alice", None).unwrap(), gone);
    add(&store, "alice", &[]).unwrap();
    let revoked = Standing::Unwelcome(DenyReason::Revoked);
    assert_eq!(store.standing("alice", Some(&own(serial))).unwrap(), revoked);
}

#[test]
fn certificates_are_written_down_when_issued() {
    let scratch = Scratch::new();
    let store = scratch.store();
    add(&store, "alice", &[]).unwrap();

    let issued = store.issue_certificate(&authority(), "alice", 30).unwrap();

    let listed = store.certificates("alice").unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].serial, issued.facts.serial);
    assert_eq!(listed[0].revoked, None);
    let days = (listed[0].not_after - clock::now()) / 86_400;
    assert!((29..=30).contains(&days), "{days}");
    let found = store.certificate_by_fingerprint(&issued.facts.fingerprint).unwrap();
    assert_eq!(found.as_ref(), Some(&listed[0]));
    assert_eq!(store.certificate_by_fingerprint(&[0; 32]).unwrap(), None);
}

#[test]
fn standing_follows_what_the_operator_does() {
    let scratch = Scratch::new();
    let store = scratch.store();
    add(&store, "alice", &[]).unwrap();
    let issued = store.issue_certificate(&authority(), "alice", 30).unwrap();
    let serial = issued.facts.serial.as_str();
    let standing = || store.standing("alice", Some(&own(serial))).unwrap();

    assert_eq!(standing(), Standing::Welcome);
    store.set_enabled("alice", false).unwrap();
    assert_eq!(standing(), Standing::Unwelcome(DenyReason::AccountDisabled));
    store.set_enabled("alice", true).unwrap();
    assert_eq!(standing(), Standing::Welcome);
    store.revoke(serial).unwrap();
    assert_eq!(standing(), Standing::Unwelcome(DenyReason::Revoked));
    assert_eq!(store.standing("alice", None).unwrap(), Standing::Welcome);
    assert_eq!(store.revoke_user_certificates("alice").unwrap(), 0);
    assert!(matches!(store.revoke("00"), Err(StoreError::NoSuchCertificate(_))));
}

#[test]
fn what_concerns_a_live_session_is_seen_by_another_process() {
    let scratch = Scratch::new();
    let (server, cli) = (scratch.store(), scratch.store());
    let mut seen = server.generation().unwrap();
    let mut moved = |what: &str| {
        let now = server.generation().unwrap();
        assert!(now > seen, "not noticed: {what}");
        seen = now;
    };

    add(&cli, "alice", &[]).unwrap();
    moved("add");
    cli.set_enabled("alice", false).unwrap();
    moved("disable");
    cli.set_password("alice", None).unwrap();
    moved("password");
    let issued = cli.issue_certificate(&authority(), "alice", 30).unwrap();
    cli.revoke(&issued.facts.serial).unwrap();
    moved("revoke");
    cli.remove_user("alice").unwrap();
    moved("remove");

    cli.remember_lease(&lease("bob", "x", "10.86.0.2", 1)).unwrap();
    assert_eq!(server.generation().unwrap(), seen, "a lease is nobody's business");
}

#[test]
fn leases_come_back_after_a_restart_and_never_share_an_address() {
    let scratch = Scratch::new();
    let store = scratch.store();
    store
        .remember_leases(&[
            lease("alice", "phone", "10.86.0.3", 30),
            lease("alice", "laptop", "10.86.0.2", 20),
            lease("bob", "phone", "10.86.0.4", 10),
        ])
        .unwrap();

    store.remember_lease(&lease("bob", "phone", "10.86.0.3", 40)).unwrap();

    let expected =
        [lease("alice", "laptop", "10.86.0.2", 20), lease("bob", "phone", "10.86.0.3", 40)];
    assert_eq!(scratch.store().leases().unwrap(), expected);
    store.forget_leases("alice").unwrap();
    assert_eq!(store.leases().unwrap(), expected[1..]);
}

#[test]
fn a_fixed_address_is_taken_from_whoever_leased_it() {
    let scratch = Scratch::new();
    let store = scratch.store();
    store.remember_lease(&lease("bob", "phone", "10.86.0.7", 1)).unwrap();

    add(&store, "alice", &["10.86.0.7"]).unwrap();

    assert!(store.leases().unwrap().is_empty());
}

#[test]
fn the_private_prefix_is_made_once() {
    let scratch = Scratch::new();

    let prefix = scratch.store().unique_local_prefix().unwrap();

    assert_eq!(prefix.prefix_len(), 64);
    assert_eq!(prefix.addr().octets()[0], 0xfd);
    assert_eq!(prefix.trunc(), prefix);
    assert_eq!(scratch.store().unique_local_prefix().unwrap(), prefix);
    assert_ne!(Scratch::new().store().unique_local_prefix().unwrap(), prefix);
}

#[test]
fn settings_are_made_once_even_if_two_ask_at_the_same_time() {
    let scratch = Scratch::new();
    let state = scratch.state();
    Store::open(&state).unwrap();

    let values: Vec<_> = std::thread::scope(|scope| {
        let asking = || {
            let make = || Ok(Secret::new(random_bytes::<32>()));
            Store::open(&state).unwrap().setting_or("cookie", |_| true, make).unwrap()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(asking)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "they differ");
}

#[test]
fn a_database_from_the_future_is_left_alone() {
    let scratch = Scratch::new();
    let store = scratch.store();
    store.connection().pragma_update(None, "user_version", 999).unwrap();

    let refused = Store::open(&scratch.state()).unwrap_err();

    assert!(matches!(refused, StoreError::Newer { .. }), "{refused}");
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let scratch = Scratch::new();
    let path = scratch.state().database();
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();

    let refused = Store::open(&scratch.state()).unwrap_err().to_string();

    assert!(
        refused.starts_with(&format!("{}: not a usable database", path.display())),
        "{refused}"
    );
    assert!(!refused.contains('\n'));
}

#[test]
fn a_forgotten_lease_leaves_no_row() {
    let scratch = Scratch::new();
    let store = scratch.store();
    store.remember_lease(&lease("bob", "phone", "10.86.0.3", 1)).unwrap();

    let forgotten = StoredLease { ipv4: None, ipv6: None, ..lease("bob", "phone", "10.86.0.3", 2) };
    store.remember_lease(&forgotten).unwrap();

    assert_eq!(store.leases().unwrap(), []);
}

#[test]
fn a_registered_fingerprint_is_one_users_until_it_is_removed_or_the_user_is() {
    let scratch = Scratch::new();
    let store = scratch.store();
    add(&store, "alice", &[]).unwrap();
    add(&store, "bob", &[]).unwrap();
    let change = |name: &str, add: &[[u8; 32]], remove: &[[u8; 32]]| {
        store.change_fingerprints(name, add, remove)
    };
    let registered = |number: u8| CertificateId::Registered([number; 32]);
    let standing = |number| store.standing("alice", Some(&registered(number))).unwrap();
    let before = store.generation().unwrap();

    change("alice", &[[1; 32], [2; 32]], &[]).unwrap();
    change("alice", &[[1; 32]], &[]).unwrap();
    assert_eq!(store.fingerprints(Some("alice")).unwrap(), [[1; 32], [2; 32]]);
    assert_eq!(store.user_of_fingerprint(&[1; 32]).unwrap().as_deref(), Some("alice"));
    assert!(store.generation().unwrap() > before);
    assert_eq!(standing(1), Standing::Welcome);
    assert_eq!(standing(3), Standing::Unwelcome(DenyReason::Revoked));
    assert_eq!(
        store.standing("bob", Some(&registered(1))).unwrap(),
        Standing::Unwelcome(DenyReason::Revoked)
    );

    // All of a change or nothing.
    let taken = change("bob", &[[3; 32], [1; 32]], &[]).unwrap_err();
    assert!(matches!(taken, StoreError::FingerprintTaken { user } if user == "alice"));
    let missing = change("alice", &[[3; 32]], &[[9; 32]]).unwrap_err();
    assert!(matches!(missing, StoreError::NoSuchFingerprint { .. }));
    let many: Vec<_> = (10..10 + MAX_FINGERPRINTS as u8).map(|number| [number; 32]).collect();
    let too_many = change("alice", &many, &[]).unwrap_err();
    assert!(matches!(too_many, StoreError::TooManyFingerprints { .. }));
    assert!(matches!(change("carol", &[], &[]), Err(StoreError::NoSuchUser(_))));
    assert_eq!(store.fingerprints(None).unwrap(), [[1; 32], [2; 32]]);

    change("alice", &[], &[[1; 32]]).unwrap();
    assert_eq!(standing(1), Standing::Unwelcome(DenyReason::Revoked));
    let before = store.generation().unwrap();
    store.remove_user("alice").unwrap();
    assert!(store.generation().unwrap() > before);
    assert!(store.fingerprints(None).unwrap().is_empty());
    change("bob", &[[2; 32]], &[]).unwrap();
}
