//! Files of the repository, found from wherever a test runs.

use std::path::{Path, PathBuf};

/// A file or folder of the repository; its root for an empty path.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// The text of a file of the repository.
pub fn repository_text(path: &str) -> String {
    let path = repository(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
