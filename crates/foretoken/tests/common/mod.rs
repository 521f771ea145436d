//! Starts the built `foretoken` and talks to it as a client would.
//!
//! The HTTP client is deliberately naive: version 1.0, one request per connection, so that what a test sees
//! is what was sent.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod ports;
pub(crate) mod redis;
pub(crate) mod s3;
pub(crate) mod site;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Timeout of any wait in a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Where the model is kept between test runs, so that it is fetched once.
pub(crate) fn data_dir() -> PathBuf {
    match std::env::var_os("FORETOKEN_TEST_DATA") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("test-data"),
    }
}

/// The command without any setting of the developer's own environment.
pub(crate) fn foretoken(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foretoken"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FORETOKEN_") {
            command.env_remove(name);
        }
    }
    command.args(args).env("FORETOKEN_DATA_DIR", data_dir()).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    foretoken(args).output().expect("the binary runs")
}

/// Standard output of a command that must succeed.
pub(crate) fn stdout_of(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?} failed: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running `foretoken serve`, killed when dropped.
pub(crate) struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts a server on a free port and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_command(args, &[], Stdio::inherit())
    }

    /// As [`Server::start`], with its log in a file.
    pub(crate) fn start_logging(args: &[&str], log: &Path) -> Self {
        Self::start_with(args, &[], log)
    }

    /// As [`Server::start_logging`], with environment variables.
    pub(crate) fn start_with(args: &[&str], env: &[(&str, &str)], log: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log file");
        Self::start_command(args, env, log.into())
    }

    /// As [`Server::start`], under this umask.
    pub(crate) fn start_with_umask(umask: &str, args: &[&str]) -> Self {
        let server = foretoken(&[]);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]).arg(server.get_program());
        for (name, value) in server.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(["serve", "--port", "0", "--log", "warn"]).args(args).stdin(Stdio::null());
        Self::spawn(command)
    }

    fn start_command(args: &[&str], env: &[(&str, &str)], log: Stdio) -> Self {
        let mut command = foretoken(&["serve", "--port", "0", "--log", "warn"]);
        command.stderr(log).envs(env.iter().copied()).args(args);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line is printed");
        let address = line.trim().strip_prefix("ready on http://").expect("the server gets ready");
        Self { address: address.to_owned(), child }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.send("GET", path, "", &[]).finish()
    }

    /// Posts JSON and returns the whole response.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, &body.to_string(), &[]).finish()
    }

    /// Posts JSON that must succeed and returns the JSON of the answer.
    pub(crate) fn ask(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body);
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()
    }

    /// Posts JSON and leaves the response to be read as it comes.
    pub(crate) fn open(&self, path: &str, body: &Value) -> Stream {
        self.send("POST", path, &body.to_string(), &[])
    }

    /// Sends any request, with more headers.
    pub(crate) fn send(&self, method: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> Stream {
        let mut socket = TcpStream::connect(&self.address).expect("the server listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\n{more}Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body.as_bytes())).expect("sent");
        Stream { reader: BufReader::new(socket) }
    }

    /// The value of a gauge or counter without labels of interest.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        let line = line.unwrap_or_else(|| panic!("no metric {name} in:\n{text}"));
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    }

    /// Waits until a metric has a value.
    pub(crate) fn wait_for(&self, name: &str, value: f64, patience: Duration) {
        let start = Instant::now();
        loop {
            let now = self.metric(name);
            if now == value {
                return;
            }
            assert!(start.elapsed() < patience, "{name} is {now}, not {value}, after {patience:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it at once, as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("it was running");
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let done =
            Command::new("sh").args(["-c", &format!("kill {}", self.child.id())]).status().expect("sh runs");
        assert!(done.success());
    }

    /// Waits for the process to end and returns its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Posts JSON to a server that may be killed meanwhile; `None` if no whole answer came.
pub(crate) fn try_post(address: &str, path: &str, body: &Value) -> Option<Value> {
    let mut socket = TcpStream::connect(address).ok()?;
    let body = body.to_string();
    let head =
        format!("POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
    write!(socket, "{head}\r\n\r\n{body}").ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// A response of which nothing was read yet.
pub(crate) struct Stream {
    reader: BufReader<TcpStream>,
}

impl Stream {
    fn head(&mut self) -> (u16, Vec<(String, String)>) {
        let status = self.line().expect("a status line");
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
        let mut headers = Vec::new();
        while let Some(line) = self.line().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').expect("a header");
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        (code, headers)
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).expect("the server answers in time");
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// Reads everything.
    pub(crate) fn finish(mut self) -> Response {
        let (status, headers) = self.head();
        let mut body = String::new();
        self.reader.read_to_string(&mut body).expect("a body in UTF-8");
        Response { status, headers, body }
    }

    /// The payload of the next server-sent event, or `None` at the end of the response.
    pub(crate) fn event(&mut self) -> Option<String> {
        loop {
            let line = self.line()?;
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.to_owned());
            }
        }
    }

    /// All events but the closing `[DONE]`, which must be there.
    pub(crate) fn events(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(data) = self.event() {
            if data == "[DONE]" {
                assert_eq!(self.event(), None, "nothing follows [DONE]");
                return events;
            }
            events.push(serde_json::from_str(&data).expect("an event is JSON"));
        }
        panic!("the stream ended without [DONE] after {events:?}");
    }
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Checks status and shape of an error and returns it.
    pub(crate) fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        let error = self.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{}", self.body);
        assert!(error["type"].is_string() && error.get("param").is_some() && error.get("code").is_some());
        error
    }
}
