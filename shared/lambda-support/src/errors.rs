//! Errors as one line of text.

use std::error::Error;

/// An error and its causes, `: ` between them. Of an SDK error the raw response is left out: it may repeat what was stored.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
