//! The events of a session, as the fold needs them.

use aws_sdk_dynamodb::types::AttributeValue;
use unith_events::session::{MAX_EVENTS, SessionEvent};

use crate::store::{EventStore, Operation, StoreError};

/// What the fold needs. The body is read too, and paid for, but not sent.
const ATTRIBUTES: &str = "event_type, occurred_at, received_at, public_head_id, public_org_id, expires_at";

impl EventStore {
    /// Reads the events in the partition `pk` of a session, in the order in which they happened: one more than
    /// [`MAX_EVENTS`] at most.
    ///
    /// The read is consistent: it has every event that was stored before. An item that is not an event is left out, and
    /// counted in the second part of the result.
    ///
    /// # Errors
    /// The table did not return them.
    pub async fn session_events(&self, pk: &str) -> Result<(Vec<SessionEvent>, usize), StoreError> {
        let limit = MAX_EVENTS + 1;
        let (mut events, mut invalid, mut next) = (Vec::new(), 0, None);
        loop {
            let query = self
                .client
                .query()
                .table_name(&self.table)
                .key_condition_expression("pk = :pk AND begins_with(sk, :event)")
                .projection_expression(ATTRIBUTES)
                .expression_attribute_values(":pk", AttributeValue::S(pk.to_owned()))
                .expression_attribute_values(":event", AttributeValue::S("EVENT#".to_owned()))
                .limit(i32::try_from(limit - events.len()).unwrap_or(i32::MAX))
                .set_exclusive_start_key(next)
                .consistent_read(true);
            let page = Box::pin(query.send()).await.map_err(|error| self.failed(Operation::QUERY_SESSION, &error))?;
            for item in page.items.unwrap_or_default() {
                match serde_dynamo::from_item(item) {
                    Ok(event) => events.push(event),
                    Err(_) => invalid += 1,
                }
            }
            next = page.last_evaluated_key.filter(|_| events.len() < limit);
            if next.is_none() {
                return Ok((events, invalid));
            }
        }
    }
}
