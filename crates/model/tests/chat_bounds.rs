//! Templates that grow without end: what a render builds, prints, compares or nests has a limit, and an error says so.
//! Test threads have the stack of a server's: 2 MiB.

mod tokenizer_fixtures;

use foretoken_model::chat::{ChatInput, ChatTemplate};
use serde_json::json;
use tokenizer_fixtures::bpe;

fn render(source: &str, input: &ChatInput) -> Result<String, String> {
    let template = ChatTemplate::new(source, &bpe("qwen2")).map_err(|error| error.to_string())?;
    template.render(input).map(|rendered| rendered.text().to_owned()).map_err(|error| error.to_string())
}

/// The error of a template that runs `step` a hundred times on `ns.x`, which begins as `start`.
fn grown(start: &str, step: &str) -> String {
    let source = format!(
        "{{% set ns = namespace(x={start}, y='') %}}{{% for i in range(100) %}}{step}{{% endfor %}}{{{{ ns.y }}}}"
    );
    render(&source, &ChatInput::default()).expect_err(step)
}

fn assert_used_up(error: &str, step: &str) {
    assert!(error.contains("MiB of text and lists for this request"), "{step}: {error}");
}

#[test]
fn growing_a_text_is_stopped_whatever_grows_it() {
    for step in [
        "{% set ns.x = ns.x ~ ns.x %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = ns.x * 2 %}",
        "{% set ns.x = ns.x * 10 ** 12 %}",
        "{% set ns.x = [ns.x, ns.x]|join %}",
        "{% set ns.x = [ns.x, ns.x]|join(ns.x) %}",
        "{% set ns.x = ns.x.join([ns.x, ns.x]) %}",
        "{% set ns.x = ns.x|replace('a', ns.x) %}",
        "{% set ns.x = ns.x.replace('a', ns.x) %}",
        "{% set ns.x = '%s%s'|format(ns.x, ns.x) %}",
        "{% set ns.x = '%s%s' % (ns.x, ns.x) %}",
        "{% set ns.x = '{0}{0}'.format(ns.x) %}",
        "{% set ns.x = '{a}{a}'.format_map({'a': ns.x}) %}",
        "{% set ns.x = ns.x.ljust(ns.x|length * 2) %}",
        "{% set ns.x = ns.x.rjust(10 ** 12) %}",
        "{% set ns.x = ns.x.center(10 ** 12) %}",
        "{% set ns.x = ns.x.zfill(10 ** 12) %}",
        "{% set ns.x = ns.x|center(10 ** 12) %}",
        "{% set ns.x = '\\t'.expandtabs(10 ** 12) %}",
        "{% set ns.x = ns.x|indent(10 ** 12, true) %}",
        "{% set ns.x = (ns.x ~ '\\n')|indent(ns.x, true) %}",
        "{% set ns.x = ('<' * 1000000)|escape ~ ns.x %}",
        "{% set ns.x = ('<' * 1000000)|urlencode ~ ns.x %}",
        "{% set ns.x = ('\\n' * 1000000)|tojson ~ ns.x %}",
        "{% set ns.x = [[[1]]]|tojson(indent=ns.x) ~ ns.x %}",
        "{% set ns.x = [1, 2, 3]|tojson(separators=[ns.x, ns.x]) %}",
        "{% set ns.x = [ns.x, ns.x]|string %}",
        "{% set ns.x = ns.x|reverse ~ ns.x|upper %}",
        "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
        "{% set x %}{% filter upper %}{{ ns.x }}{{ ns.x }}{% endfilter %}{% endset %}{% set ns.x = x %}",
        "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns.x = m(ns.x) %}",
        "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}\
         {% set x %}{% call m() %}{{ ns.x }}{% endcall %}{% endset %}{% set ns.x = x %}",
        "{% set ns.y = ns.y ~ strftime_now('%c' * 100000) %}",
    ] {
        assert_used_up(&grown("'aa'", step), step);
    }
    assert_peak_memory();
}

#[test]
fn text_between_tags_counts_each_time_it_is_printed() {
    for literal in
        ["word ".repeat(200), " ".repeat(1000), format!("{{% raw %}}{}{{% endraw %}}", "{{".repeat(500))]
    {
        for block in ["{% set x %}BODY{% endset %}", "{% macro m() %}BODY{% endmacro %}{% set x = m() %}"] {
            let body = format!("{{% for i in range(100000) %}}{literal}{{% endfor %}}");
            let source = block.replace("BODY", &body);
            assert_used_up(&render(&source, &ChatInput::default()).expect_err(block), block);
        }
    }
    assert_peak_memory();
}

#[test]
fn growing_a_list_is_stopped_whatever_grows_it() {
    for step in [
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = ns.x * 2 %}",
        "{% set ns.x = ns.x * 10 ** 12 %}",
        "{% set ns.x = (ns.x|list + ns.x|list)|sort %}",
        "{% set ns.x = (ns.x, ns.x)|sum(start=[]) %}",
        "{% set ns.x = ns.x|batch(10 ** 12, 0)|list %}",
        "{% set ns.y = ns.x|slice(60000)|list %}",
        "{% set ns.x = ns.x + range(100000)|list %}",
        "{% set ns.x = ('a' * 100000)|list %}",
        "{% set ns.x = ('a ' * 100000).split() %}",
        "{% set ns.x = ('a ' * 100000).split('a') %}",
        "{% set ns.x = ('a\\n' * 100000).splitlines() %}",
        "{% set ns.x = dict(range(100000)|batch(2)) %}",
    ] {
        assert_used_up(&grown("[1, 2]", step), step);
    }
    assert_peak_memory();
}

/// A list that holds one large text many times is small, and what is done with each of its items is not.
#[test]
fn work_on_a_list_of_one_large_text_is_stopped() {
    for step in [
        "{% set ns.y = ns.x|sort %}",
        "{% set ns.y = ns.x|unique|list %}",
        "{% set ns.y = ns.x|max %}",
        "{% set ns.y = ns.x|map('upper')|list %}",
        "{% set ns.y = ns.x|select('in', 'b')|list %}",
        "{% set ns.y = ns.x|select('lower')|list %}",
        "{% set ns.y = 'b' in ns.x %}",
        "{% set ns.y = ns.x.count(ns.x[1]) %}",
        "{% set ns.y = ns.x|sum(start='') %}",
        "{% set ns.y = (ns.y ~ ns.x[0]).partition('a') %}",
        "{% set ns.y = ns.x[0].startswith(ns.x) %}",
        "{% set ns.y = ns.x[0].isalpha() %}",
        "{% set ns.y = ns.x[0]|wordcount %}",
        "{% set ns.y = ns.x[0].strip(ns.x[0]) %}",
    ] {
        assert_used_up(&grown("['a' * 1000000] * 10000", step), step);
    }
    assert_peak_memory();
}

/// A list that holds another one twice, and so on, is small in memory and has 2^30 items to whoever walks it.
#[test]
fn walking_a_list_that_holds_lists_twice_is_stopped_whatever_walks_it() {
    let twice = "{% if i < 30 %}{% set ns.x = [ns.x, ns.x] %}{% else %}STEP{% endif %}";
    for step in [
        "{% set ns.y = ns.x|string %}",
        "{% set ns.y = ns.x|tojson %}",
        "{{ ns.x }}",
        "{{ ns }}",
        "{{ loop.changed(ns.x) }}",
        "{% set ns.y = ns.x == [ns.x[0], ns.x[1]] %}",
        "{% set ns.y = [ns.x[0], ns.x[1]] in [ns.x] %}",
        "{% set ns.y = [ns.x, [ns.x[0], ns.x[1]]]|unique|list %}",
        "{% set ns.y = [ns.x, [ns.x[0], ns.x[1]]]|sort %}",
        "{% set ns.y = [ns.x].index([ns.x[0], ns.x[1]]) %}",
        "{% set ns.y = '%s' % [ns.x] %}",
    ] {
        assert_used_up(&grown("1", &twice.replace("STEP", step)), step);
    }
    let keys = "{% if i < 30 %}{% set ns.x = (ns.x, ns.x) %}{% else %}STEP{% endif %}";
    for step in
        ["{% set ns.y = {ns.x: 1} %}", "{% set ns.y = {1: 1}.get(ns.x) %}", "{% set ns.y = ns.x in {1: 1} %}"]
    {
        assert_used_up(&grown("1", &keys.replace("STEP", step)), step);
    }
    assert_peak_memory();
}

#[test]
fn a_value_that_nests_without_end_is_refused() {
    for step in [
        "{% set ns.x = [ns.x] %}",
        "{% set ns.x = (ns.x,) %}",
        "{% set ns.x = {'a': ns.x} %}",
        "{% set ns.x = dict(a=ns.x) %}",
        "{% set ns.x = ([ns.x]|batch(1)|list)[0] %}",
        "{% set ns.x = [ns.x]|slice(1)|list %}",
        "{% set ns.x = [{'a': 1, 'b': ns.x}]|groupby('a')|list %}",
    ] {
        let step = step.repeat(3);
        let error = grown("1", &step);
        assert!(error.contains("nested deeper than 200 levels"), "{step}: {error}");
    }
}

#[test]
fn a_namespace_holds_no_namespace() {
    for step in [
        "{% set ns.x = ns %}",
        "{% set ns.x = [ns] %}",
        "{% set ns.x = namespace(a=ns) %}",
        "{% set ns.x = joiner(ns) %}",
        "{% set ns.x = joiner(', ') %}",
        "{% set ns.x = cycler(ns) %}",
        "{% set ns.x = loop %}",
        "{% macro m() %}{% endmacro %}{% set ns.x = m %}",
    ] {
        let error = grown("1", step);
        assert!(error.contains("a namespace, cycler or joiner that holds a"), "{step}: {error}");
    }
}

#[test]
fn a_source_that_would_be_walked_by_deep_recursion_is_refused() {
    let many = 100_000;
    for source in [
        format!("{{{{ {}1 }}}}", "not ".repeat(many)),
        format!("{{{{ {}1 }}}}", "-".repeat(many)),
        format!("{{{{ {}1{} }}}}", "(".repeat(many), ")".repeat(many)),
        format!("{{{{ x{} }}}}", ".a".repeat(many)),
        format!("{{{{ x{} }}}}", "[0]".repeat(many)),
        format!("{{{{ x{} }}}}", "()".repeat(many)),
        format!("{{{{ x{} }}}}", "|list".repeat(many)),
        format!("{{{{ x{} }}}}", " is defined".repeat(many)),
        format!("{{{{ x{} }}}}", " or x".repeat(many)),
        format!("{{{{ x{} }}}}", " and x".repeat(many)),
        format!("{{{{ x{} }}}}", " + x - x".repeat(many)),
        format!("{{{{ x{} }}}}", " + x".repeat(many)),
        format!("{{{{ x{} }}}}", " < x".repeat(many)),
        format!("{{{{ x{} }}}}", " if x".repeat(many)),
        format!("{{{{ x{} }}}}", " if x else x".repeat(many)),
        format!("{{{{ [{}] }}}}", "1,".repeat(many)),
        format!("{{{{ f({}) }}}}", "1,".repeat(many)),
        format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(many / 2)),
        format!("{}{}", "{% if x %}".repeat(many / 4), "{% endif %}".repeat(many / 4)),
        "\n".repeat(many) + "{{ x }}",
        "{{ x }}".repeat(many * 2),
    ] {
        let error = render(&source, &ChatInput::default()).expect_err(&source[..40]);
        assert!(error.starts_with("chat template"), "{}: {error}", &source[..40]);
    }
}

#[test]
fn the_largest_integers_overflow_into_an_error() {
    let least = "(-2) ** 127";
    for expression in [
        "-(LEAST)",
        "(LEAST)|abs",
        "(LEAST) - 1",
        "(LEAST) // -1",
        "range(LEAST, 2 ** 126, 3)",
        "(LEAST) * -1",
    ] {
        let source = format!("{{{{ {} }}}}", expression.replace("LEAST", least));
        let error = render(&source, &ChatInput::default()).expect_err(expression);
        assert!(error.contains("too large") || error.contains("Range too big"), "{expression}: {error}");
    }
    for (expression, value) in [
        ("+(LEAST)", "-170141183460469231731687303715884105728"),
        ("(LEAST) % 3", "1"),
        ("(LEAST) % -1", "0"),
        ("(LEAST) is even", "True"),
        ("(LEAST) is divisibleby(-1)", "True"),
        ("range(10)[::2 ** 126]|list", "[0]"),
        ("range(10)[LEAST:]|length", "10"),
    ] {
        let source = format!("{{{{ {} }}}}", expression.replace("LEAST", least));
        assert_eq!(render(&source, &ChatInput::default()).as_deref(), Ok(value), "{expression}");
    }
}

#[test]
fn the_message_of_a_raised_exception_is_cut() {
    let error = render("{{ raise_exception('long ' * 100000) }}", &ChatInput::default()).unwrap_err();
    assert!(error.len() < 5000 && error.ends_with('…'), "{} bytes", error.len());
}

#[test]
fn a_long_conversation_that_is_collected_in_one_text_is_rendered() {
    let message = |turn: usize| json!({"role": if turn.is_multiple_of(2) { "user" } else { "assistant" }, "content": "word ".repeat(100)});
    let input = ChatInput { messages: (0..1000).map(message).collect(), ..ChatInput::default() };
    let source = "{% set ns = namespace(text='', seen=[]) %}{% for message in messages %}\
                  {% set ns.text = ns.text + message.role + ': ' + message.content|trim + '\\n' %}\
                  {% set ns.seen = ns.seen + [message] %}{% endfor %}{{ ns.text }}{{ ns.seen|length }}";
    let text = render(source, &input).unwrap();
    assert!(text.len() > 500_000 && text.ends_with("\n1000"), "{} bytes", text.len());
}

/// The budget of a small request is 16 MiB.
fn assert_peak_memory() {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB"));
    let peak_kib: u64 = peak.expect("a line").trim().parse().expect("a number");
    assert!(peak_kib < 600 << 10, "{} MiB", peak_kib >> 10);
}
