//! What is known of all runs, in SQLite: it outlives restarts, and people may read it.

mod archive;
mod digest;
mod export;
mod load;
mod profiles;
mod retention;
mod rows;
mod words;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::kind::Anomaly;
use super::point::Place;
use super::summary::Summary;
use crate::checkpoint::TrainerState;
use crate::diagnostics::Report;
pub use archive::{Archive, ArchivedRun};
pub use export::{Line as TableLine, export, tables};
pub use load::{StoredRun, StoredSave};
pub use profiles::StoredProfile;

/// The database below the state directory.
pub const FILE: &str = "history.sqlite";

/// Version of the schema, in `PRAGMA user_version`.
const VERSION: i64 = 5;

/// From the schema of a version to that of the next one; the first makes it.
const MIGRATIONS: [&str; 5] = [
    include_str!("store/schema-1.sql"),
    include_str!("store/schema-2.sql"),
    include_str!("store/schema-3.sql"),
    include_str!("store/schema-4.sql"),
    include_str!("store/schema-5.sql"),
];

/// A database up to this size is read whole at every start.
const QUICK_BYTES: u64 = 256 << 20;

/// Damaged databases that are kept.
const MAX_ASIDE: u32 = 10;

/// How long a reader, `sqlite3` in a terminal, may hold up a write.
const BUSY: Duration = Duration::from_secs(5);

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite says no.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// Written by a later version of this program.
    #[error("{}: version {found} of the schema, expected at most {VERSION}", path.display())]
    Newer {
        /// Database.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// A damaged database cannot be moved aside.
    #[error("{}: damaged, and cannot be moved aside", path.display())]
    Aside {
        /// Database.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
}

impl StoreError {
    /// Whether it is about this record, and would be so again.
    #[must_use]
    pub fn is_of_the_record(&self) -> bool {
        use rusqlite::ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
        let Self::Sqlite(error) = self else { return false };
        matches!(error.sqlite_error_code(), Some(ConstraintViolation | TooBig | TypeMismatch))
    }

    /// Whether the database is damaged.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Sqlite(error) if is_damage(error))
    }
}

/// Which content of which save.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaveKey {
    /// Absolute path.
    pub path: String,
    /// Last change of its files.
    pub modified_ns: i64,
    /// Their sizes together.
    pub size_bytes: u64,
}

/// The order of saves as the daemon sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredAge {
    /// Segment by the names of the saves.
    pub segment: u32,
    /// Step from the name.
    pub step: Option<u64>,
    /// Order of first sight.
    pub sequence: u64,
}

/// What came of a save.
#[derive(Debug, Clone)]
pub enum SaveOutcome {
    /// It was measured.
    Measured {
        /// The measurements.
        report: Arc<Report>,
        /// The trainer's record.
        trainer: Box<TrainerState>,
        /// The same in a few numbers.
        summary: Box<Summary>,
    },
    /// It cannot be, and will not change by waiting.
    Failed {
        /// Why, as a counter has it.
        reason: &'static str,
        /// The same in words.
        error: String,
    },
}

/// One save and all that changed with it. It is written whole or not at all.
#[derive(Debug, Clone)]
pub struct Record {
    /// Absolute path of the run.
    pub run_path: String,
    /// Its name.
    pub run_name: String,
    /// The save.
    pub key: SaveKey,
    /// When it was complete by its own files, Unix seconds.
    pub saved_at: Option<f64>,
    /// When it was analysed.
    pub analyzed_at: f64,
    /// Wall time of the analysis, seconds.
    pub seconds: f64,
    /// Where it stands in the judgement.
    pub place: Place,
    /// Where it stands in the daemon's order.
    pub age: StoredAge,
    /// Its step.
    pub step: Option<u64>,
    /// What came of it.
    pub outcome: SaveOutcome,
    /// Place of the last save that was judged.
    pub judged: Option<Place>,
    /// Anomalies that began or ended, in their order.
    pub anomalies: Vec<Anomaly>,
    /// Name and label → value, of the run.
    pub run_counters: BTreeMap<(String, String), f64>,
    /// The same of the daemon.
    pub daemon_counters: BTreeMap<(String, String), f64>,
}

/// What was there when the store was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Nothing.
    New,
    /// The history of before.
    Existing,
    /// A damaged database, which now stands there under another name.
    MovedAside(PathBuf),
}

/// The database. One writer; readers are welcome.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

impl Store {
    /// Opens or makes the database in a directory that is ours alone. A damaged one is moved aside;
    /// of one that takes longer to read than a start should, damage is looked for only where it is
    /// `suspect`, because it refused something.
    ///
    /// # Errors
    /// When it can be neither used nor made, or was written by a later version.
    pub fn open(dir: &Path, suspect: bool) -> Result<(Self, Opened), StoreError> {
        let path = dir.join(FILE);
        let existed = path.exists();
        match twice_if_damaged(|| Self::open_sound(&path, suspect)) {
            Ok(store) => {
                let opened = if existed { Opened::Existing } else { Opened::New };
                Ok((store, opened))
            }
            Err(StoreError::Sqlite(error)) if existed && is_damage(&error) => {
                let aside = move_aside(&path)
                    .map_err(|source| StoreError::Aside { path: path.clone(), source })?;
                Ok((Self::open_sound(&path, false)?, Opened::MovedAside(aside)))
            }
            Err(error) => Err(error),
        }
    }

    fn open_sound(path: &Path, suspect: bool) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > VERSION {
            return Err(StoreError::Newer { path: path.to_owned(), found });
        }
        if found == 0 {
            // Gives pages back to the disk when rows are deleted; to be said before anything else.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        // A write-ahead log has an index that is mapped: on a disk that is full or shuts itself down a touch of it
        // ends the process (SIGBUS). Nothing of this journal is mapped.
        connection.pragma_update(None, "journal_mode", "TRUNCATE")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        // Else what a long statement may have to take back goes into `/tmp`, which the daemon's sandbox does
        // not reach.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        // Of a database that was cut off or overwritten the header alone may be sound.
        let is_quick = std::fs::metadata(path).is_ok_and(|found| found.len() <= QUICK_BYTES);
        if is_quick || suspect {
            let sound: String =
                connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
            if sound != "ok" {
                return Err(damage(&sound));
            }
            if found == VERSION {
                digest::verify(&connection)?;
            }
        }
        let done = usize::try_from(found).unwrap_or(0);
        let transaction = connection.transaction()?;
        for migration in MIGRATIONS.iter().skip(done) {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
        Ok(Self { connection })
    }

    /// Writes a save, so that a power failure takes it no more. One that is recorded already, with this
    /// very content, is not written again.
    ///
    /// # Errors
    /// As SQLite has them; then nothing of the record is written.
    pub fn record(&mut self, record: &Record) -> Result<(), StoreError> {
        self.record_all([record])
    }

    /// The same of several, with the turns of the disk that one takes.
    ///
    /// # Errors
    /// As SQLite has them; then nothing of any record is written.
    pub fn record_all<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        let mut is_new = false;
        for record in records {
            is_new |= write::record(&transaction, record)?;
        }
        if is_new {
            transaction.commit()?;
        }
        Ok(())
    }
}

/// What is said to be damaged is looked at again: of a page that a disk failed to read once, SQLite's check says
/// the same as of one that is lost.
fn twice_if_damaged<T>(mut look: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    match look() {
        Err(error) if error.is_damage() => look(),
        found => found,
    }
}

fn damage(text: &str) -> StoreError {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(code, Some(text.to_owned())).into()
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, Unknown};
    // A schema of another program's database makes the migration fail, which is `Unknown`.
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase | Unknown))
}

/// The database and its log under a name that is free; the log of another database would be
/// replayed into the new one.
fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    let free = |n: u32| path.with_extension(format!("sqlite.corrupt-{n}"));
    let aside = (1..MAX_ASIDE).map(free).find(|path| !path.exists());
    // Of that many, the last makes room.
    let aside = aside.unwrap_or_else(|| free(MAX_ASIDE));
    std::fs::rename(path, &aside)?;
    for end in ["-journal", "-wal", "-shm"] {
        let with_end = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
        match std::fs::rename(with_end(path), with_end(&aside)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

/// SQLite's integers have a sign; nothing here comes near 2^63.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn index(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_damage_that_is_seen_twice_is_believed() {
        let busy = || {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            StoreError::from(rusqlite::Error::SqliteFailure(code, None))
        };
        let unreadable = || damage("Tree 5 page 5: unable to get the page. error code=266");
        let looks = |answers: Vec<Result<(), StoreError>>| {
            let (mut answers, mut n) = (answers.into_iter(), 0);
            let found = twice_if_damaged(|| {
                n += 1;
                answers.next().unwrap()
            });
            (found.map_err(|error| error.is_damage()), n)
        };
        assert_eq!(looks(vec![Ok(())]), (Ok(()), 1));
        assert_eq!(looks(vec![Err(unreadable()), Ok(())]), (Ok(()), 2));
        assert_eq!(looks(vec![Err(unreadable()), Err(unreadable())]), (Err(true), 2));
        assert_eq!(looks(vec![Err(unreadable()), Err(busy())]), (Err(false), 2));
        assert_eq!(looks(vec![Err(busy())]), (Err(false), 1));
    }

    #[test]
    fn what_a_killed_writer_left_half_written_is_taken_back_by_who_reads() {
        let (dir, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (store, _) = Store::open(dir.path(), false).unwrap();
        // More than is kept in memory, so that the file itself is half written.
        store.connection.pragma_update(None, "cache_size", 1).unwrap();
        let fill = |run: &str| {
            let insert =
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000)
                INSERT INTO runs (path, name) SELECT ?1 || i, ?1 FROM n";
            store.connection.execute(insert, [run]).unwrap();
        };
        fill("a");
        store.connection.execute_batch("BEGIN").unwrap();
        fill("b");
        for file in [FILE, "history.sqlite-journal"] {
            std::fs::copy(dir.path().join(file), killed.path().join(file)).unwrap();
        }
        let journal = killed.path().join("history.sqlite-journal");
        assert!(journal.metadata().unwrap().len() > 0);
        let names = Archive::open(killed.path()).unwrap().runs().unwrap();
        assert!(names.len() == 2000 && names.iter().all(|run| run.name == "a"), "{}", names.len());
    }

    #[test]
    fn nothing_of_the_state_directory_is_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), false).unwrap();
        store.connection.execute_batch("CREATE TABLE written (a); DROP TABLE written").unwrap();
        let mapped = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!mapped.contains(&*dir.path().to_string_lossy()), "{mapped}");
    }

    #[test]
    fn nothing_temporary_is_written_outside_of_the_state_directory() {
        const IN_MEMORY: i64 = 2;
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), false).unwrap();
        let found = store.connection.pragma_query_value(None, "temp_store", |row| row.get(0));
        assert_eq!(found, Ok(IN_MEMORY));
    }
}
