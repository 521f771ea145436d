//! `foretoken cache`: the caches of a running server or of a data folder.
//!
//! Both produce the same JSON, printed as it is or as a table.

mod folder;
mod show;

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::api_client::ApiClient;
use crate::cli::{CacheArgs, CacheClearArgs, CacheCommand, CachePromptArgs};
use crate::output;

/// Runs the command.
pub(crate) fn run(command: &CacheCommand) -> Result<()> {
    match command {
        CacheCommand::Explain(args) => super::cache_explain::run(args),
        CacheCommand::Stat(args) => {
            let info = match &args.server {
                Some(url) => admin(url, args)?.get("/v1/cache")?,
                None => folder::stat(&args.base)?,
            };
            print(args, &info, show::stat)
        }
        CacheCommand::Ls(args) => {
            let list = match &args.cache.server {
                Some(url) => {
                    admin(url, &args.cache)?.get(&format!("/v1/cache/entries?limit={}", args.limit))?
                }
                None => folder::entries(&args.cache.base, args.limit)?,
            };
            print(&args.cache, &list, show::entries)
        }
        CacheCommand::Verify(args) => verify(args),
        CacheCommand::Prewarm(args) => send_prompt(args, "prewarm", &json!({})),
        CacheCommand::Pin(args) => send_prompt(&args.prompt, "pin", &json!({"ttl_s": args.ttl})),
        CacheCommand::Unpin(args) => send_prompt(args, "unpin", &json!({})),
        CacheCommand::Clear(args) => clear(args),
    }
}

/// For client routes; sends the admin key if there is no API key.
fn client(url: &str, args: &CacheArgs) -> Result<ApiClient> {
    ApiClient::new(url, args.api_key.as_ref().or(args.admin_key.as_ref()))
}

/// For admin routes; sends the API key if there is no admin key, so that the server can say what is missing.
fn admin(url: &str, args: &CacheArgs) -> Result<ApiClient> {
    ApiClient::new(url, args.admin_key.as_ref().or(args.api_key.as_ref()))
}

fn print(args: &CacheArgs, value: &Value, table: fn(&Value) -> Result<()>) -> Result<()> {
    if args.json { output::json(value) } else { table(value) }
}

fn verify(args: &CacheArgs) -> Result<()> {
    let report = match &args.server {
        Some(url) => admin(url, args)?.post("/v1/cache/verify", &json!({}))?,
        None => folder::verify(&args.base)?,
    };
    print(args, &report, show::verify)?;
    let count = |name: &str| report[name].as_array().map_or(0, Vec::len);
    match (count("bad"), count("unreadable")) {
        (0, 0) => Ok(()),
        (bad, unreadable) => bail!("{bad} bad files (they count as misses) and {unreadable} unreadable ones"),
    }
}

/// Sends a prompt to one of the `/v1/cache/*` routes.
fn send_prompt(args: &CachePromptArgs, route: &str, fields: &Value) -> Result<()> {
    let Some(url) = &args.cache.server else {
        bail!(
            "cache {route} changes a running server's memory; name the server with --server http://127.0.0.1:8080"
        );
    };
    let mut body = prompt(&args.prompt)?;
    for (key, value) in fields.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    if let Some(user) = &args.user_id {
        body["user_id"] = user.as_str().into();
    }
    let report = client(url, &args.cache)?.post(&format!("/v1/cache/{route}"), &body)?;
    print(&args.cache, &report, show::prompt)
}

/// The request body for the prompt in a file.
fn prompt(path: &Path) -> Result<Value> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    match serde_json::from_str(&text) {
        Ok(Value::Array(messages)) => Ok(json!({"messages": messages})),
        Ok(Value::Object(body)) => Ok(body.into()),
        _ if text.trim().is_empty() => bail!("{} is empty", path.display()),
        _ => Ok(json!({"prompt": text})),
    }
}

fn clear(args: &CacheClearArgs) -> Result<()> {
    let report = match &args.cache.server {
        Some(url) => {
            let mut query = Vec::new();
            if args.scope.is_some() {
                bail!("--scope is for a data folder; with --server use --tenant, --user-id or --all");
            }
            query.extend(args.all.then_some(("all", "true")));
            query.extend(args.tenant.as_deref().map(|name| ("account", name)));
            query.extend(args.user_id.as_deref().map(|user| ("user_id", user)));
            admin(url, &args.cache)?.delete("/v1/cache", &query)?
        }
        None => {
            if args.tenant.is_some() || args.user_id.is_some() {
                bail!(
                    "--tenant and --user-id need --server; in a folder use --scope ID, as `cache ls` shows it"
                );
            }
            match (&args.scope, args.all) {
                (Some(scope), _) => folder::clear(&args.cache.base, Some(scope.parse().context("--scope")?))?,
                (None, true) => folder::clear(&args.cache.base, None)?,
                (None, false) => bail!("say what to delete: --all or --scope ID"),
            }
        }
    };
    print(&args.cache, &report, show::cleared)
}
