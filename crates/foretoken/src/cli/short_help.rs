//! Two lengths of help: `-h` shows the options that people use, `--help` all of them.
//!
//! Works on the finished definition: an option added later is in `--help` and, for the commands listed here,
//! not in `-h` unless it is named here. In `-h` an option is described by the first sentence of its help.

use clap::Command;

use super::SETTINGS_HELP;

/// Options that `-h` shows, by command. A command that is not listed shows all but the common ones.
const SHORT: [(&str, &[&str]); 3] = [
    (
        "serve",
        &[
            "host",
            "port",
            "ctx",
            "cache-ram",
            "cache-disk",
            "api-key",
            "alias",
            "threads",
            "data-dir",
            "config",
        ],
    ),
    (
        "generate",
        &["file", "chat", "system", "max-tokens", "temperature", "seed", "stop", "stats", "json", "threads"],
    ),
    (
        "chat",
        &[
            "server",
            "api-key",
            "system",
            "max-tokens",
            "temperature",
            "seed",
            "ctx",
            "cache-ram",
            "show-draft",
            "threads",
        ],
    ),
];

/// Options of every command, which `-h` of commands that are not listed leaves out.
const COMMON: [&str; 3] = ["data-dir", "config", "log"];

/// Shortens `-h` of all commands.
pub(super) fn apply(command: Command) -> Command {
    command.mut_subcommands(|sub| shorten(sub, ""))
}

fn shorten(command: Command, parent: &str) -> Command {
    let name = command.get_name().to_owned();
    let shown = SHORT.iter().find(|(of, _)| parent.is_empty() && *of == name).map(|(_, shown)| *shown);
    let command = command.mut_args(|arg| {
        let hidden = match (arg.get_long(), shown) {
            (None, _) => false,
            (Some(long), Some(shown)) => !shown.contains(&long),
            (Some(long), None) => COMMON.contains(&long),
        };
        let long = arg.get_help().map(ToString::to_string);
        let arg = match long {
            Some(long) if arg.get_long_help().is_none() => {
                arg.help(first_sentence(&long).to_owned()).long_help(long)
            }
            _ => arg,
        };
        arg.hide_short_help(hidden)
    });
    let path = format!("{parent} {name}");
    let after = command.get_after_help().map(ToString::to_string);
    let command = match after {
        Some(after) => {
            let examples = after.strip_suffix(SETTINGS_HELP).unwrap_or(&after).trim_end();
            let gap = if examples.is_empty() { "" } else { "\n\n" };
            let short = format!(
                "{examples}{gap}`foretoken{path} --help` shows all options and how to set them in a file."
            );
            command.after_help(short).after_long_help(after)
        }
        None => command,
    };
    command.mut_subcommands(|sub| shorten(sub, &path))
}

fn first_sentence(text: &str) -> &str {
    text.find(". ").map_or(text, |end| &text[..end])
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn help(path: &[&str], flag: &str) -> String {
        let line = ["foretoken"].iter().chain(path).copied().chain([flag]);
        apply(Cli::command()).try_get_matches_from(line).unwrap_err().to_string()
    }

    #[test]
    fn names_in_the_lists_exist() {
        let command = Cli::command();
        for (name, shown) in SHORT {
            let sub = command.find_subcommand(name).unwrap();
            for long in shown {
                assert!(sub.get_arguments().any(|arg| arg.get_long() == Some(long)), "{name} --{long}");
            }
        }
    }

    #[test]
    fn short_help_is_short_and_long_help_is_complete() {
        for (name, shown) in SHORT {
            let (short, long) = (help(&[name], "-h"), help(&[name], "--help"));
            let options =
                |text: &str| text.lines().filter(|line| line.trim_start().starts_with("--")).count();
            assert_eq!(options(&short), shown.len(), "{short}");
            assert!(short.lines().count() < 45, "{short}");
            assert!(options(&long) > shown.len() && long.contains("FORETOKEN_SOME_NAME"), "{long}");
            assert!(short.contains(&format!("foretoken {name} --help")), "{short}");
        }
        assert!(help(&["bench", "model"], "-h").contains("`foretoken bench model --help`"));
    }

    #[test]
    fn an_option_is_described_by_its_first_sentence() {
        assert_eq!(
            first_sentence("Port to listen on; 0 picks a free one. The address is printed."),
            "Port to listen on; 0 picks a free one"
        );
        assert_eq!(first_sentence("A size such as 1.5GiB"), "A size such as 1.5GiB");
    }
}
