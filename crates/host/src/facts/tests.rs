use super::*;
use crate::testing::{Lab, set_sysctl};

#[test]
fn a_host_with_everything_says_so() {
    Lab::run(|_| {
        set_sysctl("net/ipv4/ip_forward", "1");

        let facts = Facts::gather();

        assert!(facts.net_admin);
        assert_eq!(facts.nf_tables, Ok(()));
        assert_eq!(facts.rules, Ok(()));
        assert_eq!(facts.forwarding4, Some(true));
        assert_eq!(facts.forwarding6, Some(false));
        assert!(facts.ipv6);
        assert_eq!(facts.forward_droppers, Vec::<String>::new());
    });
}

#[test]
fn a_missing_tun_device_comes_with_advice() {
    let reason = tun_reason(&io::ErrorKind::NotFound.into());

    assert!(reason.starts_with("/dev/net/tun: "), "{reason}");
    assert!(reason.contains("load module tun"), "{reason}");
}
