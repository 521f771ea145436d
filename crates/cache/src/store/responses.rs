//! Looking up, storing and deleting responses.

use std::sync::atomic::Ordering::Relaxed;

use rusqlite::{Connection, OptionalExtension};

use super::Store;
use super::database::connect;
use super::response::{Response, ResponseKey, checked, checksum, encode};
use super::writer::Write;
use crate::keys::ScopeId;

impl Store {
    /// The stored response to a request, if there is one with the same prompt.
    pub fn response(&self, key: &ResponseKey, prompt: &[u32]) -> Option<Response> {
        self.counters.queries.fetch_add(1, Relaxed);
        let sql = "SELECT body, checksum FROM responses WHERE key = ?1";
        let row: Option<(Vec<u8>, i64)> = self.read(|db| {
            db.prepare_cached(sql)?
                .query_row([key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        });
        let (body, checksum) = row?;
        let Some(response) = checked(&body, checksum) else {
            let what = "a stored response does not match its checksum";
            self.counters.fault(&self.counters.damaged_rows, what, &"row removed");
            self.send(Write::Remove(*key));
            return None;
        };
        if response.prompt != prompt {
            return None;
        }
        self.counters.hits.fetch_add(1, Relaxed);
        self.send(Write::Touch(*key, self.now_ms()));
        Some(response)
    }

    /// Stores a response. Queued; dropped and counted if the queue is full.
    pub fn keep_response(&self, key: ResponseKey, scope: ScopeId, response: &Response) {
        let body = encode(response);
        let checksum = checksum(&body);
        self.send(Write::Response { key, scope, body, checksum, now_ms: self.now_ms() });
    }

    /// Calls `each` with the responses, most recently used first, while it returns true. Damaged rows are skipped. Has a
    /// connection of its own, so that no lookup waits for it.
    pub fn each_response_newest(&self, mut each: impl FnMut(ScopeId, Response) -> bool) {
        let sql = "SELECT scope, body, checksum FROM responses ORDER BY used_ms DESC";
        let scan = |db: &Connection| -> rusqlite::Result<()> {
            let mut statement = db.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (id, body, checksum): ([u8; 32], Vec<u8>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let Some(response) = checked(&body, checksum) else { continue };
                if !each(ScopeId::from_bytes(id), response) {
                    break;
                }
            }
            Ok(())
        };
        match self.path().map(connect) {
            Some(Ok((db, _))) => self.read_from(&db, scan),
            _ => self.read(scan),
        }
    }

    /// Deletes the responses of a scope, or all. Blocks until done.
    pub fn forget_responses(&self, scope: Option<ScopeId>) {
        self.writer.send(Write::Forget(scope));
        self.flush();
    }

    /// Number of stored responses, and their bytes.
    pub fn response_totals(&self) -> (u64, u64) {
        let sql = "SELECT count(*), coalesce(sum(length(body)), 0) FROM responses";
        self.read(|db| {
            db.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))
        })
    }
}
