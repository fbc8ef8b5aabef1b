//! `warren certificate ...`

use mgmt::types::Certificate;

use crate::admin::Admin;
use crate::cli::{CertificateCommand, ConfigFile, Global};
use crate::output::{Output, Table};
use crate::user::with_sessions;

/// Runs one of the `certificate` commands.
pub(crate) async fn run(
    global: &Global,
    command: CertificateCommand,
    output: Output,
) -> anyhow::Result<()> {
    let mut admin = Admin::open(global, &ConfigFile::default()).await?;
    match command {
        CertificateCommand::List { user } => {
            let certificates = admin.certificates(user.as_deref()).await?;
            output.show(&certificates, |certificates| table(certificates))
        }
        CertificateCommand::Revoke { serial } => {
            let ended = admin.revoke(&serial).await?;
            output
                .show(&ended, |ended| with_sessions(format!("certificate {serial} revoked"), ended))
        }
    }
}

fn table(certificates: &[Certificate]) -> String {
    let mut table = Table::new(["SERIAL", "USER", "ISSUED", "EXPIRES", "REVOKED"]);
    for certificate in certificates {
        table.row([
            certificate.serial.clone(),
            certificate.user.clone(),
            certificate.issued.clone(),
            certificate.not_after.clone(),
            certificate.revoked.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}
