//! HTTP client for a running server: a few JSON requests, with the server's own messages in errors.

use std::io::{BufRead, BufReader};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// A server's URL and the key to send.
#[derive(Clone)]
pub(crate) struct ApiClient {
    base: String,
    key: Option<String>,
}

impl ApiClient {
    /// `server` is a URL or only an address: `127.0.0.1:8080` means `http://127.0.0.1:8080`. A path that ends in
    /// `/v1`, as OpenAI clients write it, is accepted.
    ///
    /// # Errors
    /// What cannot be the address of a server.
    pub(crate) fn new(server: &str, key: Option<&String>) -> Result<ApiClient> {
        let text = server.trim();
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let base = url.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base).trim_end_matches('/').to_owned();
        let parsed = ureq::get(&base).request_url().ok();
        let parsed = parsed.filter(|url| matches!(url.scheme(), "http" | "https") && !url.host().is_empty());
        if parsed.is_none() {
            bail!("--server: `{server}` is not the address of a server; write it like http://127.0.0.1:8080");
        }
        Ok(ApiClient { base, key: key.cloned() })
    }

    /// The server's URL, without `/v1`.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.read(self.request("GET", path).call())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.read(self.send(path, body))
    }

    pub(crate) fn delete(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let request = self.request("DELETE", path).query_pairs(query.iter().copied());
        self.read(request.call())
    }

    /// Posts and returns the payloads of the server-sent events, without the closing `[DONE]`.
    pub(crate) fn stream(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<impl Iterator<Item = Result<Value>> + use<>> {
        let response = self.accepted(self.send(path, body))?;
        let lines = BufReader::new(response.into_reader()).lines();
        let payloads = lines.filter_map(|line| match line {
            Ok(line) => line.strip_prefix("data:").map(|data| Ok(data.trim().to_owned())),
            Err(error) => Some(Err(anyhow!(error).context("the connection to the server broke"))),
        });
        let payloads = payloads.take_while(|payload| !matches!(payload, Ok(text) if text == "[DONE]"));
        Ok(payloads.map(|payload| {
            serde_json::from_str(&payload?).context("the server sent an event that is not JSON")
        }))
    }

    fn send(&self, path: &str, body: &Value) -> Result<ureq::Response, Box<ureq::Error>> {
        let request = self.request("POST", path).set("Content-Type", "application/json");
        request.send_string(&body.to_string()).map_err(Box::new)
    }

    fn request(&self, method: &str, path: &str) -> ureq::Request {
        let request = ureq::request(method, &format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.set("Authorization", &format!("Bearer {key}")),
            None => request,
        }
    }

    fn read(&self, response: Result<ureq::Response, impl Into<Box<ureq::Error>>>) -> Result<Value> {
        json(self.accepted(response)?).with_context(|| {
            format!("{} answered with something that is not JSON; is it a Foretoken server?", self.base)
        })
    }

    /// The response, if the server accepted the request.
    fn accepted(
        &self,
        response: Result<ureq::Response, impl Into<Box<ureq::Error>>>,
    ) -> Result<ureq::Response> {
        match response.map_err(|error| *error.into()) {
            Ok(response) => Ok(response),
            Err(ureq::Error::Status(status, response)) => {
                let message = json(response).ok();
                let message = message.as_ref().and_then(|body| body["error"]["message"].as_str());
                let message = message.unwrap_or("it is not a Foretoken server, or an older one");
                bail!("the server refused with {status}: {message}")
            }
            Err(ureq::Error::Transport(error)) => {
                Err(anyhow!("cannot reach {}: {}; is the server running?", self.base, cause(&error)))
            }
        }
    }
}

/// What went wrong, without ureq's repetition of the URL.
fn cause(error: &ureq::Transport) -> String {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    let own = || error.message().map_or_else(|| error.kind().to_string(), str::to_owned);
    cause.map_or_else(own, ToString::to_string)
}

fn json(response: ureq::Response) -> Result<Value> {
    Ok(serde_json::from_str(&response.into_string()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_scheme() {
        for (text, base) in [
            ("127.0.0.1:8402", "http://127.0.0.1:8402"),
            ("localhost:8080/", "http://localhost:8080"),
            ("http://host:1/v1", "http://host:1"),
            ("http://host:1/v1/", "http://host:1"),
            ("https://host/base", "https://host/base"),
            ("[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(ApiClient::new(text, None).unwrap().base(), base, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_rejected_with_an_example() {
        for text in ["", "http://", "ftp://host", "127.0.0.1:99999", "a b"] {
            let error = ApiClient::new(text, None).err().map(|error| error.to_string());
            let error = error.unwrap_or_else(|| panic!("`{text}` is accepted"));
            assert!(error.contains("http://127.0.0.1:8080"), "{error}");
        }
    }
}
