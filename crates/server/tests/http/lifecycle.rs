//! Over a real socket: clients that leave, deadlines, and stopping.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use foretoken_server::{ServeError, ServerConfig, Shutdown, Trigger};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::fake_server::{Engine, Script, post, start};

struct Running {
    address: SocketAddr,
    engine: Arc<Engine>,
    trigger: Trigger,
    served: JoinHandle<Result<(), ServeError>>,
}

async fn run(config: ServerConfig, script: Script) -> Running {
    let config = ServerConfig { port: 0, ..config };
    let listener = config.bind().await.unwrap().listen().unwrap();
    let address = listener.local_addr().unwrap();
    let (server, engine) = start(config, script);
    let (trigger, shutdown) = Shutdown::manual();
    let served = tokio::spawn(server.serve(listener, shutdown));
    Running { address, engine, trigger, served }
}

async fn ask(address: SocketAddr, stream: bool) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let body = json!({"prompt": "x", "stream": stream}).to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    socket
}

async fn read_until(socket: &mut TcpStream, word: &str) -> String {
    let mut text = String::new();
    while !text.contains(word) {
        let mut bytes = [0; 1024];
        let count = socket.read(&mut bytes).await.unwrap();
        assert!(count > 0, "the end, without {word}, after {text}");
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    text
}

async fn until_submitted(engine: &Engine) {
    for _ in 0..200 {
        if !engine.seen.lock().unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing was submitted");
}

#[tokio::test]
async fn a_disconnect_cancels_the_sequence() {
    for stream in [true, false] {
        let running = run(ServerConfig::default(), Script::Hang).await;
        let mut socket = ask(running.address, stream).await;
        if stream {
            read_until(&mut socket, "\"text\":\"x\"").await;
        } else {
            until_submitted(&running.engine).await;
        }
        assert_eq!(running.engine.left.load(Ordering::SeqCst), 0);
        drop(socket);
        running.engine.until_left(1).await;
    }
}

#[tokio::test]
async fn an_idle_stream_is_kept_alive() {
    let running = run(ServerConfig { keep_alive_s: 1, ..ServerConfig::default() }, Script::Hang).await;
    let mut socket = ask(running.address, true).await;
    read_until(&mut socket, "\n: keep-alive\n\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_ends_the_response_with_an_error() {
    let config = ServerConfig { request_timeout_s: 5, ..ServerConfig::default() };
    let (server, engine) = start(config, Script::Hang);
    let reply = post(&server, "/v1/completions", &json!({"prompt": "x", "n": 2})).await;
    assert_eq!(reply.status, 408);
    assert_eq!(reply.json()["error"]["code"], "request_timeout");
    engine.until_left(2).await;

    let reply = post(&server, "/v1/completions", &json!({"prompt": "x", "stream": true})).await;
    let text: String = reply.text.lines().filter(|line| !line.starts_with(':')).collect();
    let error = text.split("data: ").nth(2).unwrap();
    assert_eq!(serde_json::from_str::<Value>(error).unwrap()["error"]["type"], "timeout_error");
    assert!(text.ends_with("data: [DONE]"));
    engine.until_left(3).await;
}

#[tokio::test]
async fn shutdown_finishes_running_requests() {
    let running = run(ServerConfig::default(), Script::Slow(20)).await;
    let mut socket = ask(running.address, true).await;
    read_until(&mut socket, "\"text\":\"x\"").await;
    running.trigger.stop();
    read_until(&mut socket, "[DONE]").await;
    running.served.await.unwrap().unwrap();
    assert!(running.engine.draining.load(Ordering::SeqCst));
    assert_eq!(running.engine.left.load(Ordering::SeqCst), 0);
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn the_grace_period_aborts_unfinished_requests() {
    let running = run(ServerConfig { grace_s: 0, ..ServerConfig::default() }, Script::Hang).await;
    let mut socket = ask(running.address, true).await;
    read_until(&mut socket, "\"text\":\"x\"").await;
    running.trigger.stop();
    let end = read_until(&mut socket, "[DONE]").await;
    assert!(end.contains("\"code\":\"draining\""), "{end}");
    running.served.await.unwrap().unwrap();
    running.engine.until_left(1).await;
}

#[tokio::test]
async fn a_second_signal_ends_the_grace_period() {
    let running = run(ServerConfig { grace_s: 600, ..ServerConfig::default() }, Script::Hang).await;
    let mut socket = ask(running.address, true).await;
    read_until(&mut socket, "\"text\":\"x\"").await;
    let began = Instant::now();
    running.trigger.stop();
    running.trigger.stop();
    read_until(&mut socket, "\"code\":\"draining\"").await;
    running.served.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(60));
}
