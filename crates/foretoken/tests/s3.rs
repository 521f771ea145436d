//! The shared cache on a real S3 server, end to end. Runs in a build with the feature `s3`:
//! `cargo test --release --workspace --features foretoken/s3 --test s3`.
#![cfg(feature = "s3")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use common::s3::{CREDENTIALS, S3, url};
use common::site::{BLOCK_TOKENS, Site, ask, dropped, shared_metric, until, written};

#[test]
fn blocks_of_one_server_hit_on_the_other() {
    let (site, s3) = (Site::with_env(&CREDENTIALS), S3::start());
    let (one, two) = (site.start("one", &s3.url()), site.start("two", &s3.url()));
    let cold = ask(&one, "Bread");
    until("all blocks are stored or dropped", || written(&one) + dropped(&one) == cold.blocks);
    assert_eq!(dropped(&one), 0, "{:?}", site.complaints("one"));
    // By now the planner has measured what prefill costs on this machine.
    ask(&two, "Milk");
    let warm = ask(&two, "Bread");
    assert_eq!((cold.hit, &warm.text), (0, &cold.text));
    assert_eq!(site.plain_text("Bread"), cold.text);
    // The last token of a prompt is always computed, so a prompt of whole blocks loses one of them.
    assert!(
        warm.hit + 2 * BLOCK_TOKENS > cold.blocks * BLOCK_TOKENS,
        "{} of {} blocks",
        warm.hit,
        cold.blocks
    );
    assert_eq!((site.complaints("one"), site.complaints("two")), (vec![], vec![]));
}

#[test]
fn another_key_is_refused_and_costs_misses_only() {
    let strangers = [("AWS_ACCESS_KEY_ID", "cache-key"), ("AWS_SECRET_ACCESS_KEY", "wrong")];
    let (site, s3) = (Site::with_env(&strangers), S3::start());
    let server = site.start("stranger", &s3.url());
    assert_eq!(ask(&server, "Bread").text, site.plain_text("Bread"));
    until("it is logged", || !site.complaints("stranger").is_empty());
    let complaint = site.complaints("stranger").remove(0);
    // It says what the operator needs to know, and not the key.
    assert!(complaint.contains("denied") && complaint.contains("SignatureDoesNotMatch"), "{complaint}");
    assert!(!complaint.contains("wrong"), "{complaint}");
    assert_eq!(written(&server), 0);
}

#[test]
fn a_store_that_is_killed_or_hangs_costs_its_timeout_once() {
    let site = Site::with_env(&CREDENTIALS);
    let topics: Vec<String> = (0..5).map(|i| format!("Bread of kind {i}")).collect();
    let plain = site.plain();
    let expected: Vec<String> = topics.iter().map(|topic| ask(&plain, topic).text).collect();
    for hangs in [false, true] {
        let name = if hangs { "hangs" } else { "killed" };
        let s3 = S3::start();
        let server = site.start(name, &s3.url());
        assert_eq!(ask(&server, &topics[0]).text, expected[0]);
        // A frozen server is kept until the end: once dropped, it refuses connections instead of hanging.
        let frozen = hangs.then(|| s3.freeze()).map(|()| s3);
        for (topic, text) in topics[1..].iter().zip(&expected[1..]) {
            assert_eq!(ask(&server, topic).text, *text, "{name}");
        }
        // One lookup and one write may have been under way when the breaker opened.
        let waited = shared_metric(&server, "foretoken_cache_faults_total", "timeout");
        assert!(waited <= 2, "{waited} operations waited for a store that {name}");
        until("it is logged", || !site.complaints(name).is_empty());
        assert!(site.complaints(name).len() <= 2, "{:?}", site.complaints(name));
        drop(frozen);
    }
}

#[test]
fn whatever_stands_behind_the_endpoint_costs_misses_only() {
    let answers: [(&str, Garbage); 4] = [
        ("noise", |socket| socket.write_all(&[0xff; 4096])),
        ("short", |socket| socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nFTK")),
        ("torn", |socket| socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nFTKBLOCK")),
        ("endless", |socket| {
            socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                socket.write_all(b"10000\r\n")?;
                socket.write_all(&[0x46; 1 << 16])?;
                socket.write_all(b"\r\n")?;
            }
        }),
    ];
    let site = Site::with_env(&CREDENTIALS);
    let expected = site.plain_text("Bread");
    for (name, answer) in answers {
        let server = site.start(name, &url(serve_garbage(answer)));
        // The second prompt is looked up while the store is known to be bad, or again.
        ask(&server, "Milk");
        let answer = ask(&server, "Bread");
        assert_eq!((answer.text, answer.hit), (expected.clone(), 0), "{name}");
        assert!(site.complaints(name).len() <= 4, "{name}: {:?}", site.complaints(name));
    }
}

type Garbage = fn(&mut TcpStream) -> std::io::Result<()>;

/// A port where every request gets `answer`. Its threads end with the test.
fn serve_garbage(answer: Garbage) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("a bound socket has one").port();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut socket = socket;
                // What was asked does not matter. Errors: the client has heard enough.
                let _ = socket.read(&mut [0; 65536]).and_then(|_| answer(&mut socket));
            });
        }
    });
    port
}
