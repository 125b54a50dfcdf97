//! The past of a run, layer by layer, for those who draw it.

use rusqlite::{Row, params};

use super::words::word;
use super::{Archive, StoreError, index};
use crate::history::point::Place;
use crate::history::profile::{HeadProfile, PairProfile, Profile, known};

/// Saves of one run that are looked at, the newest.
const MAX_SAVES: usize = 10_000;

/// Rows of pairs that are read of one run: of a model with many heads not every save.
const MAX_ROWS: usize = 500_000;

/// Saves that are read of a run, however many rows each has.
const LEAST_SAVES: usize = 64;

/// A save of the past.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredProfile {
    /// Where it stands.
    pub place: Place,
    /// When it was complete, Unix seconds.
    pub saved_at: Option<f64>,
    /// Training loss.
    pub loss: Option<f64>,
    /// NaN and infinite weights.
    pub n_nonfinite: Option<u64>,
    /// Its measurements.
    pub profile: Profile,
}

impl Archive {
    /// What is drawn of the saves of the run at `path` that still have details, in the order of their
    /// places. Where these are many and large, every save of the newest half of what is read and, of
    /// those before, some at equal distances. Ends early, with what it has, when told to `stop`.
    ///
    /// # Errors
    /// As SQLite has them.
    pub fn profiles(
        &self,
        path: &str,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<StoredProfile>, StoreError> {
        let connection = &self.store().connection;
        let mut all = connection.prepare_cached(
            "SELECT id, segment, place, saved_at, train_loss, nan, inf FROM saves WHERE run = \
             (SELECT id FROM runs WHERE path = ?1) AND error IS NULL AND has_details \
             ORDER BY segment DESC, place DESC, id DESC LIMIT ?2",
        )?;
        let head = |row: &Row<'_>| {
            let count = |at: usize| -> rusqlite::Result<Option<u64>> {
                Ok(row.get::<_, Option<i64>>(at)?.and_then(|n| u64::try_from(n).ok()))
            };
            let place = Place { segment: row.get(1)?, step: count(2)?.unwrap_or(0) };
            let (saved_at, loss) = (known(row.get(3)?), known(row.get(4)?));
            let n_nonfinite = count(5)?.zip(count(6)?).map(|(nan, inf)| nan.saturating_add(inf));
            let profile = Profile::default();
            let save = StoredProfile { place, saved_at, loss, n_nonfinite, profile };
            Ok((row.get::<_, i64>(0)?, save))
        };
        let newest_first: Vec<(i64, StoredProfile)> =
            all.query_map(params![path, index(MAX_SAVES)], head)?.collect::<Result<_, _>>()?;
        let Some((newest, _)) = newest_first.first() else { return Ok(Vec::new()) };
        let mut count = connection.prepare_cached("SELECT count(*) FROM pairs WHERE save = ?1")?;
        let n_rows: i64 = count.query_row([newest], |row| row.get(0))?;
        let n_rows = usize::try_from(n_rows).unwrap_or(usize::MAX).max(1);
        let budget = (MAX_ROWS / n_rows).clamp(LEAST_SAVES, MAX_SAVES);
        let mut found = Vec::new();
        for (id, mut save) in spread(newest_first, budget) {
            if stop() {
                break;
            }
            save.profile = self.profile(id)?;
            found.push(save);
        }
        found.reverse();
        Ok(found)
    }

    fn profile(&self, save: i64) -> Result<Profile, StoreError> {
        let connection = &self.store().connection;
        let mut pairs = connection.prepare_cached(
            "SELECT pair, layer, count(gram_correlation), avg(gram_correlation), \
             avg(commutator_vs_chance), max(commutator_vs_chance) FROM pairs WHERE save = ?1 \
             AND (head_group IS NULL OR head IS NOT NULL) GROUP BY pair, layer ORDER BY pair, layer",
        )?;
        let pair = |row: &Row<'_>| {
            Ok(PairProfile {
                pair: word(&row.get::<_, String>(0)?),
                layer: row.get::<_, Option<i64>>(1)?.and_then(|n| usize::try_from(n).ok()),
                n: row.get(2)?,
                gram_correlation: known(row.get(3)?),
                commutator: known(row.get(4)?),
                commutator_max: known(row.get(5)?),
            })
        };
        let mut heads = connection.prepare_cached(
            "SELECT projection, layer, overlap_mean, overlap_chance, effective_heads FROM heads \
             WHERE save = ?1 ORDER BY projection, layer",
        )?;
        let head = |row: &Row<'_>| {
            Ok(HeadProfile {
                projection: word(&row.get::<_, String>(0)?),
                layer: usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
                overlap: known(row.get(2)?),
                chance: known(row.get(3)?),
                effective: known(row.get(4)?),
            })
        };
        Ok(Profile {
            pairs: pairs.query_map([save], pair)?.collect::<Result<_, _>>()?,
            heads: heads.query_map([save], head)?.collect::<Result<_, _>>()?,
        })
    }
}

/// At most about `n` of a list: its first half of them whole, of the rest every so many.
fn spread<T>(all: Vec<T>, n: usize) -> impl Iterator<Item = T> {
    let whole = if all.len() <= n { all.len() } else { n / 2 };
    let stride = (all.len() - whole).div_ceil((n - n / 2).max(1)).max(1);
    let is_taken = move |at: usize| at < whole || (at - whole).is_multiple_of(stride);
    all.into_iter().enumerate().filter(move |(at, _)| is_taken(*at)).map(|(_, one)| one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_saves_the_newest_and_some_before_them() {
        let check = |n_all: usize, n: usize, wanted: &[usize]| {
            assert_eq!(spread((0..n_all).collect(), n).collect::<Vec<_>>(), wanted);
        };
        check(0, 4, &[]);
        check(4, 4, &[0, 1, 2, 3]);
        check(6, 4, &[0, 1, 2, 4]);
        check(12, 4, &[0, 1, 2, 7]);
        for n_all in [64, 65, 1000, 10_000] {
            assert!(spread((0..n_all).collect(), 64).count() <= 64, "{n_all}");
        }
    }
}
