//! Work on several heads at a time.

use std::{future::Future, pin::Pin};

use futures_util::{StreamExt, stream};

/// How many heads are worked on at a time.
const HEADS_AT_A_TIME: usize = 8;

/// A future on the heap: inlined into each other, those of a run are nested deeper than the compiler looks.
pub(crate) type Boxed<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// Does `work` for several items at a time, none of which waits for an earlier one. Results are in the items' order.
pub(crate) fn for_each<'f, I, T: Send + 'f>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> Boxed<'f, T>,
) -> Boxed<'f, Vec<T>> {
    let work = items.into_iter().map(work).enumerate();
    let work: Vec<_> = work.map(|(index, work)| async move { (index, work.await) }).collect();
    Box::pin(async move {
        let mut done: Vec<_> = stream::iter(work).buffer_unordered(HEADS_AT_A_TIME).collect().await;
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, result)| result).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first items wait for the last one.
    #[tokio::test]
    async fn a_slow_item_does_not_hold_up_the_others() {
        let last = &tokio::sync::Notify::new();
        let results = for_each(0..3 * HEADS_AT_A_TIME, |number| {
            Box::pin(async move {
                if number + 1 < HEADS_AT_A_TIME {
                    last.notified().await;
                } else if number + 1 == 3 * HEADS_AT_A_TIME {
                    last.notify_waiters();
                }
                number
            })
        });
        assert_eq!(results.await, (0..3 * HEADS_AT_A_TIME).collect::<Vec<_>>());
    }
}
