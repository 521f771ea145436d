//! `foretoken chat`: a conversation in the terminal.
//!
//! Line editing with history, streamed answers; Ctrl-C stops an answer and not the program. Reasoning is
//! dimmed and dropped from the conversation, as chat templates expect.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result};
use foretoken_engine::{Engine, EngineConfig, FinishReason, Request};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Completer, Editor, Helper, Highlighter, Hinter};
use tokio::runtime::Runtime;

use super::conversation::{self, Conversation, HELP, Line};
use crate::cli::ChatArgs;
use crate::draft_colors::{legend, paint};
use crate::generation;
use crate::load::{self, Loaded};
use crate::output;
use crate::reasoning_dim::{self, Dimmer};

/// Lines kept in the history file.
const HISTORY_LINES_MAX: usize = 1000;

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
    let loaded = load::load(&args.model)?;
    let engine =
        loaded.start_engine(&args.model.base, &args.context, &args.speculation, EngineConfig::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut chat = Chat { args, loaded, engine, runtime, talk: Conversation::new(args.system.clone()) };
    let mut editor = editor(&history)?;
    if std::io::stdin().is_terminal() {
        eprintln!("{}: /help lists commands, Ctrl-D leaves.", chat.loaded.model.config().name);
    }
    loop {
        match editor.readline("> ") {
            Ok(text) => {
                let line = Line::parse(&text);
                if line == Line::Quit {
                    break;
                }
                if line != Line::Empty {
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
    let folder = history.parent().map_or(Ok(()), std::fs::create_dir_all);
    if let Err(error) = folder.map_err(ReadlineError::from).and_then(|()| editor.save_history(history)) {
        tracing::warn!(file = %history.display(), %error, "the history could not be saved");
    }
}

struct Chat<'a> {
    args: &'a ChatArgs,
    loaded: Loaded,
    engine: Engine,
    runtime: Runtime,
    talk: Conversation,
}

impl Chat<'_> {
    /// Executes a line. Only a closed output is an error.
    fn execute(&mut self, line: Line) -> Result<()> {
        let reply: Cow<'_, str> = match line {
            Line::Empty | Line::Quit => return Ok(()),
            Line::Say(question) => {
                return match self.answer(&question) {
                    Err(error) if !output::is_broken_pipe(&error) => {
                        eprintln!("{error:#}");
                        Ok(())
                    }
                    result => result,
                };
            }
            Line::Help => HELP.into(),
            Line::System(None) => {
                self.talk.system().unwrap_or("There is no system message.").to_owned().into()
            }
            Line::System(Some(text)) => {
                self.talk.set_system(text);
                "System message set; the conversation starts over.".into()
            }
            Line::Reset => {
                self.talk.reset();
                "Conversation cleared.".into()
            }
            Line::Undo if self.talk.undo() => "Removed the last question and its answer.".into(),
            Line::Undo => "There is nothing to undo.".into(),
            Line::Save(file) => self.save(&file).into(),
            Line::Unknown(reason) => reason.into(),
        };
        eprintln!("{reply}");
        Ok(())
    }

    fn save(&self, file: &Path) -> String {
        let text = serde_json::to_string_pretty(&serde_json::json!({ "messages": self.talk.messages() }));
        match text.map_err(std::io::Error::from).and_then(|text| std::fs::write(file, text + "\n")) {
            Ok(()) => format!("Saved to {}.", file.display()),
            Err(error) => format!("cannot write {}: {error}", file.display()),
        }
    }

    fn answer(&mut self, question: &str) -> Result<()> {
        let rendered = generation::render(&self.loaded, self.talk.with_question(question))?;
        let request = Request {
            prompt: self.loaded.tokenizer.encode_rendered(&rendered),
            sampling: generation::sampling(&self.args.sampling),
            max_tokens: self.args.sampling.max_tokens,
            ..Request::default()
        };
        let events = self.engine.submit(request)?;
        let mut out = output::stdout();
        let colours = std::io::stdout().is_terminal() && !self.args.show_draft;
        let (mut dimmer, start) = Dimmer::new(rendered.opens_reasoning());
        let mut text = String::new();
        let mut show = |piece: &str| -> Result<()> {
            out.write_all(piece.as_bytes())?;
            Ok(out.flush()?)
        };
        if colours {
            show(start)?;
        }
        let by_source = self.args.show_draft;
        let ended = self.runtime.block_on(generation::stream(events, |piece, source| {
            text.push_str(piece);
            match (by_source, colours) {
                (true, _) => show(&paint(piece, source)),
                (false, true) => show(&dimmer.push(piece)),
                (false, false) => show(piece),
            }
        }));
        if colours {
            show(&dimmer.finish())?;
        }
        show("\n")?;
        self.talk.push(question, reasoning_dim::without_reasoning(&text));
        match ended? {
            None => eprintln!("(stopped)"),
            Some(summary) if summary.reason == FinishReason::Length => {
                eprintln!("(the answer was cut off: --max-tokens or the end of the context)");
            }
            Some(summary) if by_source => {
                eprintln!("{}", legend(summary.usage.completion_tokens, &summary.drafts));
            }
            Some(_) => {}
        }
        Ok(())
    }
}
