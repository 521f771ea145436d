//! Requests that a hostile web page can make a browser send, on every route.

use axum::body::Body;
use axum::http::Request;
use foretoken_server::{ApiKey, Server, ServerConfig};

use crate::fake_server::{Reply, say, send, start};

/// What a page sends: with the headers of a browser, and a body that needs no preflight.
async fn from_page(server: &Server, (method, path): (&str, &str), headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::builder()
        .method(method)
        .uri(path.replace("{*id}", "tiny").replace("{file}", "app.js"))
        .header("user-agent", "Mozilla/5.0")
        .header("content-type", "application/x-www-form-urlencoded");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(server, request.body(Body::from("{\"prompt\": \"x\"}")).unwrap()).await
}

fn message(reply: &Reply) -> String {
    let body: serde_json::Value = serde_json::from_str(&reply.text).unwrap_or_default();
    body["error"]["message"].as_str().or(body["error"].as_str()).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn no_route_answers_a_page_of_another_site() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    let rebound = [("host", "evil.example:8080"), ("origin", "http://evil.example:8080")];
    let rebound_get = [("host", "evil.example:8080")];
    let cross_site = [("host", "127.0.0.1:8080"), ("origin", "https://evil.example")];
    let sandboxed = [("host", "127.0.0.1:8080"), ("origin", "null")];
    let mut routes: Vec<(&str, String)> = Server::routes().collect();
    assert!(routes.len() > 30, "{routes:?}");
    routes.extend([("GET", "/nowhere".to_owned()), ("OPTIONS", "/v1/chat/completions".to_owned())]);
    for (method, path) in &routes {
        for headers in [&rebound[..], &rebound_get, &cross_site, &sandboxed] {
            let reply = from_page(&server, (method, path), headers).await;
            let wanted = if headers[0].1.starts_with("evil") {
                "--allowed-host"
            } else {
                "does not answer pages of other sites"
            };
            assert_eq!(reply.status, 403, "{method} {path} {headers:?}");
            assert!(
                *method == "HEAD" || message(&reply).contains(wanted),
                "{method} {path} {headers:?}: {reply:?}"
            );
        }
    }
    assert!(engine.seen.lock().unwrap().is_empty() && engine.cache.orders().is_empty());
}

#[tokio::test]
async fn every_route_answers_its_own_names_allowed_ones_and_keys() {
    let allowed = ServerConfig { allowed_hosts: vec!["box.lan".into()], ..ServerConfig::default() };
    let keyed = ServerConfig { api_keys: vec![ApiKey::new("k")], ..ServerConfig::default() };
    for (config, host, origin) in [
        (ServerConfig::default(), "localhost:8080", "http://localhost:3000"),
        (ServerConfig::default(), "[::1]", "http://127.0.0.1"),
        (allowed, "box.lan", "https://box.lan"),
        (keyed, "any.example", "https://any.example"),
    ] {
        let (server, _) = start(config, say(&["a"]));
        for (method, path) in Server::routes() {
            let headers = [("host", host), ("origin", origin), ("x-api-key", "k")];
            let reply = from_page(&server, (method, &path), &headers).await;
            let refusals = ["--allowed-host", "pages of other sites", "API key", "no route"];
            let refused = refusals.iter().any(|words| message(&reply).contains(words));
            assert!(!refused, "{method} {path}: {}", reply.text);
            assert_ne!(reply.status.as_u16(), 405, "{method} {path}");
        }
    }
}
