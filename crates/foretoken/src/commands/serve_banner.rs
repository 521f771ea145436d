//! What `foretoken serve` prints when it is ready: where it listens, what it serves, and one command to try.
//!
//! The first line is for programs: `ready on http://ADDRESS`. It is written together with the rest, so that whoever
//! reads only that line does not make a later write fail.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use foretoken_server::ServerConfig;

use crate::byte_size::ByteSize;
use crate::cli::ServeArgs;
use crate::output;

/// The server as it started.
pub(super) struct Banner<'a> {
    pub(super) args: &'a ServeArgs,
    pub(super) config: &'a ServerConfig,
    pub(super) address: SocketAddr,
    /// The model's name in the API.
    pub(super) model: &'a str,
    /// The effective context length in tokens.
    pub(super) ctx: usize,
    pub(super) data_dir: &'a Path,
}

impl Banner<'_> {
    /// Prints it. A closed standard output is no reason to stop serving.
    pub(super) fn print(&self) {
        if let Err(error) = output::stdout().write_all(self.text().as_bytes()) {
            tracing::warn!("cannot write to standard output: {error}");
        }
    }

    fn text(&self) -> String {
        let Banner { args, address, model, ctx, .. } = self;
        let mut text = format!("ready on http://{address}\n");
        let mut line = |name: &str, value: &str| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {name:<9}{value}");
        };
        line("model", &format!("{model} ({})", args.model.model));
        line("context", &format!("{ctx} tokens for prompt and answer (--ctx)"));
        let disk = match args.cache_disk {
            ByteSize(0) => "off".to_owned(),
            size => size.to_string(),
        };
        line(
            "caches",
            &format!("{} in memory (--cache-ram), {disk} on disk (--cache-disk)", args.context.cache_ram),
        );
        line("data", &self.data_dir.display().to_string());
        line("key", self.key());
        line("try", &self.example());
        text
    }

    fn key(&self) -> &'static str {
        match (self.config.api_keys.is_empty(), self.address.ip().is_loopback()) {
            (false, _) => "needed: send one of the --api-key values",
            (true, true) => "not needed: only programs on this machine can connect",
            (true, false) => "NOT needed by anyone who can reach this address; set --api-key",
        }
    }

    fn example(&self) -> String {
        let key = if self.config.api_keys.is_empty() { "" } else { " -H 'Authorization: Bearer YOUR_KEY'" };
        // One cannot connect to "all addresses".
        let host = match self.address {
            address if address.ip().is_unspecified() => format!("localhost:{}", address.port()),
            address => address.to_string(),
        };
        let body = serde_json::json!({
            "model": self.model,
            "messages": [{"role": "user", "content": "Name three rivers."}],
        });
        let body = body.to_string().replace('\'', "'\\''");
        format!("curl http://{host}/v1/chat/completions{key} -d '{body}'")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn text(options: &[&str], config: &ServerConfig, address: &str) -> String {
        let line = ["foretoken", "serve"].iter().chain(options);
        let Command::Serve(args) = Cli::try_parse_from(line).unwrap().command else { panic!("serve") };
        let (address, data_dir) = (address.parse().unwrap(), Path::new("/data"));
        Banner { args: &args, config, address, model: "it's", ctx: 2048, data_dir }.text()
    }

    #[test]
    fn the_first_line_is_the_address_and_the_last_can_be_pasted() {
        let text = text(&["--cache-disk", "0"], &ServerConfig::default(), "127.0.0.1:8080");
        assert!(text.starts_with("ready on http://127.0.0.1:8080\n"), "{text}");
        for part in ["it's (smollm2)", "2048 tokens", "1GiB in memory", "off on disk", "/data", "not needed"]
        {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        let last = text.lines().last().unwrap();
        assert!(last.contains("curl http://127.0.0.1:8080/v1/chat/completions -d '"), "{last}");
        assert!(last.contains("\"it'\\''s\""), "{last}");
    }

    #[test]
    fn keys_and_open_addresses_are_told() {
        let open = text(&[], &ServerConfig::default(), "0.0.0.0:80");
        assert!(open.contains("NOT needed") && open.contains("http://localhost:80/"), "{open}");
        let api_keys = vec![foretoken_server::ApiKey::new("k")];
        let keyed = text(&[], &ServerConfig { api_keys, ..ServerConfig::default() }, "0.0.0.0:80");
        assert!(keyed.contains("Bearer YOUR_KEY") && !keyed.contains("NOT"), "{keyed}");
    }
}
