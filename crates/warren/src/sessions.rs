//! `warren sessions` and `warren kick`

use std::net::IpAddr;

use mgmt::types::Session;

use crate::admin;
use crate::cli::{Global, KickArgs};
use crate::output::{Output, Table, bytes};
use crate::user::with_sessions;

/// Lists live sessions.
pub(crate) async fn list(global: &Global, output: Output) -> anyhow::Result<()> {
    let sessions = admin::server(global).await?.sessions().await?;
    output.show(&sessions, |sessions| table(sessions))
}

/// Ends some.
pub(crate) async fn kick(global: &Global, args: &KickArgs, output: Output) -> anyhow::Result<()> {
    let ended = admin::server(global).await?.kick(&args.target).await?;
    output.show(&ended, |ended| with_sessions(format!("{} kicked", args.target), ended))
}

fn table(sessions: &[Session]) -> String {
    let mut table = Table::new([
        "ID", "USER", "DOOR", "REMOTE", "IPV4", "IPV6", "SINCE", "RECEIVED", "SENT", "CIPHER",
        "SOFTWARE",
    ]);
    for session in sessions {
        table.row([
            session.id.to_string(),
            session.user.clone(),
            session.door.clone(),
            session.remote.to_string(),
            address(session.address4.map(IpAddr::from)),
            address(session.address6.map(IpAddr::from)),
            session.since.clone(),
            bytes(session.rx_bytes),
            bytes(session.tx_bytes),
            session.cipher.clone(),
            session.software.clone(),
        ]);
    }
    table.render()
}

fn address(address: Option<IpAddr>) -> String {
    address.map(|address| address.to_string()).unwrap_or_default()
}
