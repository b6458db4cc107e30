//! Waiting for conditions, each with a time limit.

use std::{panic::Location, time::Duration};

/// Longer than any single step of a test takes.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often [`until`] checks a condition that cannot announce itself.
const CHECK_EVERY: Duration = Duration::from_millis(5);

/// Waits for `condition`; panics and names the caller if that takes longer than `limit`.
#[track_caller]
pub fn within<F: Future>(limit: Duration, condition: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        let in_time = tokio::time::timeout(limit, condition).await;
        in_time.unwrap_or_else(|_| panic!("{caller}: still waiting after {limit:?}"))
    }
}

/// Completes when `holds` returns true.
pub async fn until(mut holds: impl AsyncFnMut() -> bool) {
    while !holds().await {
        tokio::time::sleep(CHECK_EVERY).await;
    }
}
