use serde_json::json;

use super::*;

/// A workspace with the crates and edges of `edges`; a name with a `*` is somebody else's crate.
fn workspace(edges: &[(&str, &str, Option<&str>)]) -> Graph {
    let names: BTreeSet<_> = edges.iter().flat_map(|(from, to, _)| [*from, *to]).collect();
    let packages: Vec<_> = names
        .iter()
        .map(|name| {
            let plain = name.trim_end_matches('*');
            json!({
                "id": name,
                "name": plain,
                "manifest_path": format!("/w/{plain}/Cargo.toml"),
                "targets": [
                    { "kind": ["lib"], "src_path": format!("/w/{plain}/src/lib.rs") },
                    { "kind": ["test"], "src_path": format!("/w/{plain}/tests/it.rs") },
                ],
            })
        })
        .collect();
    let nodes: Vec<_> = names
        .iter()
        .map(|name| {
            let deps: Vec<_> = edges
                .iter()
                .filter(|(from, _, _)| from == name)
                .map(|(_, to, kind)| json!({ "pkg": to, "dep_kinds": [{ "kind": kind }] }))
                .collect();
            json!({ "id": name, "deps": deps })
        })
        .collect();
    let members: Vec<_> = names.iter().filter(|name| !name.ends_with('*')).collect();
    Graph::parse(&json!({
        "packages": packages,
        "workspace_members": members,
        "resolve": { "nodes": nodes },
    }))
    .unwrap()
}

/// The only violation of a workspace that has exactly one.
fn violation(edges: &[(&str, &str, Option<&str>)]) -> String {
    let mut violations = workspace(edges).violations();
    assert_eq!(violations.len(), 1, "{violations:?}");
    violations.remove(0)
}

fn files(name: &str, source: &str, manifest: &str, clippy: &str) -> Vec<String> {
    let graph = workspace(&[(name, "serde*", None)]);
    let member = graph.members().next().unwrap();
    file_violations(member, &|path| {
        let text = match path.file_name()?.to_str()? {
            "lib.rs" => source,
            "Cargo.toml" => manifest,
            "clippy.toml" => clippy,
            other => panic!("nobody needs to read {other}"),
        };
        Some(text.to_owned())
    })
}

const FORBIDS: &str = "//! A crate.\n#![forbid(unsafe_code)]\n";
const LINTS: &str = "[lints]\nworkspace = true\n";

#[test]
fn the_intended_directions_are_accepted() {
    let graph = workspace(&[
        ("openvpn", "contract", None),
        ("openvpn", "wire", None),
        ("openvpn", "simnet", Some("dev")),
        ("shell", "openvpn", None),
        ("shell", "tokio*", None),
        ("crypto", "ring*", None),
        ("bench", "lab", None),
    ]);

    assert_eq!(graph.violations(), Vec::<String>::new());
}

#[test]
fn a_dependency_downwards_names_crate_edge_and_rule() {
    assert_eq!(
        violation(&[("wire", "contract", None)]),
        "wire: wire -> contract (rule: a crate depends only on rows above its own)"
    );
}

#[test]
fn crates_of_one_row_do_not_know_each_other_even_in_tests() {
    assert!(violation(&[("openvpn", "hub", None)]).contains("openvpn -> hub"));
    assert!(violation(&[("openvpn", "hub", Some("dev"))]).contains("openvpn -> hub"));
}

#[test]
fn a_crate_that_is_not_in_the_table_must_get_a_row() {
    assert!(violation(&[("pigeon", "wire", None)]).starts_with("pigeon: is in no row"));
}

#[test]
fn shipped_code_does_not_use_test_support() {
    assert!(violation(&[("openvpn", "simnet", None)]).contains("test support"));
    assert!(violation(&[("openvpn", "simnet", Some("build"))]).contains("test support"));
}

#[test]
fn a_pure_crate_cannot_reach_a_runtime_through_somebody_else() {
    let violation = violation(&[("openvpn", "framing*", None), ("framing*", "tokio*", None)]);

    assert!(violation.starts_with("openvpn: openvpn -> framing -> tokio (rule: "), "{violation}");
}

#[test]
fn a_pure_crate_may_use_a_runtime_in_its_tests() {
    let graph = workspace(&[("openvpn", "tokio*", Some("dev")), ("openvpn", "wire", None)]);

    assert_eq!(graph.violations(), Vec::<String>::new());
}

#[test]
fn an_edge_that_is_also_a_dev_dependency_still_counts() {
    let mut metadata = json!({
        "packages": [
            { "id": "hub", "name": "hub", "manifest_path": "/w/hub/Cargo.toml", "targets": [] },
            { "id": "nix*", "name": "nix", "manifest_path": "/r/nix/Cargo.toml", "targets": [] },
        ],
        "workspace_members": ["hub"],
        "resolve": { "nodes": [
            { "id": "hub", "deps": [{ "pkg": "nix*", "dep_kinds": [{ "kind": "dev" }] }] },
            { "id": "nix*", "deps": [] },
        ] },
    });
    assert_eq!(Graph::parse(&metadata).unwrap().violations(), Vec::<String>::new());

    metadata["resolve"]["nodes"][0]["deps"][0]["dep_kinds"] =
        json!([{ "kind": "dev" }, { "kind": null }]);
    assert_eq!(Graph::parse(&metadata).unwrap().violations().len(), 1);
}

#[test]
fn randomness_is_banned_where_it_is_named_not_where_it_is_wrapped() {
    assert!(violation(&[("kit", "getrandom*", None)]).contains("kit -> getrandom"));

    let wrapped = workspace(&[("crypto", "ring*", None), ("ring*", "getrandom*", None)]);
    assert_eq!(wrapped.violations(), Vec::<String>::new());
}

#[test]
fn only_the_crate_crypto_names_a_cipher_library() {
    assert!(violation(&[("backends", "sha2*", None)]).contains("crypto alone"));
}

#[test]
fn a_crate_that_does_not_forbid_unsafe_code_is_named_unless_it_is_sys() {
    let violations = files("shell", "//! A crate.\n", LINTS, "");
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(violations[0].contains("/w/shell/src/lib.rs"), "{violations:?}");

    let commented = files("shell", "// #![forbid(unsafe_code)]\n", LINTS, "");
    assert_eq!(commented.len(), 1, "{commented:?}");

    assert_eq!(files("sys", "//! A crate.\n", LINTS, ""), Vec::<String>::new());
}

#[test]
fn a_crate_without_the_lints_of_the_workspace_is_named() {
    let violations = files("shell", FORBIDS, "[package]\nname = \"shell\"\n", "");

    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(violations[0].contains("[lints]"), "{violations:?}");
}

#[test]
fn a_pure_crate_bans_every_clock() {
    let clippy = BANNED_CALLS.join("\n");
    assert_eq!(files("hub", FORBIDS, LINTS, &clippy), Vec::<String>::new());

    let violations = files("hub", FORBIDS, LINTS, &clippy.replace("Instant", "Moment"));
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(violations[0].contains("Instant::now"), "{violations:?}");
}

#[test]
fn what_cargo_prints_about_this_workspace_is_understood() {
    let workspace = Workspace::find().unwrap();
    let metadata = process::json(&mut workspace.cargo(["metadata", "--format-version=1"])).unwrap();

    let graph = Graph::parse(&metadata).unwrap();

    let known: BTreeSet<_> = LAYERS.iter().flat_map(|(_, crates)| *crates).copied().collect();
    let found: BTreeSet<_> = graph.members().map(|member| member.name.as_str()).collect();
    assert_eq!(found, known);
}
