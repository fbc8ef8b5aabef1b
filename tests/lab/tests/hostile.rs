//! Strangers: what they send must cost little, get no more back, and disturb nobody.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::openvpn::Client;
use lab::warren::{GATEWAY4, Warren, config};
use lab::{Flood, Noise, World, ping_every, reach, scenario};

const PASSWORD: &str = "long enough for a test";
const FLOOD: u64 = 100_000;
const PER_SECOND: u32 = 20_000;
/// What the memory in use may grow by.
const GROWTH_KIB: u64 = 8 * 1024;

fn flood(name: &str, noise: Noise, door: &[&str]) {
    scenario(name, |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], door))?;
        let remote = World::SERVER4.to_string();
        let profile = warren.user_with_profile("alice", PASSWORD, &remote)?;
        let client = Client::connect(&world.clients[0], &profile, Some(("alice", PASSWORD)), &[])?;
        let gateway: IpAddr = GATEWAY4.parse()?;
        reach(&world.clients[0], gateway)?;
        let target = SocketAddr::new(World::SERVER4.into(), 1194);
        // What a server allocates once, it has allocated after this.
        Flood::start(world.stranger(), target, noise, 5_000, PER_SECOND)?.finish()?;
        let memory = warren.peer().rss_kib()?;
        let session = warren.session_of("alice")?;

        let pings = ping_every(Duration::from_millis(20), &world.clients[0], gateway)?;
        let report = Flood::start(world.stranger(), target, noise, FLOOD, PER_SECOND)?.finish()?;
        let pings = pings.finish()?;

        assert_eq!(report.sent, FLOOD);
        assert!(report.answered_bytes <= report.sent_bytes, "{report:?}");
        let grown = warren.peer().rss_kib()?.saturating_sub(memory);
        assert!(grown < GROWTH_KIB, "memory grew by {grown} KiB");
        assert!(pings.sent >= 200, "{pings:?}");
        assert!(pings.lost() * 100 <= pings.sent, "{pings:?}");
        assert_eq!(warren.session_of("alice")?.id, session.id);
        assert_eq!(client.peer().said(lab::openvpn::UP).len(), 1);
        assert_eq!(warren.sessions()?.len(), 1);
        Ok(())
    });
}

#[test]
fn a_hundred_thousand_datagrams_of_garbage_disturb_nobody() {
    flood("garbage", Noise::Garbage, &[]);
}

#[test]
fn a_hundred_thousand_packets_with_the_wrong_key_disturb_nobody() {
    flood("wrong key", Noise::OpenVpnWrongKey, &[]);
}

#[test]
fn the_same_holds_with_tls_auth() {
    flood("wrong key, tls-auth", Noise::OpenVpnWrongKey, &["control = \"tls-auth\""]);
}

#[test]
fn a_stranger_gets_no_answer_at_all() {
    scenario("silence", |lab| {
        let world = World::new(lab, 0)?;
        let _warren = Warren::up(&world.server, "warren", &config(&[], &[]))?;
        let target = SocketAddr::new(World::SERVER4.into(), 1194);

        for noise in [Noise::Garbage, Noise::OpenVpnWrongKey] {
            let report =
                Flood::start(world.stranger(), target, noise, 2_000, PER_SECOND)?.finish()?;
            assert_eq!(report.answered, 0, "{noise:?}: {report:?}");
        }
        Ok(())
    });
}
