//! The server's secret, an input to every cache key.
//!
//! 32 random bytes in the data folder, mode 0600. Block names cannot be linked to prompts without it; a different
//! secret makes every cached entry a miss.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use foretoken_cache::data_folder;

const FILE: &str = "secret";

/// A random secret for this process only.
pub(crate) fn fresh() -> std::io::Result<[u8; 32]> {
    let mut secret = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
    Ok(secret)
}

/// Reads `--cache-secret-file`, for machines that share a store.
pub(crate) fn load(path: &Path) -> Result<[u8; 32]> {
    let bytes = fs::read(path).with_context(|| format!("cannot read the secret {}", path.display()))?;
    let length = bytes.len();
    bytes.try_into().map_err(|_| {
        let path = path.display();
        anyhow!("{path} is {length} bytes long and must be 32: head -c 32 /dev/urandom > {path}")
    })
}

/// The secret in `dir`, created if missing. Concurrent creators agree: one file wins and all read it.
pub(crate) fn load_or_create(dir: &Path) -> Result<[u8; 32]> {
    let path = dir.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => match bytes.try_into() {
            Ok(secret) => return Ok(secret),
            Err(_) => bail!("{} is not 32 bytes long; remove it to start with empty caches", path.display()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let created = create(dir, &path).with_context(|| format!("cannot write {}", path.display()));
    match created {
        Ok(secret) => Ok(secret),
        Err(_) if path.exists() => load_or_create(dir),
        Err(error) => Err(error),
    }
}

/// Writes a temporary file and hard-links it into place, so that no reader sees a partial file.
fn create(dir: &Path, path: &Path) -> std::io::Result<[u8; 32]> {
    let secret = fresh()?;
    data_folder::prepare(dir)?;
    let temporary = dir.join(format!("{FILE}.{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    let linked = file.write_all(&secret).and_then(|()| fs::hard_link(&temporary, path));
    fs::remove_file(&temporary)?;
    linked.map(|()| secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_created_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create(dir.path()).unwrap();
        assert_eq!(load_or_create(dir.path()).unwrap(), first);
        assert_ne!(first, [0; 32]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_named_file_is_read_and_never_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shared-secret");
        assert!(load(&path).is_err() && !path.exists());
        fs::write(&path, [7; 32]).unwrap();
        assert_eq!(load(&path).unwrap(), [7; 32]);
        fs::write(&path, [7; 33]).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("must be 32"));
    }

    #[test]
    fn a_file_of_wrong_length_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), b"short").unwrap();
        assert!(load_or_create(dir.path()).is_err());
    }
}
