//! Files that are read again while the program runs, which may have lost the right to.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::keeper::Keeper;
use crate::trust::read_as_its_owner;

/// Files in one folder.
const MAX_FILES: usize = 64;
/// All files of one path together, in bytes: about 25,000 revoked certificates.
const MAX_TOTAL: usize = 1024 * 1024;

/// Text files, or folders of text files.
#[derive(Clone, Debug)]
pub enum WatchedFiles {
    /// Read by ourselves.
    Own(Vec<PathBuf>),
    /// Read by the keeper, which was started with their names.
    Kept(Keeper),
}

/// What is in them at one moment.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Snapshot {
    /// The same as long as the contents are. Who could write two contents with one stamp could
    /// write either.
    pub stamp: u64,
    /// For each path, in order: its file or the files of its folder by name, or one line that says
    /// why not.
    pub contents: Vec<Result<Vec<Content>, String>>,
}

/// A file.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Content {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

impl WatchedFiles {
    /// Reads all of them; `None` if they are as they were when this `seen` was the
    /// [`Snapshot::stamp`].
    ///
    /// # Errors
    ///
    /// Fails if the keeper does; what is wrong with a file is in the snapshot.
    pub fn read(&self, seen: Option<u64>) -> io::Result<Option<Snapshot>> {
        match self {
            Self::Own(paths) => Ok(read(paths, seen)),
            Self::Kept(keeper) => keeper.read_watched(seen),
        }
    }
}

pub(crate) fn read(paths: &[PathBuf], seen: Option<u64>) -> Option<Snapshot> {
    let contents = paths.iter().map(|path| contents(path)).collect::<Vec<_>>();
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    let stamp = hasher.finish();
    (seen != Some(stamp)).then_some(Snapshot { stamp, contents })
}

fn contents(path: &Path) -> Result<Vec<Content>, String> {
    let cannot = |path: &Path, error: io::Error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file or folder".to_owned(),
            io::ErrorKind::InvalidData => "this is not text; it must be PEM".to_owned(),
            _ => format!("cannot be read ({error})"),
        };
        format!("{}: {why}", path.display())
    };
    let paths = if fs::metadata(path).is_ok_and(|facts| facts.is_dir()) {
        files_in(path).map_err(|error| cannot(path, error))?
    } else {
        vec![path.to_owned()]
    };
    let mut files = Vec::with_capacity(paths.len());
    let mut total = 0_usize;
    for path in paths {
        let text = read_as_its_owner(&path).and_then(plain);
        let text = text.map_err(|error| cannot(&path, error))?;
        total = total.saturating_add(text.len());
        if total > MAX_TOTAL {
            return Err(format!("{}: more than 1 MiB in all; remove what is old", path.display()));
        }
        files.push(Content { path, text });
    }
    Ok(files)
}

/// Without control characters, which would grow on the way from the keeper.
fn plain(text: String) -> io::Result<String> {
    let is_plain = |byte: u8| !byte.is_ascii_control() || b"\t\r\n".contains(&byte);
    if text.bytes().all(is_plain) { Ok(text) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Everything in a folder but what is hidden, by name.
fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        files.push(entry.path());
        if files.len() > MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
    }
    files.sort();
    if files.is_empty() { Err(io::Error::other("an empty folder")) } else { Ok(files) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_are_read_whole_and_in_order_or_named() {
        let folder = std::env::temp_dir().join(format!("warren-files-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let at = |name: &str| folder.join(name);
        fs::write(at("b.pem"), "b").unwrap();
        fs::write(at("a.pem"), "a").unwrap();
        fs::write(at(".a.pem.swp"), "hidden").unwrap();
        let look = |path: &Path| read(&[path.to_owned()], None).unwrap().contents.remove(0);

        let names = |files: Vec<Content>| files.into_iter().map(|file| file.text).collect();
        let texts: Vec<String> = names(look(&folder).unwrap());
        assert_eq!(texts, ["a", "b"]);
        let texts: Vec<String> = names(look(&at("b.pem")).unwrap());
        assert_eq!(texts, ["b"]);

        let line = look(&at("none.pem")).unwrap_err();
        assert_eq!(line, format!("{}: there is no such file or folder", at("none.pem").display()));
        for binary in [&b"\xff"[..], b"a\0b"] {
            fs::write(at("c.pem"), binary).unwrap();
            let line = look(&folder).unwrap_err();
            assert!(line.ends_with("c.pem: this is not text; it must be PEM"), "{line}");
        }
        fs::write(at("c.pem"), vec![b'x'; MAX_TOTAL]).unwrap();
        assert!(look(&folder).unwrap_err().contains("more than 1 MiB"));
        for number in 0..MAX_FILES {
            fs::write(at(&format!("{number}")), "").unwrap();
        }
        assert!(look(&folder).unwrap_err().contains("more than 64 files"));
        let empty = at("empty");
        fs::create_dir(&empty).unwrap();
        assert!(look(&empty).unwrap_err().contains("an empty folder"));

        fs::remove_dir_all(&folder).unwrap();
    }
}
