//! The services of the functions on the stream: those of `receive`, and EventBridge and SQS, each behind TLS.

use std::path::Path;

use ::tests::table::Item;
use anyhow::{Context, ensure};
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use aws_sdk_sqs::types::QueueAttributeName;
use sandbox::{
    clients::{eventbridge_client, sqs_client},
    dynamodb,
    eventbridge::{EventBridge, Faults, PublishedEvent, bus_arn},
    queues::Queues,
    server::listen,
    services::{EVENT_BUS, SESSIONS_TABLE_NAME, TABLE_NAME},
    sqs::{Settings, Sqs},
};
use tokio::runtime::Runtime;

use super::{batches::Totals, reader::Job};
use crate::tls::TlsEndpoint;

const ORDERED_QUEUE: &str = "unith-ordered.fifo";
/// The most items of a request.
const MAX_WRITES: usize = 25;

/// The services of one environment: empty tables, an event bus, and empty queues.
pub struct StreamServices {
    eventbridge: EventBridge,
    sqs: Sqs,
    eventbridge_endpoint: TlsEndpoint,
    sqs_endpoint: TlsEndpoint,
    failure_url: String,
    ordered_url: String,
    /// The last one, since its runtime serves the others.
    services: crate::services::Services,
}

impl StreamServices {
    /// Starts the services. Files go to `folder`.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let services = crate::services::Services::start(folder)?;
        let (client, authority) = (services.client(), services.authority());
        let (eventbridge, sqs, eventbridge_endpoint, sqs_endpoint, queues, ordered) =
            services.runtime().block_on(async {
                dynamodb::create_table(client, TABLE_NAME).await?;
                dynamodb::create_sessions_table(client, SESSIONS_TABLE_NAME).await?;
                let eventbridge = EventBridge::serve(listen("EventBridge", 0).await?, Faults::default())?;
                eventbridge_client(eventbridge.url())?.create_event_bus().name(EVENT_BUS).send().await?;
                let sqs = Sqs::serve(listen("SQS", 0).await?, Settings::default())?;
                let sqs_client = sqs_client(sqs.url())?;
                let queues = Queues::create(&sqs_client).await?;
                let ordered = sqs_client.create_queue().queue_name(ORDERED_QUEUE);
                let ordered = ordered.attributes(QueueAttributeName::FifoQueue, "true").send().await?;
                let eventbridge_endpoint = authority.serve("EventBridge over TLS", eventbridge.url()).await?;
                let sqs_endpoint = authority.serve("SQS over TLS", sqs.url()).await?;
                anyhow::Ok((eventbridge, sqs, eventbridge_endpoint, sqs_endpoint, queues, ordered))
            })?;
        let ordered_url = ordered.queue_url.context("the ordered queue has no URL")?;
        let failure_url = queues.failure_url;
        Ok(Self { eventbridge, sqs, eventbridge_endpoint, sqs_endpoint, failure_url, ordered_url, services })
    }

    /// The runtime of the services, for other tasks of the host.
    pub fn runtime(&self) -> &Runtime {
        self.services.runtime()
    }

    /// The variables of a function with this job.
    pub fn environment(&self, job: Job) -> Vec<(&'static str, String)> {
        let mut variables = self.services.environment();
        variables.extend([
            ("AWS_ENDPOINT_URL_EVENTBRIDGE", self.eventbridge_endpoint.url()),
            ("AWS_ENDPOINT_URL_SQS", self.sqs_endpoint.url()),
            ("TABLE_NAME", TABLE_NAME.to_owned()),
            ("FAILURE_QUEUE_URL", self.failure_url.clone()),
        ]);
        match job {
            Job::Publish { ordered } => {
                variables.push(("EVENT_BUS_ARN", bus_arn(EVENT_BUS)));
                variables.extend(ordered.then(|| ("ORDERED_QUEUE_URL", self.ordered_url.clone())));
            }
            Job::Sessions => variables.push(("SESSIONS_TABLE_NAME", SESSIONS_TABLE_NAME.to_owned())),
        }
        variables
    }

    /// Stores events, as `receive` did before their records are in the stream.
    pub fn store(&self, items: &[Item]) -> anyhow::Result<()> {
        let put = |item: &Item| {
            let put = PutRequest::builder().set_item(Some(item.clone())).build()?;
            Ok(WriteRequest::builder().put_request(put).build())
        };
        self.runtime().block_on(async {
            for items in items.chunks(MAX_WRITES) {
                let writes = items.iter().map(put).collect::<anyhow::Result<Vec<_>>>()?;
                let write = self.services.client().batch_write_item().request_items(TABLE_NAME, writes);
                let unprocessed = write.send().await?.unprocessed_items;
                ensure!(unprocessed.is_none_or(|items| items.is_empty()), "the events table did not take all events");
            }
            Ok(())
        })
    }

    /// Checks that a function with this job has made of its records what they come to.
    pub fn check(&self, job: Job, totals: Totals) -> anyhow::Result<()> {
        match job {
            Job::Publish { ordered } => self.check_outlets(ordered, totals),
            Job::Sessions => self.check_rows(totals),
        }
    }

    fn check_outlets(&self, ordered: bool, totals: Totals) -> anyhow::Result<()> {
        let events = self.eventbridge.events(EVENT_BUS);
        let summaries = events.iter().filter(|event| has_whole_summary(event)).count();
        ensure!(events.len() == totals.records, "{} events are on the bus, expected {}", events.len(), totals.records);
        ensure!(summaries == totals.ended, "{summaries} events have a whole summary, expected {}", totals.ended);
        let (messages, expected) = (self.sqs.messages(ORDERED_QUEUE).len(), if ordered { totals.records } else { 0 });
        ensure!(messages == expected, "{messages} messages are in the ordered queue, expected {expected}");
        Ok(())
    }

    fn check_rows(&self, totals: Totals) -> anyhow::Result<()> {
        let rows = self.runtime().block_on(async {
            let scan = self.services.client().scan().table_name(SESSIONS_TABLE_NAME).consistent_read(true);
            scan.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await
        })?;
        let ended = rows.iter().filter(|row| is_whole(row)).count();
        ensure!(rows.len() == totals.conversations, "{} rows, expected {}", rows.len(), totals.conversations);
        ensure!(ended == totals.ended, "{ended} rows are of whole conversations, expected {}", totals.ended);
        Ok(())
    }
}

/// Whether an event carries the summary of a conversation with all its events.
fn has_whole_summary(event: &PublishedEvent) -> bool {
    event.detail().pointer("/session/n").is_some_and(|n| *n == 4)
}

/// Whether a row is that of a conversation with all its events.
fn is_whole(row: &Item) -> bool {
    let is = |name: &str, value: &AttributeValue| row.get(name) == Some(value);
    is("n", &AttributeValue::N("4".to_owned())) && is("state", &AttributeValue::S("ended".to_owned()))
}
