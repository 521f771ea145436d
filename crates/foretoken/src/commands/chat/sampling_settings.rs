//! `/set`: changes the sampling options and the view of a running conversation.
//!
//! Values go through the command line's own definitions, so `/set` accepts what the options accept.

use anyhow::{Result, anyhow, bail};
use clap::{Args, FromArgMatches};

use super::printer::View;
use crate::cli::SamplingArgs;
use crate::generation;

/// The word that unsets a setting.
const DEFAULT: &str = "default";

/// The settings by option name, with their values.
fn current(args: &SamplingArgs) -> [(&'static str, Option<String>); 9] {
    let text = |value: Option<f32>| value.map(|value| value.to_string());
    [
        ("temperature", text(args.temperature)),
        ("top-k", args.top_k.map(|value| value.to_string())),
        ("top-p", text(args.top_p)),
        ("min-p", text(args.min_p)),
        ("presence-penalty", text(args.presence_penalty)),
        ("frequency-penalty", text(args.frequency_penalty)),
        ("repetition-penalty", text(args.repetition_penalty)),
        ("seed", args.seed.map(|value| value.to_string())),
        ("max-tokens", args.max_tokens.map(|value| value.to_string())),
    ]
}

/// All settings, one a line.
pub(super) fn show(args: &SamplingArgs, view: View) -> String {
    let on_off = |flag: bool| if flag { "on" } else { "off" }.to_owned();
    let view = [("wrap", Some(on_off(view.wrap))), ("show-draft", Some(on_off(view.show_draft)))];
    let lines = current(args).into_iter().chain(view);
    let lines = lines.map(|(name, value)| format!("{name:<20}{}", value.as_deref().unwrap_or(DEFAULT)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Changes one setting.
///
/// # Errors
/// An unknown name, or a value that its option does not accept.
pub(super) fn set(args: &mut SamplingArgs, view: &mut View, name: &str, value: &str) -> Result<()> {
    let name = name.trim_start_matches('-').replace('_', "-");
    let flag = || match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(anyhow!("{name} is on or off")),
    };
    match name.as_str() {
        "wrap" => view.wrap = flag()?,
        "show-draft" => view.show_draft = flag()?,
        _ => *args = with(args, &name, value)?,
    }
    Ok(())
}

/// The options with one of them changed.
fn with(args: &SamplingArgs, name: &str, value: &str) -> Result<SamplingArgs> {
    let mut settings = current(args);
    let Some(setting) = settings.iter_mut().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = settings.iter().map(|(name, _)| *name).chain(["wrap", "show-draft"]).collect();
        bail!("no setting {name}; there are {}", names.join(", "));
    };
    setting.1 = (value != DEFAULT).then(|| value.to_owned());
    let words = settings.iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?)));
    let definition = SamplingArgs::augment_args(clap::Command::new("set").no_binary_name(true));
    let matches = definition.try_get_matches_from(words).map_err(|error| {
        let reason =
            std::error::Error::source(&error).map_or_else(|| error.kind().to_string(), ToString::to_string);
        anyhow!("{name} cannot be {value}: {reason}")
    })?;
    let changed = SamplingArgs::from_arg_matches(&matches)?;
    generation::sampling(&changed)?;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View { wrap: true, show_draft: false };

    #[test]
    fn settings_are_set_shown_and_unset() {
        let (mut args, mut view) = (SamplingArgs::default(), VIEW);
        for (name, value) in [("temperature", "0.2"), ("top_k", "40"), ("--seed", "7"), ("wrap", "off")] {
            set(&mut args, &mut view, name, value).unwrap();
        }
        assert_eq!((args.temperature, args.top_k, args.seed), (Some(0.2), Some(40), Some(7)));
        assert!(!view.wrap);
        let shown = show(&args, view);
        assert!(
            shown.contains("temperature         0.2\n") && shown.contains("top-p               default\n")
        );
        set(&mut args, &mut view, "temperature", "default").unwrap();
        assert_eq!((args.temperature, args.top_k), (None, Some(40)));
    }

    #[test]
    fn bad_settings_are_rejected_and_change_nothing() {
        let (mut args, mut view) = (SamplingArgs::default(), VIEW);
        for (name, value, says) in [
            ("temprature", "1", "there are temperature, top-k"),
            ("temperature", "hot", "temperature cannot be hot"),
            ("temperature", "-1", "between 0"),
            ("wrap", "yes", "on or off"),
        ] {
            let error = set(&mut args, &mut view, name, value).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(show(&args, view), show(&SamplingArgs::default(), VIEW));
    }
}
