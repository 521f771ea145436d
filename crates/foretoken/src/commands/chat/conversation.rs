//! The state of a terminal conversation and the commands that change it.
//!
//! No terminal and no model here. Invariant: messages alternate between user and assistant, after at most
//! one system message, and the last one is the assistant's whenever a line is read.

use std::path::PathBuf;

use serde_json::{Value, json};

/// A parsed input line.
#[derive(Debug, PartialEq)]
pub(crate) enum Line {
    /// A message for the model.
    Say(String),
    /// Only white space.
    Empty,
    Help,
    /// Sets the system message; without a text, shows it.
    System(Option<String>),
    /// Changes a setting; without a name, shows all.
    Set(Option<(String, String)>),
    /// Shows token counts and speed.
    Stats,
    /// Generates the last answer again.
    Regen,
    Reset,
    Undo,
    Save(PathBuf),
    Quit,
    /// An invalid command, with the message to print.
    Unknown(String),
}

/// What `/help` prints.
pub(crate) const HELP: &str = "\
/system TEXT   set the system message and start over; without TEXT, show it
/regen         generate the last answer again
/set NAME VAL  change a setting, as in /set temperature 0.2; without NAME, show all
/stats         show token counts and speed
/reset         clear the conversation
/undo          remove the last question and its answer
/save FILE     write the conversation as JSON, in the API's format
/quit          leave (also Ctrl-D)
A line that ends in \\ continues on the next one; \"\"\" begins and ends a block of lines.
Ctrl-C stops an answer.";

impl Line {
    /// Parses a line, or several joined by continuation.
    pub(crate) fn parse(text: &str) -> Line {
        let text = text.trim();
        if text.is_empty() {
            return Line::Empty;
        }
        let Some(command) = text.strip_prefix('/') else { return Line::Say(joined(text)) };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match (name, rest) {
            ("help" | "?", "") => Line::Help,
            ("system", "") => Line::System(None),
            ("system", text) => Line::System(Some(joined(text))),
            ("set", "") => Line::Set(None),
            ("set", setting) => match setting.split_once(['=', ' ', '\t']) {
                Some((name, value)) => Line::Set(Some((name.trim().to_owned(), value.trim().to_owned()))),
                None => Line::Unknown("name a value: /set NAME VALUE, or /set alone to see all".to_owned()),
            },
            ("stats", "") => Line::Stats,
            ("regen", "") => Line::Regen,
            ("reset", "") => Line::Reset,
            ("undo", "") => Line::Undo,
            ("save", "") => Line::Unknown("name a file: /save FILE".to_owned()),
            ("save", file) => Line::Save(file.into()),
            ("quit" | "exit", "") => Line::Quit,
            _ => Line::Unknown(format!("no command /{name}; /help lists them")),
        }
    }
}

/// Whether the input continues on the next line: it ends in a backslash, or a `"""` block is open.
pub(crate) fn is_open(text: &str) -> bool {
    text.ends_with('\\') || text.matches("\"\"\"").count() % 2 == 1
}

fn joined(text: &str) -> String {
    text.replace("\\\n", "\n").replace("\"\"\"\n", "").replace("\n\"\"\"", "").replace("\"\"\"", "")
}

/// The messages so far.
pub(crate) struct Conversation {
    system: Option<String>,
    turns: Vec<Value>,
}

impl Conversation {
    pub(crate) fn new(system: Option<String>) -> Self {
        Self { system, turns: Vec::new() }
    }

    pub(crate) fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Sets the system message and clears the conversation.
    pub(crate) fn set_system(&mut self, text: String) {
        self.system = Some(text);
        self.turns.clear();
    }

    pub(crate) fn reset(&mut self) {
        self.turns.clear();
    }

    /// Removes the last question and its answer. False if there is none.
    pub(crate) fn undo(&mut self) -> bool {
        let before = self.turns.len();
        self.turns.truncate(before.saturating_sub(2));
        before > 0
    }

    /// Removes the last question and its answer, and returns them.
    pub(crate) fn pop(&mut self) -> Option<(String, String)> {
        let turns = self.turns.split_off(self.turns.len().saturating_sub(2));
        let text = |message: &Value| message["content"].as_str().map(str::to_owned);
        Some((text(turns.first()?)?, text(turns.get(1)?)?))
    }

    /// The number of questions and answers.
    pub(crate) fn len(&self) -> usize {
        self.turns.len()
    }

    /// The messages with one more question, for the chat template.
    pub(crate) fn with_question(&self, question: &str) -> Vec<Value> {
        let mut messages = self.messages();
        messages.push(json!({"role": "user", "content": question}));
        messages
    }

    /// Appends a question and its answer.
    pub(crate) fn push(&mut self, question: &str, answer: &str) {
        self.turns.push(json!({"role": "user", "content": question}));
        self.turns.push(json!({"role": "assistant", "content": answer}));
    }

    /// All messages in the API's format.
    pub(crate) fn messages(&self) -> Vec<Value> {
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        system.chain(self.turns.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed() {
        for (text, line) in [
            ("  ", Line::Empty),
            ("Hello /help", Line::Say("Hello /help".into())),
            ("/help", Line::Help),
            ("/system", Line::System(None)),
            ("/system Be brief. ", Line::System(Some("Be brief.".into()))),
            ("/reset", Line::Reset),
            ("/undo", Line::Undo),
            ("/regen", Line::Regen),
            ("/stats", Line::Stats),
            ("/set", Line::Set(None)),
            ("/set top-k 40", Line::Set(Some(("top-k".into(), "40".into())))),
            ("/set seed=7", Line::Set(Some(("seed".into(), "7".into())))),
            ("/set seed", Line::Unknown("name a value: /set NAME VALUE, or /set alone to see all".into())),
            ("/save a b.json", Line::Save("a b.json".into())),
            ("/quit", Line::Quit),
            ("/jump", Line::Unknown("no command /jump; /help lists them".into())),
            ("/save", Line::Unknown("name a file: /save FILE".into())),
        ] {
            assert_eq!(Line::parse(text), line, "{text}");
        }
    }

    #[test]
    fn several_lines_become_one_message() {
        assert!(is_open("one\\"));
        assert!(is_open("\"\"\"\nfn main() {"));
        assert!(!is_open("\"\"\"\nfn main() {}\n\"\"\""));
        assert_eq!(Line::parse("one\\\ntwo"), Line::Say("one\ntwo".into()));
        assert_eq!(Line::parse("\"\"\"\nfn main() {\n}\n\"\"\""), Line::Say("fn main() {\n}".into()));
    }

    #[test]
    fn undo_removes_whole_turns() {
        let mut talk = Conversation::new(Some("Be brief.".into()));
        talk.push("1?", "1.");
        talk.push("2?", "2.");
        assert_eq!(talk.with_question("3?").len(), 6);
        assert!(talk.undo());
        let roles: Vec<_> = talk.messages().iter().map(|m| m["role"].as_str().unwrap().to_owned()).collect();
        assert_eq!(roles, ["system", "user", "assistant"]);
        assert_eq!(talk.pop(), Some(("1?".into(), "1.".into())));
        assert_eq!(talk.pop(), None);
        assert!(!talk.undo());
        assert_eq!(talk.messages().len(), 1);
    }
}
