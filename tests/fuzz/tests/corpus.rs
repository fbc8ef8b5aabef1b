//! The committed corpora, replayed.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

use fuzz::TARGETS;

fn entries(folder: &Path) -> Vec<PathBuf> {
    let listing = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
    let mut paths: Vec<_> =
        listing.map(|entry| entry.expect("the folder is readable").path()).collect();
    paths.sort();
    paths
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

#[test]
fn every_target_survives_its_corpus() {
    let mut failures = Vec::new();

    for target in TARGETS {
        for path in entries(&corpus().join(target.name)) {
            let input = fs::read(&path).unwrap();
            if panic::catch_unwind(|| (target.run)(&input)).is_err() {
                failures.push(format!("{}: {}", target.name, path.display()));
            }
        }
    }

    assert!(failures.is_empty(), "inputs that break their target:\n{}", failures.join("\n"));
}

#[test]
fn every_target_survives_nothing_and_noise() {
    let inputs: [&[u8]; 4] = [&[], &[0; 1], &[0; 1500], &[0xff; 1500]];

    for target in TARGETS {
        for input in inputs {
            (target.run)(input);
        }
    }
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let folders: BTreeSet<_> = entries(&corpus())
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();

    assert_eq!(targets.len(), TARGETS.len(), "two targets share a name");
    assert_eq!(targets, folders);
    for target in TARGETS {
        let folder = corpus().join(target.name);
        assert!(!entries(&folder).is_empty(), "{} is empty", folder.display());
    }
}
