//! The two ceilings of a step on this machine: memory bandwidth and dot product rate.
//!
//! Both are measured, with the pool that serves requests.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::compute::Compute;
use crate::memory::Memory;
use crate::simd::{Kernel, Simd16};

/// Bytes read per pass: much more than the last-level cache share of any known CPU.
const BUFFER: usize = 512 << 20;
const PASSES: usize = 5;
/// Dot products per worker and pass.
const DOTS: usize = 1 << 22;

/// Sustained read bandwidth in GB/s (10^9 bytes) with all threads of `c`, the best of several passes; `None` when the
/// buffer cannot be allocated.
#[must_use]
pub fn read_bandwidth_gbps(c: &Compute) -> Option<f64> {
    let mut buffer = Memory::zeroed(BUFFER)?;
    let bytes = crate::share::Shared::new(&mut buffer);
    c.pool().run(&|worker| {
        let share = worker.share(BUFFER / 4096);
        // SAFETY: shares of workers are disjoint.
        unsafe { bytes.part(share.start * 4096, share.len() * 4096) }.fill(1);
    });
    let buffer = &buffer;
    let time = best_time(c, |worker| {
        let share = worker.share(BUFFER / 4096);
        black_box(c.token().dispatch(Read(&buffer[share.start * 4096..share.end * 4096])));
    });
    Some(BUFFER as f64 / time.as_secs_f64() / 1e9)
}

/// Rate of byte dot products in TOPS (10^12 multiplications and additions per second) with all threads of `c`.
#[must_use]
pub fn dot_rate_tops(c: &Compute) -> f64 {
    let time = best_time(c, |_| {
        black_box(c.token().dispatch(Dots));
    });
    (c.pool().threads() * DOTS * 128) as f64 / time.as_secs_f64() / 1e12
}

fn best_time(c: &Compute, work: impl Fn(crate::pool::Worker) + Sync) -> Duration {
    let times = (0..PASSES).map(|_| {
        let start = Instant::now();
        c.pool().run(&work);
        start.elapsed()
    });
    times.min().unwrap_or_default()
}

/// ORs all 64-byte lines.
struct Read<'a>(&'a [u8]);

impl Kernel for Read<'_> {
    type Out = u8;

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) -> u8 {
        let (lines, _) = self.0.as_chunks::<256>();
        let mut sums = {
            let zeros = [0u8; 64];
            // SAFETY: 64 bytes.
            [unsafe { s.load_b(zeros.as_ptr()) }; 4]
        };
        for line in lines {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: 64 of the line's 256 bytes.
                *sum = s.or_b(*sum, unsafe { s.load_b(line.as_ptr().add(64 * i)) });
            }
        }
        let all = s.or_b(s.or_b(sums[0], sums[1]), s.or_b(sums[2], sums[3]));
        // SAFETY: a zmm-sized value has at least one byte.
        unsafe { (&raw const all).cast::<u8>().read() }
    }
}

/// Independent chains of dot products.
struct Dots;

impl Kernel for Dots {
    type Out = i32;

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) -> i32 {
        const CHAINS: usize = 12;
        let bytes = black_box([1u8; 64]);
        // SAFETY: 64 bytes, and 4 of them.
        let codes = unsafe { s.load_b(bytes.as_ptr()) };
        let mut sums = [s.zero_i(); CHAINS];
        for _ in 0..DOTS / CHAINS {
            // Opaque and different for every chain, or the compiler would hoist the products.
            let bytes = black_box(&bytes).as_ptr();
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: 4 bytes of the 64.
                *sum = unsafe { s.dot(*sum, codes, bytes.add(4 * i)) };
            }
        }
        let mut all = sums[0];
        for sum in &sums[1..] {
            all = s.add_i(all, *sum);
        }
        // SAFETY: a vector of 16 integers has at least one.
        unsafe { (&raw const all).cast::<i32>().read() }
    }
}
