//! What compiles, what does not and with which words, and what it may cost.

use serde_json::{Value, json};

use super::compile::{Grammars, lock};
use super::*;

fn compile(constraint: Constraint) -> Result<Grammar, GrammarError> {
    Grammars::of_bytes().compile(&constraint)
}

fn schema(schema: Value) -> Result<Grammar, GrammarError> {
    compile(Constraint::JsonSchema(schema))
}

fn takes(grammar: &Grammar, text: &str) -> bool {
    grammar.takes_bytes(text.as_bytes())
}

#[test]
fn a_schema_takes_valid_json_on_one_line_and_nothing_else() {
    let grammar = schema(json!({
        "$ref": "#/$defs/node",
        "$defs": {"node": {
            "type": "object",
            "properties": {
                "kind": {"enum": ["a", 1, null]},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                "rows": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}},
            },
            "required": ["kind", "next", "rows"],
            "additionalProperties": false,
        }},
    }))
    .unwrap();
    let leaf = r#"{"kind": null, "next": null, "rows": []}"#;
    for text in [leaf, &format!(r#"{{"kind": "a", "next": {leaf}, "rows": [[1, 2], []]}}"#)] {
        assert!(takes(&grammar, text), "{text}");
    }
    for text in [
        r#"{"kind": "b", "next": null, "rows": []}"#,
        r#"{"kind": 1, "next": null}"#,
        r#"{"kind": 1, "next": null, "rows": [[1, 2, 3]]}"#,
        r#"{"kind": 1, "next": null, "rows": [], "more": 1}"#,
        r#"{"kind":  1, "next": null, "rows": []}"#,
        &leaf[..leaf.len() - 1],
    ] {
        assert!(!takes(&grammar, text), "{text}");
    }
}

#[test]
fn objects_choices_patterns_and_grammars_take_what_they_say() {
    let cases: [(Constraint, &[&str], &[&str]); 6] = [
        (Constraint::JsonObject, &["{}", r#"{"a": [1, {"b": null}]}"#], &["[]", "1", "{", "{} "]),
        (
            Constraint::Choice(vec!["yes".into(), "yes, but".into(), "\"no\"\n".into()]),
            &["yes", "yes, but", "\"no\"\n"],
            &["", "no", "yes,", "yes, but "],
        ),
        (Constraint::Regex("^[a-c]{2,3}/\\d$".into()), &["ab/1", "ccc/9"], &["a/1", "ab/", "ab/12", "^ab/1"]),
        (Constraint::Regex("a\\$".into()), &["a$"], &["a", "a\\"]),
        (Constraint::Lark("start: \"(\" start? \")\"".into()), &["()", "((()))"], &["(", "(()"]),
        (Constraint::Gbnf("root ::= \"(\" root? \")\"".into()), &["()", "((()))"], &["(", "(()"]),
    ];
    for (constraint, good, bad) in cases {
        let grammar = compile(constraint.clone()).unwrap();
        good.iter().for_each(|text| assert!(takes(&grammar, text), "{constraint:?} {text:?}"));
        bad.iter().for_each(|text| assert!(!takes(&grammar, text), "{constraint:?} {text:?}"));
    }
}

#[test]
fn what_cannot_be_enforced_is_an_error_that_names_it() {
    for (bad, word) in [
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"not": {"type": "string"}}), "not"),
        (json!({"type": "object", "properties": {"a": {"if": {}, "then": {}}}}), "if"),
        (json!({"type": "string", "format": "mystery"}), "mystery"),
        (json!({"type": "integer", "minimum": 3, "maximum": 2}), "minimum"),
        (json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "oneOf"),
        (json!({"$ref": "#/$defs/missing"}), "missing"),
        (json!({"type": "text"}), "text"),
        (json!({"x-guidance": {"lenient": true}}), "x-guidance"),
        (json!(false), "schema"),
    ] {
        let error = schema(bad.clone()).unwrap_err().0;
        assert!(error.contains(word) && !error.contains('\n'), "{bad}: {error}");
    }
    for bad in [
        Constraint::Regex("(".into()),
        Constraint::Regex(String::new()),
        Constraint::Regex("(?=a)b".into()),
        Constraint::Choice(Vec::new()),
        Constraint::Choice(vec!["a".into(), String::new()]),
        Constraint::Choice(vec!["a".into(); 5000]),
        Constraint::Lark("start: missing".into()),
        Constraint::Lark(" ".into()),
        Constraint::Gbnf("root ::= missing".into()),
        Constraint::Regex("a".repeat(300 << 10)),
    ] {
        let error = compile(bad.clone()).unwrap_err().0;
        assert!(!error.is_empty() && !error.contains('\n'), "{error}");
    }
}

#[test]
fn calls_have_the_form_that_is_parsed_and_valid_arguments() {
    let weather = Function {
        name: "weather \"now\"".into(),
        parameters: json!({
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"],
            "additionalProperties": false,
        }),
    };
    let time = Function { name: "time".into(), parameters: json!({}) };
    let calls = Calls { functions: vec![weather, time], many: false, free: false, or: None };
    let one = compile(Constraint::Calls(calls.clone())).unwrap();
    let city = r#"{"name": "weather \"now\"", "arguments": {"city": "Rome", "days": 2}}"#;
    let time = r#"{"name": "time", "arguments": {}}"#;
    let call = |body: &str| format!("<tool_call>\n{body}\n</tool_call>");
    assert!(takes(&one, &call(city)) && takes(&one, &call(time)));
    for text in [
        &call(r#"{"name": "time", "arguments": {"city": "Rome"}}"#),
        &call(r#"{"name": "weather \"now\"", "arguments": {}}"#),
        &call(r#"{"name": "other", "arguments": {}}"#),
        &format!("{}\n{}", call(time), call(time)),
        "{}",
        city,
    ] {
        assert!(!takes(&one, text), "{text}");
    }
    let or = Some(Box::new(Constraint::JsonSchema(json!({"type": "integer"}))));
    let many = compile(Constraint::Calls(Calls { many: true, or, ..calls.clone() })).unwrap();
    assert!(takes(&many, &format!("{}\n{}", call(time), call(city))) && takes(&many, "12"));
    assert!(!takes(&many, &format!("12{}", call(time))));
    for bad in [
        Calls { functions: Vec::new(), ..calls.clone() },
        Calls { or: Some(Box::new(Constraint::Regex("a".into()))), ..calls.clone() },
        Calls {
            functions: vec![Function { name: "f".into(), parameters: json!({"type": "array"}) }],
            ..calls.clone()
        },
        Calls { functions: vec![Function { name: "f".into(), parameters: json!({"not": {}}) }], ..calls },
    ] {
        assert!(compile(Constraint::Calls(bad)).is_err());
    }
}

/// Writes to a matcher of a constraint over single bytes: true if all of a text is allowed.
fn write(matcher: &mut Matcher, text: &str) -> bool {
    text.bytes().all(|byte| {
        let mut logits = vec![0.0; 256];
        let alone = matcher.allows(byte.into());
        matcher.allowed().unwrap().apply(&mut logits);
        let allowed = logits[usize::from(byte)] == 0.0;
        assert!(alone.is_none_or(|alone| alone == allowed), "{text} at {byte}");
        allowed && matcher.accept(byte.into(), &[byte], true) != Some(End::Limit)
    })
}

#[test]
fn only_what_follows_the_tag_of_a_call_is_constrained_where_text_is_free() {
    let function = Function { name: "time".into(), parameters: json!({}) };
    let calls = Calls { functions: vec![function], many: true, free: true, or: None };
    let grammar = compile(Constraint::Calls(calls)).unwrap();
    let call = "<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>";
    for reasoning in [Reasoning::Never, Reasoning::Open] {
        let mut matcher = grammar.clone().after(reasoning).matcher(true);
        if reasoning == Reasoning::Open {
            assert!(
                write(&mut matcher, "I may call <tool_call> {now}, or not.</think>\n"),
                "reasoning is free"
            );
        }
        assert!(write(&mut matcher, "Well, <tool_cal or <tool_ call. "));
        assert!(matcher.guide().is_none(), "text is free");
        assert!(
            write(&mut matcher, call) && write(&mut matcher, " And again: ") && write(&mut matcher, call)
        );
        assert!(write(&mut matcher, "<tool_call>"));
        assert!(matcher.guide().is_some_and(|guide| guide.forced(&[]).len() > 20));
        assert!(!write(&mut matcher, "{"), "a line break is forced");
    }
}

#[test]
fn reasoning_is_free_and_what_follows_it_is_not() {
    let choice = compile(Constraint::Choice(vec!["yes".into()])).unwrap();
    let mut matcher = choice.after(Reasoning::Open).matcher(true);
    assert!(write(&mut matcher, "no, </thin </think") && matcher.guide().is_none());
    assert!(write(&mut matcher, ">ye") && matcher.guide().is_some());
    assert!(!write(&mut matcher, "a"));
    let mut matcher = compile(Constraint::Choice(vec!["yes".into()])).unwrap().matcher(false);
    assert!(!write(&mut matcher, "no") && write(&mut matcher, "yes"));
}

#[test]
fn the_last_grammars_are_kept_and_no_more() {
    let grammars = Grammars::of_bytes();
    let of = |n: usize| grammars.compile(&Constraint::Regex(format!("a{{{n}}}"))).unwrap();
    let first = of(1);
    assert!(Arc::ptr_eq(&first.compiled, &of(1).compiled));
    (2..=16).for_each(|n| drop(of(n)));
    assert!(Arc::ptr_eq(&first.compiled, &of(1).compiled), "16 are kept");
    (20..36).for_each(|n| drop(of(n)));
    assert!(!Arc::ptr_eq(&first.compiled, &of(1).compiled), "the oldest is gone");
}

#[test]
fn equal_texts_of_different_constraints_are_different_grammars() {
    let grammars = Grammars::of_bytes();
    let of = |constraint| grammars.compile(&constraint).unwrap();
    let (a, b) = (of(Constraint::Regex("a".into())), of(Constraint::Choice(vec!["a".into()])));
    assert_ne!(a.identity(), b.identity());
    assert_ne!(a.identity(), a.clone().after(Reasoning::Open).identity());
}

#[test]
fn a_hostile_pattern_ends_at_a_limit_and_leaves_others_alone() {
    let grammars = Grammars::of_bytes();
    let mut limits = 0;
    for pattern in [
        "(a|aa|aaa|b){1,5000}c".to_owned(),
        "(.*a.{200}){20}".to_owned(),
        "((a{0,100}b{0,100}){0,100}c{0,100}){0,100}".to_owned(),
        "(a|b)*a(a|b){60}".to_owned(),
        format!("({})*", (0..2000).map(|n| format!("a{n}y.*{n}")).collect::<Vec<_>>().join("|")),
        "(((((a{1,99}){1,99}){1,99}){1,99}){1,99}){1,99}".to_owned(),
    ] {
        let Ok(grammar) = grammars.compile(&Constraint::Regex(pattern.clone())) else {
            limits += 1;
            continue;
        };
        let mut parser = lock(&grammar.compiled.fresh).deep_clone();
        for &byte in b"abaababbbaab".iter().cycle().take(3000) {
            match parser.compute_mask() {
                Ok(mask) if mask.is_allowed(u32::from(byte)) => {}
                Ok(_) => break,
                Err(error) => {
                    limits += 1;
                    assert!(!error.to_string().contains("panic"), "{pattern}: {error}");
                    break;
                }
            }
            if parser.consume_token(u32::from(byte)).is_err() {
                break;
            }
        }
    }
    assert!(limits >= 1, "nothing here met a limit: they are not hostile enough, or the limits are gone");
    let grammar = grammars.compile(&Constraint::Regex("ab".into())).unwrap();
    assert!(takes(&grammar, "ab"));
}

#[test]
fn a_hostile_schema_is_refused_or_compiled_within_bounds() {
    let any = |n: usize, of: &dyn Fn(usize) -> Value| json!((0..n).map(of).collect::<Vec<_>>());
    let nested = (0..11).fold(json!({"type": "integer"}), |inner, _| {
        json!({"anyOf": [{"type": "array", "items": inner}, {"type": "object", "properties": {"a": inner}}]})
    });
    let hostile = [
        json!({"allOf": any(12, &|n| json!({"anyOf": any(12, &|m| json!({"properties": {format!("p{n}"): {"const": m}}}))}))}),
        json!({"enum": any(20_000, &|n| json!(format!("value {n}")))}),
        json!({"type": "object", "properties": (0..3000).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect::<serde_json::Map<_, _>>()}),
        json!({"type": "array", "minItems": 50_000, "maxItems": 60_000, "items": {"type": "array", "maxItems": 50_000}}),
        json!({"type": "string", "minLength": 100_000, "maxLength": 1_000_000}),
        json!({"type": "string", "pattern": "^(a{1,500}b{1,500}){1,500}$"}),
        json!({"type": "number", "multipleOf": 0.000_000_1, "minimum": 0.1234567, "maximum": 99999999.1234567}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/b"}]}, "b": {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}}),
        nested,
    ];
    for (at, schema) in hostile.into_iter().enumerate() {
        if let Err(error) = compile(Constraint::JsonSchema(schema)) {
            assert!(!error.0.contains("panic"), "schema {at}: {error}");
        }
    }
}
