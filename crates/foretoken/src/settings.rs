//! Settings from command line, environment and configuration file.
//!
//! An option is defined once, in [`crate::cli`]. Here each long option also gets a `FORETOKEN_*`
//! variable and a key in the file, by editing clap's definitions before the command line is parsed, so
//! all three sources share value parsers and help. Invariant: command line over environment over file
//! over built-in default. In the environment, the items of a list are separated by commas.
//!
//! The file has the common options at the top level and one table per command:
//! ```toml
//! model = "smollm2"
//! threads = 2
//! [serve]
//! port = 9000
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Arg, ArgAction, ArgMatches, Args, Command};
use foretoken_cache::shared::without_password;
use foretoken_server::{ApiKey, NamedKey};
use toml::{Table, Value};

use crate::cli::ModelArgs;

/// What the names of all variables start with.
const PREFIX: &str = "FORETOKEN_";

/// Options of one invocation that are not settings.
const NOT_SETTINGS: [&str; 15] = [
    "help",
    "version",
    "config",
    "json",
    "csv",
    "from",
    "to",
    "by",
    "tenant",
    "print-config",
    "all",
    "scope",
    "limit",
    "ttl",
    "user-id",
];

/// List options whose items may contain commas, with their separator in the environment; `None`: one item.
const SEPARATORS: [(&str, Option<char>); 2] = [("price-hours", Some(';')), ("stop", None)];

/// Environment variables, by name.
type Environment = BTreeMap<String, String>;

/// Parses a command line with the environment and the file it names.
///
/// # Errors
/// Usage errors and `--help` as clap reports them; errors in the environment and in the file, with the name
/// of the variable or the path and the key.
pub(crate) fn parse(command: Command, line: &[OsString]) -> Result<ArgMatches> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    let environment = variables.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    let command = with_environment(command, &environment);
    let first = with_lists(command.clone(), &environment).try_get_matches_from(line)?;
    for warning in check_environment(&command, &environment)? {
        // Before logging is set up: its options are among the settings.
        eprintln!("foretoken: warning: {warning}");
    }
    let Some(path) = config_path(&first) else { return Ok(first) };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let table: Table =
        text.parse().with_context(|| format!("the configuration {} is not valid TOML", path.display()))?;
    let command =
        with_file(command, &table).with_context(|| format!("in the configuration {}", path.display()))?;
    Ok(with_lists(command, &environment).try_get_matches_from(line)?)
}

/// The effective settings of a parsed command, as TOML that [`parse`] reads back. `computed` holds values that
/// are decided at start; they replace what the matches have.
pub(crate) fn to_toml(
    command: &Command,
    name: &str,
    matches: &ArgMatches,
    computed: &[(&str, String)],
) -> Result<String> {
    let definition = command.find_subcommand(name).context("the command exists")?;
    let common = common_options();
    let (mut top, mut own) = (Table::new(), Table::new());
    for arg in definition.get_arguments() {
        let Some(long) = setting_name(arg) else { continue };
        let id = arg.get_id().as_str();
        let decided = computed.iter().find(|(name, _)| *name == long).map(|(_, value)| value.clone());
        if matches.value_source(id).is_none() && decided.is_none() {
            continue;
        }
        let words = matches.get_raw(id).into_iter().flatten().map(|word| word.to_string_lossy().into_owned());
        let words = decided.map_or_else(|| words.collect::<Vec<_>>(), |value| vec![value]);
        let values = words.into_iter().map(|word| match long.as_str() {
            "api-key" | "admin-key" => hashed(&word),
            "account" => hashed_account(&word),
            "cache-shared" => without_password(&word),
            _ => word,
        });
        let Some(value) = toml_value(arg, values.collect()) else { continue };
        let table = if common.contains_key(&long) { &mut top } else { &mut own };
        table.insert(long, value);
    }
    top.insert(name.to_owned(), Value::Table(own));
    toml::to_string(&top).context("cannot write the settings as TOML")
}

/// A key as its hash, which accepts the same clients. An invalid key stays, to be rejected as before.
fn hashed(key: &str) -> String {
    ApiKey::parse(key).map_or_else(|_| key.to_owned(), |key| format!("{key:?}"))
}

/// The same for NAME=KEY.
fn hashed_account(word: &str) -> String {
    word.parse::<NamedKey>().map_or_else(|_| word.to_owned(), |named| named.to_string())
}

fn config_path(matches: &ArgMatches) -> Option<PathBuf> {
    let mut matches = matches;
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    let known = matches.try_contains_id("config").unwrap_or(false);
    if known { matches.get_one::<PathBuf>("config").cloned() } else { None }
}

/// The option's setting name, if it is a setting.
fn setting_name(arg: &Arg) -> Option<String> {
    arg.get_long().filter(|long| !NOT_SETTINGS.contains(long)).map(str::to_owned)
}

/// Options whose keys are at the top level of the file.
fn common_options() -> BTreeMap<String, Arg> {
    let command = ModelArgs::augment_args(Command::new("common"));
    command.get_arguments().filter_map(|arg| Some((setting_name(arg)?, arg.clone()))).collect()
}

/// The variable of a setting.
fn variable(long: &str) -> String {
    format!("{PREFIX}{}", long.replace('-', "_").to_uppercase())
}

/// Attaches a variable to every setting with a single value.
fn with_environment(command: Command, environment: &Environment) -> Command {
    let command = command.mut_args(|arg| match arg.get_long() {
        Some(long) if !is_list(&arg) && (setting_name(&arg).is_some() || long == "config") => {
            let variable = variable(long);
            match environment.get(&variable) {
                // Kubernetes sets FORETOKEN_PORT=tcp://… in every pod beside a service named `foretoken`.
                Some(value) if long == "port" && value.starts_with("tcp://") => arg,
                _ => arg.env(variable).hide_env(true),
            }
        }
        _ => arg,
    });
    command.mut_subcommands(|sub| with_environment(sub, environment))
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Makes the items of list variables the defaults of their options. Applied after the file, so that the
/// environment wins.
fn with_lists(command: Command, environment: &Environment) -> Command {
    let command = command.mut_args(|arg| {
        let value =
            setting_name(&arg).filter(|_| is_list(&arg)).and_then(|long| environment.get(&variable(&long)));
        match value {
            Some(value) => {
                let items = items(arg.get_long().unwrap_or_default(), value);
                arg.default_values(items)
            }
            None => arg,
        }
    });
    command.mut_subcommands(|sub| with_lists(sub, environment))
}

/// The items of a list variable. An empty item stays, for the option's own check to reject.
fn items(long: &str, value: &str) -> Vec<String> {
    let separator = SEPARATORS.iter().find(|(name, _)| *name == long).map_or(Some(','), |(_, mark)| *mark);
    match separator {
        Some(mark) => value.split(mark).map(|item| item.trim().to_owned()).collect(),
        None => vec![value.to_owned()],
    }
}

/// Letters by which a variable may differ from a known one to be taken for a typing error.
const TYPO_DISTANCE_MAX: usize = 2;

/// Finds variables that name no option and so have no effect. Returns warnings.
///
/// # Errors
/// A variable that is probably a misspelt one: the setting that was meant would silently be missing.
fn check_environment(command: &Command, environment: &Environment) -> Result<Vec<String>> {
    let mut known = BTreeSet::from([variable("config")]);
    collect_variables(command, &mut known);
    let mut warnings = Vec::new();
    for name in environment.keys().filter(|name| !known.contains(*name)) {
        // Kubernetes adds these for a service named `foretoken`.
        if ["FORETOKEN_SERVICE_", "FORETOKEN_PORT_"].iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let distance = |known: &String| strsim::levenshtein(known, name);
        let Some(closest) = known.iter().min_by_key(|known| distance(known)) else { continue };
        let message =
            format!("the environment variable {name} names no option; the closest known one is {closest}");
        if distance(closest) <= TYPO_DISTANCE_MAX {
            bail!("{message}; correct or unset it");
        }
        warnings.push(message);
    }
    Ok(warnings)
}

fn collect_variables(command: &Command, known: &mut BTreeSet<String>) {
    known.extend(command.get_arguments().filter_map(setting_name).map(|long| variable(&long)));
    command.get_subcommands().for_each(|sub| collect_variables(sub, known));
}

/// Makes the file's values the defaults of their options.
fn with_file(mut command: Command, file: &Table) -> Result<Command> {
    let common = common_options();
    let sections: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let mut top = Vec::new();
    for (key, value) in file {
        match common.get(key) {
            Some(arg) => top.push((key.clone(), checked(arg, key, value)?)),
            None if sections.contains(key) => {}
            None => bail!(unknown(key, "", common.keys().chain(&sections))),
        }
    }
    for name in &sections {
        let mut result = Ok(());
        command =
            command.mut_subcommand(name, |sub| match with_section(sub.clone(), name, &top, file.get(name)) {
                Ok(sub) => sub,
                Err(error) => {
                    result = Err(error);
                    sub
                }
            });
        result?;
    }
    Ok(command)
}

/// One command: top-level keys first, then its own table.
fn with_section(
    mut command: Command,
    path: &str,
    top: &[(String, Vec<String>)],
    own: Option<&Value>,
) -> Result<Command> {
    for (key, values) in top {
        command = with_default(command, key, values);
    }
    let nested: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let empty = Table::new();
    let table = match own {
        None => &empty,
        Some(Value::Table(table)) => table,
        Some(_) => bail!("`{path}` must be a table: write [{path}] above its keys"),
    };
    for (key, value) in table.iter().filter(|(key, _)| !nested.contains(key)) {
        let arg = command.get_arguments().find(|arg| setting_name(arg).as_ref() == Some(key));
        let Some(arg) = arg else {
            let known: Vec<String> = command.get_arguments().filter_map(setting_name).collect();
            bail!(unknown(key, path, known.iter().chain(&nested)));
        };
        let values = checked(arg, key, value)?;
        command = with_default(command, key, &values);
    }
    for name in &nested {
        let inner = command.find_subcommand(name).cloned().context("the command exists")?;
        let inner = with_section(inner, &format!("{path}.{name}"), top, table.get(name))?;
        command = command.mut_subcommand(name, |_| inner);
    }
    Ok(command)
}

fn with_default(command: Command, long: &str, values: &[String]) -> Command {
    let id = command.get_arguments().find(|arg| arg.get_long() == Some(long)).map(|arg| arg.get_id().clone());
    match id {
        // An empty list is the same as unset.
        Some(id) if !values.is_empty() => command.mut_arg(id, |arg| arg.default_values(values.to_vec())),
        _ => command,
    }
}

/// The file's value as command-line arguments, checked by the option's value parser.
fn checked(arg: &Arg, key: &str, value: &Value) -> Result<Vec<String>> {
    let takes_list = is_list(arg);
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let words: Vec<String> = match value {
        Value::Array(items) if takes_list => {
            items.iter().map(|item| word(key, item)).collect::<Result<_>>()?
        }
        Value::Boolean(_) if is_switch => vec![word(key, value)?],
        _ if is_switch => bail!("`{key}` must be true or false"),
        single => vec![word(key, single)?],
    };
    if !is_switch {
        let alone = Command::new("file").disable_help_flag(true).arg(arg.clone());
        let line = words.iter().map(|word| format!("--{key}={word}"));
        alone.try_get_matches_from(std::iter::once("file".to_owned()).chain(line)).map_err(|error| {
            let reason = std::error::Error::source(&error)
                .map_or_else(|| error.kind().to_string(), ToString::to_string);
            anyhow!("`{key}` cannot be {value}: {reason}")
        })?;
    }
    Ok(words)
}

fn word(key: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(flag) => Ok(flag.to_string()),
        other => bail!("`{key}` cannot be a {}", other.type_str()),
    }
}

/// Message for an unknown key, with the closest known one.
fn unknown<'a>(key: &str, section: &str, known: impl Iterator<Item = &'a String>) -> String {
    let place = if section.is_empty() { "at the top level".to_owned() } else { format!("in [{section}]") };
    let spelled = key.replace('_', "-");
    let nearest = known.min_by_key(|name| strsim::levenshtein(&spelled, name));
    match nearest {
        Some(nearest) => format!("unknown key `{key}` {place}; the closest known one is `{nearest}`"),
        None => format!("unknown key `{key}` {place}"),
    }
}

/// Command-line arguments as a TOML value of the option's kind.
fn toml_value(arg: &Arg, words: Vec<String>) -> Option<Value> {
    match arg.get_action() {
        ArgAction::Append => {
            // clap splits lists at the delimiter only after this point.
            let split = |word: &String| match arg.get_value_delimiter() {
                Some(mark) => word.split(mark).map(scalar).collect::<Vec<_>>(),
                None => vec![Value::String(word.clone())],
            };
            Some(Value::Array(words.iter().flat_map(split).collect()))
        }
        _ => words.first().map(|word| scalar(word)),
    }
}

/// A number or a boolean if it prints back as the same text, else a string.
fn scalar(word: &str) -> Value {
    let number = word.parse::<i64>().ok().filter(|number| number.to_string() == word).map(Value::Integer);
    let float = || word.parse::<f64>().ok().filter(|number| number.to_string() == word).map(Value::Float);
    let boolean = || word.parse::<bool>().ok().map(Value::Boolean);
    number.or_else(float).or_else(boolean).unwrap_or_else(|| Value::String(word.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;
    use foretoken_server::ApiKeyError;

    /// Parses `line` with a configuration file of content `toml`, without the environment.
    fn with(toml: &str, line: &[&str]) -> Result<ArgMatches> {
        let command = with_file(Cli::command(), &toml.parse()?)?;
        Ok(command.try_get_matches_from(std::iter::once("foretoken").chain(line.iter().copied()))?)
    }

    fn serve(toml: &str, line: &[&str]) -> ArgMatches {
        with(toml, line).unwrap().subcommand_matches("serve").unwrap().clone()
    }

    fn refusal(toml: &str) -> String {
        format!("{:#}", with(toml, &["serve"]).unwrap_err())
    }

    #[test]
    fn definitions_are_consistent() {
        with_environment(Cli::command(), &Environment::new()).debug_assert();
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_the_default() {
        let matches = serve("[serve]\nport = 9000\n", &["serve"]);
        assert_eq!(matches.get_one::<u16>("port"), Some(&9000));
        let matches = serve("[serve]\nport = 9000\n", &["serve", "--port", "9001"]);
        assert_eq!(matches.get_one::<u16>("port"), Some(&9001));
        let matches = serve("", &["serve"]);
        assert_eq!(matches.get_one::<u16>("port"), Some(&8080));
    }

    #[test]
    fn a_commands_table_wins_over_the_top_level() {
        let file = "model = 'a.gguf'\nthreads = 3\n[serve]\nmodel = 'b.gguf'\n[bench.model]\nreps = 9\n";
        let matches = serve(file, &["serve"]);
        assert_eq!(matches.get_one::<String>("model").map(String::as_str), Some("b.gguf"));
        assert_eq!(matches.get_one::<usize>("threads"), Some(&3));
        let matches = with(file, &["bench", "model"]).unwrap();
        let bench = matches.subcommand_matches("bench").and_then(|m| m.subcommand_matches("model")).unwrap();
        assert_eq!(bench.get_one::<usize>("reps"), Some(&9));
        assert_eq!(bench.get_one::<String>("model").map(String::as_str), Some("a.gguf"));
    }

    #[test]
    fn unknown_keys_are_reported_with_the_closest_known_one() {
        assert_eq!(
            refusal("[serve]\nprot = 1\n"),
            "unknown key `prot` in [serve]; the closest known one is `port`"
        );
        assert_eq!(
            refusal("thread = 1\n"),
            "unknown key `thread` at the top level; the closest known one is `threads`"
        );
        assert_eq!(
            refusal("[bench.model]\nrep = 1"),
            "unknown key `rep` in [bench.model]; the closest known one is `reps`"
        );
        assert_eq!(
            refusal("[sevre]\nport = 1"),
            "unknown key `sevre` at the top level; the closest known one is `serve`"
        );
        assert_eq!(
            refusal("[serve]\ncache_ram = '1GiB'"),
            "unknown key `cache_ram` in [serve]; the closest known one is `cache-ram`"
        );
    }

    #[test]
    fn bad_values_in_the_file_name_the_key() {
        assert!(refusal("[serve]\nport = 70000\n").starts_with("`port` cannot be 70000: "));
        assert!(refusal("[serve]\ncache-ram = '1 parsec'\n").contains("unknown unit `parsec`"));
        assert!(refusal("[generate]\nchat = 'yes'\n").contains("`chat` must be true or false"));
        assert!(refusal("[serve]\nprice-hit = -0.1\n").contains("no sign"));
        assert!(
            refusal("[serve]\nprice-hours = ['1:00-2:00']\n").contains("as in 16:30-00:30=0.007,0.07,0.14")
        );
        assert!(refusal("serve = 3\n").contains("must be a table"));
    }

    /// A command line with every setting of `serve`, none at its default.
    const EVERYTHING: &str = "serve --host 0.0.0.0 --port 9000 --ctx 2048 --cache-ram 3GiB --cache-disk 0 \
        --responses always --responses-max 1GiB --responses-days 3 --speculation off --drafters memory,own_text \
        --policy lossless --max-draft 8 --fund-speculation off --draft-model d.gguf --mtp h.gguf --draft-cache-ram 1MiB \
        --draft-memory 10 --cache-shared redis://host:1 --cache-shared-timeout 9 --cache-shared-entry 1MiB \
        --cache-secret-file s --shared-prompt a --shared-prompt b --alias a --alias b,c --api-key secret \
        --api-key 17 --admin-key secret3 --metrics-open --cors-origin * --max-running 3 --max-running-per-tenant 2 --max-waiting 4 \
        --step-tokens 64 --max-body 1MiB --max-prompt 7 --max-n 2 --request-timeout 5 --grace 6 \
        --account alice=secret2 --prepaid alice=5 --price-hit 0.01 --price-miss 0.2 --price-output 0.3 \
        --price-hours 16:30-00:30=0.007,0.07,0.14 --price-hours 01:00-02:00=0,0,0 \
        --ledger-max 1GiB --ledger-days 30 --draft-disk 1MiB --pin-share 40 --loop-tokens 9 --allowed-host a.example --allowed-host b \
        --tenant-by key --session-pattern s[0-9] --volatile-pattern v[0-9] --tool-format mistral --log-format json \
        --model m.gguf --threads 2 --isa scalar --experts mapped --data-dir d --log debug";

    #[test]
    fn every_printed_setting_reads_back_to_itself() {
        let command = Cli::command();
        let line: Vec<&str> = EVERYTHING.split_whitespace().collect();
        let printed = to_toml(&command, "serve", &serve("", &line), &[]).unwrap();
        let again = to_toml(&command, "serve", &serve(&printed, &["serve"]), &[]).unwrap();
        assert_eq!(printed, again);
        let table: Table = printed.parse().unwrap();
        let own = table["serve"].as_table().unwrap();
        let definition = command.find_subcommand("serve").unwrap();
        for long in definition.get_arguments().filter_map(setting_name) {
            let default = serve("", &["serve"]);
            let default = to_toml(&command, "serve", &default, &[]).unwrap().parse::<Table>().unwrap();
            let value = table.get(&long).or_else(|| own.get(&long));
            let value = value.unwrap_or_else(|| panic!("{long} is not printed, or not in EVERYTHING"));
            let unset = default.get(&long).or_else(|| default["serve"].get(&long));
            assert_ne!(Some(value), unset, "EVERYTHING must change {long}");
        }
        for line in ["threads = 2", "[serve]", "cache-ram = \"3GiB\"", "price-hit = 0.01", "cache-disk = 0"] {
            assert!(printed.lines().any(|have| have == line), "no {line} in:\n{printed}");
        }
        assert!(
            !printed.contains("secret\"") && !printed.contains("secret2") && !printed.contains("secret3")
        );
        // The hashes are valid keys.
        let keys = own["api-key"].as_array().unwrap();
        assert!(keys.iter().all(|key| ApiKey::parse(key.as_str().unwrap()) != Err(ApiKeyError::Hash)));
        assert_eq!(ApiKey::parse(keys[0].as_str().unwrap()), ApiKey::parse("secret"));
    }

    #[test]
    fn computed_settings_replace_unset_ones() {
        let computed = [("threads", "3".to_owned()), ("ctx", "640".to_owned())];
        let printed = to_toml(&Cli::command(), "serve", &serve("", &["serve"]), &computed).unwrap();
        assert!(printed.contains("threads = 3\n") && printed.contains("ctx = 640\n"), "{printed}");
    }

    #[test]
    fn printed_settings_hide_the_password_of_the_shared_store() {
        let line = ["serve", "--cache-shared", "redis://me:secret@host:1"];
        let printed = to_toml(&Cli::command(), "serve", &serve("", &line), &[]).unwrap();
        assert!(printed.contains("cache-shared = \"redis://me:***@host:1\"\n"), "{printed}");
    }

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// The values of a list option of `serve` with these variables and this file.
    fn list(id: &str, variables: &[(&str, &str)], toml: &str, line: &[&str]) -> Vec<String> {
        let command = with_file(Cli::command(), &toml.parse().unwrap()).unwrap();
        let line = ["foretoken", "serve"].into_iter().chain(line.iter().copied());
        let matches = with_lists(command, &environment(variables)).try_get_matches_from(line).unwrap();
        let matches = matches.subcommand_matches("serve").unwrap();
        let raw = matches.get_raw(id).into_iter().flatten();
        raw.map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_list_variable_holds_several_items() {
        let alias = [("FORETOKEN_ALIAS", "a, b")];
        assert_eq!(list("alias", &alias, "", &[]), ["a", "b"]);
        assert_eq!(list("alias", &alias, "[serve]\nalias = ['c']\n", &[]), ["a", "b"], "over the file");
        assert_eq!(list("alias", &alias, "", &["--alias", "d"]), ["d"], "the command line wins");
        for (id, variable, value, count) in [
            ("api_key", "FORETOKEN_API_KEY", "k1,k2", 2),
            ("admin_key", "FORETOKEN_ADMIN_KEY", "k1,k2", 2),
            ("account", "FORETOKEN_ACCOUNT", "a=k1,b=k2,c=k3", 3),
            ("prepaid", "FORETOKEN_PREPAID", "a=1,*=2", 2),
            ("cors_origin", "FORETOKEN_CORS_ORIGIN", "https://a.example,https://b.example", 2),
            ("shared_prompt", "FORETOKEN_SHARED_PROMPT", "a.txt,b.txt", 2),
            ("drafters", "FORETOKEN_DRAFTERS", "memory,own_text", 2),
            ("price_hours", "FORETOKEN_PRICE_HOURS", "01:00-02:00=0,0,0; 03:00-04:00=1,1,1", 2),
        ] {
            assert_eq!(list(id, &[(variable, value)], "", &[]).len(), count, "{variable}");
        }
    }

    #[test]
    fn an_unknown_variable_is_named_with_the_closest_known_one_and_a_typo_is_an_error() {
        let check = |name| check_environment(&Cli::command(), &environment(&[(name, "1")]));
        let error = check("FORETOKEN_API_KEYS").unwrap_err().to_string();
        assert!(error.contains("FORETOKEN_API_KEYS") && error.contains("is FORETOKEN_API_KEY;"), "{error}");
        for unknown in ["FORETOKEN_JSON", "FORETOKEN_SOMETHING_ELSE"] {
            let warnings = check(unknown).unwrap();
            assert!(warnings.len() == 1 && warnings[0].contains(unknown), "{warnings:?}");
        }
        for known in ["FORETOKEN_PORT", "FORETOKEN_CONFIG", "FORETOKEN_REPS", "FORETOKEN_SERVICE_HOST"] {
            assert!(check(known).unwrap().is_empty(), "{known}");
        }
    }
}
