//! The page: what is served, under which headers, and to whom.

use axum::body::Body;
use axum::http::Request;
use foretoken_server::{ApiKey, Server, ServerConfig};

use crate::fake_server::{Reply, get, say, send, start};

fn server(config: ServerConfig) -> Server {
    start(config, say(&["a"])).0
}

/// The addresses that the page names, and those that its scripts import.
async fn files(server: &Server) -> Vec<(String, Reply)> {
    let mut paths = vec!["/".to_owned()];
    let mut files: Vec<(String, Reply)> = Vec::new();
    while let Some(path) = paths.pop() {
        if files.iter().any(|(known, _)| *known == path) {
            continue;
        }
        let reply = get(server, &path).await;
        assert_eq!(reply.status, 200, "{path}");
        for quoted in reply.text.split('"') {
            let is_file = [".js", ".css", ".svg"].iter().any(|end| quoted.ends_with(end));
            if is_file && !quoted.contains(' ') {
                paths.push(format!("/page/{}", quoted.trim_start_matches("page/").trim_start_matches("./")));
            }
        }
        files.push((path, reply));
    }
    files
}

#[tokio::test]
async fn every_file_is_served_under_a_policy_without_inline_code() {
    let server = server(ServerConfig::default());
    let files = files(&server).await;
    assert!(files.len() > 10, "{}", files.len());
    for (path, reply) in &files {
        let policy = reply.headers["content-security-policy"].to_str().unwrap();
        for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
        let kind = reply.headers["content-type"].to_str().unwrap();
        let wanted = match path.rsplit('.').next() {
            Some("js") => "text/javascript",
            Some("css") => "text/css",
            Some("svg") => "image/svg+xml",
            _ => "text/html",
        };
        assert!(kind.starts_with(wanted), "{path}: {kind}");
    }
    let index = &files[0].1.text;
    for inline in
        ["<script>", "<style", "style=", "onclick=", "onload=", "javascript:", "http://", "https://"]
    {
        assert!(!index.contains(inline), "{inline}");
    }
    assert_eq!(get(&server, "/page/mod.rs").await.status, 404);
    assert_eq!(get(&server, "/page/..%2fmod.rs").await.status, 404);
}

#[tokio::test]
async fn a_file_that_the_browser_has_is_not_sent_again() {
    let server = server(ServerConfig::default());
    for path in ["/", "/page/app.js"] {
        let tag = get(&server, path).await.headers["etag"].clone();
        let ask = |tag: &str| Request::get(path).header("if-none-match", tag).body(Body::empty()).unwrap();
        let reply = send(&server, ask(tag.to_str().unwrap())).await;
        assert_eq!((reply.status.as_u16(), reply.text.as_str()), (304, ""));
        assert_eq!(reply.headers["etag"], tag);
        assert_eq!(send(&server, ask("\"other\"")).await.status, 200);
    }
}

#[tokio::test]
async fn the_page_knows_whether_to_ask_for_a_key_and_needs_none_itself() {
    let open = get(&server(ServerConfig::default()), "/").await;
    let keyed = ServerConfig { api_keys: vec![ApiKey::new("k")], ..ServerConfig::default() };
    let keyed = server(keyed);
    let asking = get(&keyed, "/").await;
    assert!(open.text.contains("data-key=\"none\"") && !open.text.contains("needed"));
    assert!(asking.text.contains("data-key=\"needed\"") && asking.headers["etag"] != open.headers["etag"]);
    assert_eq!(get(&keyed, "/page/app.js").await.status, 200);
    assert_eq!(get(&keyed, "/v1/models").await.status, 401);
}

#[tokio::test]
async fn the_head_of_the_page_answers_while_the_model_loads() {
    let server = Server::new(ServerConfig::default()).unwrap();
    let reply = send(&server, Request::head("/").body(Body::empty()).unwrap()).await;
    assert_eq!((reply.status.as_u16(), reply.text.as_str()), (200, ""));
    assert_eq!(get(&server, "/").await.status, 200);
}
