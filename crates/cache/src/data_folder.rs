//! The data folder: which kinds of files it has, how much of each, and who may read them.
//!
//! Every kind has an owner that keeps it within its budget; this module owns none of them. It creates the folder,
//! closes it to other users, and counts. The invariant: what is not known by name is counted as `other`, so nothing in
//! the folder goes unseen.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::file_system::{FileSystem, RealFileSystem};

/// A kind of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Blocks of the disk tier.
    Blocks,
    /// Blocks of a draft model.
    DraftBlocks,
    /// Bad blocks.
    Quarantine,
    /// What drafters learnt, and cost curves.
    Drafts,
    /// The database of responses and ledger, with its journals.
    Database,
    /// Damaged databases.
    Damaged,
    /// Downloaded models.
    Downloads,
    /// The history of `chat`.
    History,
    /// The secret that keys are derived from.
    Secret,
    /// The lock that says who uses the folder.
    Lock,
    /// Anything else.
    Other,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 11] = [
        Kind::Blocks,
        Kind::DraftBlocks,
        Kind::Quarantine,
        Kind::Drafts,
        Kind::Database,
        Kind::Damaged,
        Kind::Downloads,
        Kind::History,
        Kind::Secret,
        Kind::Lock,
        Kind::Other,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Blocks => "blocks",
            Kind::DraftBlocks => "draft_blocks",
            Kind::Quarantine => "quarantine",
            Kind::Drafts => "drafts",
            Kind::Database => "database",
            Kind::Damaged => "damaged",
            Kind::Downloads => "downloads",
            Kind::History => "history",
            Kind::Secret => "secret",
            Kind::Lock => "lock",
            Kind::Other => "other",
        }
    }

    fn of(name: &str) -> Kind {
        match name {
            "blocks" => Kind::Blocks,
            "blocks.draft" => Kind::DraftBlocks,
            "drafts" => Kind::Drafts,
            "models" => Kind::Downloads,
            "in-use.lock" => Kind::Lock,
            "foretoken.db" | "foretoken.db-wal" | "foretoken.db-shm" => Kind::Database,
            _ if name.starts_with("foretoken.db.damaged-") => Kind::Damaged,
            _ if name.starts_with("chat_history") => Kind::History,
            // While it is being made it has a number behind it.
            _ if name == "secret" || name.starts_with("secret.") => Kind::Secret,
            _ => Kind::Other,
        }
    }
}

/// How much there is of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The kind.
    pub kind: Kind,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Counts the files of every kind. Takes time linear in the files; a folder that cannot be read has none.
pub fn usage(folder: &Path) -> Vec<Usage> {
    let mut all = Kind::ALL.map(|kind| Usage { kind, files: 0, bytes: 0 });
    for (name, path, meta) in entries(folder) {
        count(&mut all, Kind::of(&name), &path, &meta);
    }
    all.to_vec()
}

fn count(all: &mut [Usage], kind: Kind, path: &Path, meta: &Metadata) {
    if meta.is_dir() {
        for (name, path, meta) in entries(path) {
            let inside = matches!(kind, Kind::Blocks | Kind::DraftBlocks) && name == "quarantine";
            count(all, if inside { Kind::Quarantine } else { kind }, &path, &meta);
        }
    } else if let Some(usage) = all.iter_mut().find(|usage| usage.kind == kind) {
        usage.files += 1;
        usage.bytes += meta.len();
    }
}

/// Creates the folder if it is missing, and takes every permission of other users from it and from what is in it, but for
/// downloaded models and what is not known by name. Returns how many files and folders had such a permission.
///
/// # Errors
/// The folder cannot be created, or is not a folder. What cannot be changed in it is logged.
pub fn prepare(folder: &Path) -> io::Result<usize> {
    RealFileSystem.create_folders(folder)?;
    let meta = fs::metadata(folder)?;
    if !meta.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a folder"));
    }
    let closed = close(folder, &meta, false);
    if closed > 0 {
        let folder = folder.display();
        tracing::info!(
            "{closed} files and folders in {folder} were open to other users; now only their owner has access"
        );
    }
    Ok(closed)
}

/// Names, paths and metadata of what is in a folder; links are not followed.
fn entries(folder: &Path) -> impl Iterator<Item = (String, PathBuf, Metadata)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some((entry.file_name().to_string_lossy().into_owned(), entry.path(), meta))
    })
}

/// Inside a folder that was closed already nobody else could reach anything, so only the direct entries of the data
/// folder are looked at then.
#[cfg(unix)]
fn close(path: &Path, meta: &Metadata, nested: bool) -> usize {
    use std::os::unix::fs::PermissionsExt;
    let mode = meta.permissions().mode();
    let open = mode & 0o077 != 0;
    // A folder with the sticky bit, such as /tmp, is everyone's.
    let own = !meta.is_symlink() && (nested || mode & 0o1000 == 0);
    if open
        && own
        && let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7700))
    {
        tracing::warn!("cannot close {} to other users: {error}", path.display());
        return 0;
    }
    let mut closed = usize::from(open && own);
    if meta.is_dir() && (open || !nested) {
        for (name, path, meta) in entries(path) {
            // What is not ours by its name stays as it is.
            if nested || !matches!(Kind::of(&name), Kind::Downloads | Kind::Other) {
                closed += close(&path, &meta, true);
            }
        }
    }
    closed
}

#[cfg(not(unix))]
fn close(_: &Path, _: &Metadata, _: bool) -> usize {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, name: &str, bytes: usize) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![0; bytes]).unwrap();
    }

    #[test]
    fn every_file_is_counted_under_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("blocks/0a/x", 10),
            ("blocks/quarantine/y", 20),
            ("blocks.draft/0b/z", 30),
            ("drafts/model/successors-1", 40),
            ("foretoken.db", 50),
            ("foretoken.db-wal", 5),
            ("foretoken.db.damaged-1", 60),
            ("models/a/b.gguf", 70),
            ("chat_history", 80),
            ("secret", 32),
            ("in-use.lock", 25),
            ("notes.txt", 90),
        ] {
            put(dir.path(), name, bytes);
        }
        let bytes: Vec<(&str, u64, u64)> =
            usage(dir.path()).iter().map(|usage| (usage.kind.name(), usage.files, usage.bytes)).collect();
        let expected = [
            ("blocks", 1, 10),
            ("draft_blocks", 1, 30),
            ("quarantine", 1, 20),
            ("drafts", 1, 40),
            ("database", 2, 55),
            ("damaged", 1, 60),
            ("downloads", 1, 70),
            ("history", 1, 80),
            ("secret", 1, 32),
            ("lock", 1, 25),
            ("other", 1, 90),
        ];
        assert_eq!(bytes, expected);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_was_open_is_closed_with_all_it_holds() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        put(&root, "notes.txt", 1);
        fs::set_permissions(root.join("notes.txt"), fs::Permissions::from_mode(0o644)).unwrap();
        let names =
            ["foretoken.db", "blocks/0a/x", "drafts/model/successors-1", "models/m.gguf", "chat_history"];
        names.iter().for_each(|name| put(&root, name, 1));
        let mut all: Vec<PathBuf> = names.iter().map(|name| root.join(name)).collect();
        all.extend(["blocks/0a", "blocks", "drafts/model", "drafts", ""].map(|name| root.join(name)));
        for path in &all {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        }
        prepare(&root).unwrap();
        for path in all.iter().filter(|path| !path.starts_with(root.join("models"))) {
            let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{} is {mode:o}", path.display());
        }
        assert_eq!(fs::metadata(root.join("models/m.gguf")).unwrap().permissions().mode() & 0o777, 0o777);
        let foreign = fs::metadata(root.join("notes.txt")).unwrap().permissions().mode() & 0o777;
        assert_eq!(foreign, 0o644, "a file of someone else");
        assert_eq!(prepare(&root).unwrap(), 0, "the second time nothing is left to do");
    }
}
