//! The functions on the stream, each with its outlets and its mix of records.

use std::{path::Path, time::Duration};

use anyhow::bail;

use super::batches::Mix;
use crate::candidate::Function;

/// The readers, in the order in which they are measured.
pub const NAMES: [&str; 7] = [
    "publish",
    "publish-backlog",
    "publish-single",
    "publish-ordered",
    "sessions",
    "sessions-backlog",
    "sessions-single",
];

/// The time-out of both functions in the template.
const TIMEOUT: Duration = Duration::from_mins(11);

/// What a function makes of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Events on the bus, and in the ordered queue if there is one.
    Publish { ordered: bool },
    /// Rows of the sessions table.
    Sessions,
}

/// A function, and the records that it gets.
#[derive(Debug, Clone)]
pub struct Reader {
    /// The name in the report.
    pub name: String,
    pub function: Function,
    pub job: Job,
    pub mix: Mix,
}

impl Reader {
    /// One of [`NAMES`], with the binaries at these paths.
    pub fn named(name: &str, publish: &Path, sessions: &Path) -> anyhow::Result<Self> {
        let (job, mix) = match name {
            "publish" => (Job::Publish { ordered: false }, Mix::Live),
            "publish-backlog" => (Job::Publish { ordered: false }, Mix::Backlog),
            "publish-single" => (Job::Publish { ordered: false }, Mix::Single),
            "publish-ordered" => (Job::Publish { ordered: true }, Mix::Live),
            "sessions" => (Job::Sessions, Mix::Live),
            "sessions-backlog" => (Job::Sessions, Mix::Backlog),
            "sessions-single" => (Job::Sessions, Mix::Single),
            _ => bail!("unknown reader `{name}`: choose from {}", NAMES.join(", ")),
        };
        let (function, binary) = if job == Job::Sessions { ("sessions", sessions) } else { ("publish", publish) };
        let function = {
            let built = Function::binary(binary, TIMEOUT);
            built.ensure_built(function)?;
            built.absolute()?
        };
        Ok(Self { name: name.to_owned(), function, job, mix })
    }

    /// The records of a batch: the size in the template, or one.
    pub fn batch_size(&self) -> usize {
        match (self.mix, self.job) {
            (Mix::Single, _) => 1,
            (_, Job::Publish { .. }) => 100,
            (_, Job::Sessions) => 1_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_are_known_and_errors_say_how_to_get_a_missing_function() {
        let this = std::env::current_exe().unwrap();
        for name in NAMES {
            assert_eq!(Reader::named(name, &this, &this).unwrap().name, name);
        }
        let nowhere = Path::new("/no/such/file");
        let message = |name, path| Reader::named(name, path, &this).unwrap_err().to_string();
        assert!(message("publish-ordered", nowhere).ends_with("; run bench/prepare publish"));
        assert!(message("receive", &this).contains("choose from publish, publish-backlog,"));
    }
}
