//! `warren client-key ...`

use mgmt::types::ClientKey;

use crate::admin::Admin;
use crate::cli::{ClientKeyCommand, ConfigFile, Global};
use crate::output::{Output, Table};
use crate::user::with_sessions;

/// Runs one of the `client-key` commands.
pub(crate) async fn run(
    global: &Global,
    command: ClientKeyCommand,
    output: Output,
) -> anyhow::Result<()> {
    let mut admin = Admin::open(global, &ConfigFile::default()).await?;
    match command {
        ClientKeyCommand::List { user } => {
            let keys = admin.client_keys(user.as_deref()).await?;
            output.show(&keys, |keys| table(keys))
        }
        ClientKeyCommand::Revoke { id } => {
            let ended = admin.revoke_client_key(&id).await?;
            output.show(&ended, |ended| with_sessions(format!("client key {id} revoked"), ended))
        }
    }
}

fn table(keys: &[ClientKey]) -> String {
    let mut table = Table::new(["KEY", "USER", "ISSUED", "CERTIFICATE", "REVOKED"]);
    for key in keys {
        table.row([
            key.id.clone(),
            key.user.clone(),
            key.issued.clone(),
            key.certificate.clone().unwrap_or_default(),
            key.revoked.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}
