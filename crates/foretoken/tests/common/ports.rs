//! Ports for servers that must be told theirs.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Where the search begins, below the ports that the system gives to connections and to sockets bound to port 0: one of
/// those could be given away again before the server binds it.
const FIRST: u16 = 12_000;
/// Test programs begin at different places.
const PLACES: u32 = 16_000;

/// Ports of the loopback address that are free and that no other call in this process returns.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = FIRST + (std::process::id() % PLACES) as u16;
    std::array::from_fn(|_| {
        loop {
            let port = start + NEXT.fetch_add(1, Ordering::Relaxed);
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        }
    })
}
