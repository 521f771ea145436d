//! Options of `foretoken chat`.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, Error};

use super::{Cli, ContextArgs, ModelArgs, PositionalModel, SamplingArgs, SpeculationArgs};

#[derive(Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) reference: PositionalModel,

    /// Talk to this server, such as http://127.0.0.1:8080, instead of a model in this process. MODEL and --model
    /// then name one of the server's models [default: its first].
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,

    /// The key to send to --server.
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,

    /// The model that is named for --server, if one is.
    #[arg(skip)]
    pub(crate) server_model: Option<String>,

    /// The system message.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

    #[command(flatten)]
    pub(crate) context: ContextArgs,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// Colour each token by the drafter that proposed it.
    #[arg(long)]
    pub(crate) show_draft: bool,

    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

/// Options that mean something with `--server`; all others configure a model in this process.
const WITH_SERVER: [&str; 17] = [
    "reference",
    "model",
    "server",
    "api_key",
    "system",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "max_tokens",
    "data_dir",
    "config",
    "log",
];

impl ChatArgs {
    /// Checks that no option has no effect, and takes the model's name for `--server`.
    ///
    /// # Errors
    /// A usage error for an option of the command line that `--server` makes meaningless.
    pub(super) fn resolve_server(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        let command = ChatArgs::augment_args(clap::Command::new("chat"));
        let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let without_effect = command.get_arguments().find(|arg| {
            let id = arg.get_id().as_str();
            given(id) && !WITH_SERVER.contains(&id)
        });
        match (&self.server, without_effect) {
            (Some(_), Some(arg)) => {
                let option = arg.get_long().unwrap_or_default();
                let message =
                    format!("--{option} is for a model in this process and has no effect with --server");
                Err(Cli::command().error(ErrorKind::ArgumentConflict, message))
            }
            (Some(_), None) => {
                let named =
                    matches.value_source("model").is_some_and(|source| source != ValueSource::DefaultValue);
                let named = named || given("reference");
                self.server_model = named.then(|| self.model.model.clone());
                Ok(())
            }
            (None, _) if given("api_key") => {
                let message = "--api-key is the key for --server, which is not given";
                Err(Cli::command().error(ErrorKind::MissingRequiredArgument, message))
            }
            (None, _) => Ok(()),
        }
    }
}
