//! cargo-deny: licences, banned crates and sources, by `deny.toml`.

use anyhow::Result;

use crate::process::{self, Workspace};

/// Pinned, because a new release may reject what this one accepts.
const VERSION: &str = "0.20.2";

/// Installs cargo-deny under the target folder if it is not there, and runs it.
///
/// Advisories are not checked: they come from a database that needs the network, and would turn
/// yesterday's green revision red.
///
/// # Errors
///
/// The installation fails, or a dependency breaks a rule.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let tools = workspace.target.join("tools").join(format!("cargo-deny-{VERSION}"));
    let program = tools.join("bin/cargo-deny");
    if !program.exists() {
        println!("installing cargo-deny {VERSION} into {}", tools.display());
        process::run(
            workspace
                .cargo(["install", "--quiet", "--locked", "--version", VERSION, "cargo-deny"])
                .arg("--root")
                .arg(&tools),
        )?;
    }
    process::run(std::process::Command::new(program).current_dir(&workspace.root).args([
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))
}
