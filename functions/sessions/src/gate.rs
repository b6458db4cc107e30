//! Sessions that are worked on side by side: once a table fails, or the time is up, the rest is not tried.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicBool, Ordering},
};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};

use crate::error::SessionError;

/// How many sessions are worked on at a time.
pub const CONCURRENCY: usize = 8;

/// Lets work begin, and ends it when the time is up.
#[derive(Debug)]
pub struct Gate {
    table_failed: AtomicBool,
    until: Instant,
}

impl Gate {
    /// A gate that closes at `until`.
    pub fn new(until: Instant) -> Self {
        Self { table_failed: AtomicBool::new(false), until }
    }

    /// Whether the time is up.
    pub fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Does the `work` of a session, unless a table failed at another one. A panic fails this session alone.
    ///
    /// # Errors
    /// The work's own, or it was not done, or it panicked.
    pub async fn attempt<T>(&self, work: impl Future<Output = Result<T, SessionError>>) -> Result<T, SessionError> {
        if self.table_failed.load(Ordering::Relaxed) {
            return Err(SessionError::Untried);
        }
        if self.is_late() {
            return Err(SessionError::OutOfTime);
        }
        // No state outlives the session's own, which is dropped. A write that is cut off is repeated, which is harmless.
        let work = timeout_at(self.until, AssertUnwindSafe(work).catch_unwind());
        let result = work.await.unwrap_or(Ok(Err(SessionError::OutOfTime))).unwrap_or(Err(SessionError::Panicked));
        if result.as_ref().is_err_and(SessionError::is_of_the_table) {
            self.table_failed.store(true, Ordering::Relaxed);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::pending, time::Duration};

    fn gate(limit: Duration) -> Gate {
        Gate::new(Instant::now() + limit)
    }

    #[tokio::test]
    async fn no_failure_but_a_tables_keeps_other_sessions_from_being_tried() {
        let gate = gate(Duration::from_mins(1));
        let panicking = async { if gate.is_late() { Ok(()) } else { panic!("a bug") } };
        assert!(matches!(gate.attempt(panicking).await, Err(SessionError::Panicked)));
        for error in [SessionError::Unreadable(1), SessionError::Contended] {
            assert!(gate.attempt(async { Err::<(), _>(error) }).await.is_err());
        }
        assert!(gate.attempt(async { Ok(()) }).await.is_ok());
        // Stands for every failure of a table.
        assert!(gate.attempt(async { Err::<(), _>(SessionError::Untried) }).await.is_err());
        let untried = gate.attempt(async { panic!("it was tried") }).await;
        assert!(matches!(untried, Err::<(), _>(SessionError::Untried)));
    }

    #[tokio::test]
    async fn work_ends_with_the_time() {
        let cut_off = gate(Duration::from_millis(1)).attempt(pending::<Result<(), _>>()).await;
        assert!(matches!(cut_off, Err(SessionError::OutOfTime)));
        let late = gate(Duration::ZERO).attempt(async { panic!("it was tried") }).await;
        assert!(matches!(late, Err::<(), _>(SessionError::OutOfTime)));
    }
}
