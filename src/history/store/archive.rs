//! The store for those who only read it, also while a daemon writes it.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Row};

use super::{BUSY, FILE, Store, StoreError, StoredSave, VERSION};
use crate::diagnostics::Report;

/// A store that is only read.
#[derive(Debug)]
pub struct Archive(Store);

/// A run of an [`Archive`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedRun {
    id: i64,
    /// Absolute path.
    pub path: String,
    /// Its name, as the daemon had it last.
    pub name: String,
}

impl Archive {
    /// Opens the store of a state directory. Nothing is made, and nothing changed but what a killed writer left half
    /// written, which is taken back.
    ///
    /// # Errors
    /// When it is not there, cannot be read, or was written by another version.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let connection = open_to_read(&path)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > VERSION {
            return Err(StoreError::Newer { path, found });
        }
        Ok(Self(Store { connection }))
    }

    /// The store, of which nothing but reading will succeed.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0
    }

    /// All runs, by path.
    ///
    /// # Errors
    /// As SQLite has them.
    pub fn runs(&self) -> Result<Vec<ArchivedRun>, StoreError> {
        let mut all = self.0.connection.prepare("SELECT id, path, name FROM runs ORDER BY path")?;
        let run = |row: &Row<'_>| {
            Ok(ArchivedRun { id: row.get(0)?, path: row.get(1)?, name: row.get(2)? })
        };
        Ok(all.query_map([], run)?.collect::<Result<_, _>>()?)
    }

    /// The saves of a run that were measured, in the order of their places, the newest 10 000.
    ///
    /// # Errors
    /// As SQLite has them.
    pub fn measured(&self, run: &ArchivedRun) -> Result<Vec<StoredSave>, StoreError> {
        let mut saves = self.0.saves(run.id)?;
        saves.retain(|save| save.error.is_none());
        Ok(saves)
    }

    /// The report of a save, and whether it still has its details.
    ///
    /// # Errors
    /// As SQLite has them.
    pub fn report(&self, save: &StoredSave) -> Result<(Report, bool), StoreError> {
        // A daemon may give up the details between two queries.
        let _at_one_time = self.0.connection.unchecked_transaction()?;
        let has_details = self.0.has_details(save)?;
        Ok((self.0.report_of(save)?, has_details))
    }
}

/// A connection that only reads, also where nothing can be written beside the database. What a writer that was killed
/// left half written is taken back first, as every reader must; who may not write then reads nothing.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let look = |connection: Connection| {
        connection.busy_timeout(BUSY)?;
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        Ok(connection)
    };
    let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let usual = Connection::open_with_flags(path, read_only).and_then(look);
    let takes_back =
        || Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(look);
    // A write-ahead log, as versions before had it, is left out: the database was sound when it was last merged.
    let as_it_is = || {
        let escape = |uri: String, byte: &u8| uri + "%" + &format!("{byte:02X}");
        let bytes = path.as_os_str().as_encoded_bytes().iter();
        let uri = bytes.fold(String::from("file:"), escape) + "?immutable=1";
        Connection::open_with_flags(uri, read_only | OpenFlags::SQLITE_OPEN_URI).and_then(look)
    };
    let other =
        |error| if is_half_written(path) { takes_back() } else { as_it_is().map_err(|_| error) };
    Ok(usual.or_else(other)?)
}

/// Whether a journal holds pages that a transaction has changed.
fn is_half_written(path: &Path) -> bool {
    path.with_extension("sqlite-journal").metadata().is_ok_and(|journal| journal.len() > 0)
}
