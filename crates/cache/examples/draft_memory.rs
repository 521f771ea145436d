//! What a draft memory costs: builds one from a file of token ids (u32, little endian) as answers of 500 tokens each,
//! and prints bytes per token and the seconds it took.
//!
//! `cargo run --release -p foretoken-cache --example draft_memory -- tokens.bin`

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use std::time::Instant;

use foretoken_cache::DraftMemory;

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).ok_or_else(|| std::io::Error::other("name a file of token ids"))?;
    let bytes = std::fs::read(path)?;
    let tokens: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let start = Instant::now();
    let mut memory = DraftMemory::new(usize::MAX);
    for text in tokens.chunks(500) {
        let (prompt, answer) = text.split_at(text.len() / 2);
        memory.remember(prompt, answer);
    }
    let (held, seconds) = (memory.tokens(), start.elapsed().as_secs_f64());
    println!(
        "{held} of {} tokens held, {:.1} bytes per token, {seconds:.3} s",
        tokens.len(),
        memory.bytes() as f64 / held as f64
    );
    Ok(())
}
