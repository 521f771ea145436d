//! The Jinja dialect of Hugging Face's chat templates, on minijinja.

use std::io::{self, Write};
use std::time::SystemTime;

use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};

use super::TemplateError;
use super::budget;
use super::clock::strftime;
use super::json::{self, Style};
use super::python;

/// Maximum number of instructions that a template may execute: an endless loop is stopped within about a second.
/// A conversation of a thousand turns needs a few hundred thousand.
pub(super) const FUEL: u64 = 20_000_000;
/// The same for the probes at load, which have only a few messages.
const PROBE_FUEL: u64 = 200_000;
/// The same of bytes ([`budget`]).
const PROBE_BYTES: u64 = 1 << 20;
/// Maximum depth of macro calls.
const RECURSION_MAX: usize = 100;
/// Maximum size of a template's output in bytes.
const OUTPUT_BYTES_MAX: usize = 256 << 20;

/// Maximum size of a template's source in bytes. The longest known have 20,000.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Maximum size of the message of an error that a template raises.
const MESSAGE_CHARS_MAX: usize = 4096;
/// What a character of a time's format becomes at most.
const DIRECTIVE_BYTES: usize = 16;

const NAME: &str = "chat_template";

/// Compiles `source`, with the instruction limit of a probe.
pub(super) fn build(source: &str, clock: fn() -> SystemTime) -> Result<Environment<'static>, TemplateError> {
    if source.len() > SOURCE_BYTES_MAX {
        let message = format!("a chat template of more than {} KiB is not supported", SOURCE_BYTES_MAX >> 10);
        return Err(TemplateError::Render { line: None, message });
    }
    let mut environment = Environment::empty();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    python::install(&mut environment);
    environment.set_fuel(Some(PROBE_FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| {
        budget::spend(format.len().saturating_mul(DIRECTIVE_BYTES))?;
        Ok(strftime(clock(), format))
    });
    environment.add_template_owned(NAME, python::lower(source)?).map_err(failure)?;
    Ok(environment)
}

/// Renders with the variables of `context`.
pub(super) fn render(
    environment: &Environment<'_>,
    context: &serde_json::Value,
) -> Result<String, TemplateError> {
    let template = environment.get_template(NAME).map_err(failure)?;
    let mut out = Bounded(Vec::new());
    let is_probe = environment.fuel() == Some(PROBE_FUEL);
    let bytes = if is_probe { PROBE_BYTES } else { budget::of(context) };
    budget::with(bytes, || template.render_captured_to(context, &mut out).map(drop)).map_err(failure)?;
    String::from_utf8(out.0).map_err(|error| TemplateError::Render { line: None, message: error.to_string() })
}

/// An output buffer with a size limit.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::Error::other(format!("the prompt exceeds {OUTPUT_BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The error's message and its line in the template.
fn failure(error: Error) -> TemplateError {
    let line = error.line();
    let message = match (error.kind(), error.detail()) {
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (ErrorKind::OutOfFuel, _) => "it exceeded the maximum number of instructions of a template".into(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    let message = match message.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{} …", &message[..end]),
        None => message,
    };
    TemplateError::Render { line, message }
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

/// `json.dumps` with Hugging Face's defaults: characters outside ASCII are not escaped, nor is HTML.
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let mut style = Style::default();
    if let Some(indent) = options.get::<Option<Value>>("indent")? {
        style.indent = match (indent.as_str(), indent.as_usize()) {
            (Some(text), _) => Some(text.to_owned()),
            (None, Some(spaces)) => Some(" ".repeat(spaces.min(16))),
            (None, None) => None,
        };
    }
    if style.indent.is_some() {
        style.item_separator = ",".into();
    }
    if let Some(separators) = options.get::<Option<Vec<String>>>("separators")?
        && let [item, key] = separators.as_slice()
    {
        style.item_separator = item.clone();
        style.key_separator = key.clone();
    }
    style.ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    style.sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let text = json::dumps(value, &style)?;
    budget::spend(text.len())?;
    Ok(text)
}
