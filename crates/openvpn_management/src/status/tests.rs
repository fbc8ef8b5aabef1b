use super::*;
use crate::testing::session;

fn status(format: u8, has_user_names: bool) -> String {
    let sessions =
        [session(7, "anna", "192.0.2.10:41194"), session(8, "b,\r\n\tob", "192.0.2.10:41194")];
    Snapshot { now: 1_795_405_764, sessions: &sessions, has_user_names }.status(format)
}

/// What OpenVPN 2.6.14 prints for such clients, but for the title.
#[test]
fn status_1_is_what_openvpn_prints() {
    assert_eq!(
        status(1, true),
        "OpenVPN CLIENT LIST\n\
         Updated,2026-11-23 03:49:24\n\
         Common Name,Real Address,Bytes Received,Bytes Sent,Connected Since\n\
         anna,192.0.2.10:41194,2032,1925,2026-11-23 03:49:16\n\
         b____ob,192.0.2.10:41194,2032,1925,2026-11-23 03:49:16\n\
         ROUTING TABLE\n\
         Virtual Address,Common Name,Real Address,Last Ref\n\
         10.86.0.2,anna,192.0.2.10:41194,2026-11-23 03:49:16\n\
         fd86::2,anna,192.0.2.10:41194,2026-11-23 03:49:16\n\
         10.86.0.2,b____ob,192.0.2.10:41194,2026-11-23 03:49:16\n\
         fd86::2,b____ob,192.0.2.10:41194,2026-11-23 03:49:16\n\
         GLOBAL STATS\n\
         Max bcast/mcast queue length,0\n\
         END\n"
    );
}

#[test]
fn status_2_and_3_are_what_openvpn_prints() {
    let text = status(2, true);
    let lines = text.lines().collect::<Vec<_>>();

    assert!(lines[0].starts_with("TITLE,OpenVPN 2.6.0"));
    assert_eq!(lines[1], "TIME,2026-11-23 03:49:24,1795405764");
    assert_eq!(
        lines[2..4],
        [
            "HEADER,CLIENT_LIST,Common Name,Real Address,Virtual Address,Virtual IPv6 Address,\
             Bytes Received,Bytes Sent,Connected Since,Connected Since (time_t),Username,Client ID,\
             Peer ID,Data Channel Cipher",
            "CLIENT_LIST,anna,192.0.2.10:41194,10.86.0.2,fd86::2,2032,1925,2026-11-23 03:49:16,\
             1795405756,anna,7,3,AES-256-GCM",
        ]
    );
    assert_eq!(
        lines[5..7],
        [
            "HEADER,ROUTING_TABLE,Virtual Address,Common Name,Real Address,Last Ref,\
             Last Ref (time_t)",
            "ROUTING_TABLE,10.86.0.2,anna,192.0.2.10:41194,2026-11-23 03:49:16,1795405756",
        ]
    );
    assert_eq!(
        lines[10..],
        ["GLOBAL_STATS,Max bcast/mcast queue length,0", "GLOBAL_STATS,dco_enabled,0", "END"]
    );
    assert_eq!(status(3, true), text.replace(',', "\t"));
    assert!(status(2, false).contains(",1795405756,UNDEF,7,3,"));
}

#[test]
fn the_release_has_the_numbers_that_consoles_look_for() {
    assert!(release().starts_with("OpenVPN 2.6.0"));
    assert!(!release().contains(','));
    assert_eq!(version().lines().nth(1), Some("Management Version: 5"));
}
