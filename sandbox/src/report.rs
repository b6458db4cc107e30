//! The output of the sandbox: a table that grows line by line for people, one JSON object per line for programs.
//!
//! The JSON has nothing that differs between two runs with the same seed, so that runs can be compared.

use std::io::{self, Write};

use anstream::AutoStream;
use anstyle::AnsiColor;
use event_store::item::{EventItem, Via};
use receive::gateway::WEBHOOK_PATH;
use serde::Serialize;
use serde_json::{Value, json};
use sessions::item::SessionItem;
use unith_events::event_type::EventType;

use crate::{
    eventbridge::PublishedEvent,
    platform::{
        account::{FIRST_SHARED_KEY, HEAD_ID, PUBLIC_HEAD_ID, PUBLIC_ORG_ID},
        delivery::Attempt,
        style::Style,
    },
    services::{EVENT_BUS, Services, TABLE_NAME, WEBHOOK_URL},
};

const BOLD: anstyle::Style = anstyle::Style::new().bold();
const DIM: anstyle::Style = anstyle::Style::new().dimmed();
const GREEN: anstyle::Style = AnsiColor::Green.on_default();
const CYAN: anstyle::Style = AnsiColor::Cyan.on_default();
const RED: anstyle::Style = AnsiColor::Red.on_default();
const YELLOW: anstyle::Style = AnsiColor::Yellow.on_default();

/// The result of the demo.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The items of the demo's events, session by session.
    pub stored: Vec<EventItem>,
    /// The rows of the demo's sessions.
    pub sessions: Vec<SessionItem>,
    /// The demo's events on the bus, in the order of the items, each once.
    pub published: Vec<PublishedEvent>,
    /// A sentence for each difference from what must be.
    pub mismatches: Vec<String>,
    /// The number of the platform's deliveries, retries not counted.
    pub delivered: usize,
    /// The number of deliveries whose event was stored already.
    pub duplicates: usize,
    /// The number of deliveries that went to the spill queue.
    pub accepted: usize,
    /// The number of forged deliveries.
    pub refused: usize,
    pub rotations: u32,
}

/// The writer of the output.
#[derive(Debug)]
pub struct Report {
    out: AutoStream<io::Stdout>,
    json: bool,
}

impl Report {
    /// Writes to standard output, as JSON or as text. Text has colours on a terminal.
    pub fn new(json: bool) -> Self {
        Self { out: AutoStream::auto(io::stdout()), json }
    }

    /// Writes the start of the demo.
    pub fn start(&mut self, conversations: u16, seed: u64, style: Style) -> io::Result<()> {
        let style = style.as_str();
        if self.json {
            return self.line(&json!({"type": "demo", "conversations": conversations, "seed": seed, "style": style}));
        }
        let noun = if conversations == 1 { "conversation" } else { "conversations" };
        writeln!(
            self.out,
            "{DIM}The function provision registered the webhook, stored its key and switched events on.{DIM:#}\n\
             {BOLD}{conversations} {noun} with the digital human {PUBLIC_HEAD_ID}{BOLD:#}, delivered to {WEBHOOK_URL} \
             in the {style} style {DIM}(--style {style} --seed {seed} plays the same again){DIM:#}\n"
        )?;
        writeln!(
            self.out,
            "{DIM}{:<9} {:<21} {:>3}  {:<28} {:>7}  note{DIM:#}",
            "session", "event", "try", "response", "ms"
        )
    }

    /// Writes the attempts of a delivery. `note` is what is unusual about it; empty for nothing.
    pub fn delivery(&mut self, session: &str, kind: EventType, note: &str, attempts: &[Attempt]) -> io::Result<()> {
        let event = kind.as_str();
        for (index, attempt) in attempts.iter().enumerate() {
            let (status, outcome) = attempt.summary();
            if self.json {
                self.line(&json!({
                    "type": "delivery", "session_id": session, "event_type": event, "attempt": index + 1,
                    "status": status, "outcome": outcome, "note": note,
                }))?;
                continue;
            }
            let colour = match status {
                200..300 if outcome == "duplicate" => CYAN,
                202 | 503 => YELLOW,
                200..300 => GREEN,
                _ => RED,
            };
            let (session, number, response) = (short(session), index + 1, format!("{status} {outcome}"));
            let ms = attempt.took.as_secs_f64() * 1000.0;
            let note = if index == 0 { note } else { "" };
            writeln!(
                self.out,
                "{session:<9} {event:<21} {number:>3}  {colour}{response:<28}{colour:#} {ms:>7.1}  {DIM}{note}{DIM:#}"
            )?;
        }
        Ok(())
    }

    /// Writes that the table is unavailable.
    pub fn outage_begins(&mut self) -> io::Result<()> {
        self.outage("begins", "The table is unavailable. Deliveries go to the spill queue.")
    }

    /// Writes that the table is available again.
    pub fn outage_ends(&mut self) -> io::Result<()> {
        self.outage("ends", "The table is available again. The function redrive stores what is in the spill queue.")
    }

    fn outage(&mut self, state: &str, sentence: &str) -> io::Result<()> {
        if self.json {
            return self.line(&json!({"type": "outage", "state": state}));
        }
        writeln!(self.out, "{YELLOW}{sentence}{YELLOW:#}")
    }

    /// Writes the stored events and whether they are the expected ones. `removed` is whether the stack was deleted.
    pub fn verdict(&mut self, verdict: &Verdict, removed: bool) -> io::Result<()> {
        if self.json {
            for item in &verdict.stored {
                self.line(&stored_json(item))?;
            }
            for row in &verdict.sessions {
                self.line(&session_json(row))?;
            }
            for event in &verdict.published {
                self.line(&published_json(event))?;
            }
            return self.line(&json!({
                "type": "verdict", "ok": verdict.mismatches.is_empty(), "delivered": verdict.delivered,
                "stored": verdict.stored.len(), "duplicates": verdict.duplicates, "accepted": verdict.accepted,
                "refused": verdict.refused, "sessions": verdict.sessions.len(), "published": verdict.published.len(),
                "rotations": verdict.rotations, "removed": removed, "mismatches": verdict.mismatches,
            }));
        }
        writeln!(
            self.out,
            "\n{BOLD}Items of the table {TABLE_NAME}{BOLD:#}\n\n{DIM}{:<9} {:<25} {:<21} {:<33} {:<25} via{DIM:#}",
            "session", "occurred_at", "event_type", "event_id", "received_at"
        )?;
        for item in &verdict.stored {
            writeln!(
                self.out,
                "{:<9} {:<25} {:<21} {:<33} {:<25} {}",
                short(&item.session_id),
                item.occurred_at.to_string(),
                item.event_type,
                item.event_id.as_str(),
                item.received_at.to_string(),
                item.via.map_or("receive", via),
            )?;
        }
        self.sessions(&verdict.sessions)?;
        self.bus(&verdict.published)?;
        writeln!(
            self.out,
            "\nDeliveries: {}. Accepted during the outage: {}. Duplicates: {}. Refused forgeries: {}. Stored events: {}.",
            verdict.delivered,
            verdict.accepted,
            verdict.duplicates,
            verdict.refused,
            verdict.stored.len(),
        )?;
        if verdict.rotations > 0 {
            writeln!(self.out, "The key was rotated {} times during the deliveries.", verdict.rotations)?;
        }
        if removed {
            writeln!(self.out, "The function provision deleted the webhook, removed its key and switched events off.")?;
        }
        for mismatch in &verdict.mismatches {
            writeln!(self.out, "{RED}mismatch:{RED:#} {mismatch}")?;
        }
        if verdict.mismatches.is_empty() {
            writeln!(self.out, "{GREEN}OK: the table holds exactly the expected events.{GREEN:#}")?;
            writeln!(self.out, "{GREEN}OK: the bus and the table of sessions match them.{GREEN:#}")
        } else {
            writeln!(self.out, "{RED}FAILED: see the mismatches above.{RED:#}")
        }
    }

    /// Writes the rows of the sessions table.
    fn sessions(&mut self, rows: &[SessionItem]) -> io::Result<()> {
        writeln!(
            self.out,
            "\n{BOLD}Sessions, from the function sessions{BOLD:#}\n\n{DIM}{:<9} {:<25} {:>10}  {:<8} {:<9} {:>8} {:>7}{DIM:#}",
            "session", "started_at", "duration", "state", "ended by", "warnings", "events"
        )?;
        for SessionItem { session_id, summary, .. } in rows {
            let duration =
                summary.duration_ms.map_or("-".to_owned(), |ms| format!("{}.{:03} s", ms / 1_000, ms % 1_000));
            writeln!(
                self.out,
                "{:<9} {:<25} {duration:>10}  {:<8} {:<9} {:>8} {:>7}",
                short(session_id),
                summary.started_at.to_string(),
                word(&summary.state),
                word(&summary.ended_by),
                summary.warnings,
                summary.n
            )?;
        }
        Ok(())
    }

    /// Writes the events on the bus.
    fn bus(&mut self, events: &[PublishedEvent]) -> io::Result<()> {
        writeln!(
            self.out,
            "\n{BOLD}Events on the bus {EVENT_BUS}, from the function publish{BOLD:#}\n\n{DIM}{:<9} {:<25} {:<21} {:<33} note{DIM:#}",
            "session", "time", "detail-type", "metadata.id"
        )?;
        for event in events {
            let detail = event.detail();
            let metadata =
                |name: &str| detail.pointer(&format!("/metadata/{name}")).and_then(Value::as_str).unwrap_or_default();
            writeln!(
                self.out,
                "{:<9} {:<25} {:<21} {:<33} {DIM}{}{DIM:#}",
                short(metadata("session_id")),
                event.time.to_string(),
                event.detail_type,
                metadata("id"),
                if detail.get("session").is_some() { "with the session's summary" } else { "" }
            )?;
        }
        Ok(())
    }

    /// Writes the URLs of the running sandbox and commands to try.
    pub fn serving(&mut self, services: &Services, api_gateway: &str) -> io::Result<()> {
        if self.json {
            return self.line(&json!({"type": "serving", "api_gateway": api_gateway, "services": urls(services)}));
        }
        writeln!(
            self.out,
            "\n{BOLD}The sandbox is running.{BOLD:#} Ctrl-C stops it.\n\n  webhook          {api_gateway}{WEBHOOK_PATH}"
        )?;
        self.service_urls(services)?;
        writeln!(
            self.out,
            "\n{BOLD}Try:{BOLD:#} sign an event and deliver it; a second delivery is a duplicate\n\n\
             BODY='{{\"timestamp\":\"'$(date -u +%FT%TZ)'\",\"head_id\":\"{HEAD_ID}\",\"session_id\":\"my-session\",\
             \"public_head_id\":\"{PUBLIC_HEAD_ID}\",\"public_org_id\":\"{PUBLIC_ORG_ID}\",\"event_type\":\"START_CONVERSATION\"}}'\n\
             SIGNATURE=$(printf %s \"$BODY\" | openssl dgst -sha256 -hmac {FIRST_SHARED_KEY} -r | cut -d' ' -f1)\n\
             curl -i {api_gateway}{WEBHOOK_PATH} -H 'content-type: application/json' \
             -H \"X-Signature-256: $SIGNATURE\" --data-raw \"$BODY\"\n\n\
             {BOLD}Try:{BOLD:#} read the table\n\n\
             AWS_ACCESS_KEY_ID=sandbox AWS_SECRET_ACCESS_KEY=sandbox aws dynamodb scan --region us-east-1 \
             --endpoint-url {} --table-name {TABLE_NAME}\n\n\
             {BOLD}Try:{BOLD:#} play another conversation\n\n\
             curl -X POST {}/_sandbox/conversations\n",
            services.dynamodb.url(),
            services.platform.url(),
        )
    }

    /// Writes the URLs of the services and the environment of a function that uses them.
    pub fn services_only(
        &mut self,
        services: &Services,
        environment: &[(&'static str, String)],
        env_file: &str,
    ) -> io::Result<()> {
        let style = services.platform.style().as_str();
        if self.json {
            let environment: Value = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
            return self.line(&json!({
                "type": "services", "style": style, "services": urls(services), "environment": environment,
            }));
        }
        writeln!(
            self.out,
            "{BOLD}The services are running.{BOLD:#} Deliveries are in the {style} style. Ctrl-C stops them.\n"
        )?;
        self.service_urls(services)?;
        writeln!(self.out, "\n{BOLD}Environment of the functions{BOLD:#}, also in {env_file}\n")?;
        for (name, value) in environment {
            writeln!(self.out, "  {name}={value}")?;
        }
        writeln!(
            self.out,
            "\n{BOLD}Try:{BOLD:#} in a second terminal, start the functions\n\n\
             cargo lambda watch --env-file {env_file}\n\n\
             {BOLD}Try:{BOLD:#} in a third terminal, send a signed delivery, read the status of the registration, play a \
             conversation\n\n\
             cargo lambda invoke receive --data-file tests/fixtures/http-api-2.0.json\n\
             cargo lambda invoke provision --data-ascii '{{\"action\":\"status\"}}'\n\
             curl -X POST {}/_sandbox/conversations\n",
            services.platform.url()
        )
    }

    fn service_urls(&mut self, services: &Services) -> io::Result<()> {
        writeln!(self.out, "  UNITH            {}", services.platform.url())?;
        writeln!(self.out, "  DynamoDB         {}", services.dynamodb.url())?;
        writeln!(self.out, "  Secrets Manager  {}", services.secrets_manager.url())?;
        writeln!(self.out, "  SQS              {}", services.sqs.url())?;
        writeln!(self.out, "  EventBridge      {}", services.eventbridge.url())
    }

    fn line(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{value}")
    }
}

fn urls(services: &Services) -> Value {
    json!({
        "unith": services.platform.url(), "dynamodb": services.dynamodb.url(),
        "secrets_manager": services.secrets_manager.url(), "sqs": services.sqs.url(),
        "eventbridge": services.eventbridge.url(),
    })
}

/// The item without `received_at`, which differs between runs.
fn stored_json(item: &EventItem) -> Value {
    without(json!(item), "stored", &["received_at"])
}

/// The row without `first_received_at`, which differs between runs.
fn session_json(row: &SessionItem) -> Value {
    without(json!(row), "session", &["first_received_at"])
}

/// The event as a rule's target gets it, without what differs between runs: its id and region, the instants of delivery, and the
/// session's summary, which has the events that were stored when the END was published.
fn published_json(event: &PublishedEvent) -> Value {
    let mut event: Value = serde_json::from_str(&event.to_json()).unwrap_or_default();
    if let Some(detail) = event.get_mut("detail").and_then(Value::as_object_mut) {
        detail.remove("session");
        if let Some(metadata) = detail.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("received_at");
        }
    }
    without(event, "bus_event", &["id"])
}

/// An object with a type, without some of its members.
fn without(mut object: Value, kind: &str, names: &[&str]) -> Value {
    if let Some(members) = object.as_object_mut() {
        for name in names {
            members.remove(*name);
        }
        members.insert("type".to_owned(), kind.into());
    }
    object
}

/// The word that JSON has for a value; a dash for none.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().as_ref().and_then(Value::as_str).unwrap_or("-").to_owned()
}

fn via(via: Via) -> &'static str {
    match via {
        Via::Redrive => "redrive",
        Via::Quarantine => "quarantine",
    }
}

/// The first digits of a session id, which suffice on a screen.
fn short(session_id: &str) -> &str {
    session_id.get(..8).unwrap_or(session_id)
}
