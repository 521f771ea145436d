//! The recorded answers: a file of token ids in the work folder that a later run continues.
//!
//! ```text
//! magic, version, settings     u32, u32, u64
//! record, any number of times  u32 job, u32 flags, u32 prompt, u32 tokens, then the ids, u32 checksum
//! ```
//!
//! Little-endian. Records are in the order of their jobs, so a file depends on the settings alone and not on which answer was
//! finished first. The invariant: what follows a torn or damaged record is cut off when the file is opened.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{TrainError, io};

const MAGIC: u32 = u32::from_le_bytes(*b"ftan");
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const GREEDY: u32 = 1;
const HELD_OUT: u32 = 2;
/// Largest file that is read.
const BYTES_MAX: u64 = 4 << 30;

/// The answer to one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the order of prompts.
    pub job: u32,
    /// Whether it was chosen greedily, not sampled.
    pub greedy: bool,
    /// Whether it is kept for evaluation.
    pub held_out: bool,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
}

impl Record {
    /// The answer's tokens.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    fn bytes(&self) -> Vec<u8> {
        let flags = if self.greedy { GREEDY } else { 0 } | if self.held_out { HELD_OUT } else { 0 };
        let numbers = [self.job, flags, self.prompt as u32, self.tokens.len() as u32];
        let mut bytes: Vec<u8> = numbers.iter().chain(&self.tokens).flat_map(|n| n.to_le_bytes()).collect();
        let checksum = digest(&bytes) as u32;
        bytes.extend(checksum.to_le_bytes());
        bytes
    }

    /// The record at the start of `bytes`, and its length; `None` if it is not whole, or has a token of `vocab` or above.
    fn parse(bytes: &[u8], vocab: usize) -> Option<(Record, usize)> {
        let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let (job, flags, prompt, count) = (number(0)?, number(4)?, number(8)? as usize, number(12)? as usize);
        let end = 16usize.checked_add(count.checked_mul(4)?)?;
        if number(end)? != digest(bytes.get(..end)?) as u32 || prompt > count {
            return None;
        }
        let tokens: Option<Vec<u32>> = (0..count).map(|token| number(16 + 4 * token)).collect();
        let tokens = tokens.filter(|tokens| tokens.iter().all(|&token| (token as usize) < vocab))?;
        let (greedy, held_out) = (flags & GREEDY != 0, flags & HELD_OUT != 0);
        Some((Record { job, greedy, held_out, prompt, tokens }, end + 4))
    }
}

/// See the [module](self).
pub struct Recorded {
    path: PathBuf,
    file: File,
    records: Vec<Record>,
    /// Tokens of the answers.
    tokens: usize,
}

impl Recorded {
    /// Opens or creates the file of a run with these settings, for a model of `vocab` tokens.
    ///
    /// # Errors
    /// A file of other settings, or one that can't be read or written.
    pub fn open(path: &Path, settings: u64, vocab: usize) -> Result<Recorded, TrainError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.map_err(io("open", path))?;
        let mut bytes = Vec::new();
        (&mut file).take(BYTES_MAX).read_to_end(&mut bytes).map_err(io("read", path))?;
        let mut header: Vec<u8> = [MAGIC, VERSION].iter().flat_map(|n| n.to_le_bytes()).collect();
        header.extend(settings.to_le_bytes());
        if bytes.len() < HEADER_BYTES {
            file.set_len(0).map_err(io("write", path))?;
            file.seek(SeekFrom::Start(0)).map_err(io("write", path))?;
            file.write_all(&header).map_err(io("write", path))?;
            bytes = header.clone();
        }
        if bytes[..HEADER_BYTES] != header {
            let message = "was recorded with another model, other prompts or another seed; \
                           delete it or choose another --work folder";
            return Err(TrainError::File { path: path.into(), message: message.into() });
        }
        let (mut records, mut at) = (Vec::new(), HEADER_BYTES);
        while let Some((record, len)) = Record::parse(&bytes[at..], vocab) {
            records.push(record);
            at += len;
        }
        file.set_len(at as u64).map_err(io("write", path))?;
        file.seek(SeekFrom::End(0)).map_err(io("write", path))?;
        let tokens = records.iter().map(|record| record.answer().len()).sum();
        Ok(Recorded { path: path.into(), file, records, tokens })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn push(&mut self, record: Record) -> Result<(), TrainError> {
        self.file.write_all(&record.bytes()).map_err(io("write", &self.path))?;
        self.tokens += record.answer().len();
        self.records.push(record);
        Ok(())
    }

    /// All records, in order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Tokens of the answers.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The job after the last one.
    pub fn next_job(&self) -> u32 {
        self.records.last().map_or(0, |record| record.job + 1)
    }
}

/// SplitMix64's output function.
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A hash that is the same on every machine (FNV-1a, then mixed). Not for secrets.
pub fn digest(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(job: u32) -> Record {
        Record { job, greedy: job == 1, held_out: job == 2, prompt: 1, tokens: vec![3, job, 7] }
    }

    #[test]
    fn records_are_found_again_and_a_torn_one_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers");
        let mut recorded = Recorded::open(&path, 5, 10).unwrap();
        (0..3).for_each(|job| recorded.push(record(job)).unwrap());
        drop(recorded);
        let len = std::fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 3).unwrap();
        let mut recorded = Recorded::open(&path, 5, 10).unwrap();
        assert_eq!(recorded.records(), [record(0), record(1)]);
        assert_eq!((recorded.tokens(), recorded.next_job()), (4, 2));
        recorded.push(record(2)).unwrap();
        drop(recorded);
        assert_eq!(Recorded::open(&path, 5, 10).unwrap().records(), [record(0), record(1), record(2)]);
    }

    #[test]
    fn a_token_outside_the_vocabulary_and_a_changed_byte_end_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers");
        let mut recorded = Recorded::open(&path, 5, 10).unwrap();
        (0..2).for_each(|job| recorded.push(record(job)).unwrap());
        drop(recorded);
        assert_eq!(Recorded::open(&path, 5, 7).unwrap().records().len(), 0);
        let mut recorded = Recorded::open(&path, 5, 10).unwrap();
        (0..2).for_each(|job| recorded.push(record(job)).unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 5;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Recorded::open(&path, 5, 10).unwrap().records(), [record(0)]);
    }

    #[test]
    fn a_file_of_other_settings_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers");
        Recorded::open(&path, 5, 10).unwrap();
        let error = Recorded::open(&path, 6, 10).err().unwrap();
        assert!(error.to_string().contains("--work"), "{error}");
    }
}
