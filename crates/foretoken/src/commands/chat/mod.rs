//! `foretoken chat`: a conversation in the terminal.
//!
//! Line editing with history, streamed answers; Ctrl-C stops an answer and not the program. Reasoning is
//! dimmed and dropped from the conversation, as chat templates expect.

mod backend;
mod conversation;
mod local;
mod printer;
mod remote;
mod sampling_settings;

use std::borrow::Cow;
use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Context, Result};
use foretoken_cache::data_folder;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Completer, Editor, Helper, Highlighter, Hinter};
use tokio::runtime::Runtime;

use backend::{Backend, End, Stats};
use conversation::{Conversation, HELP, Line};
use local::Local;
use printer::{Printer, View};
use remote::Remote;

use crate::cli::{ChatArgs, SamplingArgs};
use crate::word_wrap::WordWrap;
use crate::{load, output, reasoning_dim};

/// Lines kept in the history file.
const HISTORY_LINES_MAX: usize = 1000;
/// A longer line is not kept in the history.
const HISTORY_LINE_BYTES_MAX: usize = 16 << 10;
/// Maximum bytes of the history file.
pub(crate) const HISTORY_BYTES_MAX: u64 = (HISTORY_LINES_MAX * HISTORY_LINE_BYTES_MAX) as u64;

/// Line editor helper: multi-line input.
#[derive(Completer, Helper, Highlighter, Hinter)]
struct Lines;

impl Validator for Lines {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let open = conversation::is_open(context.input());
        Ok(if open { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

type LineEditor = Editor<Lines, DefaultHistory>;

/// Runs the command.
pub(crate) fn run(args: &ChatArgs) -> Result<()> {
    let history = load::data_dir(&args.model.base)?.join("chat_history");
    let backend: Box<dyn Backend> = match &args.server {
        Some(server) => Box::new(Remote::connect(server, args)?),
        None => Box::new(Local::load(args)?),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut chat = Chat {
        backend,
        runtime,
        sampling: args.sampling.clone(),
        view: View { wrap: true, show_draft: args.show_draft },
        talk: Conversation::new(args.system.clone()),
        last: None,
        total: Stats::default(),
    };
    let mut editor = editor(&history)?;
    if std::io::stdin().is_terminal() {
        note(&format!("{}: /help lists commands, Ctrl-D leaves.", chat.backend.name()));
    }
    loop {
        match editor.readline("> ") {
            Ok(text) => {
                let line = Line::parse(&text);
                if line == Line::Quit {
                    break;
                }
                if line != Line::Empty && text.len() <= HISTORY_LINE_BYTES_MAX {
                    editor.add_history_entry(text)?;
                }
                chat.execute(line)?;
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error).context("cannot read from the terminal"),
        }
    }
    save_history(&mut editor, &history);
    Ok(())
}

fn editor(history: &Path) -> Result<LineEditor> {
    let config = rustyline::Config::builder().max_history_size(HISTORY_LINES_MAX)?.build();
    let mut editor = LineEditor::with_config(config)?;
    editor.set_helper(Some(Lines));
    // The first run has no history file.
    if let Err(error) = editor.load_history(history) {
        tracing::debug!(file = %history.display(), %error, "no history read");
    }
    Ok(editor)
}

fn save_history(editor: &mut LineEditor, history: &Path) {
    let folder = history.parent().map_or(Ok(0), data_folder::prepare);
    if let Err(error) = folder.map_err(ReadlineError::from).and_then(|_| editor.save_history(history)) {
        tracing::warn!(file = %history.display(), %error, "the history could not be saved");
    }
}

/// Prints what is not part of an answer.
fn note(text: &str) {
    let width = terminal_size::terminal_size_of(std::io::stderr()).map(|(width, _)| usize::from(width.0));
    match width {
        Some(width) => {
            let mut wrap = WordWrap::new(width);
            let lines = wrap.push(text);
            eprintln!("{lines}{}", wrap.finish());
        }
        None => eprintln!("{text}"),
    }
}

struct Chat {
    backend: Box<dyn Backend>,
    runtime: Runtime,
    sampling: SamplingArgs,
    view: View,
    talk: Conversation,
    /// How the last answer ended, if there is one.
    last: Option<End>,
    /// Of all complete answers.
    total: Stats,
}

impl Chat {
    /// Executes a line. Only a closed output is an error.
    fn execute(&mut self, line: Line) -> Result<()> {
        let reply: Cow<'_, str> = match line {
            Line::Empty | Line::Quit => return Ok(()),
            Line::Say(question) => return self.answer(&question),
            Line::Regen => match self.talk.pop() {
                Some((question, answer)) => {
                    let turns = self.talk.len();
                    self.answer(&question)?;
                    if self.talk.len() == turns {
                        // No new answer: the old one stays.
                        self.talk.push(&question, &answer);
                    }
                    return Ok(());
                }
                None => "There is no answer to generate again.".into(),
            },
            Line::Help => HELP.into(),
            Line::System(None) => {
                self.talk.system().unwrap_or("There is no system message.").to_owned().into()
            }
            Line::System(Some(text)) => {
                self.talk.set_system(text);
                "System message set; the conversation starts over.".into()
            }
            Line::Set(None) => sampling_settings::show(&self.sampling, self.view).into(),
            Line::Set(Some((name, value))) => self.set(&name, &value).into(),
            Line::Stats => self.stats().into(),
            Line::Reset => {
                self.talk.reset();
                "Conversation cleared.".into()
            }
            Line::Undo if self.talk.undo() => "Removed the last question and its answer.".into(),
            Line::Undo => "There is nothing to undo.".into(),
            Line::Save(file) => self.save(&file).into(),
            Line::Unknown(reason) => reason.into(),
        };
        note(&reply);
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> String {
        let (mut sampling, mut view) = (self.sampling.clone(), self.view);
        match sampling_settings::set(&mut sampling, &mut view, name, value) {
            Err(error) => error.to_string(),
            Ok(()) if view.show_draft && !self.backend.knows_drafters() => {
                "A server does not say which drafter proposed a token; show-draft needs a local model."
                    .to_owned()
            }
            Ok(()) => {
                (self.sampling, self.view) = (sampling, view);
                format!("{name} is {value}.")
            }
        }
    }

    fn stats(&self) -> String {
        let last = match self.last {
            None => return "No figures yet: they come with an answer.".to_owned(),
            Some(End::Stopped(stats)) => stats.line(),
            Some(End::Complete(Some(stats)) | End::Length(Some(stats))) => stats.line(),
            Some(End::Complete(None) | End::Length(None)) => "the server sent no figures".to_owned(),
        };
        match self.total.answers {
            0 => format!("last answer: {last}"),
            1 => format!("last answer: {last}\nthe complete one: {}", self.total.line()),
            complete => format!("last answer: {last}\nall {complete} complete ones: {}", self.total.line()),
        }
    }

    fn save(&self, file: &Path) -> String {
        let text = serde_json::to_string_pretty(&serde_json::json!({ "messages": self.talk.messages() }));
        match text.map_err(std::io::Error::from).and_then(|text| std::fs::write(file, text + "\n")) {
            Ok(()) => format!("Saved to {}.", file.display()),
            Err(error) => format!("cannot write {}: {error}", file.display()),
        }
    }

    /// Prints an answer and keeps it. What went wrong with it is printed, and the question is not kept.
    fn answer(&mut self, question: &str) -> Result<()> {
        let mut printer = Printer::new(self.view);
        let messages = self.talk.with_question(question);
        let ended = self.backend.answer(&self.runtime, messages, &self.sampling, &mut printer);
        let text = printer.finish(ended.is_ok())?;
        let outcome = match ended {
            Ok(outcome) => outcome,
            Err(error) if output::is_broken_pipe(&error) => return Err(error),
            Err(error) => {
                note(&format!("{error:#}"));
                return Ok(());
            }
        };
        if !text.is_empty() || !matches!(outcome.end, End::Stopped(_)) {
            self.talk.push(question, reasoning_dim::without_reasoning(&text));
        }
        self.last = Some(outcome.end);
        match outcome.end {
            End::Stopped(_) => note("(stopped)"),
            End::Length(stats) => {
                self.total += stats.unwrap_or_default();
                note(
                    "(the answer was cut off by max-tokens or the end of the context; /set max-tokens N changes the \
                     limit)",
                );
            }
            End::Complete(stats) => self.total += stats.unwrap_or_default(),
        }
        if let Some(legend) = outcome.legend {
            note(&legend);
        }
        Ok(())
    }
}
