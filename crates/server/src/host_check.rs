//! Keeps web pages away from a server without API keys.
//!
//! A page of any site can make a browser send requests to a server on the same machine or network: directly, or by
//! rebinding its own host name to the server's address. Such requests name the site in `Host` or `Origin`. So without
//! API keys a request must name this server: a loopback name or address, the configured host, or an allowed host; any
//! IP address where the server listens on all of them, since an address cannot be rebound. A request without `Host`
//! is not a browser's. With API keys the key is the protection, and a page does not have it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::config::{ServerConfig, is_loopback};
use crate::error::ApiError;
use crate::state::Shared;

/// Matches every host or origin.
const ANY: &str = "*";

/// Rejects requests that name another server or come from a page of another site, if no API key is configured.
pub(crate) async fn require_own_host(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    check(&shared.config, request.uri(), request.headers())?;
    Ok(next.run(request).await)
}

fn check(config: &ServerConfig, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    if !config.api_keys.is_empty() {
        return Ok(());
    }
    let named = headers.get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or_default());
    // HTTP/2 has the host in the URI.
    for host in named.chain(uri.authority().map(Authority::as_str)) {
        if !host_of(host).is_some_and(|name| is_own(config, &name)) {
            return Err(ApiError::foreign_host(host));
        }
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let listed =
        config.cors_origins.iter().any(|allowed| allowed == ANY || allowed.eq_ignore_ascii_case(origin));
    let site = origin.split_once("://").and_then(|(_, host)| host_of(host));
    match listed || site.is_some_and(|name| is_own(config, &name)) {
        true => Ok(()),
        false => Err(ApiError::foreign_origin(origin)),
    }
}

/// Whether a host name is one of this server's.
fn is_own(config: &ServerConfig, name: &str) -> bool {
    let allowed = |host: &String| host == ANY || bare(host).eq_ignore_ascii_case(name);
    let all_addresses = bare(&config.host).parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    is_loopback(name)
        || bare(&config.host).eq_ignore_ascii_case(name)
        || config.allowed_hosts.iter().any(allowed)
        || (all_addresses && name.parse::<IpAddr>().is_ok())
}

/// The host that a request names, without its port; empty if it cannot be parsed, `None` if there is none.
pub(crate) fn requested_host(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::HOST)?.to_str().unwrap_or_default();
    Some(host_of(value).unwrap_or_default())
}

/// The name in `host:port`, without brackets and a trailing dot.
fn host_of(text: &str) -> Option<String> {
    let authority: Authority = text.parse().ok()?;
    let name = bare(authority.host());
    (!name.is_empty() && !text.contains('@')).then(|| name.to_owned())
}

fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']']).trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ApiKey;

    fn accepts(config: &ServerConfig, name: header::HeaderName, value: &str) -> bool {
        let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
        check(config, &Uri::from_static("/"), &headers).is_ok()
    }

    fn on(host: &str) -> ServerConfig {
        ServerConfig { host: host.into(), ..ServerConfig::default() }
    }

    #[test]
    fn hosts_are_loopback_or_the_configured_ones() {
        let config = ServerConfig { allowed_hosts: vec!["box.lan".into()], ..on("192.168.0.7") };
        for own in [
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "127.8.0.1:80",
            "[::1]:8080",
            "192.168.0.7:1",
            "Box.lan:8080",
        ] {
            assert!(accepts(&config, header::HOST, own), "{own}");
            assert!(accepts(&config, header::ORIGIN, &format!("http://{own}")), "{own}");
        }
        for foreign in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.168.0.8",
            "localhost@evil.example",
            "",
            "[::2]",
            "sub.box.lan",
        ] {
            assert!(!accepts(&config, header::HOST, foreign), "{foreign}");
            assert!(!accepts(&config, header::ORIGIN, &format!("https://{foreign}")), "{foreign}");
        }
        assert!(!accepts(&config, header::ORIGIN, "null"));
    }

    #[test]
    fn a_server_on_all_addresses_is_named_by_any_address_but_by_no_name() {
        for host in ["0.0.0.0", "::"] {
            assert!(accepts(&on(host), header::HOST, "192.168.0.8:8080"));
            assert!(accepts(&on(host), header::HOST, "[fd00::1]:8080"));
            assert!(!accepts(&on(host), header::HOST, "evil.example"));
        }
    }

    #[test]
    fn stars_keys_and_listed_origins_lift_the_check() {
        let any = ServerConfig { allowed_hosts: vec!["*".into()], ..on("127.0.0.1") };
        assert!(accepts(&any, header::HOST, "evil.example"));
        let keyed = ServerConfig { api_keys: vec![ApiKey::new("k")], ..on("127.0.0.1") };
        assert!(accepts(&keyed, header::HOST, "evil.example") && accepts(&keyed, header::ORIGIN, "null"));
        let listed = ServerConfig { cors_origins: vec!["https://app.example".into()], ..on("127.0.0.1") };
        assert!(accepts(&listed, header::ORIGIN, "https://app.example"));
        assert!(!accepts(&listed, header::ORIGIN, "https://evil.example"));
        assert!(!accepts(&listed, header::HOST, "app.example"));
    }

    #[test]
    fn every_host_of_a_request_is_checked() {
        let pair = ["localhost", "evil.example"].map(|host| (header::HOST, host.parse().unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in pair {
            headers.append(name, value);
        }
        assert!(check(&on("127.0.0.1"), &Uri::from_static("/"), &headers).is_err());
        let uri = Uri::from_static("http://evil.example/");
        assert!(check(&on("127.0.0.1"), &uri, &HeaderMap::new()).is_err());
    }
}
