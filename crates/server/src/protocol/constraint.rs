//! Constraints on the wire: what each dialect's fields ask an answer to be, as one [`Constraint`].
//!
//! The rule: one constraint per request, named by the field that brought it; two are a 400 that names both, and whatever
//! asks for less than it seems to (an empty choice, an object without a constraint, a key that nobody knows) is a 400
//! too. What can be enforced is the engine's business.

use foretoken_engine::Constraint;
use serde_json::Value;

use super::fields::{Fields, describe};
use crate::error::ApiError;

const SEND_SCHEMA: &str = "send a JSON schema";
/// Ends the name of a rule in GBNF, and occurs in no grammar of Lark.
const GBNF_MARK: &str = "::=";

/// A constraint and the field that it came in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Constrained {
    pub(crate) constraint: Constraint,
    pub(crate) param: String,
}

/// The only constraint of a request.
#[derive(Debug, Default)]
pub(crate) struct OneConstraint(Option<Constrained>);

impl OneConstraint {
    /// Takes one more, if there is one.
    pub(crate) fn add(&mut self, more: Option<Constrained>) -> Result<(), ApiError> {
        let Some(more) = more else { return Ok(()) };
        match &self.0 {
            Some(one) => {
                let message = format!("cannot be combined with '{}': send one of them", one.param);
                Err(ApiError::bad_value(more.param, message))
            }
            None => {
                self.0 = Some(more);
                Ok(())
            }
        }
    }

    pub(crate) fn found(self) -> Option<Constrained> {
        self.0
    }
}

fn at(param: String, constraint: Constraint) -> Option<Constrained> {
    Some(Constrained { constraint, param })
}

/// What OpenAI's, vLLM's and llama.cpp's fields of chat and completions ask for.
pub(crate) fn read(fields: Fields<'_>) -> Result<Option<Constrained>, ApiError> {
    let mut one = OneConstraint::default();
    one.add(response_format(fields)?)?;
    one.add(json(fields, "guided_json")?)?;
    one.add(regex(fields, "guided_regex")?)?;
    one.add(choice(fields, "guided_choice")?)?;
    one.add(grammar(fields, "guided_grammar")?)?;
    one.add(structured_outputs(fields)?)?;
    one.add(json(fields, "json_schema")?)?;
    // llama.cpp's default.
    if fields.string("grammar")? != Some("") {
        one.add(grammar(fields, "grammar")?)?;
    }
    Ok(one.found())
}

/// OpenAI's `response_format`, with llama.cpp's `schema` beside `json_object`.
fn response_format(fields: Fields<'_>) -> Result<Option<Constrained>, ApiError> {
    let Some(format) = fields.get("response_format") else { return Ok(None) };
    let format = Fields::at("response_format", format)?;
    let kind = format.string("type")?;
    if kind != Some("json_schema") && format.get("json_schema").is_some() {
        let message = "is only allowed when 'response_format.type' is \"json_schema\"";
        return Err(ApiError::bad_value(format.path_of("json_schema"), message));
    }
    if kind != Some("json_object") && format.get("schema").is_some() {
        let message = "belongs into 'response_format.json_schema.schema'";
        return Err(ApiError::bad_value(format.path_of("schema"), message));
    }
    match kind {
        Some("json_schema") => {
            let path = format.path_of("json_schema");
            let inner = format.get("json_schema").ok_or_else(|| ApiError::missing(&path, SEND_SCHEMA))?;
            schema_of(Fields::at(&path, inner)?).map(Some)
        }
        Some("json_object") if format.get("schema").is_some() => schema_of(format).map(Some),
        kind => plain(format, kind),
    }
}

/// `text` and `json_object`.
fn plain(format: Fields<'_>, kind: Option<&str>) -> Result<Option<Constrained>, ApiError> {
    let path = format.path_of("type");
    match kind {
        Some("text") => Ok(None),
        Some("json_object") => Ok(at(path, Constraint::JsonObject)),
        Some(other) => {
            let got = describe(&Value::String(other.into()));
            let message = format!("must be \"text\", \"json_object\" or \"json_schema\", got {got}");
            Err(ApiError::bad_value(path, message))
        }
        None => Err(ApiError::missing(path, "write \"text\", \"json_object\" or \"json_schema\"")),
    }
}

/// The schema of a format that has one, strict or not: it is enforced.
fn schema_of(format: Fields<'_>) -> Result<Constrained, ApiError> {
    format.bool("strict")?;
    format.string("name")?;
    let path = format.path_of("schema");
    match format.get("schema") {
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => {
            Ok(Constrained { constraint: Constraint::JsonSchema(schema.clone()), param: path })
        }
        Some(other) => Err(ApiError::bad_value(path, format!("must be an object, got {}", describe(other)))),
        None => Err(ApiError::missing(path, SEND_SCHEMA)),
    }
}

/// `text.format` of OpenAI's responses.
pub(crate) fn text_format(text: Fields<'_>) -> Result<Option<Constrained>, ApiError> {
    let path = text.path_of("format");
    let Some(format) = text.get("format") else { return Ok(None) };
    let format = Fields::at(&path, format)?;
    match format.string("type")? {
        Some("json_schema") => schema_of(format).map(Some),
        kind => plain(format, kind),
    }
}

/// Anthropic's format in the field `name` of `fields`.
pub(crate) fn output_format(fields: Fields<'_>, name: &str) -> Result<Option<Constrained>, ApiError> {
    let path = fields.path_of(name);
    let Some(format) = fields.get(name) else { return Ok(None) };
    let format = Fields::at(&path, format)?;
    match format.string("type")? {
        Some("json_schema") => schema_of(format).map(Some),
        Some(other) => {
            let got = describe(&Value::String(other.into()));
            Err(ApiError::bad_value(format.path_of("type"), format!("must be \"json_schema\", got {got}")))
        }
        None => Err(ApiError::missing(format.path_of("type"), "write \"json_schema\"")),
    }
}

/// Ollama's `format`: "json" or a schema.
pub(crate) fn ollama_format(fields: Fields<'_>) -> Result<Option<Constrained>, ApiError> {
    let path = fields.path_of("format");
    match fields.get("format") {
        None => Ok(None),
        // The client's default.
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text == "json" => Ok(at(path, Constraint::JsonObject)),
        Some(schema @ Value::Object(_)) => Ok(at(path, Constraint::JsonSchema(schema.clone()))),
        Some(other) => {
            let message = format!("must be \"json\" or a JSON schema, got {}", describe(other));
            Err(ApiError::bad_value(path, message))
        }
    }
}

/// A schema, as an object or as JSON text.
fn json(fields: Fields<'_>, name: &str) -> Result<Option<Constrained>, ApiError> {
    let path = fields.path_of(name);
    let wrong = |got: String| ApiError::bad_value(&path, format!("must be a JSON schema, got {got}"));
    let schema = match fields.get(name) {
        None => return Ok(None),
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|error| wrong(format!("a text that is not JSON: {error}")))?
        }
        Some(other) => other.clone(),
    };
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(at(path, Constraint::JsonSchema(schema))),
        other => Err(wrong(describe(&other))),
    }
}

fn not_empty<'a>(fields: Fields<'a>, name: &str) -> Result<Option<&'a str>, ApiError> {
    match fields.string(name)? {
        Some("") => Err(ApiError::bad_value(fields.path_of(name), "must not be empty; leave it out")),
        text => Ok(text),
    }
}

fn regex(fields: Fields<'_>, name: &str) -> Result<Option<Constrained>, ApiError> {
    let pattern = not_empty(fields, name)?;
    Ok(pattern.and_then(|pattern| at(fields.path_of(name), Constraint::Regex(pattern.into()))))
}

fn grammar(fields: Fields<'_>, name: &str) -> Result<Option<Constrained>, ApiError> {
    let constraint = |text: &str| match text.contains(GBNF_MARK) {
        true => Constraint::Gbnf(text.into()),
        false => Constraint::Lark(text.into()),
    };
    Ok(not_empty(fields, name)?.and_then(|text| at(fields.path_of(name), constraint(text))))
}

fn choice(fields: Fields<'_>, name: &str) -> Result<Option<Constrained>, ApiError> {
    let path = fields.path_of(name);
    let Some(items) = fields.array(name)? else { return Ok(None) };
    if items.is_empty() {
        return Err(ApiError::bad_value(path, "must hold at least one text; leave it out"));
    }
    let text = |(index, item): (usize, &Value)| match item {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        other => {
            let message = format!("must be a text that is not empty, got {}", describe(other));
            Err(ApiError::bad_value(format!("{path}[{index}]"), message))
        }
    };
    let texts = items.iter().enumerate().map(text).collect::<Result<_, _>>()?;
    Ok(at(path, Constraint::Choice(texts)))
}

/// vLLM's object: one constraint, and options of its backends of which those are taken that ask for what is done anyway.
fn structured_outputs(fields: Fields<'_>) -> Result<Option<Constrained>, ApiError> {
    const CONSTRAINTS: [&str; 5] = ["json", "regex", "choice", "grammar", "json_object"];
    const OPTIONS: [(&str, &str); 4] = [
        ("whitespace_pattern", "JSON is written on one line"),
        ("disable_additional_properties", "write \"additionalProperties\": false into the schema"),
        ("disable_fallback", "leave it out"),
        ("structural_tag", "send 'tools', or a grammar"),
    ];
    let Some(outputs) = fields.get("structured_outputs") else { return Ok(None) };
    let outputs = Fields::at("structured_outputs", outputs)?;
    // JSON has no white space but a blank after commas and colons.
    outputs.bool("disable_any_whitespace")?;
    for (name, advice) in OPTIONS {
        let asks = outputs.get(name).is_some_and(|value| *value != Value::Bool(false));
        if asks {
            return Err(ApiError::unsupported(outputs.path_of(name), format!("is not supported; {advice}")));
        }
    }
    let known = OPTIONS.iter().map(|(name, _)| *name).chain(CONSTRAINTS).chain(["disable_any_whitespace"]);
    let known: Vec<&str> = known.collect();
    if let Some(name) = outputs.others(&known).keys().next() {
        let message = format!("is not known; write one of \"{}\"", CONSTRAINTS.join("\", \""));
        return Err(ApiError::bad_value(outputs.path_of(name), message));
    }
    let mut one = OneConstraint::default();
    one.add(json(outputs, "json")?)?;
    one.add(regex(outputs, "regex")?)?;
    one.add(choice(outputs, "choice")?)?;
    one.add(grammar(outputs, "grammar")?)?;
    if outputs.bool("json_object")? == Some(true) {
        one.add(at(outputs.path_of("json_object"), Constraint::JsonObject))?;
    }
    match one.found() {
        None => {
            let message = format!("must have one of \"{}\"", CONSTRAINTS.join("\", \""));
            Err(ApiError::bad_value("structured_outputs", message))
        }
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(body: Value) -> Result<Option<Constrained>, ApiError> {
        read(Fields::of_body(body.as_object().unwrap()))
    }

    #[test]
    fn every_field_names_itself_and_means_one_constraint() {
        let schema = json!({"type": "integer"});
        let as_schema = || Constraint::JsonSchema(schema.clone());
        let cases = [
            (
                json!({"response_format": {"type": "json_object"}}),
                "response_format.type",
                Constraint::JsonObject,
            ),
            (
                json!({"response_format": {"type": "json_object", "schema": schema}}),
                "response_format.schema",
                as_schema(),
            ),
            (
                json!({"response_format": {"type": "json_schema",
                    "json_schema": {"name": "n", "strict": true, "schema": schema}}}),
                "response_format.json_schema.schema",
                as_schema(),
            ),
            (json!({"guided_json": schema}), "guided_json", as_schema()),
            (json!({"guided_json": schema.to_string()}), "guided_json", as_schema()),
            (json!({"guided_regex": "a+"}), "guided_regex", Constraint::Regex("a+".into())),
            (
                json!({"guided_choice": ["a", "b"]}),
                "guided_choice",
                Constraint::Choice(vec!["a".into(), "b".into()]),
            ),
            (
                json!({"guided_grammar": "start: \"a\""}),
                "guided_grammar",
                Constraint::Lark("start: \"a\"".into()),
            ),
            (
                json!({"guided_grammar": "root ::= \"a\""}),
                "guided_grammar",
                Constraint::Gbnf("root ::= \"a\"".into()),
            ),
            (json!({"structured_outputs": {"json": schema}}), "structured_outputs.json", as_schema()),
            (
                json!({"structured_outputs": {"regex": "a"}}),
                "structured_outputs.regex",
                Constraint::Regex("a".into()),
            ),
            (
                json!({"structured_outputs": {"choice": ["a"], "json": null, "disable_any_whitespace": true}}),
                "structured_outputs.choice",
                Constraint::Choice(vec!["a".into()]),
            ),
            (
                json!({"structured_outputs": {"json_object": true}}),
                "structured_outputs.json_object",
                Constraint::JsonObject,
            ),
            (json!({"json_schema": schema}), "json_schema", as_schema()),
            (json!({"grammar": "root ::= \"a\""}), "grammar", Constraint::Gbnf("root ::= \"a\"".into())),
        ];
        for (body, param, constraint) in cases {
            let wanted = Constrained { constraint, param: param.into() };
            assert_eq!(of(body.clone()).unwrap(), Some(wanted), "{body}");
        }
    }

    #[test]
    fn what_asks_for_nothing_is_no_constraint() {
        for body in [
            json!({}),
            json!({"response_format": {"type": "text"}}),
            json!({"response_format": null, "guided_json": null, "guided_choice": null}),
            json!({"grammar": ""}),
        ] {
            assert_eq!(of(body.clone()).unwrap(), None, "{body}");
        }
    }

    #[test]
    fn two_constraints_are_refused_by_both_names() {
        for (body, first, second) in [
            (
                json!({"response_format": {"type": "json_object"}, "guided_regex": "a"}),
                "response_format.type",
                "guided_regex",
            ),
            (
                json!({"guided_json": {}, "structured_outputs": {"regex": "a"}}),
                "guided_json",
                "structured_outputs.regex",
            ),
            (
                json!({"structured_outputs": {"regex": "a", "choice": ["b"]}}),
                "structured_outputs.regex",
                "structured_outputs.choice",
            ),
            (json!({"json_schema": {}, "grammar": "root ::= \"a\""}), "json_schema", "grammar"),
        ] {
            let error = of(body.clone()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(second), "{body}");
            assert!(error.message.contains(&format!("'{first}'")), "{}", error.message);
        }
    }

    #[test]
    fn what_is_empty_unknown_or_of_another_type_is_refused_by_name() {
        for (body, param) in [
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"guided_choice": ["a", ""]}), "guided_choice[1]"),
            (json!({"guided_choice": ["a", 1]}), "guided_choice[1]"),
            (json!({"guided_regex": ""}), "guided_regex"),
            (json!({"guided_grammar": ""}), "guided_grammar"),
            (json!({"guided_json": ""}), "guided_json"),
            (json!({"guided_json": "7"}), "guided_json"),
            (json!({"guided_json": []}), "guided_json"),
            (json!({"structured_outputs": {}}), "structured_outputs"),
            (json!({"structured_outputs": {"json_object": false}}), "structured_outputs"),
            (json!({"structured_outputs": {"json": null}}), "structured_outputs"),
            (json!({"structured_outputs": {"regexp": "a"}}), "structured_outputs.regexp"),
            (
                json!({"structured_outputs": {"regex": "a", "whitespace_pattern": " "}}),
                "structured_outputs.whitespace_pattern",
            ),
            (json!({"structured_outputs": {"structural_tag": "x"}}), "structured_outputs.structural_tag"),
            (json!({"structured_outputs": {"regex": ""}}), "structured_outputs.regex"),
            (json!({"response_format": {}}), "response_format.type"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
                "response_format.json_schema.schema",
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 7}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"response_format": {"type": "text", "json_schema": {}}}), "response_format.json_schema"),
            (json!({"response_format": {"type": "json_schema", "schema": {}}}), "response_format.schema"),
        ] {
            assert_eq!(of(body.clone()).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
    }
}
