//! The bytes of one file: mapped read-only, or held in memory for tests and fuzzing.
//!
//! This is the crate's only `unsafe`. Nothing here interprets the bytes.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

use super::error::GgufError;

/// One file's bytes.
pub(super) enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps a regular file for reading.
    pub(super) fn map(path: &Path) -> Result<Self, GgufError> {
        let fail = |action| move |source| GgufError::Io { path: path.to_path_buf(), action, source };
        let file = File::open(path).map_err(fail("open"))?;
        let meta = file.metadata().map_err(fail("read the size"))?;
        if !meta.is_file() {
            let source = std::io::Error::other("not a regular file");
            return Err(GgufError::Io { path: path.to_path_buf(), action: "open", source });
        }
        if meta.len() == 0 {
            return Ok(Bytes::Owned(Vec::new()));
        }
        // SAFETY: the map is private and read-only, and no `&mut` to it is ever made. Another
        // process may still change the file while it is mapped. Bytes that change are read as bytes, and every
        // structure is checked when it is built from them; a file that is *truncated* raises SIGBUS on the next
        // access to a lost page. Model files must therefore be replaced by rename, never in place, as our own
        // downloads do.
        let map = unsafe { Mmap::map(&file) }.map_err(fail("map"))?;
        Ok(Bytes::Mapped(map))
    }

    /// Tells the system that `range` will be read soon. A failure costs only time, so it is not reported.
    pub(super) fn read_ahead(&self, range: Range<usize>) {
        let Bytes::Mapped(map) = self else { return };
        if range.is_empty() || range.end > map.len() {
            return;
        }
        #[cfg(unix)]
        let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
    }

    /// Releases the memory of the pages of `range`; the next access reads them from the file again. A failure costs
    /// only memory, so it is not reported.
    pub(super) fn release(&self, range: Range<usize>) {
        let Bytes::Mapped(map) = self else { return };
        if range.is_empty() || range.end > map.len() {
            return;
        }
        #[cfg(unix)]
        {
            // SAFETY: MADV_DONTNEED loses data only on mappings that hold changes of their own. This one
            // is of a file and never written, so a later read sees the file's bytes again.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}
