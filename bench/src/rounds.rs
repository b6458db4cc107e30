//! The measurement: every candidate has a turn in each round, so other load on the machine meets them all.

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

/// The settings of a measurement.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Settings {
    /// Turns per candidate.
    pub rounds: usize,
    /// Events in the long run of a turn.
    pub events: usize,
    /// The core that candidates run on.
    pub pin: Option<usize>,
    /// Whether keys come from a key ring in Secrets Manager.
    pub key_ring: bool,
}

/// The figures of one turn of a candidate.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Turn {
    /// From the start of the process to its first long poll.
    pub init_ms: f64,
    /// Duration of the first event.
    pub first_event_ms: f64,
    /// Init and first event together.
    pub cold_ms: f64,
    /// CPU time of a process that got one event, from start to end.
    pub cold_cpu_ms: f64,
    /// Median of the events after the first.
    pub p50_ms: f64,
    /// 99th percentile of the events after the first.
    pub p99_ms: f64,
    /// CPU time per event: the difference between the long run and the run with one event.
    pub event_cpu_ms: f64,
    /// Peak memory of the long run.
    pub peak_mib: f64,
}

/// The figures of a candidate.
#[derive(Debug, Clone, Serialize)]
pub struct Measured<T> {
    /// The candidate's name.
    pub name: String,
    /// The size of the artifact.
    pub size: Size,
    /// The turns, in order.
    pub turns: Vec<T>,
}

impl<T> Measured<T> {
    /// The median of a figure over the turns.
    pub fn median(&self, figure: fn(&T) -> f64) -> f64 {
        median(&self.turns.iter().map(figure).collect::<Vec<_>>())
    }

    /// The least and the greatest value of a figure over the turns.
    pub fn range(&self, figure: fn(&T) -> f64) -> (f64, f64) {
        let figures: Vec<_> = self.turns.iter().map(figure).collect();
        (percentile(&figures, 0), percentile(&figures, 100))
    }
}

/// The measuring set-up.
pub struct Bench<'a> {
    /// The folder for files of the run.
    pub folder: &'a Path,
    /// The cores of functions and services.
    pub cores: &'a Cores,
    /// The settings.
    pub settings: Settings,
}

/// The measurements of one environment, from start to end.
struct Run {
    init: Duration,
    events: Vec<Duration>,
    used: Used,
}

impl Bench<'_> {
    /// Measures all candidates. `on_turn` gets the round and the candidate before each turn.
    pub fn rounds(
        &self,
        candidates: &[Candidate],
        mut on_turn: impl FnMut(usize, &str),
    ) -> anyhow::Result<Vec<Measured<Turn>>> {
        let measured = |candidate: &Candidate| {
            Ok(Measured {
                name: candidate.name.clone(),
                size: Size::of(&candidate.function.artifact)?,
                turns: Vec::new(),
            })
        };
        let mut all = candidates.iter().map(measured).collect::<anyhow::Result<Vec<_>>>()?;
        for round in 1..=self.settings.rounds {
            for (candidate, measured) in candidates.iter().zip(&mut all) {
                on_turn(round, &candidate.name);
                let turn = self.turn(candidate, round);
                measured.turns.push(turn.with_context(|| format!("{}, round {round}", candidate.name))?);
            }
        }
        Ok(all)
    }

    fn turn(&self, candidate: &Candidate, round: usize) -> anyhow::Result<Turn> {
        // Each turn has new services: the embedded DynamoDB slows down with its history.
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
        let mut environment = Environment::start(&candidate.function, &variables, self.cores, services.runtime())?;
        let init = environment.init();
        let mut took = Vec::with_capacity(events);
        for (index, delivery) in deliveries.iter().enumerate() {
            let invocation = environment.invoke(&delivery.event)?;
            check(candidate.contract, delivery.expected, &invocation.response)
                .with_context(|| format!("event {} of {events} got a wrong response", index + 1))?;
            took.push(invocation.took);
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
            ("UNITH_KEYS_SECRET", sandbox::services::KEYS_SECRET.to_owned())
        } else {
            ("UNITH_SHARED_KEY", KEY.to_owned())
        });
        variables
    }
}

fn count(services: &Services, table: &str, expected: usize) -> anyhow::Result<()> {
    let items = services.count_and_delete(table)?;
    ensure!(items == expected, "table {table} holds {items} items, expected {expected}");
    Ok(())
}

/// Rounds to microseconds; further digits are noise.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpResponse {
    status_code: u16,
    #[serde(default)]
    body: Option<String>,
}

#[derive(Deserialize)]
struct Receipt {
    status: String,
}

/// Checks a response against the contract.
fn check(contract: Contract, expected: Expected, response: &[u8]) -> anyhow::Result<()> {
    let shown = || String::from_utf8_lossy(response).into_owned();
    let http: HttpResponse =
        serde_json::from_slice(response).with_context(|| format!("not an HTTP response: {}", shown()))?;
    let (status, outcome) = match expected {
        _ if contract == Contract::Nothing => (200, None),
        Expected::Stored => (200, Some("stored")),
        Expected::Duplicate => (200, Some("duplicate")),
        Expected::Rejected => (401, None),
    };
    let body = http.body.unwrap_or_default();
    let got = serde_json::from_str::<Receipt>(&body).ok().map(|receipt| receipt.status);
    let is_expected = http.status_code == status && outcome.is_none_or(|outcome| got.as_deref() == Some(outcome));
    ensure!(is_expected, "expected {status} {}, got {}", outcome.unwrap_or_default(), shown());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_expected_response_passes_the_check() {
        let stored = br#"{"statusCode": 200, "headers": {}, "body": "{\"status\": \"stored\"}"}"#;
        let rejected = br#"{"statusCode": 401, "body": "{\"status\": 401}"}"#;
        let empty = br#"{"statusCode": 200, "body": null}"#;
        for (contract, expected, response, passes) in [
            (Contract::Receiver, Expected::Stored, &stored[..], true),
            (Contract::Receiver, Expected::Duplicate, stored, false),
            (Contract::Receiver, Expected::Rejected, stored, false),
            (Contract::Receiver, Expected::Rejected, rejected, true),
            (Contract::Receiver, Expected::Stored, rejected, false),
            (Contract::Receiver, Expected::Stored, empty, false),
            (Contract::Receiver, Expected::Stored, b"stored", false),
            (Contract::Nothing, Expected::Rejected, empty, true),
            (Contract::Nothing, Expected::Stored, rejected, false),
        ] {
            let text = String::from_utf8_lossy(response);
            assert_eq!(check(contract, expected, response).is_ok(), passes, "{contract:?} {expected:?} {text}");
        }
    }

    #[test]
    fn medians_and_ranges_are_taken_over_the_turns() {
        let turns = [3.0, 1.0, 8.0].map(|init_ms| Turn { init_ms, ..Turn::default() }).to_vec();
        let measured = Measured { name: "any".into(), size: Size { bytes: 1, zip_bytes: 1 }, turns };
        assert!((measured.median(|turn| turn.init_ms) - 3.0).abs() < f64::EPSILON);
        assert_eq!(measured.range(|turn| turn.init_ms), (1.0, 8.0));
    }
}
