//! Which tools an answer may or must call, and what that makes of its constraint.
//!
//! Whatever the dialect, a forced call is a constraint like others: a grammar of calls in the form that is parsed, with
//! arguments that are valid under the tool's schema. The rule: names are those of the request's tools, or it is a 400.

use foretoken_engine::{Calls, Constraint, Function};
use serde_json::{Value, json};

use super::constraint::Constrained;
use super::fields::{Fields, describe};
use crate::error::ApiError;

/// What a request wants of its tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ToolChoice {
    /// Names of the tools that may be called, if not all of them may.
    pub(crate) allowed: Option<Vec<String>>,
    /// The field that asks for a call, if one must come.
    pub(crate) forced: Option<String>,
    /// A tool was named: there is one call of it.
    pub(crate) one_call: bool,
    /// Names of the tools whose calls must be valid, whoever decides to call them: `strict`.
    pub(crate) strict: Vec<String>,
}

impl ToolChoice {
    pub(crate) fn none() -> ToolChoice {
        ToolChoice { allowed: Some(Vec::new()), ..ToolChoice::default() }
    }

    pub(crate) fn any(param: impl Into<String>) -> ToolChoice {
        ToolChoice { forced: Some(param.into()), ..ToolChoice::default() }
    }

    pub(crate) fn one(param: impl Into<String>, name: &str) -> ToolChoice {
        let allowed = Some(vec![name.into()]);
        ToolChoice { allowed, forced: Some(param.into()), one_call: true, ..ToolChoice::default() }
    }

    /// With the tools of the request that are strict; `nested` as in [`ToolChoice::read`].
    pub(crate) fn with_strict(self, fields: Fields<'_>, nested: bool) -> Result<ToolChoice, ApiError> {
        let tools = fields.array("tools")?.unwrap_or_default().iter();
        let functions = tools.map(|tool| if nested { &tool["function"] } else { tool });
        let strict = functions.filter(|function| function["strict"] == true);
        let strict = strict.filter_map(|function| Some(function["name"].as_str()?.to_owned())).collect();
        Ok(ToolChoice { strict, ..self })
    }

    /// OpenAI's `tool_choice` of chat, where a function is in an object of its own (`nested`), or of responses.
    pub(crate) fn read(fields: Fields<'_>, nested: bool) -> Result<ToolChoice, ApiError> {
        ToolChoice::choice(fields, nested)?.with_strict(fields, nested)
    }

    fn choice(fields: Fields<'_>, nested: bool) -> Result<ToolChoice, ApiError> {
        const PARAM: &str = "tool_choice";
        let wanted = "\"none\", \"auto\", \"required\", a function or allowed tools";
        let wrong =
            |got: &Value| ApiError::bad_value(PARAM, format!("must be {wanted}, got {}", describe(got)));
        match fields.get(PARAM) {
            None => Ok(ToolChoice::default()),
            Some(Value::String(mode)) => match mode.as_str() {
                "auto" => Ok(ToolChoice::default()),
                "none" => Ok(ToolChoice::none()),
                "required" => Ok(ToolChoice::any(PARAM)),
                other => Err(wrong(&other.into())),
            },
            Some(value @ Value::Object(_)) => {
                let choice = Fields::at(PARAM, value)?;
                match choice.string("type")? {
                    Some("function") => Ok(ToolChoice::one(PARAM, &function_name(choice, nested)?)),
                    Some("allowed_tools") => allowed_tools(choice, nested),
                    Some(other) => {
                        let got = describe(&Value::String(other.into()));
                        let message = format!("must be \"function\" or \"allowed_tools\", got {got}");
                        Err(ApiError::bad_value(choice.path_of("type"), message))
                    }
                    None => Err(ApiError::missing(choice.path_of("type"), "write \"function\"")),
                }
            }
            Some(other) => Err(wrong(other)),
        }
    }

    /// The tools that the model is told of: all, unless some may not be called and none must. Then the others are left
    /// out, since nothing else keeps the model from calling them.
    ///
    /// # Errors
    /// A name that no tool has, or a call that must come without tools.
    pub(crate) fn select(&self, tools: Vec<Value>) -> Result<Vec<Value>, ApiError> {
        let has = |name: &String| tools.iter().any(|tool| name_of(tool) == Some(name));
        let param = self.forced.as_deref().unwrap_or("tool_choice");
        if let Some(name) = self.allowed.iter().flatten().find(|name| !has(name)) {
            return Err(ApiError::bad_value(param, format!("names {name:?}, which is not one of 'tools'")));
        }
        if self.forced.is_some() && tools.is_empty() {
            return Err(ApiError::bad_value(param, "needs 'tools' that may be called"));
        }
        Ok(match (&self.allowed, &self.forced) {
            (Some(allowed), None) => tools
                .into_iter()
                .filter(|tool| name_of(tool).is_some_and(|name| allowed.contains(name)))
                .collect(),
            _ => tools,
        })
    }

    /// The constraint of an answer that may or must call `tools`, which were [selected](Self::select). `text`: what its
    /// text must be, if it is text.
    ///
    /// # Errors
    /// A constraint on text that cannot stand beside calls.
    pub(crate) fn constrain(
        &self,
        text: Option<Constrained>,
        tools: &[Value],
        one_call: bool,
    ) -> Result<Option<Constrained>, ApiError> {
        let many = !one_call && !self.one_call;
        if let Some(param) = &self.forced {
            let may = |name: &String| self.allowed.as_ref().is_none_or(|allowed| allowed.contains(name));
            let functions =
                tools.iter().filter_map(function).filter(|function| may(&function.name)).collect();
            let constraint = Constraint::Calls(Calls { functions, many, free: false, or: None });
            return Ok(Some(Constrained { constraint, param: param.clone() }));
        }
        // Where a call is not forced, arguments are free unless a tool is strict.
        let is_strict = |name: &String| self.strict.contains(name);
        let functions = tools.iter().filter_map(|tool| {
            let Function { name, parameters } = function(tool)?;
            let parameters = if is_strict(&name) { parameters } else { json!({"type": "object"}) };
            Some(Function { name, parameters })
        });
        let functions: Vec<Function> = functions.collect();
        let Some(Constrained { constraint, param }) = text else {
            if !functions.iter().any(|function| is_strict(&function.name)) {
                return Ok(None);
            }
            let calls = Calls { functions, many, free: true, or: None };
            return Ok(Some(Constrained { constraint: Constraint::Calls(calls), param: "tools".into() }));
        };
        if tools.is_empty() {
            return Ok(Some(Constrained { constraint, param }));
        }
        if !matches!(constraint, Constraint::JsonObject | Constraint::JsonSchema(_)) {
            let message = "cannot be combined with 'tools' that may be called; set 'tool_choice' to \"none\"";
            return Err(ApiError::unsupported(param, message));
        }
        let calls = Calls { functions, many, free: false, or: Some(Box::new(constraint)) };
        Ok(Some(Constrained { constraint: Constraint::Calls(calls), param }))
    }
}

fn name_of(tool: &Value) -> Option<&String> {
    if let Value::String(name) = &tool["function"]["name"] { Some(name) } else { None }
}

fn function(tool: &Value) -> Option<Function> {
    let parameters = tool["function"]["parameters"].clone();
    Some(Function { name: name_of(tool)?.clone(), parameters })
}

fn function_name(fields: Fields<'_>, nested: bool) -> Result<String, ApiError> {
    let name = |fields: Fields<'_>| match fields.string("name")? {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(ApiError::missing(fields.path_of("name"), "name the function")),
    };
    if !nested {
        return name(fields);
    }
    let path = fields.path_of("function");
    let function = fields.get("function").ok_or_else(|| ApiError::missing(&path, "name the function"))?;
    name(Fields::at(&path, function)?)
}

fn allowed_tools(choice: Fields<'_>, nested: bool) -> Result<ToolChoice, ApiError> {
    let path = choice.path_of("allowed_tools");
    let inner = match nested {
        true => {
            let inner = choice.get("allowed_tools");
            Fields::at(&path, inner.ok_or_else(|| ApiError::missing(&path, "name the tools"))?)?
        }
        false => choice,
    };
    let forced = match inner.string("mode")? {
        Some("auto") => None,
        Some("required") => Some("tool_choice".to_owned()),
        _ => {
            let message = "must be \"auto\" or \"required\"";
            return Err(ApiError::bad_value(inner.path_of("mode"), message));
        }
    };
    let list = inner.path_of("tools");
    let tools = inner.array("tools")?.unwrap_or_default();
    if tools.is_empty() {
        return Err(ApiError::missing(list, "name at least one tool"));
    }
    let name =
        |(at, tool): (usize, &Value)| function_name(Fields::at(&format!("{list}[{at}]"), tool)?, nested);
    let allowed = tools.iter().enumerate().map(name).collect::<Result<_, _>>()?;
    Ok(ToolChoice { allowed: Some(allowed), forced, ..ToolChoice::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Vec<Value> {
        let tool = |name: &str, strict: bool| json!({"type": "function", "function": {"name": name, "strict": strict, "parameters": {"type": "object", "maxProperties": 7}}});
        vec![tool("a", false), tool("b", true)]
    }

    fn chat(choice: Value) -> Result<ToolChoice, ApiError> {
        ToolChoice::read(Fields::of_body(json!({"tool_choice": choice}).as_object().unwrap()), true)
    }

    fn names(choice: &ToolChoice) -> Vec<String> {
        let tools = choice.select(tools()).unwrap();
        match choice.constrain(None, &tools, false).unwrap().map(|of| of.constraint) {
            Some(Constraint::Calls(calls)) => calls.functions.into_iter().map(|of| of.name).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn calls_are_forced_of_any_of_one_or_of_the_allowed_tools() {
        let any = chat(json!("required")).unwrap();
        assert_eq!((names(&any), any.one_call), (vec!["a".into(), "b".into()], false));
        let one = chat(json!({"type": "function", "function": {"name": "b"}})).unwrap();
        assert_eq!((names(&one), one.one_call), (vec!["b".into()], true));
        assert_eq!(one.select(tools()).unwrap().len(), 2, "the prompt is the same whatever is forced");
        let some = |mode: &str| {
            json!({"type": "allowed_tools", "allowed_tools": {"mode": mode,
                "tools": [{"type": "function", "function": {"name": "a"}}]}})
        };
        assert_eq!(names(&chat(some("required")).unwrap()), ["a"]);
        let auto = chat(some("auto")).unwrap();
        assert_eq!(auto.select(tools()).unwrap(), tools()[..1]);
        assert_eq!(auto.constrain(None, &tools()[..1], false).unwrap(), None);
        assert_eq!(chat(json!("none")).unwrap().select(tools()).unwrap(), [] as [Value; 0]);
        let flat = json!({"tool_choice": {"type": "function", "name": "b"}});
        assert_eq!(ToolChoice::read(Fields::of_body(flat.as_object().unwrap()), false).unwrap(), one);
    }

    #[test]
    fn json_may_be_answered_instead_of_a_call_that_is_not_forced() {
        let text = |constraint| Some(Constrained { constraint, param: "response_format".into() });
        let auto = ToolChoice::default();
        let both = auto.constrain(text(Constraint::JsonObject), &tools(), true).unwrap().unwrap();
        let Constraint::Calls(calls) = both.constraint else { panic!("{:?}", both.constraint) };
        assert_eq!((calls.many, calls.or), (false, Some(Box::new(Constraint::JsonObject))));
        assert_eq!(
            auto.constrain(text(Constraint::JsonObject), &[], true).unwrap(),
            text(Constraint::JsonObject)
        );
        let error = auto.constrain(text(Constraint::Regex("a".into())), &tools(), true).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("response_format"));
    }

    #[test]
    fn calls_of_strict_tools_are_valid_whoever_decides_to_call_them() {
        let body = json!({"tools": tools()});
        let choice = ToolChoice::read(Fields::of_body(body.as_object().unwrap()), true).unwrap();
        assert_eq!(choice.strict, ["b"]);
        let found = choice.constrain(None, &tools(), false).unwrap().unwrap();
        let Constraint::Calls(calls) = found.constraint else { panic!("{:?}", found.constraint) };
        assert!(calls.free && calls.many && calls.or.is_none());
        let parameters: Vec<&Value> = calls.functions.iter().map(|of| &of.parameters).collect();
        assert_eq!(parameters, [&json!({"type": "object"}), &json!({"type": "object", "maxProperties": 7})]);
        let none = chat(json!("none")).unwrap();
        assert_eq!(ToolChoice { strict: choice.strict, ..none }.constrain(None, &[], false).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_chosen_is_named() {
        for (choice, param) in [
            (json!("sometimes"), "tool_choice"),
            (json!(["auto"]), "tool_choice"),
            (json!({}), "tool_choice.type"),
            (json!({"type": "custom"}), "tool_choice.type"),
            (json!({"type": "function"}), "tool_choice.function"),
            (json!({"type": "function", "function": {}}), "tool_choice.function.name"),
            (json!({"type": "allowed_tools"}), "tool_choice.allowed_tools"),
            (json!({"type": "allowed_tools", "allowed_tools": {}}), "tool_choice.allowed_tools.mode"),
            (
                json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{}]}}),
                "tool_choice.allowed_tools.tools[0].function",
            ),
        ] {
            assert_eq!(chat(choice.clone()).unwrap_err().param.as_deref(), Some(param), "{choice}");
        }
        for (choice, tools) in
            [(ToolChoice::one("tool_choice", "c"), tools()), (ToolChoice::any("tool_choice"), Vec::new())]
        {
            assert_eq!(choice.select(tools).unwrap_err().param.as_deref(), Some("tool_choice"));
        }
    }
}
