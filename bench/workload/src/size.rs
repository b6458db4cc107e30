//! The size of an artifact: its bytes, and the bytes of its zip.

use std::{
    fs::File,
    io::{self, Cursor},
    path::Path,
};

use anyhow::Context;
use serde::Serialize;
use walkdir::WalkDir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// Two sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    /// The sum of all files.
    pub bytes: u64,
    /// Their zip, deflated.
    pub zip_bytes: u64,
}

impl Size {
    /// The size of a file, or of all files in a folder.
    pub fn of(artifact: &Path) -> anyhow::Result<Self> {
        let mut bytes = 0;
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        for entry in WalkDir::new(artifact).sort_by_file_name() {
            let entry = entry?;
            if !entry.file_type().is_file() {
                continue;
            }
            let name = entry.path().strip_prefix(artifact)?.to_string_lossy();
            // The path of a single file within itself is empty; Lambda's name for it is `bootstrap`.
            zip.start_file(if name.is_empty() { "bootstrap" } else { &name }, options)?;
            let path = entry.path();
            let mut file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
            bytes += io::copy(&mut file, &mut zip)?;
        }
        let zipped = zip.finish()?.into_inner();
        Ok(Self { bytes, zip_bytes: u64::try_from(zipped.len())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_folder_is_that_of_its_files_and_its_zip_is_smaller() {
        let sources = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
        let files: Vec<_> = std::fs::read_dir(sources).unwrap().map(|entry| entry.unwrap().path()).collect();
        let sizes: Vec<_> = files.iter().map(|file| Size::of(file).unwrap()).collect();
        let folder = Size::of(sources).unwrap();
        assert_eq!(folder.bytes, sizes.iter().map(|size| size.bytes).sum::<u64>());
        assert!(folder.zip_bytes < folder.bytes && sizes.iter().all(|size| size.zip_bytes < folder.zip_bytes));
    }

    #[test]
    fn a_missing_file_is_an_error() {
        assert!(Size::of(Path::new("/no/such/file")).is_err());
    }
}
