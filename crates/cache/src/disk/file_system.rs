//! The file-system operations that this crate uses, as a trait, so that tests can inject every fault.

use std::fmt;
use std::fs::{File, FileTimes, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::SystemTime;

/// A file's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMeta {
    /// Length in bytes.
    pub bytes: u64,
    /// Time of the last change, or of the last [`FileSystem::touch`].
    pub modified: SystemTime,
}

/// A file system. Every method may be called from any thread.
pub trait FileSystem: Send + Sync {
    /// Fills `head`, then `body`, from the file's start, as far as the file reaches; returns the file's length.
    ///
    /// # Errors
    /// If the file cannot be opened or read.
    fn read(&self, path: &Path, head: &mut [u8], body: &mut [u8]) -> io::Result<u64>;

    /// Creates a file of `head` and `body` with mode 0600.
    ///
    /// # Errors
    /// If the file exists, its folder does not, or not everything could be written; the file may exist in part.
    fn write(&self, path: &Path, head: &[u8], body: &[u8]) -> io::Result<()>;

    /// Renames a file atomically, replacing an existing one.
    ///
    /// # Errors
    /// As the file system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the file system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Calls `each` with the name of every entry of a folder. Names that are not Unicode are converted lossily.
    ///
    /// # Errors
    /// As the file system says.
    fn list(&self, folder: &Path, each: &mut dyn FnMut(&str)) -> io::Result<()>;

    /// Length and modification time of a file or folder.
    ///
    /// # Errors
    /// As the file system says.
    fn meta(&self, path: &Path) -> io::Result<FileMeta>;

    /// Sets a file's modification time.
    ///
    /// # Errors
    /// As the file system says.
    fn touch(&self, path: &Path, to: SystemTime) -> io::Result<()>;

    /// Creates a folder and its missing parents with mode 0700.
    ///
    /// # Errors
    /// As the file system says.
    fn create_folders(&self, path: &Path) -> io::Result<()>;
}

impl fmt::Debug for dyn FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileSystem")
    }
}

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFileSystem;

impl FileSystem for RealFileSystem {
    fn read(&self, path: &Path, head: &mut [u8], body: &mut [u8]) -> io::Result<u64> {
        let mut file = File::open(path)?;
        for part in [head, body] {
            let mut filled = 0;
            while filled < part.len() {
                match file.read(&mut part[filled..]) {
                    Ok(0) => return Ok(file.metadata()?.len()),
                    Ok(bytes) => filled += bytes,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(file.metadata()?.len())
    }

    fn write(&self, path: &Path, head: &[u8], body: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        file.write_all(head)?;
        file.write_all(body)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, folder: &Path, each: &mut dyn FnMut(&str)) -> io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            each(&entry?.file_name().to_string_lossy());
        }
        Ok(())
    }

    fn meta(&self, path: &Path) -> io::Result<FileMeta> {
        let meta = std::fs::metadata(path)?;
        Ok(FileMeta { bytes: meta.len(), modified: meta.modified()? })
    }

    fn touch(&self, path: &Path, to: SystemTime) -> io::Result<()> {
        File::open(path)?.set_times(FileTimes::new().set_modified(to))
    }

    fn create_folders(&self, path: &Path) -> io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path)
    }
}
