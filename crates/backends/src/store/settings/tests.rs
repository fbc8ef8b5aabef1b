use contract::Secret;

use super::*;
use crate::scratch::Scratch;
use crate::store::NewUser;

fn pools() -> Pools {
    Pools {
        ipv4: Some("10.86.0.0/16".parse().unwrap()),
        ipv6: Some("fd00:1:2:3::/64".parse().unwrap()),
    }
}

/// With alice and bob.
fn store(scratch: &Scratch) -> Store {
    let store = scratch.store();
    for name in ["alice", "bob"] {
        let password = Some(Secret::new("secret"));
        let user = NewUser { name: name.to_owned(), password, fixed: Vec::new() };
        store.add_user(&user, &pools()).unwrap();
    }
    store
}

fn behind(store: &Store, user: &str, nets: &[&str]) -> Result<(), StoreError> {
    let nets = nets.iter().map(|net| net.parse().unwrap()).collect();
    store.change_user_settings(user, &pools(), |settings| settings.behind = nets)
}

#[test]
fn settings_are_kept_and_go_with_their_user() {
    let scratch = Scratch::new();
    let store = store(&scratch);
    assert_eq!(store.user_settings("alice").unwrap(), UserSettings::default());
    let wanted = UserSettings {
        behind: vec!["192.168.7.0/24".parse().unwrap(), "fd77::/48".parse().unwrap()],
        openvpn_options: vec!["route 10.9.0.0 255.255.0.0".to_owned(), "block-ipv6".to_owned()],
        session_limit: Some(Duration::from_secs(3600)),
        idle_limit: Some(Duration::from_secs(300)),
    };

    store.change_user_settings("alice", &pools(), |settings| *settings = wanted.clone()).unwrap();
    store.change_user_settings("alice", &pools(), |settings| settings.idle_limit = None).unwrap();

    let kept = store.user_settings("alice").unwrap();
    assert_eq!(kept, UserSettings { idle_limit: None, ..wanted });
    assert_eq!(store.all_user_settings().unwrap().get("alice"), Some(&kept));
    store.remove_user("alice").unwrap();
    assert_eq!(store.user_settings("alice").unwrap(), UserSettings::default());
    assert!(matches!(behind(&store, "alice", &[]), Err(StoreError::NoSuchUser(_))));
}

#[test]
fn a_subnet_is_behind_one_user_and_not_part_of_the_network() {
    let scratch = Scratch::new();
    let store = store(&scratch);
    behind(&store, "alice", &["192.168.0.0/16"]).unwrap();

    for (nets, why) in [
        (&["192.168.7.0/24"][..], "it overlaps 192.168.0.0/16, which is behind user \"alice\""),
        (&["10.86.7.0/24"], "it overlaps the network itself (10.86.0.0/16)"),
        (&["10.0.0.0/8"], "it overlaps the network itself"),
        (&["fd00:1::/32"], "it overlaps the network itself"),
        (&["172.16.0.0/12", "172.16.1.0/24"], "it overlaps 172.16.0.0/12; remove one"),
        (&["172.16.0.1/12"], "write 172.16.0.0/12"),
        (&["0.0.0.0/0"], "it cannot be behind anybody"),
        (&["127.0.0.0/8"], "it cannot be behind anybody"),
        (&["224.0.0.0/8"], "it cannot be behind anybody"),
        (&["fe80::/64"], "it cannot be behind anybody"),
    ] {
        let error = behind(&store, "bob", nets).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains('\n'), "{nets:?}: {error}");
    }
    assert_eq!(store.user_settings("bob").unwrap(), UserSettings::default());
    behind(&store, "alice", &["192.168.7.0/24"]).unwrap();
    behind(&store, "bob", &["192.168.8.0/24"]).unwrap();
}

#[test]
fn options_and_limits_are_checked_when_they_are_set() {
    let scratch = Scratch::new();
    let store = store(&scratch);
    for option in ["up /bin/sh", "peer-id 7", "route 10.0.0.0,EXIT", "route 10.0.0.0\nblock-ipv6"] {
        let set = store.change_user_settings("bob", &pools(), |settings| {
            settings.openvpn_options = vec![option.to_owned()];
        });
        assert!(matches!(set, Err(StoreError::BadSetting { .. })), "{option}");
    }
    for seconds in [0, 9, u64::MAX] {
        let set = store.change_user_settings("bob", &pools(), |settings| {
            settings.session_limit = Some(Duration::from_secs(seconds));
        });
        assert!(matches!(set, Err(StoreError::BadSetting { .. })), "{seconds}");
    }
}
