//! What agents change from request to request without asking for anything else, and what it would cost the cache.
//!
//! Some clients put the id of a session into `user_id`, which would make every session a tenant that hits nothing, and a
//! line that differs in every request at the beginning of their system prompt, before everything that could hit. Both
//! are patterns that the operator sets; what they match is removed before a tenant is named and a prompt is rendered.
//! The invariant: only matched text is removed, so accounts and users that differ elsewhere stay apart.

use std::borrow::Cow;

use regex::Regex;

use crate::config::ServerConfig;
use crate::conversation::{Content, Conversation, Role};

/// Claude Code's session ids: at the end of `user_…_account_…_session_…`, or a member of a JSON object.
pub const SESSION_PATTERN: &str =
    r#"_session_[0-9a-fA-F-]{36}$|,\s*"session_id"\s*:\s*"[^"]*"|"session_id"\s*:\s*"[^"]*"\s*,?"#;
/// Claude Code's billing header, which holds a checksum of the request.
pub const VOLATILE_PATTERN: &str = r"^x-anthropic-billing-header:[^\n]*\n*";

/// The operator's patterns.
#[derive(Clone, Debug, Default)]
pub(crate) struct StablePrompt {
    session: Option<Regex>,
    volatile: Option<Regex>,
}

impl StablePrompt {
    /// # Errors
    /// The option whose pattern is not a regular expression, and what is wrong with it.
    pub(crate) fn new(config: &ServerConfig) -> Result<Self, String> {
        let compile = |option: &str, pattern: &str| {
            let compiled = (!pattern.is_empty()).then(|| Regex::new(pattern)).transpose();
            compiled.map_err(|error| format!("--{option} is not a regular expression: {error}"))
        };
        Ok(StablePrompt {
            session: compile("session-pattern", &config.session_pattern)?,
            volatile: compile("volatile-pattern", &config.volatile_pattern)?,
        })
    }

    /// The patterns of a server that sets none.
    pub(crate) fn standard() -> Self {
        Self::new(&ServerConfig::default()).unwrap_or_default()
    }

    /// A user without its session.
    pub(crate) fn user<'a>(&self, user: &'a str) -> Cow<'a, str> {
        match &self.session {
            Some(session) => session.replace_all(user, ""),
            None => user.into(),
        }
    }

    /// Removes what changes from request to request from the system's turns.
    pub(crate) fn apply(&self, conversation: &mut Conversation) {
        let Some(volatile) = &self.volatile else { return };
        let system = conversation.turns.iter_mut().filter(|turn| turn.role == Role::System);
        for content in system.filter_map(|turn| turn.content.as_mut()) {
            let parts = match content {
                Content::Text(text) => std::slice::from_mut(text),
                Content::Parts(parts) => &mut parts[..],
            };
            for text in parts {
                let stable = volatile.replace_all(text, "").into_owned();
                *text = stable;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::Turn;

    fn default() -> StablePrompt {
        assert!(StablePrompt::new(&ServerConfig::default()).is_ok());
        StablePrompt::standard()
    }

    #[test]
    fn sessions_are_removed_and_accounts_stay() {
        let session = "01234567-89ab-cdef-0123-456789abcdef";
        for (user, stable) in [
            (format!("user_ab_account_cd_session_{session}"), "user_ab_account_cd"),
            (
                format!(r#"{{"device_id":"ab","account_uuid":"cd","session_id":"{session}"}}"#),
                r#"{"device_id":"ab","account_uuid":"cd"}"#,
            ),
            (format!(r#"{{"session_id": "{session}", "device_id": "ab"}}"#), r#"{ "device_id": "ab"}"#),
            ("alice".into(), "alice"),
            ("a_session_1".into(), "a_session_1"),
        ] {
            assert_eq!(default().user(&user), stable);
        }
    }

    #[test]
    fn the_billing_header_is_removed_from_the_system_prompt_alone() {
        let header = "x-anthropic-billing-header: cc_version=2.1.1; cc_entrypoint=cli; cch=a5145;";
        let text = format!("{header}\n\nYou are an agent.\n{header}");
        let mut conversation = Conversation {
            turns: vec![Turn::text(Role::System, &text), Turn::text(Role::User, &text)],
            ..Conversation::default()
        };
        default().apply(&mut conversation);
        let wanted = format!("You are an agent.\n{header}");
        assert_eq!(conversation.turns[0], Turn::text(Role::System, wanted));
        assert_eq!(conversation.turns[1], Turn::text(Role::User, text));
    }

    #[test]
    fn patterns_can_be_changed_and_turned_off() {
        let with = |session: &str| {
            StablePrompt::new(&ServerConfig { session_pattern: session.into(), ..ServerConfig::default() })
        };
        assert_eq!(with("-[0-9]+$").unwrap().user("bob-7"), "bob");
        let session = "_session_01234567-89ab-cdef-0123-456789abcdef";
        assert_eq!(with("").unwrap().user(session), session);
        assert!(with("(").unwrap_err().starts_with("--session-pattern"));
    }
}
