//! Where an object lies, as a path tells it.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::error::RemoteError;

/// The kinds of stores, by the name before the colon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    S3,
    Gs,
    Az,
}

impl Scheme {
    const ALL: [Self; 3] = [Self::S3, Self::Gs, Self::Az];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        }
    }

    fn of(path: &Path) -> Option<Self> {
        let Some(Component::Normal(first)) = path.components().next() else { return None };
        let name = first.to_str()?.strip_suffix(':')?;
        Self::ALL.into_iter().find(|scheme| scheme.as_str() == name)
    }
}

/// A bucket (a container on Azure) and a key in it, without slashes at its ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) scheme: Scheme,
    pub(super) bucket: String,
    pub(super) key: String,
}

impl Place {
    pub(super) fn of(path: &Path) -> Result<Self, RemoteError> {
        let expected = "expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX";
        let wrong = |found: &str| RemoteError::invalid(format!("found {found}, {expected}"));
        let scheme = Scheme::of(path).ok_or_else(|| wrong("another kind of path"))?;
        let mut parts = Vec::new();
        for component in path.components().skip(1) {
            match component {
                Component::Normal(part) => {
                    parts.push(part.to_str().ok_or_else(|| wrong("bytes that are not UTF-8"))?);
                }
                _ => return Err(wrong("`..`")),
            }
        }
        let Some((bucket, key)) = parts.split_first() else { return Err(wrong("no bucket")) };
        Ok(Self { scheme, bucket: (*bucket).to_owned(), key: key.join("/") })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.bucket)?;
        if self.key.is_empty() { Ok(()) } else { write!(f, "/{}", self.key) }
    }
}

/// Whether a path leads into an object store: its first component is `s3:`, `gs:` or `az:`. A
/// directory on disk of such a name can be said as `./s3:`.
#[must_use]
pub fn is_remote(path: &Path) -> bool {
    Scheme::of(path).is_some()
}

/// A path into an object store as it is told everywhere, with two slashes and none at the end; `None`
/// for any other path.
#[must_use]
pub fn canonical(path: &Path) -> Option<PathBuf> {
    Place::of(path).ok().map(|place| super::shown(&place))
}

/// That a path names a bucket. Nothing is asked of the store.
///
/// # Errors
/// [`RemoteError::Refused`] with what is wrong.
pub fn check(path: &Path) -> Result<(), RemoteError> {
    Place::of(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_into_stores_are_told_from_others() {
        for path in ["s3://b", "s3://b/x", "gs://b/x", "az://c/x/y/", "s3:/b/x"] {
            assert!(is_remote(Path::new(path)), "{path}");
        }
        for path in ["/s3:/b", "./s3://b", "s3", "s3/b", "s4://b/x", "runs/s3:/b", "", "."] {
            assert!(!is_remote(Path::new(path)), "{path}");
            assert_eq!(canonical(Path::new(path)), None);
        }
    }

    #[test]
    fn a_place_has_a_bucket_and_a_key() {
        let of = |path: &str| Place::of(Path::new(path)).map(|p| (p.bucket, p.key)).ok();
        let some = |bucket: &str, key: &str| Some((bucket.to_owned(), key.to_owned()));
        assert_eq!(of("s3://b"), some("b", ""));
        assert_eq!(of("s3://b/"), some("b", ""));
        assert_eq!(of("gs://b//x/./y z#%/"), some("b", "x/y z#%"));
        for wrong in ["s3:", "s3://", "s3://b/../c", "/b/x"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    /// What other rooms do with paths they do with these.
    #[test]
    fn paths_work_lexically() {
        let root = Path::new("s3://bucket/runs");
        let save = root.join("a").join("checkpoint-5");
        assert_eq!(save.to_str(), Some("s3://bucket/runs/a/checkpoint-5"));
        assert_eq!(save.parent(), Some(Path::new("s3://bucket/runs/a")));
        assert_eq!(save.parent().and_then(Path::to_str), Some("s3://bucket/runs/a"));
        assert_eq!(save.strip_prefix(root).ok(), Some(Path::new("a/checkpoint-5")));
        assert_eq!(save.strip_prefix("s3:/bucket/runs/").ok(), Some(Path::new("a/checkpoint-5")));
        assert!(save.starts_with("s3://bucket") && !save.starts_with("s3://buck"));
        assert_eq!(Path::new("s3://bucket").file_name(), Some("bucket".as_ref()));
        // One slash is lost where a path is put together from its parts, and is given back.
        let parts: PathBuf = save.components().collect();
        assert_eq!(parts, save);
        assert_eq!(canonical(&parts).as_deref().and_then(Path::to_str), save.to_str());
        assert_eq!(canonical(Path::new("gs://b/x//")), Some(PathBuf::from("gs://b/x")));
        assert_eq!(canonical(Path::new("az:/c")).unwrap().to_str(), Some("az://c"));
    }
}
