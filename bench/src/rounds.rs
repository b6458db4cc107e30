//! The measuring itself: rounds, in each of which every candidate has its turn, so that what the machine does besides
//! meets them all.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use workload::{
    delivery::{Deliveries, Expected, KEY},
    size::Size,
};

use crate::{
    candidate::{Candidate, Contract},
    cores::Cores,
    environment::{Environment, Used},
    services::Services,
    statistics::{median, percentile},
};

/// How it is measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Settings {
    /// How often each candidate has its turn.
    pub rounds: usize,
    /// The events of a turn's long run.
    pub events: usize,
    /// The core the candidates run on.
    pub pin: Option<usize>,
    /// Whether keys come from a ring in Secrets Manager.
    pub key_ring: bool,
}

/// What one turn of a candidate gave.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Turn {
    /// From the start of the process to its first long poll.
    pub init_ms: f64,
    /// The first event.
    pub first_event_ms: f64,
    /// Both together.
    pub cold_ms: f64,
    /// CPU time of a process that was started and given one event.
    pub cold_cpu_ms: f64,
    /// The middle of the events after the first.
    pub p50_ms: f64,
    /// What 99 % of them were not above.
    pub p99_ms: f64,
    /// CPU time per event: of the run with many, less the run with one.
    pub event_cpu_ms: f64,
    /// Peak memory after many events.
    pub peak_mib: f64,
}

/// All turns of a candidate.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// The candidate.
    pub name: String,
    /// What would be uploaded.
    pub size: Size,
    /// In order.
    pub turns: Vec<Turn>,
}

impl Measured {
    /// The median over the turns of one of their figures.
    #[must_use]
    pub fn median(&self, figure: fn(&Turn) -> f64) -> f64 {
        median(&self.turns.iter().map(figure).collect::<Vec<_>>())
    }

    /// The least and the greatest of one of the turns' figures.
    #[must_use]
    pub fn range(&self, figure: fn(&Turn) -> f64) -> (f64, f64) {
        let figures: Vec<_> = self.turns.iter().map(figure).collect();
        (percentile(&figures, 0), percentile(&figures, 100))
    }
}

/// What is measured with.
pub struct Bench<'a> {
    /// Where its files go.
    pub folder: &'a Path,
    /// Where functions and services run.
    pub cores: &'a Cores,
    /// How.
    pub settings: Settings,
}

/// One environment's life: start, events, end.
struct Run {
    init: Duration,
    events: Vec<Duration>,
    used: Used,
}

impl Bench<'_> {
    /// Measures all candidates; `told` is told of each turn before it begins.
    pub fn rounds(&self, candidates: &[Candidate], mut told: impl FnMut(usize, &str)) -> anyhow::Result<Vec<Measured>> {
        let measured = |candidate: &Candidate| {
            Ok(Measured { name: candidate.name.clone(), size: Size::of(&candidate.artifact)?, turns: Vec::new() })
        };
        let mut all = candidates.iter().map(measured).collect::<anyhow::Result<Vec<_>>>()?;
        for round in 1..=self.settings.rounds {
            for (candidate, measured) in candidates.iter().zip(&mut all) {
                told(round, &candidate.name);
                let turn = self.turn(candidate, round);
                measured.turns.push(turn.with_context(|| format!("{}, round {round}", candidate.name))?);
            }
        }
        Ok(all)
    }

    fn turn(&self, candidate: &Candidate, round: usize) -> anyhow::Result<Turn> {
        // New ones each time: the embedded DynamoDB gets slower with all that it has seen.
        let services = Services::start(self.folder)?;
        let run = |what, events| self.run(&services, candidate, &format!("{}-{round}-{what}", candidate.name), events);
        let (cold, warm) = (run("cold", 1)?, run("warm", self.settings.events)?);
        let first = cold.events.first().copied().unwrap_or_default();
        let after_the_first: Vec<f64> = warm.events.iter().skip(1).copied().map(milliseconds).collect();
        let (long, short) = (milliseconds(warm.used.cpu), milliseconds(cold.used.cpu));
        Ok(Turn {
            init_ms: milliseconds(cold.init),
            first_event_ms: milliseconds(first),
            cold_ms: milliseconds(cold.init + first),
            cold_cpu_ms: short,
            p50_ms: percentile(&after_the_first, 50),
            p99_ms: percentile(&after_the_first, 99),
            event_cpu_ms: (long - short) / f64::from(u32::try_from(after_the_first.len())?),
            peak_mib: f64::from(u32::try_from(warm.used.peak_kib)?) / 1024.0,
        })
    }

    fn run(&self, services: &Services, candidate: &Candidate, table: &str, events: usize) -> anyhow::Result<Run> {
        let deliveries = Deliveries::of(table, events)?;
        let idempotency_table = format!("{table}-idempotency");
        services.create_table(table)?;
        if candidate.contract == Contract::ReceiverWithIdempotencyTable {
            services.create_idempotency_table(&idempotency_table)?;
        }
        let variables = self.variables(services, candidate, table, &idempotency_table);
        let mut environment = Environment::start(candidate, &variables, self.cores, services.runtime())?;
        let init = environment.init();
        let mut took = Vec::with_capacity(events);
        for (index, delivery) in deliveries.iter().enumerate() {
            let answer = environment.invoke(&delivery.event)?;
            check(candidate.contract, delivery.expected, &answer.body)
                .with_context(|| format!("event {} of {events} was answered wrongly", index + 1))?;
            took.push(answer.took);
        }
        let used = environment.end()?;
        let expected = if candidate.contract == Contract::Nothing { 0 } else { deliveries.stored() };
        count(services, table, expected)?;
        if candidate.contract == Contract::ReceiverWithIdempotencyTable {
            count(services, &idempotency_table, expected)?;
        }
        Ok(Run { init, events: took, used })
    }

    fn variables(
        &self,
        services: &Services,
        candidate: &Candidate,
        table: &str,
        idempotency_table: &str,
    ) -> Vec<(&'static str, String)> {
        let mut variables = services.environment();
        variables.push(("TABLE_NAME", table.to_owned()));
        variables.push(("RETENTION_DAYS", "0".to_owned()));
        if candidate.contract == Contract::ReceiverWithIdempotencyTable {
            variables.push(("IDEMPOTENCY_TABLE_NAME", idempotency_table.to_owned()));
        }
        variables.push(if self.settings.key_ring {
            ("UNITH_KEYS_SECRET", sandbox::KEYS_SECRET.to_owned())
        } else {
            ("UNITH_SHARED_KEY", KEY.to_owned())
        });
        variables
    }
}

fn count(services: &Services, table: &str, expected: usize) -> anyhow::Result<()> {
    let items = services.count_and_delete(table)?;
    ensure!(items == expected, "the table {table} holds {items} items, and must hold {expected}");
    Ok(())
}

/// Whole microseconds: more digits are noise.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpAnswer {
    status_code: u16,
    #[serde(default)]
    body: Option<String>,
}

#[derive(Deserialize)]
struct Receipt {
    status: String,
}

/// Checks an answer against what the contract says about the delivery.
fn check(contract: Contract, expected: Expected, answer: &[u8]) -> anyhow::Result<()> {
    let told = || String::from_utf8_lossy(answer).into_owned();
    let http: HttpAnswer = serde_json::from_slice(answer).with_context(|| format!("no HTTP answer: {}", told()))?;
    let (status, word) = match expected {
        _ if contract == Contract::Nothing => (200, None),
        Expected::Stored => (200, Some("stored")),
        Expected::Duplicate => (200, Some("duplicate")),
        Expected::Refused => (401, None),
    };
    let body = http.body.unwrap_or_default();
    let said = serde_json::from_str::<Receipt>(&body).ok().map(|receipt| receipt.status);
    let right = http.status_code == status && word.is_none_or(|word| said.as_deref() == Some(word));
    ensure!(right, "expected {status} {}, got {}", word.unwrap_or_default(), told());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_expected_answer_is_right() {
        let stored = br#"{"statusCode": 200, "headers": {}, "body": "{\"status\": \"stored\"}"}"#;
        let refused = br#"{"statusCode": 401, "body": "{\"status\": 401}"}"#;
        let empty = br#"{"statusCode": 200, "body": null}"#;
        for (contract, expected, answer, right) in [
            (Contract::Receiver, Expected::Stored, &stored[..], true),
            (Contract::Receiver, Expected::Duplicate, stored, false),
            (Contract::Receiver, Expected::Refused, stored, false),
            (Contract::Receiver, Expected::Refused, refused, true),
            (Contract::Receiver, Expected::Stored, refused, false),
            (Contract::Receiver, Expected::Stored, empty, false),
            (Contract::Receiver, Expected::Stored, b"stored", false),
            (Contract::Nothing, Expected::Refused, empty, true),
            (Contract::Nothing, Expected::Stored, refused, false),
        ] {
            let text = String::from_utf8_lossy(answer);
            assert_eq!(check(contract, expected, answer).is_ok(), right, "{contract:?} {expected:?} {text}");
        }
    }

    #[test]
    fn medians_and_ranges_are_over_the_turns() {
        let turns = [3.0, 1.0, 8.0].map(|init_ms| Turn { init_ms, ..Turn::default() }).to_vec();
        let measured = Measured { name: "any".into(), size: Size { bytes: 1, zip_bytes: 1 }, turns };
        assert!((measured.median(|turn| turn.init_ms) - 3.0).abs() < f64::EPSILON);
        assert_eq!(measured.range(|turn| turn.init_ms), (1.0, 8.0));
    }
}
