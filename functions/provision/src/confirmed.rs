//! Calls to UNITH whose effect is read back: a success may mean nothing.

use std::time::Duration;

use unith_events::ids::WebhookId;

use crate::{
    plan::Look,
    report::HeadError,
    step::{DeleteReason, Step},
    unith::{UnithClient, webhook::Webhook},
};

/// How often the list is read that must show a deletion.
const LIST_TRIES: u32 = 3;
const LIST_PAUSE: Duration = Duration::from_millis(200);
/// How often a switch is set that does not show as set.
const SWITCH_TRIES: u32 = 4;
const SWITCH_PAUSE: Duration = Duration::from_millis(200);

/// Looks at a head. It fails if UNITH spells the head's id in another way.
pub(crate) async fn look(unith: &UnithClient, head_id: &str) -> Result<Look, HeadError> {
    let listed = unith.webhooks(head_id).await?;
    listed.iter().try_for_each(|webhook| HeadError::check_spelling(webhook, head_id))?;
    Ok(Look { listed, events_on: unith.events_on(head_id).await? })
}

/// The result of deleting webhooks.
pub(crate) struct Deletion {
    /// The webhooks that UNITH no longer lists.
    pub(crate) gone: Vec<WebhookId>,
    /// The head's webhooks now, or the error that kept some from being deleted.
    pub(crate) listed: Result<Vec<Webhook>, HeadError>,
}

impl Deletion {
    /// The steps that were done.
    pub(crate) fn steps(&self, reason: DeleteReason) -> impl Iterator<Item = Step> {
        self.gone.iter().map(move |id| Step::Delete(id.clone(), reason))
    }
}

/// Deletes webhooks of a head. The list afterwards decides which ones are gone, whatever the calls returned.
pub(crate) async fn delete_webhooks(unith: &UnithClient, head_id: &str, webhooks: &[Webhook]) -> Deletion {
    if webhooks.is_empty() {
        return Deletion { gone: Vec::new(), listed: Ok(Vec::new()) };
    }
    let mut first_error = None;
    for webhook in webhooks {
        if let Err(error) = unith.delete(&webhook.id).await {
            first_error.get_or_insert(error);
        }
    }
    let mut tries = 1;
    loop {
        let listed = unith.webhooks(head_id).await;
        let is_listed = |id: &WebhookId| listed.iter().flatten().any(|webhook| webhook.id == *id);
        let remaining = webhooks.iter().find(|webhook| is_listed(&webhook.id));
        // Transient errors have been retried already.
        let is_odd = listed.as_ref().is_err_and(|error| !error.is_transient());
        if tries < LIST_TRIES && (is_odd || (remaining.is_some() && first_error.is_none())) {
            tries += 1;
            tokio::time::sleep(LIST_PAUSE).await;
            continue;
        }
        let ids = webhooks.iter().map(|webhook| webhook.id.clone());
        let gone = if listed.is_ok() { ids.filter(|id| !is_listed(id)).collect() } else { Vec::new() };
        let listed = match (remaining, first_error, listed) {
            (None, _, Ok(listed)) => Ok(listed),
            (_, Some(error), _) | (None, None, Err(error)) => Err(error.into()),
            (Some(remaining), None, _) => {
                Err(HeadError::WithoutEffect(Step::Delete(remaining.id.clone(), DeleteReason::Removed)))
            }
        };
        return Deletion { gone, listed };
    }
}

/// Sets a head's switch. It retries whatever goes wrong, so that one failure does not leave a head on.
pub(crate) async fn switch_events(unith: &UnithClient, head_id: &str, on: bool) -> Result<(), HeadError> {
    let mut last_error = None;
    for attempt in 0..SWITCH_TRIES {
        if attempt > 0 {
            tokio::time::sleep(SWITCH_PAUSE).await;
        }
        let set = unith.switch_events(head_id, on).await;
        match (unith.events_on(head_id).await, set) {
            (Ok(is_on), _) if is_on == on => return Ok(()),
            (_, Err(error)) | (Err(error), Ok(())) => last_error = Some(error),
            (Ok(_), Ok(())) => {}
        }
    }
    Err(last_error.map_or(HeadError::WithoutEffect(Step::Switch(on)), HeadError::from))
}
