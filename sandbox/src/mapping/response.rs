//! A function's response with `ReportBatchItemFailures`.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

/// The records of `batch` that a response names as failed. `None` means that the whole batch failed.
pub(crate) fn named(response: Value, batch: &BTreeSet<&str>) -> Option<BTreeSet<String>> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Response {
        batch_item_failures: Option<Vec<Failure>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Failure {
        item_identifier: String,
    }
    let response: Option<Response> = serde_json::from_value(response).ok()?;
    let failures = response.unwrap_or_default().batch_item_failures.unwrap_or_default();
    let ids: BTreeSet<_> = failures.into_iter().map(|failure| failure.item_identifier).collect();
    ids.iter().all(|id| batch.contains(id.as_str())).then_some(ids)
}
