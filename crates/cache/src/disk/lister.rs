//! Lists which files exist: names first, which is fast and enough for lookups, then sizes and times. Repeats
//! every ten minutes, to see the changes of other servers on the folder. Also removes temporary files of a killed writer.
//!
//! A folder may hold 100,000 files on a machine with two busy cores, so this thread sleeps after every few
//! files: nothing waits for it.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, UNIX_EPOCH};

use super::Shared;
use super::index::Entry;
use super::writer::TEMPORARY_PREFIX;
use crate::faults::Fault;
use crate::keys::BlockKey;

/// Files between two sleeps, and their length: less than a tenth of a core.
const FILES_PER_REST: usize = 64;
const REST: Duration = Duration::from_millis(4);
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// A temporary file this old (or this far in the future) belongs to no running writer.
const LEFT_BEHIND: Duration = Duration::from_secs(600);
/// Clocks of several machines on one folder may differ by this much.
const CLOCK_SLACK: Duration = Duration::from_secs(120);

pub(super) fn run(shared: &Shared, stopped: &Receiver<()>) {
    loop {
        list_names(shared);
        shared.index().listed = true;
        shared.listed.notify_all();
        learn_sizes(shared);
        shared.reclaim();
        if stopped.recv_timeout(AGAIN_AFTER) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn list_names(shared: &Shared) {
    for first in 0..=u8::MAX {
        if shared.closing.load(Ordering::Relaxed) {
            return;
        }
        let folder = shared.fan_out(first);
        let (mut keys, mut temporary) = (Vec::new(), Vec::new());
        let listed = shared.fs.list(&folder, &mut |name| match sort(name, first) {
            Name::Block(key) => keys.push(key),
            // This process' own writer is in the middle of it, whatever time the file system gives the file.
            Name::Temporary if name.starts_with(&shared.temporary_prefix()) => {}
            Name::Temporary => temporary.push(folder.join(name)),
            Name::Foreign => {
                shared.faults.record(
                    Fault::Foreign,
                    &folder.join(name),
                    &"not a file of this cache; left unchanged",
                );
            }
        });
        match listed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                shared.faults.record(Fault::of(&error), &folder, &error);
            }
            _ => {}
        }
        temporary.iter().for_each(|path| remove_if_left_behind(shared, path));
        let many = keys.len() >= FILES_PER_REST;
        let mut index = shared.index();
        keys.into_iter().for_each(|key| index.note(key));
        drop(index);
        if many {
            std::thread::sleep(REST);
        }
    }
}

pub(super) enum Name {
    Block(BlockKey),
    Temporary,
    Foreign,
}

/// Classifies a name in the fan-out folder of keys that begin with `first`.
pub(super) fn sort(name: &str, first: u8) -> Name {
    if name.starts_with(TEMPORARY_PREFIX) {
        return Name::Temporary;
    }
    match name.parse::<BlockKey>() {
        Ok(key) if key.as_bytes()[0] == first => Name::Block(key),
        _ => Name::Foreign,
    }
}

fn remove_if_left_behind(shared: &Shared, path: &Path) {
    let Ok(meta) = shared.fs.meta(path) else { return };
    let modified = meta.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    if shared.now().abs_diff(modified) > LEFT_BEHIND {
        // Another process may have removed it already.
        shared.fs.remove(path).ok();
    }
}

fn learn_sizes(shared: &Shared) {
    let keys: Vec<BlockKey> = shared.index().iter().map(|(key, _)| *key).collect();
    for keys in keys.chunks(FILES_PER_REST) {
        if shared.closing.load(Ordering::Relaxed) {
            return;
        }
        for key in keys {
            shared.look(key);
        }
        if keys.len() == FILES_PER_REST {
            std::thread::sleep(REST);
        }
    }
}

impl Shared {
    /// Queries the file system for one file and updates the index; returns whether the file exists.
    pub(super) fn look(&self, key: &BlockKey) -> bool {
        let path = self.path(key);
        match self.fs.meta(&path) {
            Ok(meta) => {
                let (now, place) = (self.now(), None);
                let modified = meta.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
                if modified > now + CLOCK_SLACK {
                    self.faults.record(Fault::ClockBack, &path, &"its modification time is in the future");
                }
                self.index().put(*key, Entry { bytes: meta.bytes, used: modified.min(now), place });
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.index().remove(key);
                false
            }
            Err(error) => {
                self.faults.record(Fault::of(&error), &path, &error);
                false
            }
        }
    }
}
