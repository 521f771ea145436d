//! The writing thread: applies queued writes, one transaction per batch, and enforces the bounds.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, params};

use super::config::StoreConfig;
use super::counters::StoreCounters;
use super::ledger_row::LedgerRow;
use super::response::ResponseKey;
use super::retention;
use crate::clock::{Clock, wall_ms};
use crate::keys::ScopeId;

/// Maximum writes per transaction.
const BATCH_MAX: usize = 256;
/// Rows evicted at a time.
const EVICT_BATCH: usize = 64;

/// A queued write.
pub(super) enum Write {
    Response {
        key: ResponseKey,
        scope: ScopeId,
        body: Vec<u8>,
        checksum: i64,
        now_ms: u64,
    },
    Touch(ResponseKey, u64),
    Remove(ResponseKey),
    Forget(Option<ScopeId>),
    Ledger(Box<LedgerRow>),
    Limits(Vec<(String, u64)>),
    /// Acknowledged when everything before it is on disk.
    Flush(Sender<()>),
}

/// The queue's sender and the writing thread.
pub(super) struct Writer {
    queue: Option<SyncSender<Write>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        db: Connection,
        config: StoreConfig,
        counters: Arc<StoreCounters>,
        clock: Arc<dyn Clock>,
    ) -> Writer {
        let (queue, writes) = sync_channel(config.queue.max(1));
        let total = "SELECT coalesce(sum(length(body)), 0) FROM responses";
        let bytes = db.query_row(total, [], |row| row.get::<_, i64>(0)).unwrap_or(0) as u64;
        counters.ledger_bytes.store(retention::totals(&db).map_or(0, |(_, bytes)| bytes), Relaxed);
        let task = Task { db, config, counters, clock, bytes };
        let thread = std::thread::Builder::new().name("database".into()).spawn(move || task.run(&writes));
        // Without a thread the receiver is dropped and every write counts as dropped.
        Writer { queue: Some(queue), thread: thread.ok() }
    }

    /// False if the queue is full.
    pub(super) fn try_send(&self, write: Write) -> bool {
        let Some(queue) = &self.queue else { return false };
        !matches!(queue.try_send(write), Err(TrySendError::Full(_) | TrySendError::Disconnected(_)))
    }

    /// Blocks while the queue is full.
    pub(super) fn send(&self, write: Write) {
        if let Some(queue) = &self.queue {
            // Fails only if the thread ended; then nothing is left to wait for.
            let _ = queue.send(write);
        }
    }

    pub(super) fn flush(&self) {
        let (done, wait) = channel();
        self.send(Write::Flush(done));
        let _ = wait.recv();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Task {
    db: Connection,
    config: StoreConfig,
    counters: Arc<StoreCounters>,
    clock: Arc<dyn Clock>,
    /// Bytes of all stored bodies.
    bytes: u64,
}

impl Task {
    fn run(mut self, writes: &Receiver<Write>) {
        while let Ok(first) = writes.recv() {
            let mut batch = vec![first];
            batch.extend(writes.try_iter().take(BATCH_MAX - 1));
            let mut waiting = Vec::new();
            let written = self.write(batch, &mut waiting).and_then(|()| self.keep_bounds());
            self.counters.responses_bytes.store(self.bytes, Relaxed);
            if let Err(error) = written {
                self.counters.fault(&self.counters.write_errors, "cannot write the database", &error);
            }
            // The caller of a flush may have stopped waiting.
            for done in waiting {
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self, batch: Vec<Write>, waiting: &mut Vec<Sender<()>>) -> rusqlite::Result<()> {
        let mut writes = Vec::with_capacity(batch.len());
        for write in batch {
            match write {
                Write::Flush(done) => waiting.push(done),
                other => writes.push(other),
            }
        }
        let transaction = self.db.transaction()?;
        let mut stored = (0, 0);
        let mut ledger_bytes = 0;
        for write in &writes {
            apply(&transaction, write, &mut stored)?;
            if let Write::Ledger(row) = write {
                ledger_bytes += retention::row_bytes(row);
            }
        }
        transaction.commit()?;
        self.counters.ledger_bytes.fetch_add(ledger_bytes, Relaxed);
        self.counters.stored.fetch_add(stored.0, Relaxed);
        self.bytes += stored.1;
        if writes.iter().any(|write| matches!(write, Write::Forget(_) | Write::Remove(_))) {
            self.recount()?;
        }
        Ok(())
    }

    fn recount(&mut self) -> rusqlite::Result<()> {
        let total = "SELECT coalesce(sum(length(body)), 0) FROM responses";
        self.bytes = self.db.query_row(total, [], |row| row.get::<_, i64>(0))? as u64;
        Ok(())
    }

    /// Deletes expired responses, then the least recently used, until the bounds hold.
    fn keep_bounds(&mut self) -> rusqlite::Result<()> {
        let oldest = wall_ms(&*self.clock).saturating_sub(self.config.responses_age_ms_max);
        let aged = self.db.execute("DELETE FROM responses WHERE used_ms < ?1", [oldest.cast_signed()])?;
        if aged > 0 {
            self.counters.evicted_age.fetch_add(aged as u64, Relaxed);
            self.recount()?;
        }
        while self.bytes > self.config.responses_bytes_max {
            let sql =
                "DELETE FROM responses WHERE key IN (SELECT key FROM responses ORDER BY used_ms LIMIT ?1)";
            let gone = self.db.execute(sql, [EVICT_BATCH as i64])?;
            self.counters.evicted_bytes.fetch_add(gone as u64, Relaxed);
            self.recount()?;
            if gone == 0 {
                break;
            }
        }
        self.keep_ledger_bounds()
    }

    /// Sums up rows of the ledger that are too old, then the oldest, until the bounds hold.
    fn keep_ledger_bounds(&mut self) -> rusqlite::Result<()> {
        let oldest = wall_ms(&*self.clock).saturating_sub(self.config.ledger_age_ms_max);
        let mut summed = retention::sum_up_old(&mut self.db, oldest)?;
        let mut bytes = self.counters.ledger_bytes.load(Relaxed);
        while summed > 0 || bytes > self.config.ledger_bytes_max {
            self.counters.ledger_summed.fetch_add(summed, Relaxed);
            bytes = retention::totals(&self.db)?.1;
            self.counters.ledger_bytes.store(bytes, Relaxed);
            if bytes <= self.config.ledger_bytes_max {
                break;
            }
            summed = retention::sum_up_oldest(&mut self.db)?;
            if summed == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// Applies one write; `stored` counts new responses and their bytes.
fn apply(db: &Connection, write: &Write, stored: &mut (u64, u64)) -> rusqlite::Result<()> {
    match write {
        Write::Response { key, scope, body, checksum, now_ms } => {
            // The responses to a deterministic request are equal; the first is kept.
            let sql = "INSERT OR IGNORE INTO responses (key, scope, body, checksum, created_ms, used_ms) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?5)";
            let values = params![key.as_bytes(), scope.as_bytes(), body, checksum, now_ms.cast_signed()];
            let new = db.prepare_cached(sql)?.execute(values)? as u64;
            stored.0 += new;
            stored.1 += new * body.len() as u64;
        }
        Write::Touch(key, now_ms) => {
            let sql = "UPDATE responses SET used_ms = max(used_ms, ?2) WHERE key = ?1";
            db.prepare_cached(sql)?.execute(params![key.as_bytes(), now_ms.cast_signed()])?;
        }
        Write::Remove(key) => {
            db.execute("DELETE FROM responses WHERE key = ?1", [key.as_bytes()])?;
        }
        Write::Forget(None) => {
            db.execute("DELETE FROM responses", [])?;
        }
        Write::Forget(Some(scope)) => {
            db.execute("DELETE FROM responses WHERE scope = ?1", [scope.as_bytes()])?;
        }
        Write::Ledger(row) => insert_row(db, row)?,
        Write::Limits(limits) => {
            db.execute("DELETE FROM limits", [])?;
            for (name, bytes) in limits {
                let bytes = i64::try_from(*bytes).unwrap_or(i64::MAX);
                db.execute(
                    "INSERT OR REPLACE INTO limits (name, bytes) VALUES (?1, ?2)",
                    params![name, bytes],
                )?;
            }
        }
        Write::Flush(_) => {}
    }
    Ok(())
}

fn insert_row(db: &Connection, row: &LedgerRow) -> rusqlite::Result<()> {
    let sql = "INSERT INTO ledger (time_ms, tenant, model, hit, miss, output, reasoning, drafted, accepted, \
               replayed, price, saved, saved_ms, queue_ms, prompt_ms, total_ms, user, \
               credit_earned_us, credit_spent_us) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)";
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    db.prepare_cached(sql)?.execute(params![
        number(row.time_ms),
        row.tenant,
        row.model,
        number(row.hit),
        number(row.miss),
        number(row.output),
        number(row.reasoning),
        number(row.drafted),
        number(row.accepted),
        row.replayed,
        row.price,
        row.saved,
        number(row.saved_ms),
        number(row.queue_ms),
        number(row.prompt_ms),
        number(row.total_ms),
        row.user,
        number(row.credit_earned_us),
        number(row.credit_spent_us),
    ])?;
    Ok(())
}
