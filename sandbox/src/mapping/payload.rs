//! The size of an invocation's event.

/// The largest event of an invocation, in bytes.
///
/// Source: <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
const MAX_PAYLOAD: usize = 6 * 1024 * 1024;
const ENVELOPE: usize = r#"{"Records":[]}"#.len();

/// How many records of these sizes, in bytes, fit into one event; at least one.
pub(crate) fn fitting(sizes: impl IntoIterator<Item = usize>) -> usize {
    let mut payload = ENVELOPE;
    let fits = |size: &usize| {
        payload += size + ",".len();
        payload <= MAX_PAYLOAD
    };
    sizes.into_iter().take_while(fits).count().max(1)
}
