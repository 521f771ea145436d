//! Standard output: tables, JSON, streamed text.
//!
//! Nothing else in the binary writes to standard output, and nothing here writes to standard error.
//! A closed pipe (`foretoken models | head -1`) ends the command without an error, see [`is_broken_pipe`].

use std::io::{self, StdoutLock, Write};

use anyhow::{Context, Result};
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

/// Locked standard output.
pub(crate) fn stdout() -> StdoutLock<'static> {
    io::stdout().lock()
}

/// Prints one value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot turn the result into JSON")?;
    writeln!(stdout(), "{text}")?;
    Ok(())
}

/// Whether the error is a closed output pipe.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// A plain table: the first column to the left, numbers to the right, two spaces between.
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row; a missing cell is empty.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn print(&self) -> Result<()> {
        stdout().write_all(self.render().as_bytes())?;
        Ok(())
    }

    fn render(&self) -> String {
        let columns = self.head.len();
        let cell = |row: &Vec<String>, i: usize| row.get(i).cloned().unwrap_or_default();
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width: Vec<usize> =
            (0..columns).map(|i| lines().map(|row| cell(row, i).width()).max().unwrap_or(0)).collect();
        let numeric: Vec<bool> = (0..columns).map(|i| i > 0 && self.is_numeric(i)).collect();
        let mut text = String::new();
        for row in lines() {
            let mut line = String::new();
            for i in 0..columns {
                let value = cell(row, i);
                let missing = " ".repeat(width[i] - value.width());
                let [left, right] = if numeric[i] { [&missing, &value] } else { [&value, &missing] };
                line.extend([left, right, "  "]);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn is_numeric(&self, column: usize) -> bool {
        let starts_like_a_number =
            |cell: &String| cell.is_empty() || cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit());
        self.rows.iter().filter_map(|row| row.get(column)).all(starts_like_a_number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_aligns_numbers_right_and_text_left() {
        let mut table = Table::new(&["name", "type", "size"]);
        table.row(vec!["a".into(), "Q4_1".into(), "9 B".into()]);
        table.row(vec!["longer".into(), "F32".into(), "12 KiB".into()]);
        assert_eq!(table.render(), "name    type    size\na       Q4_1     9 B\nlonger  F32   12 KiB\n");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let mut table = Table::new(&["user", "tokens"]);
        table.row(vec!["日本".into(), "7".into()]);
        table.row(vec!["ab".into(), "12".into()]);
        assert_eq!(table.render(), "user  tokens\n日本       7\nab        12\n");
    }

    #[test]
    fn a_closed_pipe_is_distinguished_from_other_errors() {
        let broken = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("printing");
        assert!(is_broken_pipe(&broken));
        assert!(!is_broken_pipe(&anyhow::Error::from(io::Error::from(io::ErrorKind::NotFound))));
    }
}
