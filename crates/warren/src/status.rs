//! `warren status` and `warren reload`

use mgmt::types::{Offloads, Reloaded, Status};

use crate::admin;
use crate::cli::Global;
use crate::output::{Output, Table, bytes, span};

/// Shows how the server is doing.
pub(crate) async fn show(global: &Global, output: Output) -> anyhow::Result<()> {
    let status = admin::server(global).await?.status().await?;
    output.show(&status, text)
}

/// Applies a changed configuration file.
pub(crate) async fn reload(global: &Global, output: Output) -> anyhow::Result<()> {
    let reloaded = admin::server(global).await?.reload().await?;
    output.show(&reloaded, changes)
}

fn text(status: &Status) -> String {
    let network = &status.network;
    let addresses: Vec<&str> =
        [&network.address4, &network.address6].into_iter().flatten().map(String::as_str).collect();
    let mut text = format!(
        "Warren {}, pid {}, up {}\n\
         network   {} on {}: {}\n\
         workers   {} ({})\n\
         received  {} in {} packets\n\
         sent      {} in {} packets\n\n",
        status.version,
        status.pid,
        span(status.uptime_seconds),
        network.name,
        network.device,
        addresses.join(", "),
        status.workers,
        offloads(status.offloads),
        bytes(status.counters.rx_bytes),
        status.counters.rx_packets,
        bytes(status.counters.tx_bytes),
        status.counters.tx_packets,
    );

    let mut doors = Table::new(["DOOR", "STATE", "SESSIONS", "LISTEN"]);
    for door in &status.doors {
        doors.row([
            door.name.clone(),
            door.state.to_string(),
            door.sessions.to_string(),
            door.listen.join(", "),
        ]);
    }
    text.push_str(&doors.render());

    let mut drops = Table::new(["DROPPED", "PACKETS"]);
    let mut any = false;
    for (reason, packets) in status.drops.iter().filter(|(_, packets)| **packets > 0) {
        drops.row([reason.clone(), packets.to_string()]);
        any = true;
    }
    if any {
        text.push('\n');
        text.push_str(&drops.render());
    }
    text
}

fn offloads(offloads: Offloads) -> String {
    let names: Vec<&str> = [
        (offloads.tun_tso, "TUN TSO"),
        (offloads.tun_uso, "TUN USO"),
        (offloads.udp_gso, "UDP GSO"),
        (offloads.udp_gro, "UDP GRO"),
    ]
    .into_iter()
    .filter_map(|(has, name)| has.then_some(name))
    .collect();
    if names.is_empty() { "no offloads".to_owned() } else { names.join(", ") }
}

fn changes(reloaded: &Reloaded) -> String {
    let mut lines = Vec::new();
    if !reloaded.applied.is_empty() {
        lines.push(format!("in force: {}", reloaded.applied.join(", ")));
    }
    if !reloaded.restart.is_empty() {
        lines.push(format!("needs a restart: {}", reloaded.restart.join(", ")));
    }
    if lines.is_empty() {
        lines.push("the configuration has not changed".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use mgmt::types::{Counters, DoorState, DoorStatus, NetworkStatus};

    use super::*;

    #[test]
    fn the_status_fits_a_terminal_and_names_only_what_happened() {
        let status = Status {
            version: "0.1.0".into(),
            pid: 42,
            uptime_seconds: 61,
            network: NetworkStatus {
                name: "warren".into(),
                device: "warren0".into(),
                address4: Some("10.86.0.1/16".into()),
                address6: Some("fd12::1/64".into()),
            },
            doors: vec![DoorStatus {
                name: "openvpn".into(),
                listen: vec!["0.0.0.0:1194".into(), "[::]:1194".into()],
                sessions: 3,
                state: DoorState::Open,
            }],
            counters: Counters { rx_bytes: 2048, tx_bytes: 10, rx_packets: 4, tx_packets: 1 },
            drops: [("replayed".to_owned(), 2), ("malformed".to_owned(), 0)].into(),
            workers: 1,
            offloads: Offloads { tun_tso: true, udp_gso: true, ..Offloads::default() },
        };

        assert_eq!(
            text(&status),
            "Warren 0.1.0, pid 42, up 1 min 1 s\n\
             network   warren on warren0: 10.86.0.1/16, fd12::1/64\n\
             workers   1 (TUN TSO, UDP GSO)\n\
             received  2.0 KiB in 4 packets\n\
             sent      10 B in 1 packets\n\
             \n\
             DOOR     STATE  SESSIONS  LISTEN\n\
             openvpn  open   3         0.0.0.0:1194, [::]:1194\n\
             \n\
             DROPPED   PACKETS\n\
             replayed  2\n"
        );
    }

    #[test]
    fn a_reload_says_what_it_did_and_what_it_could_not() {
        assert_eq!(changes(&Reloaded::default()), "the configuration has not changed");
        let reloaded = Reloaded {
            applied: vec!["network.nat".into()],
            restart: vec!["server.workers".into(), "network.ipv4".into()],
        };
        assert_eq!(
            changes(&reloaded),
            "in force: network.nat\nneeds a restart: server.workers, network.ipv4"
        );
    }
}
