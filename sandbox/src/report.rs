//! What the sandbox tells: a table that grows line by line for people, a JSON object a line for programs.
//!
//! The JSON says nothing that differs between two runs with the same seed, so that they can be compared.

use std::io::{self, Write};

use anstream::AutoStream;
use anstyle::AnsiColor;
use serde_json::{Map, Value, json};

use crate::{
    Sandbox, Services, TABLE_NAME, WEBHOOK_URL,
    demo::{Delivered, Item, Verdict, answer, text},
    platform::{FIRST_SHARED_KEY, HEAD_ID, PUBLIC_HEAD_ID, PUBLIC_ORG_ID, Style},
};

const BOLD: anstyle::Style = anstyle::Style::new().bold();
const DIM: anstyle::Style = anstyle::Style::new().dimmed();
const GOOD: anstyle::Style = AnsiColor::Green.on_default();
const KNOWN: anstyle::Style = AnsiColor::Cyan.on_default();
const BAD: anstyle::Style = AnsiColor::Red.on_default();
const LATER: anstyle::Style = AnsiColor::Yellow.on_default();

/// Where and how to tell.
#[derive(Debug)]
pub struct Report {
    out: AutoStream<io::Stdout>,
    json: bool,
}

impl Report {
    /// Tells on standard output: as JSON, or as text with colour where a terminal shows it.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self { out: AutoStream::auto(io::stdout()), json }
    }

    /// The beginning of the demo.
    pub fn opening(&mut self, conversations: usize, seed: u64, style: Style) -> io::Result<()> {
        let style = style.as_str();
        if self.json {
            return self.line(&json!({"type": "demo", "conversations": conversations, "seed": seed, "style": style}));
        }
        let many = if conversations == 1 { "conversation" } else { "conversations" };
        writeln!(
            self.out,
            "{DIM}provision has registered the webhook, put its key into the ring and switched events on.{DIM:#}"
        )?;
        writeln!(
            self.out,
            "{BOLD}{conversations} {many} with the digital human {PUBLIC_HEAD_ID}{BOLD:#}, delivered to {WEBHOOK_URL} \
             in the {style} style {DIM}(--style {style} --seed {seed} plays the same again){DIM:#}\n"
        )?;
        writeln!(
            self.out,
            "{DIM}{:<9} {:<21} {:>3}  {:<28} {:>7}  what is special{DIM:#}",
            "session", "event", "try", "answer", "ms"
        )
    }

    /// A delivery and its attempts.
    pub fn delivery(&mut self, delivered: &Delivered) -> io::Result<()> {
        let event = delivered.kind.as_str();
        for (index, attempt) in delivered.attempts.iter().enumerate() {
            let (status, word) = answer(attempt);
            if self.json {
                self.line(&json!({
                    "type": "delivery", "session_id": delivered.session_id, "event_type": event,
                    "attempt": index + 1, "status": status, "answer": word, "note": delivered.note,
                }))?;
                continue;
            }
            let style = match status {
                200..300 if word == "duplicate" => KNOWN,
                200..300 => GOOD,
                503 => LATER,
                _ => BAD,
            };
            let told = format!("{status} {word}");
            let ms = attempt.took.as_secs_f64() * 1000.0;
            let note = if index == 0 { delivered.note } else { "" };
            writeln!(
                self.out,
                "{:<9} {event:<21} {:>3}  {style}{told:<28}{style:#} {ms:>7.1}  {DIM}{note}{DIM:#}",
                short(&delivered.session_id),
                index + 1,
            )?;
        }
        Ok(())
    }

    /// What is stored, and whether that is right.
    pub fn verdict(&mut self, verdict: &Verdict, removed: bool) -> io::Result<()> {
        if self.json {
            for item in &verdict.stored {
                self.line(&stored_json(item))?;
            }
            return self.line(&json!({
                "type": "verdict", "ok": verdict.mismatches.is_empty(), "delivered": verdict.delivered,
                "stored": verdict.stored.len(), "duplicates": verdict.duplicates, "refused": verdict.refused,
                "rotations": verdict.rotations, "removed": removed, "mismatches": verdict.mismatches,
            }));
        }
        writeln!(self.out, "\n{BOLD}Stored in the table {TABLE_NAME}{BOLD:#}\n")?;
        writeln!(
            self.out,
            "{DIM}{:<9} {:<25} {:<21} {:<33} received_at{DIM:#}",
            "session", "occurred_at", "event_type", "event_id"
        )?;
        for item in &verdict.stored {
            writeln!(
                self.out,
                "{:<9} {:<25} {:<21} {:<33} {}",
                short(text(item, "session_id")),
                text(item, "occurred_at"),
                text(item, "event_type"),
                text(item, "event_id"),
                text(item, "received_at"),
            )?;
        }
        let were = if verdict.duplicates == 1 { "was" } else { "were" };
        writeln!(
            self.out,
            "\n{} deliveries, {} events stored, each once; {} came again and {were} recognised; {} forged ones were refused.",
            verdict.delivered,
            verdict.stored.len(),
            verdict.duplicates,
            verdict.refused,
        )?;
        if verdict.rotations > 0 {
            writeln!(self.out, "The key was rotated {} times meanwhile.", verdict.rotations)?;
        }
        if removed {
            writeln!(self.out, "The stack is deleted: no webhook, no events, no key of ours is left.")?;
        }
        for mismatch in &verdict.mismatches {
            writeln!(self.out, "{BAD}wrong:{BAD:#} {mismatch}")?;
        }
        if verdict.mismatches.is_empty() {
            writeln!(self.out, "{GOOD}All as it must be.{GOOD:#}")
        } else {
            writeln!(self.out, "{BAD}{} things are not as they must be.{BAD:#}", verdict.mismatches.len())
        }
    }

    /// Where everything is, and what to try.
    pub fn serving(&mut self, sandbox: &Sandbox) -> io::Result<()> {
        let (services, front) = (&sandbox.services, sandbox.front.url());
        if self.json {
            return self.line(&json!({"type": "serving", "front": front, "services": urls(services)}));
        }
        writeln!(self.out, "\n{BOLD}Still serving{BOLD:#}, until Ctrl-C\n")?;
        writeln!(self.out, "  the webhook      {front}{}", receive::WEBHOOK_PATH)?;
        self.service_urls(services)?;
        let path = receive::WEBHOOK_PATH;
        writeln!(
            self.out,
            "\n{BOLD}Try:{BOLD:#} sign an event and deliver it (twice, to see it recognised)\n\n\
             BODY='{{\"timestamp\":\"'$(date -u +%FT%TZ)'\",\"head_id\":\"{HEAD_ID}\",\"session_id\":\"my-session\",\
             \"public_head_id\":\"{PUBLIC_HEAD_ID}\",\"public_org_id\":\"{PUBLIC_ORG_ID}\",\"event_type\":\"START_CONVERSATION\"}}'\n\
             SIGNATURE=$(printf %s \"$BODY\" | openssl dgst -sha256 -hmac {FIRST_SHARED_KEY} -r | cut -d' ' -f1)\n\
             curl -i {front}{path} -H 'content-type: application/json' -H \"X-Signature-256: $SIGNATURE\" --data-raw \"$BODY\"\n\n\
             {BOLD}Try:{BOLD:#} read the table\n\n\
             AWS_ACCESS_KEY_ID=sandbox AWS_SECRET_ACCESS_KEY=sandbox aws dynamodb scan --region us-east-1 \
             --endpoint-url {} --table-name {TABLE_NAME}\n\n\
             {BOLD}Try:{BOLD:#} let another conversation happen\n\n\
             curl -X POST {}/_sandbox/conversations\n",
            services.dynamodb.url(),
            services.platform.url(),
        )
    }

    /// What a function needs to know to run against the services alone.
    pub fn services_only(
        &mut self,
        services: &Services,
        environment: &[(&'static str, String)],
        env_file: &str,
    ) -> io::Result<()> {
        let style = services.platform.style().as_str();
        if self.json {
            let environment: Map<_, _> =
                environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
            return self.line(&json!({
                "type": "services", "style": style, "services": urls(services), "environment": environment,
            }));
        }
        writeln!(self.out, "{BOLD}Serving{BOLD:#}, with deliveries in the {style} style, until Ctrl-C\n")?;
        self.service_urls(services)?;
        writeln!(self.out, "\n{BOLD}The functions' environment{BOLD:#}, also in {env_file}\n")?;
        for (name, value) in environment {
            writeln!(self.out, "  {name}={value}")?;
        }
        writeln!(
            self.out,
            "\n{BOLD}Try:{BOLD:#} in another terminal\n\n\
             cargo lambda watch --env-file {env_file}\n\n\
             {BOLD}Try:{BOLD:#} in a third one, a signed delivery; a look at the registration; a whole conversation\n\n\
             cargo lambda invoke receive --data-file tests/fixtures/http-api-2.0.json\n\
             cargo lambda invoke provision --data-ascii '{{\"action\":\"status\"}}'\n\
             curl -X POST {}/_sandbox/conversations\n",
            services.platform.url()
        )
    }

    fn service_urls(&mut self, services: &Services) -> io::Result<()> {
        writeln!(self.out, "  UNITH            {}", services.platform.url())?;
        writeln!(self.out, "  DynamoDB         {}", services.dynamodb.url())?;
        writeln!(self.out, "  Secrets Manager  {}", services.secrets_manager.url())
    }

    fn line(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{value}")
    }
}

fn urls(services: &Services) -> Value {
    json!({
        "unith": services.platform.url(), "dynamodb": services.dynamodb.url(),
        "secrets_manager": services.secrets_manager.url(),
    })
}

/// The item as JSON, but for the attribute that differs from run to run.
fn stored_json(item: &Item) -> Value {
    let plain = |name: &String| {
        let value = item.get(name)?;
        value.as_s().or_else(|_| value.as_n()).ok().map(|text| (name.clone(), Value::from(text.as_str())))
    };
    let mut fields: Map<String, Value> = item.keys().filter(|name| *name != "received_at").filter_map(plain).collect();
    fields.insert("type".to_owned(), "stored".into());
    fields.into()
}

/// Enough of a session's id to tell it from the others on the screen.
fn short(session_id: &str) -> &str {
    session_id.get(..8).unwrap_or(session_id)
}
