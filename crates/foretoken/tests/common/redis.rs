//! A real Redis server on a loopback port, killed when dropped.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::ports::free_ports;

pub(crate) struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// A server with a memory limit (`0` is none) that rejects writes when full.
    pub(crate) fn start(memory: &str) -> Redis {
        let [port] = free_ports();
        let port_text = port.to_string();
        let settings = ["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--maxmemory", memory];
        let child =
            Command::new(program()).args(settings).stdout(Stdio::null()).spawn().expect("redis-server runs");
        let redis = Redis { child, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        redis
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn entries(&self) -> usize {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        socket.write_all(b"DBSIZE\r\n").expect("sent");
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).expect("an answer");
        line.trim().trim_start_matches(':').parse().expect("a number")
    }

    /// Stops answering without closing anything, as a machine that hangs.
    pub(crate) fn freeze(&self) {
        let status = Command::new("kill").args(["-STOP", &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The system's server, or one that is fetched into the target folder.
fn program() -> String {
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/redis/install");
    let output = Command::new(&install).stderr(Stdio::inherit()).output().expect("bash runs");
    assert!(output.status.success(), "{} failed: it says above what to install", install.display());
    String::from_utf8(output.stdout).expect("a path").trim().to_owned()
}
