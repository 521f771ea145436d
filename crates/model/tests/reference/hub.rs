//! A mock model hub on the loopback interface, with the subset of HTTP that the client uses.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default)]
struct State {
    /// Path to content and entity tag.
    files: HashMap<String, (Vec<u8>, String)>,
    /// Byte counts after which the connection is closed, one per response that is longer; the next one is last.
    truncations: Vec<usize>,
    /// The first line and the `Range` of every request.
    requests: Vec<(String, String)>,
}

pub(crate) struct Hub {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // Runs until the test process exits; an idle listener costs nothing.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || respond(stream, &shared));
            }
        });
        Hub { endpoint, state }
    }

    /// Adds a file in large-file storage, whose entity tag is its sha256.
    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.tagged(path, content, &sha256(content))
    }

    pub(crate) fn tagged(self, path: &str, content: &[u8], tag: &str) -> Self {
        self.state.lock().unwrap().files.insert(path.to_owned(), (content.to_vec(), tag.to_owned()));
        self
    }

    /// Closes the connection of the next long responses after this many bytes each.
    pub(crate) fn truncating(self, after: &[usize]) -> Self {
        self.state.lock().unwrap().truncations = after.iter().rev().copied().collect();
        self
    }

    /// The ranges requested so far, of requests for content.
    pub(crate) fn ranges(&self) -> Vec<String> {
        let ranges =
            self.state.lock().unwrap().requests.iter().map(|(_, range)| range.clone()).collect::<Vec<_>>();
        ranges.into_iter().filter(|range| range != "bytes=0-0").collect()
    }

    pub(crate) fn request_count(&self) -> usize {
        self.state.lock().unwrap().requests.len()
    }
}

fn respond(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|len| len > 0) {
        let (mut range, mut header) = (String::new(), String::new());
        while reader.read_line(&mut header).is_ok_and(|len| len > 2) {
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("range")
            {
                range = value.trim().to_owned();
            }
            header.clear();
        }
        let path = line.split(' ').nth(1).unwrap().to_owned();
        let mut state = state.lock().unwrap();
        state.requests.push((path.clone(), range.clone()));
        let Some((content, tag)) = state.files.get(&path).cloned() else {
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
            line.clear();
            continue;
        };
        let size = content.len();
        let (start, end) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')).unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(size, |last: usize| last + 1);
        if start >= size {
            let _ = stream.write_all(b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n");
            line.clear();
            continue;
        }
        let body = &content[start..end];
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{size}\r\n\
             ETag: \"{tag}\"\r\nX-Repo-Commit: 0123abc\r\n\r\n",
            body.len(),
            end - 1
        );
        let _ = stream.write_all(head.as_bytes());
        match state.truncations.last().copied() {
            Some(after) if body.len() > after => {
                state.truncations.pop();
                let _ = stream.write_all(&body[..after]);
                return;
            }
            _ => drop(stream.write_all(body)),
        }
        line.clear();
    }
}
