//! The shared tier over a folder, and over stores that are unreachable, unresponsive or full.
//!
//! The Redis tests need the feature, which is on when the whole workspace is tested, and a server, which
//! `tests/redis/install` finds or fetches.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{LAYOUT, assert_true, compute_all, prompt, scope};
use foretoken_cache::{BlockPool, Enqueued, Fault, SharedConfig, SharedTier, Store, SystemClock, Wanted};

fn config(store: Store) -> SharedConfig {
    SharedConfig {
        timeout: Duration::from_secs(5),
        queue_blocks: 100,
        pause_first: Duration::from_millis(50),
        ..SharedConfig::new(store)
    }
}

fn open(config: SharedConfig) -> SharedTier {
    SharedTier::open(config, Arc::new(SystemClock::new())).unwrap()
}

fn folder_store(folder: &Path) -> SharedTier {
    open(config(Store::Folder(folder.to_owned())))
}

fn write(tier: &SharedTier, tokens: &[u32]) {
    let pool = BlockPool::new(LAYOUT, 100);
    compute_all(&pool, &scope("alice"), tokens).iter().for_each(|block| {
        assert_eq!(tier.write(block), Enqueued::Queued);
    });
    tier.flush();
}

fn read(tier: &SharedTier, tokens: &[u32]) -> usize {
    let pool = BlockPool::new(LAYOUT, 2);
    let wanted = Wanted::chain(&scope("alice"), tokens, 0);
    let read =
        wanted.iter().map_while(|wanted| tier.read(wanted, pool.open().unwrap()).ok().inspect(assert_true));
    read.count()
}

fn entry(folder: &Path, tokens: &[u32], nth: usize) -> PathBuf {
    let key = Wanted::chain(&scope("alice"), tokens, 0)[nth].key.to_string();
    folder.join(&key[..2]).join(key)
}

#[test]
fn one_machine_reads_what_another_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder_store(folder.path()), folder_store(folder.path()));
    write(&one, &prompt(1, 3));
    assert_eq!(read(&two, &prompt(1, 3)), 3);
    assert_eq!((two.stats().queries, two.stats().read, two.stats().faults), (3, 3, vec![]));
}

#[test]
fn an_existing_entry_is_not_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder_store(folder.path()), folder_store(folder.path()));
    write(&one, &prompt(1, 3));
    write(&two, &prompt(1, 3));
    assert_eq!((one.stats().written, two.stats().written), (3, 0));
}

#[test]
fn an_absent_entry_is_a_miss_and_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    let tier = folder_store(folder.path());
    assert_eq!(read(&tier, &prompt(1, 3)), 0);
    assert!(tier.is_available() && tier.stats().faults.is_empty());
}

#[test]
fn a_bad_entry_is_a_miss_and_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let tier = folder_store(folder.path());
    let tokens = prompt(1, 3);
    write(&tier, &tokens);
    let path = entry(folder.path(), &tokens, 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(read(&tier, &tokens), 1);
    assert_eq!(tier.stats().faults, [(Fault::Corrupt, 1)]);
    assert!(tier.is_available(), "the store itself works");
    write(&tier, &tokens);
    assert_eq!(read(&tier, &tokens), 3);
}

#[test]
fn an_entry_that_is_too_long_is_a_miss_and_is_not_received_whole() {
    let folder = tempfile::tempdir().unwrap();
    let tier = folder_store(folder.path());
    let tokens = prompt(1, 1);
    write(&tier, &tokens);
    // Sparse: a terabyte that takes no room on the disk, and more than the memory of the machine if it were read.
    let entry = std::fs::File::options().write(true).open(entry(folder.path(), &tokens, 0)).unwrap();
    entry.set_len(1 << 40).unwrap();
    assert_eq!(read(&tier, &tokens), 0);
    assert_eq!(tier.stats().faults, [(Fault::Torn, 1)]);
    assert!(tier.is_available(), "the store itself works");
}

#[test]
fn a_block_over_the_limit_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(SharedConfig { entry_bytes_max: 4096, ..config(Store::Folder(folder.path().into())) });
    write(&tier, &prompt(1, 1));
    assert_eq!((tier.stats().written, tier.stats().faults), (0, vec![(Fault::TooLarge, 1)]));
}

#[test]
fn an_unfilled_block_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let tier = folder_store(folder.path());
    let pool = BlockPool::new(LAYOUT, 1);
    let block = compute_all(&pool, &scope("alice"), &prompt(1, 1)[..40]).remove(0);
    assert_eq!(tier.write(&block), Enqueued::Unfilled);
}

#[cfg(feature = "redis")]
mod redis {
    use std::net::{TcpListener, TcpStream};
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use super::*;

    fn store(port: u16) -> Store {
        format!("redis://127.0.0.1:{port}").parse().unwrap()
    }

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    struct Server(Child);

    impl Server {
        fn start(port: u16, memory: &str) -> Server {
            let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/redis/install");
            let program = Command::new(install).stderr(Stdio::inherit()).output().expect("bash runs");
            assert!(program.status.success(), "tests/redis/install says what is missing");
            let program = String::from_utf8(program.stdout).unwrap();
            let port_text = port.to_string();
            let settings = ["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--maxmemory", memory];
            let child = Command::new(program.trim()).args(settings).stdout(Stdio::null()).spawn().unwrap();
            let server = Server(child);
            let began = Instant::now();
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(began.elapsed() < Duration::from_secs(10), "redis-server does not listen");
                std::thread::sleep(Duration::from_millis(10));
            }
            server
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    #[test]
    fn one_machine_reads_what_another_wrote_to_redis() {
        let port = free_port();
        let _server = Server::start(port, "0");
        let (one, two) = (open(config(store(port))), open(config(store(port))));
        write(&one, &prompt(1, 3));
        assert_eq!(read(&two, &prompt(1, 3)), 3);
        assert_eq!(read(&two, &prompt(2, 3)), 0);
        assert_eq!(two.stats().faults, []);
    }

    #[test]
    fn a_killed_redis_is_not_used_until_it_is_back() {
        let port = free_port();
        let server = Server::start(port, "0");
        let tier = open(config(store(port)));
        write(&tier, &prompt(1, 3));
        drop(server);
        assert_eq!(read(&tier, &prompt(1, 3)), 0);
        assert!(!tier.is_available());
        let _server = Server::start(port, "0");
        let began = Instant::now();
        while !tier.is_available() {
            assert!(began.elapsed() < Duration::from_secs(20), "the breaker stays open");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(100));
        write(&tier, &prompt(2, 2));
        assert_eq!(read(&tier, &prompt(2, 2)), 2);
        assert_eq!(tier.stats().breaker_opened, 1);
    }

    #[test]
    fn a_full_redis_still_serves_what_it_has() {
        let port = free_port();
        let _server = Server::start(port, "4mb");
        let tier = open(config(store(port)));
        let large = BlockPool::new(foretoken_cache::BlockLayout::whole(256 << 10), 50);
        let blocks = compute_all(&large, &scope("alice"), &prompt(1, 50));
        blocks.iter().for_each(|block| assert_eq!(tier.write(block), Enqueued::Queued));
        tier.flush();
        let stats = tier.stats();
        assert!(stats.written > 0 && stats.dropped_failed > 0, "{stats:?}");
        assert_eq!(stats.faults, [(Fault::NoSpace, stats.dropped_failed)]);
        drop(blocks);
        let wanted = Wanted::chain(&scope("alice"), &prompt(1, 1), 0).remove(0);
        assert_true(&tier.read(&wanted, large.open().unwrap()).unwrap());
        assert!(tier.is_available());
    }

    #[test]
    fn an_unresponsive_store_costs_its_timeout_once() {
        // Accepts connections and never responds.
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = mute.local_addr().unwrap().port();
        let pause_first = Duration::from_secs(60);
        let timeout = Duration::from_millis(200);
        let tier = open(SharedConfig { timeout, pause_first, ..config(store(port)) });
        let began = Instant::now();
        assert_eq!(read(&tier, &prompt(1, 1)), 0);
        assert!(
            began.elapsed() >= timeout && began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        let began = Instant::now();
        for seed in 2..1000 {
            assert_eq!(read(&tier, &prompt(seed, 1)), 0);
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!((tier.stats().queries, tier.stats().faults), (1, vec![(Fault::Timeout, 1)]));
    }

    #[test]
    fn closing_does_not_wait_for_an_unresponsive_store() {
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = mute.local_addr().unwrap().port();
        let tier = open(SharedConfig { timeout: Duration::from_millis(200), ..config(store(port)) });
        let pool = BlockPool::new(LAYOUT, 50);
        compute_all(&pool, &scope("alice"), &prompt(1, 50)).iter().for_each(|block| {
            assert_eq!(tier.write(block), Enqueued::Queued);
        });
        let began = Instant::now();
        drop(tier);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(pool.counts().free, 50);
    }
}
