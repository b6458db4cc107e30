//! Logging: one JSON object per line on standard output, in the shape of Lambda's own JSON logs.
//!
//! Lines of libraries are logged from `WARN` up: below that some of them print payloads.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
    panic::PanicHookInfo,
    time::Duration,
};

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};

use unith_events::{
    event::{self, ParseError},
    ids::{EventId, HeadId, SessionId},
    timestamp::Timestamp,
};

use crate::{
    env::{Env, EnvError},
    metrics::Metrics,
};

/// The crates whose lines follow `LOG_LEVEL`.
const OURS: [&str; 8] =
    ["event_store", "lambda_support", "provision", "publish", "receive", "redrive", "sessions", "unith_events"];

/// Reads `LOG_LEVEL`. Lambda's own `AWS_LAMBDA_LOG_LEVEL` filters what Lambda passes on, and is ignored here.
///
/// # Errors
/// A level other than `error`, `warn` and `info`, below which nothing is logged.
pub fn level(env: &Env) -> Result<Level, EnvError> {
    let name = "LOG_LEVEL";
    let Some(value) = env.optional(name) else { return Ok(Level::INFO) };
    let level =
        [Level::ERROR, Level::WARN, Level::INFO].into_iter().find(|level| level.as_str().eq_ignore_ascii_case(value));
    level.ok_or_else(|| EnvError::Invalid { name, value: value.to_owned(), expected: "error, warn or info" })
}

/// Writes `tracing`'s events and panics to standard output from now on. Only the first call has an effect.
pub fn init(level: Level) {
    if init_with(level, write) {
        std::panic::set_hook(Box::new(report_panic));
    }
}

/// Passes the lines of `tracing`'s events to `write` from now on. Only the first call in a process has an effect: `true`.
pub fn init_with(level: Level, write: fn(&[u8])) -> bool {
    tracing::subscriber::set_global_default(Lines { level, write }).is_ok()
}

/// Writes `record` as one line on standard output, in one write.
pub fn write_line(record: &impl Serialize) {
    write(&line(record));
}

fn write(line: &[u8]) {
    // If standard output is closed, nobody reads the log.
    let _ = std::io::stdout().lock().write_all(line);
}

/// `record` as one line of JSON with a line feed; empty if JSON cannot hold it.
pub fn line(record: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(record).unwrap_or_default();
    if !line.is_empty() {
        line.push(b'\n');
    }
    line
}

/// A time in milliseconds, for a line. Whole microseconds: more digits are noise.
pub fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// The fields of a line that say which event it is about.
#[derive(Debug, Default, Serialize)]
pub struct EventFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_id: Option<HeadId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
}

impl EventFields {
    /// Whether the event is of a self-test.
    pub fn is_self_test(&self) -> bool {
        self.session_id.as_ref().is_some_and(SessionId::is_self_test)
    }
}

impl From<Result<event::Event, ParseError>> for EventFields {
    /// Of a body that is not an event, the ids that could be read.
    fn from(event: Result<event::Event, ParseError>) -> Self {
        match event {
            Ok(event::Event { event_id, identity, event_type, .. }) => Self {
                event_id: Some(event_id),
                head_id: Some(identity.head_id),
                session_id: Some(identity.session_id),
                event_type: Some(event_type),
            },
            Err(ParseError { head_id, session_id, .. }) => Self { head_id, session_id, ..Self::default() },
        }
    }
}

/// The line of a command, with its report.
#[derive(Debug, Serialize)]
pub struct CommandLine<'r, R> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    request_id: &'r str,
    action: &'static str,
    result: R,
    #[serde(flatten)]
    metrics: Option<Metrics>,
}

impl<'r, R> CommandLine<'r, R> {
    /// The line of a command that succeeded or failed.
    pub fn new(request_id: &'r str, action: &'static str, ok: bool, result: R) -> Self {
        let (level, message) = if ok { (Level::INFO, "command done") } else { (Level::ERROR, "command failed") };
        let timestamp = Timestamp::now().to_string();
        Self { timestamp, level: level.as_str(), message, request_id, action, result, metrics: None }
    }

    /// The same with metrics.
    pub fn with_metrics(self, metrics: Option<Metrics>) -> Self {
        Self { metrics, ..self }
    }
}

/// Whether a line of the level `own` is written at `level`. One that carries metrics always is: they would be lost with it.
pub fn is_wanted(own: &str, has_metrics: bool, level: Level) -> bool {
    has_metrics || own.parse::<Level>().is_ok_and(|own| own <= level)
}

fn report_panic(panic: &PanicHookInfo<'_>) {
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("(no message)");
    write_line(&Line {
        timestamp: Timestamp::now().to_string(),
        level: "ERROR",
        message: format!("panicked at {at}: {message}"),
        target: "panic",
        fields: Map::new(),
    });
}

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'a str,
    message: String,
    target: &'a str,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// A subscriber without spans, filters to parse or colours.
struct Lines {
    level: Level,
    write: fn(&[u8]),
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target().split("::").next().is_some_and(|name| OURS.contains(&name));
        metadata.is_event() && *metadata.level() <= if ours { self.level } else { self.level.min(Level::WARN) }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.into())
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        (self.write)(&line(&Line {
            timestamp: Timestamp::now().to_string(),
            level: event.metadata().level().as_str(),
            message: fields.message,
            target: event.metadata().target(),
            fields: fields.others,
        }));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.others.insert(field.name().to_owned(), format!("{value:?}").into());
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.others.insert(field.name().to_owned(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.insert(field.name().to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_log_level_sets_the_level_and_only_to_one_that_has_lines() {
        let env = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Env>();
        assert_eq!(level(&env(&[])), Ok(Level::INFO));
        assert_eq!(level(&env(&[("LOG_LEVEL", "Warn"), ("AWS_LAMBDA_LOG_LEVEL", "INFO")])), Ok(Level::WARN));
        assert_eq!(level(&env(&[("AWS_LAMBDA_LOG_LEVEL", "FATAL")])), Ok(Level::INFO));
        for other in ["debug", "trace", "loud"] {
            let error = level(&env(&[("LOG_LEVEL", other)])).unwrap_err().to_string();
            assert_eq!(error, format!("LOG_LEVEL is `{other}`: expected error, warn or info"));
        }
    }
}
