//! Models split over several files, `name-00001-of-00003.gguf` and so on: finding the parts and checking that
//! they belong together. The first part carries the metadata; the others only tensors.

use std::path::{Path, PathBuf};

use super::error::GgufError;
use super::map::Bytes;
use super::part::Part;

const NUMBER_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSORS_KEY: &str = "split.tensors.count";
/// Maximum number of parts; the largest models have a few hundred.
const PARTS_MAX: u64 = 1_000;
/// Maximum number of missing parts that an error names.
const NAMED_MAX: usize = 5;

/// The names of all files of a split model, if `first` is the name of its first.
pub(crate) fn split_names(first: &str) -> Option<Vec<String>> {
    let (prefix, count) = first.strip_suffix(".gguf")?.rsplit_once("-00001-of-")?;
    let count: u64 = count.parse().ok().filter(|count| (2..=PARTS_MAX).contains(count))?;
    (first == part_name(prefix, 1, count)).then(|| (1..=count).map(|n| part_name(prefix, n, count)).collect())
}

fn part_name(prefix: &str, number: u64, count: u64) -> String {
    format!("{prefix}-{number:05}-of-{count:05}.gguf")
}

/// Opens the parts that follow `first`, if it is one of several.
pub(super) fn open_rest(first: &Part) -> Result<Vec<Part>, GgufError> {
    let count = integer(first, COUNT_KEY)?.unwrap_or(1);
    if count <= 1 {
        return Ok(Vec::new());
    }
    let fault = |problem| GgufError::Split { path: first.path.clone(), problem };
    if count > PARTS_MAX {
        return Err(fault(format!("split into {count} files, more than the {PARTS_MAX} allowed")));
    }
    let number = integer(first, NUMBER_KEY)?.unwrap_or(0);
    let Some(prefix) = prefix(&first.path, number + 1, count) else {
        return Err(fault(format!(
            "it is part {} of {count}, so its name must end with {}",
            number + 1,
            part_name("", number + 1, count)
        )));
    };
    let name = |number: u64| PathBuf::from(part_name(&prefix, number, count));
    if number != 0 {
        let path = first.path.clone();
        return Err(GgufError::NotFirstPart { path, number: number + 1, count, first: name(1) });
    }
    let missing: Vec<PathBuf> = (2..=count).map(name).filter(|path| !path.exists()).collect();
    if !missing.is_empty() {
        return Err(GgufError::MissingParts { path: first.path.clone(), count, missing: list(&missing) });
    }
    let rest = (2..=count).map(|n| open_part(&name(n), n, count)).collect::<Result<Vec<_>, _>>()?;
    if let Some(stated) = integer(first, TENSORS_KEY)? {
        let found = first.tensors.len() + rest.iter().map(|p| p.tensors.len()).sum::<usize>();
        if stated != found as u64 {
            return Err(fault(format!(
                "{TENSORS_KEY} says {stated} but the {count} parts hold {found} tensors"
            )));
        }
    }
    Ok(rest)
}

fn open_part(path: &Path, number: u64, count: u64) -> Result<Part, GgufError> {
    let part = Part::parse(path, Bytes::map(path)?, number as usize - 1)?;
    let (stated, stated_count) = (integer(&part, NUMBER_KEY)?, integer(&part, COUNT_KEY)?);
    if stated != Some(number - 1) || stated_count != Some(count) {
        let say = |value: Option<u64>| value.map_or("absent".to_owned(), |v| v.to_string());
        let problem = format!(
            "expected part {number} of {count} ({NUMBER_KEY} {}), but its {NUMBER_KEY} is {} and its {COUNT_KEY} is {}",
            number - 1,
            say(stated),
            say(stated_count)
        );
        return Err(GgufError::Split { path: path.to_path_buf(), problem });
    }
    Ok(part)
}

/// A non-negative integer of any integer type.
fn integer(part: &Part, key: &str) -> Result<Option<u64>, GgufError> {
    let Some(entry) = part.entry(key) else { return Ok(None) };
    let value = part.value(entry)?;
    let number = value.as_integer().and_then(|v| u64::try_from(v).ok());
    let problem = || format!("key `{key}` should be a non-negative integer but is {value:?}");
    number.map(Some).ok_or_else(|| GgufError::Split { path: part.path.clone(), problem: problem() })
}

/// The path without `-00001-of-00003.gguf`, if it ends so for these numbers.
fn prefix(path: &Path, number: u64, count: u64) -> Option<String> {
    path.to_str()?.strip_suffix(&part_name("", number, count)).map(str::to_owned)
}

fn list(paths: &[PathBuf]) -> String {
    let mut names: Vec<String> = paths.iter().take(NAMED_MAX).map(|p| p.display().to_string()).collect();
    if paths.len() > NAMED_MAX {
        names.push(format!("and {} more", paths.len() - NAMED_MAX));
    }
    names.join(", ")
}
