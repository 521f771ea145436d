//! Settings from command line, environment and configuration file.
//!
//! An option is defined once, in [`crate::cli`]. Here each long option also gets a `FORETOKEN_*`
//! variable and a key in the file, by editing clap's definitions before the command line is parsed, so
//! all three sources share value parsers and help. Invariant: command line over environment over file
//! over built-in default.
//!
//! The file has the common options at the top level and one table per command:
//! ```toml
//! model = "smollm2"
//! threads = 2
//! [serve]
//! port = 9000
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Arg, ArgAction, ArgMatches, Args, Command};
use foretoken_cache::shared::without_password;
use foretoken_server::{ApiKey, NamedKey};
use toml::{Table, Value};

use crate::cli::ModelArgs;

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

/// Parses a command line with the environment and the file it names.
///
/// # Errors
/// Usage errors and `--help` as clap reports them; errors in the file, with its path and the key.
pub(crate) fn parse(command: Command, line: &[OsString]) -> Result<ArgMatches> {
    let command = with_environment(command);
    let first = command.clone().try_get_matches_from(line)?;
    let Some(path) = config_path(&first) else { return Ok(first) };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let table: Table =
        text.parse().with_context(|| format!("the configuration {} is not valid TOML", path.display()))?;
    let command =
        with_file(command, &table).with_context(|| format!("in the configuration {}", path.display()))?;
    Ok(command.try_get_matches_from(line)?)
}

/// The effective settings of a parsed command, as TOML that [`parse`] reads back.
pub(crate) fn to_toml(command: &Command, name: &str, matches: &ArgMatches) -> Result<String> {
    let definition = command.find_subcommand(name).context("the command exists")?;
    let common = common_options();
    let (mut top, mut own) = (Table::new(), Table::new());
    for arg in definition.get_arguments() {
        let Some(long) = setting_name(arg) else { continue };
        let id = arg.get_id().as_str();
        if matches.value_source(id).is_none() {
            continue;
        }
        let words = matches.get_raw(id).into_iter().flatten().map(|word| word.to_string_lossy().into_owned());
        let values = words.map(|word| match long.as_str() {
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

fn with_environment(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_long() {
        Some(long) if setting_name(&arg).is_some() || long == "config" => {
            let variable = format!("FORETOKEN_{}", long.replace('-', "_").to_uppercase());
            arg.env(variable).hide_env(true)
        }
        _ => arg,
    });
    command.mut_subcommands(with_environment)
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
    let takes_list = matches!(arg.get_action(), ArgAction::Append);
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
        with_environment(Cli::command()).debug_assert();
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

    #[test]
    fn printed_settings_read_back_to_themselves() {
        let command = Cli::command();
        let line = [
            "serve",
            "--port",
            "9000",
            "--api-key",
            "secret",
            "--threads",
            "2",
            "--cache-ram",
            "3GiB",
            "--account",
            "alice=secret2",
            "--admin-key",
            "secret3",
            "--prepaid",
            "alice=5",
            "--price-hit",
            "0.01",
            "--price-hours",
            "16:30-00:30=0.007,0.07,0.14",
            "--price-hours",
            "01:00-02:00=0,0,0",
        ];
        let printed = to_toml(&command, "serve", &serve("", &line)).unwrap();
        let again = to_toml(&command, "serve", &serve(&printed, &["serve"])).unwrap();
        assert_eq!(printed, again);
        assert!(printed.contains("threads = 2\n"), "{printed}");
        assert!(printed.contains("[serve]\n"), "{printed}");
        assert!(printed.contains("api-key = [\"blake3:") && !printed.contains("secret"), "{printed}");
        assert!(printed.contains("cache-ram = \"3GiB\"\n"), "{printed}");
        assert!(printed.contains("account = [\"alice=blake3:"), "{printed}");
        assert!(printed.contains("price-hit = 0.01\n"), "{printed}");
        assert!(printed.contains("price-hours = [\"16:30-00:30=0.007,0.07,0.14\", \"01:00"), "{printed}");
    }

    #[test]
    fn printed_settings_hide_the_password_of_the_shared_store() {
        let line = ["serve", "--cache-shared", "redis://me:secret@host:1"];
        let printed = to_toml(&Cli::command(), "serve", &serve("", &line)).unwrap();
        assert!(printed.contains("cache-shared = \"redis://me:***@host:1\"\n"), "{printed}");
    }
}
