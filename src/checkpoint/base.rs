//! Where the model lies that an adapter changes.
//!
//! The adapter's record names it, by a path or by a name on a hub. A record is foreign text: what it
//! names is opened only below a place that the user gave for it.

use std::path::{Component, Path, PathBuf};

use super::error::{OpenError, shown};
use super::{Manifest, open, source};
use crate::remote;

/// Longest name that is looked for.
const MAX_NAME: usize = 512;

/// Opens the base model that a record calls `name`.
///
/// Each of `bases` is the model itself or a directory that holds it: under its name, under the last
/// part of that, or as a Hugging Face cache does. A path that the record names is followed by itself
/// only if it leads below `within`.
///
/// # Errors
/// Why there is none, in words.
pub fn find_base(
    name: Option<&str>,
    bases: &[PathBuf],
    within: Option<&Path>,
) -> Result<Manifest, String> {
    let name = name.filter(|name| name.len() <= MAX_NAME && !name.contains(char::is_control));
    let held = bases.iter().flat_map(|base| name.map_or_else(Vec::new, |name| names(base, name)));
    for place in held {
        match open(&place) {
            Err(OpenError::Missing { .. }) => {}
            found => return found.map_err(|error| told(&error)),
        }
    }
    for base in bases {
        match open(base) {
            Err(OpenError::Missing { .. } | OpenError::NotACheckpoint { .. }) => {}
            found => return found.map_err(|error| told(&error)),
        }
    }
    // What the user gave counts more than what a record says.
    if let Some(place) = name.and_then(|name| below(within?, Path::new(name))) {
        return open(&place).map_err(|error| told(&error));
    }
    let what = name.map_or_else(
        || "no base model is named in adapter_config.json".to_owned(),
        |name| format!("base model {} not found", shown(name)),
    );
    let given = bases.iter().map(|base| shown(&base.to_string_lossy())).collect::<Vec<_>>();
    if !given.is_empty() {
        return Err(format!("{what} in {}, expected it there or that itself", given.join(", ")));
    }
    Err(format!("{what}: give it, or a directory that holds it, with --base or `bases`"))
}

/// In one line, with the system's reason.
fn told(error: &OpenError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// A path of a record, if it leads below `within`, links followed.
fn below(within: &Path, named: &Path) -> Option<PathBuf> {
    if remote::is_remote(within) || remote::is_remote(named) {
        return None;
    }
    let root = within.canonicalize().ok()?;
    let place = root.join(named).canonicalize().ok()?;
    let is_inside = |path: &Path| path.canonicalize().is_ok_and(|p| p.starts_with(&root));
    if !is_inside(&place) {
        return None;
    }
    // Nor may a file in it be a link to elsewhere.
    let mut files = source::list(&place).unwrap_or_default().into_iter();
    files.all(|name| is_inside(&place.join(name))).then_some(place)
}

/// Where a directory of models may hold one of that name.
fn names(base: &Path, name: &str) -> Vec<PathBuf> {
    let path = Path::new(name);
    let mut places = Vec::new();
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if is_plain {
        places.push(base.join(path));
        let cached = format!("models--{}", name.replace('/', "--"));
        let caches = [base.join(&cached), base.join("hub").join(&cached)];
        places.extend(caches.iter().filter_map(|cache| snapshot(cache)));
    }
    if let Some(last) = path.file_name().filter(|_| !is_plain || path.components().count() > 1) {
        places.push(base.join(last));
    }
    places
}

/// The snapshot of a model in a Hugging Face cache that is called `main`, else the only one.
fn snapshot(cache: &Path) -> Option<PathBuf> {
    let snapshots = cache.join("snapshots");
    let main = source::read_whole(&cache.join("refs/main"), 256).ok().and_then(|(text, _)| text);
    let main = main.and_then(|text| String::from_utf8(text).ok());
    let revision = match main.as_deref().map(str::trim) {
        Some(revision) => revision.to_owned(),
        None => match source::list(&snapshots).ok()?.as_slice() {
            [only] => only.to_str()?.to_owned(),
            _ => return None,
        },
    };
    let is_revision = revision.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_revision && !revision.is_empty()).then(|| snapshots.join(revision))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use safetensors::Dtype::F32;
    use safetensors::tensor::TensorView;

    use super::*;

    fn model(directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        let tensor = TensorView::new(F32, vec![1], &[0; 4]).unwrap();
        let path = directory.join("model.safetensors");
        safetensors::serialize_to_file([("w", tensor)], None, &path).unwrap();
    }

    fn found(name: &str, bases: &[&Path], within: Option<&Path>) -> Result<PathBuf, String> {
        let bases: Vec<PathBuf> = bases.iter().map(|base| base.to_path_buf()).collect();
        find_base(Some(name), &bases, within).map(|manifest| manifest.path)
    }

    #[test]
    fn a_directory_of_models_holds_it_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (root, name) = (dir.path(), "org/tiny-model");
        assert!(found(name, &[root], None).unwrap_err().contains("`org/tiny-model` not found"));
        model(&root.join("tiny-model"));
        assert_eq!(found(name, &[root], None).unwrap(), root.join("tiny-model"));
        assert_eq!(found("/elsewhere/tiny-model", &[root], None), Ok(root.join("tiny-model")));
        let cache = root.join("hub/models--org--tiny-model");
        model(&cache.join("snapshots/abc1"));
        assert_eq!(found(name, &[root], None).unwrap(), cache.join("snapshots/abc1"));
        model(&cache.join("snapshots/abc2"));
        fs::create_dir(cache.join("refs")).unwrap();
        fs::write(cache.join("refs/main"), "abc2\n").unwrap();
        assert_eq!(found(name, &[root], None).unwrap(), cache.join("snapshots/abc2"));
        model(&root.join(name));
        assert_eq!(found(name, &[root], None).unwrap(), root.join(name));
    }

    #[test]
    fn the_model_itself_may_be_given() {
        let dir = tempfile::tempdir().unwrap();
        model(dir.path());
        assert_eq!(found("org/any", &[dir.path()], None).unwrap(), dir.path());
        let file = dir.path().join("model.safetensors");
        assert_eq!(found("org/any", &[&file], None).unwrap(), file);
        let unnamed = find_base(None, &[dir.path().to_owned()], None).unwrap();
        assert_eq!(unnamed.path, dir.path());
        assert!(find_base(None, &[], None).unwrap_err().contains("no base model is named"));
        fs::write(dir.path().join("model.safetensors"), b"short").unwrap();
        assert!(found("org/any", &[dir.path()], None).unwrap_err().contains("model.safetensors"));
    }

    #[test]
    fn a_record_leads_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        model(&outside);
        model(&root.join("base"));
        let absolute = root.join("base");
        let named = absolute.to_str().unwrap();
        assert_eq!(found(named, &[], Some(&root)).unwrap(), absolute.canonicalize().unwrap());
        assert!(found("base", &[], Some(&root)).is_ok());
        let given = Path::new(&outside);
        assert_eq!(found("base", &[given], Some(&root)).unwrap(), given, "the given one first");
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        let outside = outside.to_str().unwrap();
        fs::create_dir(root.join("linked")).unwrap();
        let file = "model.safetensors";
        std::os::unix::fs::symlink(Path::new(outside).join(file), root.join("linked").join(file))
            .unwrap();
        for name in [
            outside,
            "linked",
            "../outside",
            "link",
            "base/../../outside",
            "s3://bucket/model",
            "\n",
        ] {
            assert!(found(name, &[], Some(&root)).is_err(), "{name}");
        }
        fs::create_dir_all(root.join("models--a--b/refs")).unwrap();
        fs::write(root.join("models--a--b/refs/main"), "../../../outside").unwrap();
        for name in ["a/b", "../outside", "x/../../outside"] {
            let found = found(name, &[&root], None);
            assert!(found.is_err(), "{found:?}");
        }
    }
}
