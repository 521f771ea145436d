//! A real S3 server, SeaweedFS's gateway with its own master and volume, on loopback ports in a temporary folder;
//! killed when dropped.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::ports::free_ports;

/// What a client needs to be let in.
pub(crate) const CREDENTIALS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "cache-key"), ("AWS_SECRET_ACCESS_KEY", "cache-secret")];

const BUCKET: &str = "foretoken-blocks";

pub(crate) struct S3 {
    child: Child,
    port: u16,
    /// Removed when dropped.
    _folder: tempfile::TempDir,
}

impl S3 {
    /// A server with an empty bucket that lets [`CREDENTIALS`] in, and nobody else.
    pub(crate) fn start() -> S3 {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        let [(_, key), (_, secret)] = CREDENTIALS;
        let config = serde_json::json!({"identities": [{
            "name": "cache",
            "credentials": [{"accessKey": key, "secretKey": secret}],
            "actions": ["Admin", "Read", "Write", "List"],
        }]});
        std::fs::write(path("s3.json"), config.to_string()).expect("written");
        let [s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc] = free_ports();
        let child = Command::new(program())
            .arg(format!("-logdir={}", path("")))
            .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-volume.max=8"])
            .args(["-master.volumeSizeLimitMB=64", "-s3.port.iceberg=0", "-s3.port.lance=0"])
            .args([format!("-dir={}", path("")), format!("-s3.config={}", path("s3.json"))])
            .args([format!("-s3.port={s3}"), format!("-s3.port.grpc={s3_grpc}")])
            .args([format!("-master.port={master}"), format!("-master.port.grpc={master_grpc}")])
            .args([format!("-volume.port={volume}"), format!("-volume.port.grpc={volume_grpc}")])
            .args([format!("-filer.port={filer}"), format!("-filer.port.grpc={filer_grpc}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("weed runs");
        let server = S3 { child, port: s3, _folder: folder };
        let start = Instant::now();
        while !server.is_healthy() {
            assert!(start.elapsed() < Duration::from_secs(60), "the S3 gateway does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        // A bucket is a folder of the filer, and making it there needs no signature.
        let made = exchange(filer, &format!("POST /buckets/{BUCKET}/ HTTP/1.0\r\nContent-Length: 0\r\n\r\n"));
        assert!(made.is_some_and(|answer| answer.contains(" 201 ")), "the bucket cannot be made");
        // The gateway is healthy before the volume server has registered; until then every write fails or waits.
        let object = format!("PUT /buckets/{BUCKET}/ready HTTP/1.0\r\nContent-Length: 5\r\n\r\nready");
        while !exchange(filer, &object).is_some_and(|answer| answer.contains(" 201 ")) {
            assert!(start.elapsed() < Duration::from_secs(60), "the S3 server stores nothing");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn is_healthy(&self) -> bool {
        let answer = exchange(self.port, "GET /healthz HTTP/1.0\r\n\r\n");
        answer.is_some_and(|answer| answer.contains(" 200 "))
    }

    pub(crate) fn url(&self) -> String {
        url(self.port)
    }

    /// Stops responding without closing anything, like a machine that hangs.
    pub(crate) fn freeze(&self) {
        let status = Command::new("kill").args(["-STOP", &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The answer to a request; `None` if there is none.
fn exchange(port: u16, request: &str) -> Option<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let mut answer = String::new();
    socket.write_all(request.as_bytes()).and_then(|()| socket.read_to_string(&mut answer)).ok()?;
    Some(answer)
}

/// The store at a loopback port, as a user names it.
pub(crate) fn url(port: u16) -> String {
    format!("s3://{BUCKET}/cache?endpoint=http://127.0.0.1:{port}&region=us-east-1")
}

/// The system's server, or one that is fetched into the target folder.
fn program() -> String {
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/s3/install");
    let output = Command::new(&install).stderr(Stdio::inherit()).output().expect("bash runs");
    assert!(output.status.success(), "{} failed: it says above what to install", install.display());
    String::from_utf8(output.stdout).expect("a path").trim().to_owned()
}
