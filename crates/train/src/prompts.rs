//! Prompts to train on: given ones, or built-in ones over many topics, styles, languages and programming languages.
//!
//! Built-in prompts are templates whose places are filled from lists, in an order that a seed decides. A prompt is
//! held out for evaluation by its hash, so that the same prompt never is in both parts, whatever else is asked.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::{TrainError, io};
use crate::recorded::{digest, mix};

/// The templates and lists of the built-in prompts.
const SEEDS: &str = include_str!("../data/seed-prompts.txt");
/// One prompt in so many is held out.
const HELD_OUT_EVERY: u64 = 24;
/// Largest file of prompts.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Largest number of prompts that are read.
const PROMPTS_MAX: usize = 1_000_000;
/// Endings of files that a folder is searched for.
const ENDINGS: [&str; 2] = ["txt", "jsonl"];

/// Distinct prompts in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    texts: Vec<String>,
}

impl Prompts {
    /// `count` built-in prompts, or as many as there are.
    pub fn built_in(count: usize, seed: u64) -> Prompts {
        let seeds = Seeds::parse(SEEDS);
        let mut prompts = Collector::default();
        // Draws repeat more and more often as combinations run out.
        for draw in 0..4 * count as u64 {
            if prompts.texts.len() == count {
                break;
            }
            prompts.add(seeds.prompt(mix(seed ^ mix(draw + 1))));
        }
        Prompts { texts: prompts.texts }
    }

    /// The prompts of files and folders: each line of a `.txt` file, and of a `.jsonl` file a string or the `prompt` of an
    /// object in each line.
    ///
    /// # Errors
    /// A file that can't be read or parsed, or nothing but empty ones.
    pub fn read(paths: &[PathBuf]) -> Result<Prompts, TrainError> {
        let mut prompts = Collector::default();
        for path in paths {
            for file in files(path)? {
                read_file(&file, &mut prompts)?;
            }
        }
        if prompts.texts.is_empty() {
            let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            return Err(TrainError::TooLittle(format!("there is no prompt in {}", names.join(", "))));
        }
        Ok(Prompts { texts: prompts.texts })
    }

    /// Those that are held out.
    #[must_use]
    pub fn held_out(self) -> Prompts {
        Prompts { texts: self.texts.into_iter().filter(|text| is_held_out(text)).collect() }
    }

    /// The prompts.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Changes with any of them.
    pub fn digest(&self) -> u64 {
        self.texts.iter().fold(0, |hash, text| mix(hash ^ digest(text.as_bytes())))
    }
}

/// Whether a prompt is held out for evaluation.
pub fn is_held_out(prompt: &str) -> bool {
    digest(prompt.as_bytes()).is_multiple_of(HELD_OUT_EVERY)
}

#[derive(Default)]
struct Collector {
    texts: Vec<String>,
    seen: HashSet<String>,
}

impl Collector {
    fn add(&mut self, text: String) {
        let text = text.trim();
        if !text.is_empty() && self.texts.len() < PROMPTS_MAX && self.seen.insert(text.to_owned()) {
            self.texts.push(text.to_owned());
        }
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io("read", path))? {
        let file = entry.map_err(io("read", path))?.path();
        if file.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ENDINGS.contains(&ending))
        {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path, prompts: &mut Collector) -> Result<(), TrainError> {
    let file_error = |message: String| TrainError::File { path: path.into(), message };
    if std::fs::metadata(path).map_err(io("read", path))?.len() > FILE_BYTES_MAX {
        return Err(file_error(format!("has more than {} MiB; split it", FILE_BYTES_MAX >> 20)));
    }
    let text = std::fs::read_to_string(path).map_err(io("read", path))?;
    if path.extension().is_none_or(|ending| ending != "jsonl") {
        text.lines().for_each(|line| prompts.add(line.to_owned()));
        return Ok(());
    }
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|error| file_error(format!("line {}: {error}", at + 1)))?;
        let prompt = value.as_str().or_else(|| value.get("prompt")?.as_str());
        let none = || file_error(format!("line {}: expected a string or an object with a 'prompt'", at + 1));
        prompts.add(prompt.ok_or_else(none)?.to_owned());
    }
    Ok(())
}

/// Templates, each with its weight, and lists that fill their places.
struct Seeds<'a> {
    templates: Vec<&'a str>,
    lists: Vec<(&'a str, Vec<&'a str>)>,
}

impl<'a> Seeds<'a> {
    /// Sections `[name]` of one entry a line, `templates` among them.
    fn parse(text: &'a str) -> Seeds<'a> {
        let mut lists: Vec<(&str, Vec<&str>)> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                Some(name) => lists.push((name, Vec::new())),
                None => lists.last_mut().expect("a section before its entries").1.push(line),
            }
        }
        let templates =
            lists.iter().filter(|(name, _)| *name == "templates").flat_map(|(_, list)| list.clone());
        Seeds { templates: templates.collect(), lists }
    }

    /// The prompt of a random number.
    fn prompt(&self, mut random: u64) -> String {
        let mut choose = |list: &[&'a str]| -> &'a str {
            random = mix(random.wrapping_add(0x9E37_79B9_7F4A_7C15));
            list[(random % list.len() as u64) as usize]
        };
        let template = choose(&self.templates);
        let (mut out, mut rest) = (String::new(), template);
        while let Some((before, (name, after))) =
            rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            let list = self.lists.iter().find(|(list, _)| *list == name);
            let entries = &list.unwrap_or_else(|| panic!("a list of the name {name}")).1;
            out += before;
            out += choose(entries);
            rest = after;
        }
        out += rest;
        // Entries may break lines.
        out.replace("\\n", "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_prompts_are_many_distinct_and_the_same_for_a_seed() {
        let prompts = Prompts::built_in(20_000, 7);
        assert_eq!(prompts.texts().len(), 20_000);
        let filled = |text: &String| !text.contains(['{', '\\']) || text.contains('\n');
        assert!(prompts.texts().iter().all(|text| text.len() > 5 && filled(text)));
        assert_eq!(prompts, Prompts::built_in(20_000, 7));
        assert_ne!(prompts.digest(), Prompts::built_in(20_000, 8).digest());
        let held_out = prompts.texts().iter().filter(|text| is_held_out(text)).count();
        assert!((600..1_100).contains(&held_out), "{held_out}");
    }

    #[test]
    fn files_and_folders_are_read_in_order_without_repetitions() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.txt"), "two\n\none\n two \n").unwrap();
        std::fs::write(dir.path().join("a.jsonl"), "\"one\"\n{\"prompt\": \"three\\nlines\"}\n").unwrap();
        std::fs::write(dir.path().join("c.md"), "not read").unwrap();
        let prompts = Prompts::read(&[dir.path().into()]).unwrap();
        assert_eq!(prompts.texts(), ["one", "three\nlines", "two"]);
    }

    #[test]
    fn bad_files_are_named_with_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        for (text, says) in [("\"one\"\n{}", "line 2: expected"), ("{", "line 1"), ("\n", "no prompt")] {
            std::fs::write(&path, text).unwrap();
            let error = Prompts::read(std::slice::from_ref(&path)).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("a.jsonl"), "{error}");
        }
        assert!(Prompts::read(&["/no/such/file".into()]).is_err());
    }
}
