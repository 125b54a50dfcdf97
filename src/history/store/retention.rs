//! What is given up of a history that has grown too large or too old.

use std::path::Path;

use super::{Store, StoreError};
use crate::history::judge::HORIZON;

/// Saves whose details go at a time.
const BATCH: i64 = 16;

impl Store {
    /// Gives up the details of the oldest saves until the database takes at most `limit` bytes, then
    /// whole runs whose directories are gone, the one measured longest ago first. The newest
    /// `HORIZON` saves of each run keep their details. Returns how many saves lost something.
    ///
    /// # Errors
    /// As SQLite has them.
    pub fn shrink_to(&mut self, limit: u64) -> Result<usize, StoreError> {
        let mut n_shrunk = 0;
        while self.n_bytes()? > limit {
            let n = match self.drop_details(f64::INFINITY)? {
                0 => self.drop_run(f64::INFINITY)?,
                n => n,
            };
            if n == 0 {
                break;
            }
            n_shrunk += n;
            self.give_back_pages()?;
        }
        Ok(n_shrunk)
    }

    /// Gives up what was measured before this time, Unix seconds: the details of saves, as
    /// [`shrink_to`](Self::shrink_to) does, and whole runs without a directory of which nothing is
    /// younger. Returns how many saves lost something.
    ///
    /// # Errors
    /// As SQLite has them.
    pub fn forget_before(&mut self, time: f64) -> Result<usize, StoreError> {
        let mut n_forgotten = 0;
        loop {
            let n = match self.drop_details(time)? {
                0 => self.drop_run(time)?,
                n => n,
            };
            if n == 0 {
                break;
            }
            n_forgotten += n;
        }
        if n_forgotten > 0 {
            self.give_back_pages()?;
        }
        Ok(n_forgotten)
    }

    /// Bytes of the database, without its log.
    fn n_bytes(&self) -> Result<u64, StoreError> {
        let get =
            |pragma| self.connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        let (pages, free, size) = (get("page_count")?, get("freelist_count")?, get("page_size")?);
        Ok(u64::try_from(pages.saturating_sub(free).saturating_mul(size)).unwrap_or(0))
    }

    fn give_back_pages(&mut self) -> Result<(), StoreError> {
        // Each step gives back one page.
        let mut vacuum = self.connection.prepare("PRAGMA incremental_vacuum")?;
        let mut pages = vacuum.query([])?;
        while pages.next()?.is_some() {}
        Ok(())
    }

    /// Of a few saves measured before `time`; how many.
    fn drop_details(&mut self, time: f64) -> Result<usize, StoreError> {
        let horizon = i64::try_from(HORIZON).unwrap_or(i64::MAX);
        let transaction = self.connection.transaction()?;
        let oldest: Vec<i64> = transaction
            .prepare(
                "SELECT id FROM (SELECT id, analyzed_at, row_number() OVER \
                 (PARTITION BY run ORDER BY segment DESC, place DESC) AS age FROM saves \
                 WHERE has_details) WHERE age > ?1 AND analyzed_at < ?2 \
                 ORDER BY analyzed_at LIMIT ?3",
            )?
            .query_map((horizon, time, BATCH), |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for save in &oldest {
            for table in
                ["matrices", "rotations", "pairs", "overlaps", "heads", "classifiers", "skipped"]
            {
                transaction.execute(&format!("DELETE FROM {table} WHERE save = ?1"), [save])?;
            }
            transaction.execute("UPDATE saves SET has_details = 0 WHERE id = ?1", [save])?;
        }
        transaction.commit()?;
        Ok(oldest.len())
    }

    /// A run without a directory of which nothing was measured since `time`; how many saves it had.
    fn drop_run(&mut self, time: f64) -> Result<usize, StoreError> {
        let by_age: Vec<(i64, String)> = self
            .connection
            .prepare(
                "SELECT r.id, r.path FROM runs r JOIN saves s ON s.run = r.id GROUP BY r.id \
                 HAVING max(s.analyzed_at) < ?1 ORDER BY max(s.analyzed_at)",
            )?
            .query_map([time], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        // A disk that does not answer is no reason to forget.
        let is_gone = |path: &String| matches!(Path::new(path).try_exists(), Ok(false));
        let Some((run, _)) = by_age.iter().find(|(_, path)| is_gone(path)) else { return Ok(0) };
        let transaction = self.connection.transaction()?;
        let n_saves: i64 =
            transaction
                .query_row("SELECT count(*) FROM saves WHERE run = ?1", [run], |row| row.get(0))?;
        transaction.execute("DELETE FROM counters WHERE run = ?1", [run])?;
        transaction.execute("DELETE FROM runs WHERE id = ?1", [run])?;
        transaction.commit()?;
        Ok(usize::try_from(n_saves).unwrap_or(0))
    }
}
