//! The forms in which model families write tool calls: a table, whose rows the parser reads.
//!
//! A row says which texts begin and end calls, how a call's name and arguments are written between them, and by which
//! texts a chat template is recognised that writes earlier calls so. Code knows three kinds of calls ([`CallForm`]) and no
//! model. What it is not for: writing calls, which templates do.

/// A row of the table. See the [module](self).
#[derive(Debug)]
pub struct ToolFormat {
    /// Its name, for `--tool-format`.
    pub name: &'static str,
    /// Templates that write calls so have all of these texts.
    template: &'static [&'static str],
    /// Texts that begin a call, or several.
    pub(super) opens: &'static [&'static str],
    /// An answer that begins with `{` may be a call, of one of the request's tools.
    pub(super) bare: bool,
    /// What stands between calls that follow each other without another opening text.
    pub(super) between: Option<char>,
    pub(super) form: CallForm,
    /// Texts that may follow a call, each at most once and in this order.
    pub(super) closes: &'static [&'static str],
}

/// How a call is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum CallForm {
    /// `{"name": …, "arguments": {…}}`, or a list of such objects if `list`.
    Json { list: bool },
    /// The name, then the arguments as JSON.
    Named(Named),
    /// The name, then each argument between tags.
    Tagged(Tagged),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    /// Stands before the name; may be empty.
    pub(super) before: &'static str,
    /// Stands between the name and an id, which is passed over; empty if there is none.
    pub(super) id: &'static str,
    /// Stands before the arguments.
    pub(super) arguments: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Tagged {
    /// Stand around the name; if they are empty, white space or what follows ends it.
    pub(super) name: (&'static str, &'static str),
    /// Around a key.
    pub(super) key: (&'static str, &'static str),
    /// Before a value. Empty: a line break that may stand there.
    pub(super) value: &'static str,
    /// After a value, the longest first.
    pub(super) value_ends: &'static [&'static str],
    /// After the last value.
    pub(super) end: &'static str,
}

const HERMES: ToolFormat = ToolFormat {
    name: "hermes",
    template: &["<tool_call>", "\"name"],
    opens: &["<tool_call>"],
    bare: false,
    between: None,
    form: CallForm::Json { list: false },
    closes: &["</tool_call>"],
};

/// The rows. A template has the first that it is recognised by, so rows that say more come first.
static FORMATS: [ToolFormat; 15] = [
    ToolFormat {
        name: "deepseek",
        template: &["<｜tool▁calls▁begin｜>", "```json"],
        opens: &["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
        form: CallForm::Named(Named { before: "function<｜tool▁sep｜>", id: "", arguments: "```json" }),
        closes: &["```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
        ..HERMES
    },
    ToolFormat {
        name: "deepseek-v3.1",
        template: &["<｜tool▁calls▁begin｜>"],
        opens: &["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
        form: CallForm::Named(Named { before: "", id: "", arguments: "<｜tool▁sep｜>" }),
        closes: &["<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
        ..HERMES
    },
    ToolFormat {
        name: "kimi-k2",
        template: &["<|tool_call_argument_begin|>"],
        opens: &["<|tool_calls_section_begin|>", "<|tool_call_begin|>"],
        form: CallForm::Named(Named {
            before: "functions.",
            id: ":",
            arguments: "<|tool_call_argument_begin|>",
        }),
        closes: &["<|tool_call_end|>", "<|tool_calls_section_end|>"],
        ..HERMES
    },
    ToolFormat {
        name: "mistral-args",
        template: &["[TOOL_CALLS]", "[ARGS]"],
        opens: &["[TOOL_CALLS]"],
        form: CallForm::Named(Named { before: "", id: "[CALL_ID]", arguments: "[ARGS]" }),
        closes: &[],
        ..HERMES
    },
    ToolFormat {
        name: "mistral",
        template: &["[TOOL_CALLS]"],
        opens: &["[TOOL_CALLS]"],
        between: Some(','),
        form: CallForm::Json { list: true },
        closes: &["]"],
        ..HERMES
    },
    ToolFormat {
        name: "glm",
        template: &["<tool_call>", "<arg_key>"],
        opens: &["<tool_call>"],
        form: CallForm::Tagged(Tagged {
            name: ("", ""),
            key: ("<arg_key>", "</arg_key>"),
            value: "<arg_value>",
            value_ends: &["</arg_value>"],
            end: "</tool_call>",
        }),
        closes: &[],
        ..HERMES
    },
    ToolFormat {
        name: "minimax-m2",
        template: &["<minimax:tool_call>", "<invoke name="],
        opens: &["<minimax:tool_call>", "<invoke name=\""],
        form: CallForm::Tagged(Tagged {
            name: ("<invoke name=\"", "\">"),
            key: ("<parameter name=\"", "\">"),
            value: "",
            value_ends: &["\n</parameter>", "</parameter>"],
            end: "</invoke>",
        }),
        closes: &["</minimax:tool_call>"],
        ..HERMES
    },
    ToolFormat {
        name: "qwen3-coder",
        template: &["<function=", "<parameter="],
        // Models forget the first.
        opens: &["<tool_call>", "<seed:tool_call>", "<function="],
        form: CallForm::Tagged(Tagged {
            name: ("<function=", ">"),
            key: ("<parameter=", ">"),
            value: "",
            value_ends: &["\n</parameter>", "</parameter>"],
            end: "</function>",
        }),
        closes: &["</tool_call>", "</seed:tool_call>"],
        ..HERMES
    },
    ToolFormat {
        name: "functionary-v3.1",
        template: &["<function="],
        opens: &["<function="],
        form: CallForm::Named(Named { before: "<function=", id: "", arguments: ">" }),
        closes: &["</function>"],
        ..HERMES
    },
    ToolFormat {
        name: "granite",
        template: &["<|tool_call|>"],
        opens: &["<|tool_call|>", "<tool_call>"],
        between: Some(','),
        form: CallForm::Json { list: true },
        closes: &["]", "<|/tool_call|>", "</tool_call>"],
        ..HERMES
    },
    ToolFormat {
        name: "apriel",
        template: &["<tool_calls>["],
        opens: &["<tool_calls>"],
        between: Some(','),
        form: CallForm::Json { list: true },
        closes: &["]", "</tool_calls>"],
        ..HERMES
    },
    ToolFormat {
        name: "nemotron-v2",
        template: &["<TOOLCALL>["],
        opens: &["<TOOLCALL>"],
        between: Some(','),
        form: CallForm::Json { list: true },
        closes: &["]", "</TOOLCALL>"],
        ..HERMES
    },
    ToolFormat {
        name: "firefunction-v2",
        template: &["functools["],
        opens: &["functools["],
        between: Some(','),
        form: CallForm::Json { list: true },
        closes: &["]"],
        ..HERMES
    },
    HERMES,
    ToolFormat {
        name: "llama3",
        template: &["{\"name\": function name, \"parameters\": "],
        opens: &["<|python_tag|>"],
        bare: true,
        between: Some(';'),
        closes: &[],
        ..HERMES
    },
];

impl ToolFormat {
    /// Hermes' and Qwen's form, which templates without one of their own describe to the model.
    pub fn hermes() -> &'static ToolFormat {
        static HERMES_ROW: ToolFormat = HERMES;
        &HERMES_ROW
    }

    /// The row of this name.
    pub fn named(name: &str) -> Option<&'static ToolFormat> {
        FORMATS.iter().find(|format| format.name == name)
    }

    /// The names of all rows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FORMATS.iter().map(|format| format.name)
    }

    /// The form in which a chat template writes calls, if it is one of the table.
    pub fn of_template(source: &str) -> Option<&'static ToolFormat> {
        FORMATS.iter().find(|format| format.template.iter().all(|text| source.contains(text)))
    }

    /// Texts that may be control tokens, which answers do not show otherwise.
    pub(crate) fn markers(&self) -> impl Iterator<Item = &'static str> {
        let inner = match self.form {
            CallForm::Named(named) => vec![named.before, named.id, named.arguments],
            CallForm::Tagged(tagged) => {
                let Tagged { name, key, value, value_ends, end } = tagged;
                [&[name.0, key.0, key.1, value, end], value_ends].concat()
            }
            CallForm::Json { .. } => Vec::new(),
        };
        let all = self.opens.iter().chain(self.closes).copied().chain(inner);
        // A text of the table may be a word and a marker.
        all.map(|text| text.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '\n'))
            .filter(|text| text.len() > 1)
    }
}
