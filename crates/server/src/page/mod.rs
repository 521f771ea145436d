//! The page's files, which are part of the binary. There is no build step: what is served is what is in this folder.

use std::sync::LazyLock;

/// What the page says where it needs no key, and where it needs one.
const KEY_MARKS: [&str; 2] = ["data-key=\"none\"", "data-key=\"needed\""];

const INDEX: &str = include_str!("index.html");

/// A file as it is served.
#[derive(Debug)]
pub(crate) struct File {
    name: &'static str,
    /// Its media type.
    pub(crate) kind: &'static str,
    pub(crate) content: String,
    /// Changes with the content.
    pub(crate) tag: String,
}

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    [
        ("api.js", include_str!("api.js")),
        ("app.js", include_str!("app.js")),
        ("charts.js", include_str!("charts.js")),
        ("chat.js", include_str!("chat.js")),
        ("conversation.js", include_str!("conversation.js")),
        ("dom.js", include_str!("dom.js")),
        ("drafters.js", include_str!("drafters.js")),
        ("facts.js", include_str!("facts.js")),
        ("icon.svg", include_str!("icon.svg")),
        ("live.js", include_str!("live.js")),
        ("markdown.js", include_str!("markdown.js")),
        ("metrics.js", include_str!("metrics.js")),
        ("miss.js", include_str!("miss.js")),
        ("style.css", include_str!("style.css")),
    ]
    .map(|(name, content)| File::new(name, content.to_owned()))
    .into()
});

static INDEXES: LazyLock<[File; 2]> =
    LazyLock::new(|| KEY_MARKS.map(|mark| File::new("index.html", INDEX.replace(KEY_MARKS[0], mark))));

impl File {
    fn new(name: &'static str, content: String) -> File {
        let kind = match name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        let tag = format!("\"{}\"", &blake3::hash(content.as_bytes()).to_hex()[..16]);
        File { name, kind, content, tag }
    }
}

/// The page itself.
pub(crate) fn index(asks_for_key: bool) -> &'static File {
    &INDEXES[usize::from(asks_for_key)]
}

/// One of its files.
pub(crate) fn file(name: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.name == name)
}
