//! The types of the parameters of a request's tools, for calls whose arguments are not written as JSON.

use serde_json::Value;

/// The names of a request's tools and the schemas of their parameters.
#[derive(Debug, Default)]
pub(crate) struct Tools(Vec<(String, Value)>);

/// The types that a value may have, as a set of bits; nothing is known of the empty set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Types(u8);

/// JSON's types; an integer is a number too.
const TYPES: [&str; 7] = ["string", "null", "boolean", "integer", "number", "array", "object"];
/// Deepest alternatives within alternatives that are read.
const DEPTH_MAX: usize = 8;

impl Tools {
    /// Of tools in OpenAI's form.
    pub(crate) fn of(tools: &[Value]) -> Tools {
        let tool = |tool: &Value| {
            let function = &tool["function"];
            Some((function["name"].as_str()?.to_owned(), function["parameters"]["properties"].clone()))
        };
        Tools(tools.iter().filter_map(tool).collect())
    }

    /// The place of a tool.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(tool, _)| tool == name)
    }

    /// What a parameter of the tool at `place` may be.
    pub(super) fn types(&self, place: Option<usize>, parameter: &str) -> Types {
        let schema = place.and_then(|at| self.0.get(at)?.1.get(parameter));
        schema.map_or(Types::default(), |schema| Types::of(schema, 0))
    }
}

impl Types {
    fn of(schema: &Value, depth: usize) -> Types {
        let named = |name: &Value| {
            let at = TYPES.iter().position(|kind| name == kind);
            Types(at.map_or(0, |at| 1 << at))
        };
        let union = |parts: &[Value], of: &dyn Fn(&Value) -> Types| -> Types {
            Types(parts.iter().map(|part| of(part).0).fold(0, |all, one| all | one))
        };
        match &schema["type"] {
            Value::Array(kinds) => return union(kinds, &named),
            Value::String(_) => return named(&schema["type"]),
            _ => {}
        }
        if let Some(value) = schema.get("const") {
            return Types::of_value(value);
        }
        if let Value::Array(values) = &schema["enum"] {
            return union(values, &Types::of_value);
        }
        let alternatives = ["anyOf", "oneOf"].into_iter().find_map(|key| schema[key].as_array());
        match alternatives {
            Some(parts) if depth < DEPTH_MAX => {
                let parts: Vec<Types> = parts.iter().map(|part| Types::of(part, depth + 1)).collect();
                // Of an alternative that may be anything, nothing is known.
                let known = parts.iter().all(|types| types.0 != 0);
                Types(if known { parts.iter().fold(0, |all, one| all | one.0) } else { 0 })
            }
            _ => Types::default(),
        }
    }

    fn of_value(value: &Value) -> Types {
        Types(match value {
            Value::String(_) => 1,
            Value::Null => 1 << 1,
            Value::Bool(_) => 1 << 2,
            Value::Number(number) if number.is_f64() => 1 << 4,
            // An integer is a number too.
            Value::Number(_) => 1 << 3 | 1 << 4,
            Value::Array(_) => 1 << 5,
            Value::Object(_) => 1 << 6,
        })
    }

    /// Whether a value can only be a string, so that it is one whatever it looks like.
    pub(super) fn is_string(self) -> bool {
        self.0 == 1
    }

    /// The JSON text of a value that may be something other than a string.
    pub(super) fn json(self, text: &str) -> String {
        let trimmed = text.trim();
        // As models write that were trained on Python.
        let word = match trimmed {
            "True" => "true",
            "False" => "false",
            "None" => "null",
            other => other,
        };
        let fits = |value: &Value| self.0 == 0 || Types::of_value(value).0 & self.0 != 0;
        match serde_json::from_str::<Value>(word) {
            Ok(value) if fits(&value) => value.to_string(),
            _ => Value::from(text).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_becomes_what_the_schema_allows() {
        for (schema, text, wanted) in [
            (json!({"type": "string"}), "5", "\"5\""),
            (json!({"type": "integer"}), " 5 ", "5"),
            (json!({"type": "integer"}), "five", "\"five\""),
            (json!({"type": "number"}), "5", "5"),
            (json!({"type": "boolean"}), "True", "true"),
            (json!({"type": ["string", "null"]}), "null", "null"),
            (json!({"anyOf": [{"type": "string"}, {"type": "null"}]}), "5", "\"5\""),
            (json!({"anyOf": [{"type": "string"}, {"$ref": "#/a"}]}), "5", "5"),
            (json!({"enum": ["1", "2"]}), "1", "\"1\""),
            (json!({"type": "array"}), "[1, {\"a\": 2}]", "[1,{\"a\":2}]"),
            (json!({"type": "object"}), "[1]", "\"[1]\""),
            (json!({}), "{\"a\": 1}", "{\"a\":1}"),
            (json!({}), "a\nb", "\"a\\nb\""),
        ] {
            let tools = json!([{"function": {"name": "f", "parameters": {"properties": {"x": schema}}}}]);
            let tools = Tools::of(tools.as_array().unwrap());
            let types = tools.types(tools.find("f"), "x");
            let got = if types.is_string() { Value::from(text).to_string() } else { types.json(text) };
            assert_eq!(got, wanted, "{schema} {text}");
        }
        assert_eq!(Tools::default().types(None, "x"), Types::default());
    }
}
