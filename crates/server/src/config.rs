//! Settings of the HTTP server.
//!
//! Plain values with defaults that are safe on a laptop: loopback only, no CORS, bounded bodies and times. Keys are
//! hashed when they are parsed, so that no value of these types can print one.

use std::io;
use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::net::{TcpListener, TcpSocket};

use crate::accounts::{NamedKey, Prepaid, Prices};
use crate::stable_prompt::{SESSION_PATTERN, VOLATILE_PATTERN};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Settings of the server. Unknown keys are rejected, so that a typo does not silently become a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address or host name to listen on.
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Names the model answers to; the first is the one it is listed under. Empty: the model's own name.
    pub model_names: Vec<String>,
    /// API keys. Empty: no authentication.
    pub api_keys: Vec<ApiKey>,
    /// Names for some of `api_keys`; keys with one name are one account.
    pub named_keys: Vec<NamedKey>,
    /// Prepaid amounts; an account without one has no spending limit.
    pub prepaid: Vec<Prepaid>,
    /// Keys with access to every route, the operator's included. Empty: operator routes are open to local programs if
    /// the server has no API keys, listens on loopback and allows no CORS origin; else they are closed.
    pub admin_keys: Vec<ApiKey>,
    /// Host names, besides loopback and `host`, that requests may address without an API key; `*` allows all.
    pub allowed_hosts: Vec<String>,
    /// What a tenant is: nothing cached is shared between two.
    pub tenant_by: TenantBy,
    /// A regular expression for the part of a `user_id` that is a session and not a user; it is removed. Empty: none.
    pub session_pattern: String,
    /// A regular expression for the part of a system prompt that changes from request to request; it is removed. Empty:
    /// none.
    pub volatile_pattern: String,
    /// Serve `/metrics` without a key.
    pub metrics_open: bool,
    /// Origins whose pages may call the API from a browser; `*` means all. Empty: none.
    pub cors_origins: Vec<String>,
    /// Largest request body, in bytes.
    pub body_limit_bytes: usize,
    /// Longest prompt, in tokens; `None` leaves it to the context.
    pub prompt_limit_tokens: Option<usize>,
    /// Largest `n`.
    pub max_n: usize,
    /// Most prompts in one `/v1/completions` request.
    pub max_prompts: usize,
    /// Longest time from a request's arrival to the end of its answer, in seconds; 0 is no limit.
    pub request_timeout_s: u64,
    /// How long running responses may continue after a shutdown signal, in seconds.
    pub grace_s: u64,
    /// Interval of comments on an idle stream, in seconds, so that proxies keep it open.
    pub keep_alive_s: u64,
    /// What tokens cost.
    pub prices: Prices,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            host: "127.0.0.1".into(),
            port: 8080,
            model_names: Vec::new(),
            api_keys: Vec::new(),
            named_keys: Vec::new(),
            prepaid: Vec::new(),
            admin_keys: Vec::new(),
            allowed_hosts: Vec::new(),
            tenant_by: TenantBy::default(),
            session_pattern: SESSION_PATTERN.into(),
            volatile_pattern: VOLATILE_PATTERN.into(),
            metrics_open: false,
            cors_origins: Vec::new(),
            body_limit_bytes: 16 << 20,
            prompt_limit_tokens: None,
            max_n: 16,
            max_prompts: 64,
            request_timeout_s: 3600,
            grace_s: 30,
            keep_alive_s: 10,
            prices: Prices::default(),
        }
    }
}

/// What a tenant is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TenantBy {
    /// An API key; `user_id` only appears in usage reports.
    #[serde(rename = "key")]
    Key,
    /// An API key and a `user_id`.
    #[default]
    #[serde(rename = "key+user")]
    KeyAndUser,
}

/// A port that is taken and not open yet: connections are refused until it listens.
#[derive(Debug)]
pub struct BoundPort(TcpSocket);

impl BoundPort {
    /// The address.
    ///
    /// # Errors
    /// The operating system does not tell it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Opens the port.
    ///
    /// # Errors
    /// The port cannot be listened on.
    pub fn listen(self) -> io::Result<TcpListener> {
        self.0.listen(BACKLOG)
    }
}

impl ServerConfig {
    /// Takes the port without opening it, and warns if other machines will reach it without a key.
    ///
    /// # Errors
    /// The address does not resolve, is in use, or may not be used.
    pub async fn bind(&self) -> io::Result<BoundPort> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the host name has no address");
        for address in tokio::net::lookup_host((self.host.as_str(), self.port)).await? {
            match bind_to(address) {
                Ok(socket) => return self.bound(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn bound(&self, socket: TcpSocket) -> io::Result<BoundPort> {
        let address = socket.local_addr()?;
        if self.is_exposed(address) {
            tracing::warn!(
                %address,
                "anyone who can reach this address can use the model: set --api-key, or --host 127.0.0.1"
            );
        }
        Ok(BoundPort(socket))
    }

    /// Whether only local programs, and no web page, can reach the server without a key.
    pub(crate) fn is_private(&self) -> bool {
        is_loopback(&self.host) && self.api_keys.is_empty() && self.cors_origins.is_empty()
    }

    /// Whether `address` is reachable from other machines and no key is required.
    pub fn is_exposed(&self, address: SocketAddr) -> bool {
        self.api_keys.is_empty() && !address.ip().is_loopback()
    }
}

/// A socket on `address` that does not listen yet.
fn bind_to(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // So that a restart need not wait for connections of the process before it. Windows means something else by it.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Whether a host name or address is loopback regardless of DNS.
pub(crate) fn is_loopback(host: &str) -> bool {
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// The BLAKE3 hash of a key. Read from the key itself or from `blake3:` and 64 hexadecimal digits; always
/// written in the second form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ApiKey(blake3::Hash);

impl ApiKey {
    const PREFIX: &'static str = "blake3:";

    /// Hashes a key.
    pub fn new(key: &str) -> Self {
        ApiKey(blake3::hash(key.as_bytes()))
    }

    /// Parses either form.
    ///
    /// # Errors
    /// An empty key, or `blake3:` without 64 hexadecimal digits after it.
    pub fn parse(text: &str) -> Result<Self, ApiKeyError> {
        match text.strip_prefix(Self::PREFIX) {
            Some(digits) => blake3::Hash::from_hex(digits).map(ApiKey).map_err(|_| ApiKeyError::Hash),
            None if text.trim().is_empty() => Err(ApiKeyError::Empty),
            None => Ok(Self::new(text)),
        }
    }

    /// The first digits of the hash.
    pub(crate) fn digits(&self, count: usize) -> String {
        self.0.to_hex().chars().take(count).collect()
    }

    /// Constant-time comparison.
    pub(crate) fn matches(&self, presented: &blake3::Hash) -> bool {
        self.0 == *presented
    }
}

/// Why a configured key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    /// Nothing but white space.
    #[error("an API key is empty")]
    Empty,
    /// Not a hash.
    #[error("'blake3:' must be followed by the 64 hexadecimal digits of a key's BLAKE3 hash")]
    Hash,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}{}", Self::PREFIX, self.0.to_hex())
    }
}

impl Serialize for ApiKey {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&format!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for ApiKey {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        ApiKey::parse(&String::deserialize(input)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_without_being_printed() {
        let config: ServerConfig = toml::from_str("api_keys = ['sk-secret']\nport = 9000").unwrap();
        assert_eq!(config.port, 9000);
        assert_eq!(config.host, "127.0.0.1");
        let printed = toml::to_string(&config).unwrap();
        assert!(!printed.contains("sk-secret") && !format!("{config:?}").contains("sk-secret"));
        assert_eq!(toml::from_str::<ServerConfig>(&printed).unwrap(), config);
        assert!(config.api_keys[0].matches(&blake3::hash(b"sk-secret")));
    }

    #[test]
    fn invalid_settings_are_rejected() {
        for text in
            ["api_keys = ['']", "api_keys = ['blake3:12']", "prices.hit = '-1'", "prot = 1", "port = 70000"]
        {
            assert!(toml::from_str::<ServerConfig>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_server_is_private_on_loopback_without_keys_and_origins() {
        let on = |host: &str| ServerConfig { host: host.into(), ..ServerConfig::default() };
        for host in ["127.0.0.1", "127.8.0.1", "localhost", "::1", "[::1]"] {
            assert!(on(host).is_private(), "{host}");
        }
        for host in ["0.0.0.0", "::", "192.168.0.1", "box", "localhost.example.org"] {
            assert!(!on(host).is_private(), "{host}");
        }
        let keyed = ServerConfig { api_keys: vec![ApiKey::new("k")], ..on("::1") };
        let crossed = ServerConfig { cors_origins: vec!["*".into()], ..on("::1") };
        assert!(!keyed.is_private() && !crossed.is_private());
    }

    #[test]
    fn only_a_public_address_without_keys_is_exposed() {
        let mut config = ServerConfig::default();
        let wide = SocketAddr::from(([0, 0, 0, 0], 1));
        assert!(config.is_exposed(wide));
        assert!(!config.is_exposed(SocketAddr::from(([127, 0, 0, 1], 1))));
        config.api_keys.push(ApiKey::new("k"));
        assert!(!config.is_exposed(wide));
    }
}
