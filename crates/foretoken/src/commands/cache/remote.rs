//! HTTP client for a running server: a few JSON requests, with the server's own messages in errors.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::cli::CacheArgs;

/// A server's URL and the key to send.
pub(super) struct Remote {
    base: String,
    key: Option<String>,
}

impl Remote {
    /// For client routes; sends the admin key if there is no API key.
    pub(super) fn client(url: &str, args: &CacheArgs) -> Remote {
        Remote::new(url, args.api_key.as_ref().or(args.admin_key.as_ref()))
    }

    /// For admin routes; sends the API key if there is no admin key, so that the server can say what is missing.
    pub(super) fn operator(url: &str, args: &CacheArgs) -> Remote {
        Remote::new(url, args.admin_key.as_ref().or(args.api_key.as_ref()))
    }

    fn new(url: &str, key: Option<&String>) -> Remote {
        let base = url.trim_end_matches('/');
        Remote { base: base.strip_suffix("/v1").unwrap_or(base).to_owned(), key: key.cloned() }
    }

    pub(super) fn get(&self, path: &str) -> Result<Value> {
        self.read(self.request("GET", path).call())
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.request("POST", path).set("Content-Type", "application/json");
        self.read(request.send_string(&body.to_string()))
    }

    pub(super) fn delete(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let request = self.request("DELETE", path).query_pairs(query.iter().copied());
        self.read(request.call())
    }

    fn request(&self, method: &str, path: &str) -> ureq::Request {
        let request = ureq::request(method, &format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.set("Authorization", &format!("Bearer {key}")),
            None => request,
        }
    }

    fn read(&self, answer: Result<ureq::Response, ureq::Error>) -> Result<Value> {
        match answer {
            Ok(response) => json(response).context("the server's response is not valid JSON"),
            Err(ureq::Error::Status(status, response)) => {
                let message = json(response).ok();
                let message = message.as_ref().and_then(|body| body["error"]["message"].as_str());
                let message = message.unwrap_or("it is not a Foretoken server, or an older one");
                bail!("the server refused with {status}: {message}")
            }
            Err(ureq::Error::Transport(error)) => {
                Err(anyhow!("cannot reach {}: {error}; is the server running?", self.base))
            }
        }
    }
}

fn json(response: ureq::Response) -> Result<Value> {
    Ok(serde_json::from_str(&response.into_string()?)?)
}
