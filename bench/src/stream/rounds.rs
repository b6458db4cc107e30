//! The measurement of the functions on the stream: every reader has a turn in each round.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use workload::size::Size;

use super::{batches::batches, reader::Reader, services::StreamServices};
use crate::{
    cores::Cores,
    environment::{Environment, Used},
    rounds::{Measured, milliseconds},
    statistics::percentile,
};

/// The settings of a measurement.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StreamSettings {
    /// Turns per reader.
    pub rounds: usize,
    /// Records in the long run of a turn.
    pub records: usize,
    /// The core that functions run on.
    pub pin: Option<usize>,
}

/// The figures of one turn of a reader.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct StreamTurn {
    /// From the start of the process to its first long poll.
    pub init_ms: f64,
    /// Duration of the first batch, of one record.
    pub first_record_ms: f64,
    /// Init and first record together.
    pub cold_ms: f64,
    /// CPU time of a process that got one record, from start to end.
    pub cold_cpu_ms: f64,
    /// CPU time per record: the difference between the long run and the run with one record.
    pub record_cpu_ms: f64,
    /// Median of the long run's batches.
    pub batch_p50_ms: f64,
    /// Records of the long run by the time of its batches.
    pub records_per_s: f64,
    /// Peak memory of the long run.
    pub peak_mib: f64,
}

/// The measuring set-up.
pub struct StreamBench<'a> {
    /// The folder for files of the run.
    pub folder: &'a Path,
    /// The cores of functions and services.
    pub cores: &'a Cores,
    /// The settings.
    pub settings: StreamSettings,
}

/// The measurements of one environment, from start to end.
struct Run {
    init: Duration,
    batches: Vec<Duration>,
    used: Used,
}

impl StreamBench<'_> {
    /// Measures all readers. `on_turn` gets the round and the reader before each turn.
    pub fn rounds(
        &self,
        readers: &[Reader],
        mut on_turn: impl FnMut(usize, &str),
    ) -> anyhow::Result<Vec<Measured<StreamTurn>>> {
        let measured = |reader: &Reader| {
            Ok(Measured { name: reader.name.clone(), size: Size::of(&reader.function.artifact)?, turns: Vec::new() })
        };
        let mut all = readers.iter().map(measured).collect::<anyhow::Result<Vec<_>>>()?;
        for round in 1..=self.settings.rounds {
            for (reader, measured) in readers.iter().zip(&mut all) {
                on_turn(round, &reader.name);
                let turn = self.turn(reader);
                measured.turns.push(turn.with_context(|| format!("{}, round {round}", reader.name))?);
            }
        }
        Ok(all)
    }

    fn turn(&self, reader: &Reader) -> anyhow::Result<StreamTurn> {
        let records = self.settings.records;
        let (cold, warm) = (self.run(reader, 1)?, self.run(reader, records)?);
        let first: Duration = cold.batches.iter().sum();
        let batches: Vec<_> = warm.batches.iter().copied().map(milliseconds).collect();
        let total: Duration = warm.batches.iter().sum();
        let count = |records: usize| anyhow::Ok(f64::from(u32::try_from(records)?));
        let (long, short) = (milliseconds(warm.used.cpu), milliseconds(cold.used.cpu));
        Ok(StreamTurn {
            init_ms: milliseconds(cold.init),
            first_record_ms: milliseconds(first),
            cold_ms: milliseconds(cold.init + first),
            cold_cpu_ms: short,
            record_cpu_ms: (long - short) / count(records - 1)?,
            batch_p50_ms: percentile(&batches, 50),
            records_per_s: count(records)? / total.as_secs_f64(),
            peak_mib: f64::from(u32::try_from(warm.used.peak_kib)?) / 1024.0,
        })
    }

    /// Each environment has services of its own, so that their contents are those of its records.
    fn run(&self, reader: &Reader, records: usize) -> anyhow::Result<Run> {
        let services = StreamServices::start(self.folder)?;
        let (batches, totals) = batches(reader.mix, reader.batch_size(), records)?;
        let variables = services.environment(reader.job);
        let mut environment = Environment::start(&reader.function, &variables, self.cores, services.runtime())?;
        let init = environment.init();
        let mut took = Vec::with_capacity(batches.len());
        for (index, batch) in batches.iter().enumerate() {
            services.store(&batch.items)?;
            let invocation = environment.invoke(&batch.event)?;
            check(&invocation.response)
                .with_context(|| format!("batch {} of {} got a wrong response", index + 1, batches.len()))?;
            took.push(invocation.took);
        }
        let used = environment.end()?;
        services.check(reader.job, totals)?;
        Ok(Run { init, batches: took, used })
    }
}

/// Checks that no record failed.
fn check(response: &[u8]) -> anyhow::Result<()> {
    let is_expected =
        serde_json::from_slice::<Value>(response).is_ok_and(|response| response == json!({"batchItemFailures": []}));
    ensure!(is_expected, "expected no failures, got {}", String::from_utf8_lossy(response));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_response_without_failures_passes_the_check() {
        check(br#"{"batchItemFailures": []}"#).unwrap();
        for other in [&br#"{"batchItemFailures": [{"itemIdentifier": "1"}]}"#[..], b"{}", b"null", b"done"] {
            check(other).unwrap_err();
        }
    }
}
