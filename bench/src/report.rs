//! The report: the same figures as a table and as a JSON document.

use std::fmt::{self, Display, Write as _};

use serde::Serialize;
use serde_json::{Map, Value, json};
use workload::size::Size;

use crate::{
    machine::Machine,
    rounds::{Measured, Settings, Turn},
    stream::rounds::{StreamSettings, StreamTurn},
};

/// The candidate that the others are compared with.
const REFERENCE: &str = "floor";
const BYTES_PER_MIB: f64 = 1024.0 * 1024.0;

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(bound = "S: Serialize, T: Figures")]
pub struct Report<S, T> {
    /// The machine.
    pub machine: Machine,
    /// The settings.
    pub settings: S,
    /// The figures of each candidate.
    #[serde(serialize_with = "in_json")]
    pub candidates: Vec<Measured<T>>,
}

/// A turn whose figures a report shows.
pub trait Figures: Serialize + Sized + 'static {
    /// In the order of the rows.
    const FIGURES: &'static [Figure<Self>];
}

/// A figure of the report.
pub struct Figure<T> {
    /// The name in the document.
    name: &'static str,
    /// The label in the table.
    label: &'static str,
    decimals: usize,
    of: Of<T>,
}

enum Of<T> {
    /// A figure of each turn. The median is reported, and optionally the range.
    Turns { figure: fn(&T) -> f64, range: bool },
    /// A figure of the artifact.
    Artifact(fn(&Size) -> u64),
}

impl Figures for Turn {
    const FIGURES: &'static [Figure<Self>] = &[
        turns("init_ms", "init, ms", 2, true, |turn| turn.init_ms),
        turns("first_event_ms", "first event, ms", 2, true, |turn| turn.first_event_ms),
        turns("cold_ms", "cold total, ms", 2, true, |turn| turn.cold_ms),
        turns("cold_cpu_ms", "CPU of a cold start, ms", 2, true, |turn| turn.cold_cpu_ms),
        turns("p50_ms", "warm p50, ms", 3, false, |turn| turn.p50_ms),
        turns("p99_ms", "warm p99, ms", 3, false, |turn| turn.p99_ms),
        turns("event_cpu_ms", "CPU per event, ms", 3, false, |turn| turn.event_cpu_ms),
        turns("peak_mib", "peak memory, MiB", 1, false, |turn| turn.peak_mib),
        artifact("bytes", "artifact, MiB", |size| size.bytes),
        artifact("zip_bytes", "zip, MiB", |size| size.zip_bytes),
    ];
}

impl Figures for StreamTurn {
    const FIGURES: &'static [Figure<Self>] = &[
        turns("init_ms", "init, ms", 2, true, |turn| turn.init_ms),
        turns("first_record_ms", "first record, ms", 2, true, |turn| turn.first_record_ms),
        turns("cold_ms", "cold total, ms", 2, true, |turn| turn.cold_ms),
        turns("cold_cpu_ms", "CPU of a cold start, ms", 2, true, |turn| turn.cold_cpu_ms),
        turns("record_cpu_ms", "CPU per record, ms", 3, true, |turn| turn.record_cpu_ms),
        turns("batch_p50_ms", "batch p50, ms", 1, false, |turn| turn.batch_p50_ms),
        turns("records_per_s", "records per second", 0, true, |turn| turn.records_per_s),
        turns("peak_mib", "peak memory, MiB", 1, false, |turn| turn.peak_mib),
        artifact("bytes", "artifact, MiB", |size| size.bytes),
        artifact("zip_bytes", "zip, MiB", |size| size.zip_bytes),
    ];
}

const fn turns<T>(
    name: &'static str,
    label: &'static str,
    decimals: usize,
    range: bool,
    figure: fn(&T) -> f64,
) -> Figure<T> {
    Figure { name, label, decimals, of: Of::Turns { figure, range } }
}

const fn artifact<T>(name: &'static str, label: &'static str, of: fn(&Size) -> u64) -> Figure<T> {
    Figure { name, label, decimals: 2, of: Of::Artifact(of) }
}

impl<T> Figure<T> {
    fn value(&self, measured: &Measured<T>) -> f64 {
        match self.of {
            Of::Turns { figure, .. } => measured.median(figure),
            // Files of more than 4 GiB are not deployed.
            Of::Artifact(bytes) => f64::from(u32::try_from(bytes(&measured.size)).unwrap_or(u32::MAX)) / BYTES_PER_MIB,
        }
    }

    fn ratio(&self, measured: &Measured<T>, reference: Option<&Measured<T>>) -> Option<f64> {
        let reference = reference.filter(|reference| reference.name != measured.name)?;
        Some(self.value(measured) / self.value(reference)).filter(|ratio| ratio.is_finite())
    }

    /// The range over the turns, if it is reported.
    fn range(&self, measured: &Measured<T>) -> Option<(f64, f64)> {
        match self.of {
            Of::Turns { figure, range: true } => Some(measured.range(figure)),
            _ => None,
        }
    }
}

impl<S: Display, T: Figures> Report<S, T> {
    /// The table, with header and footer.
    pub fn table(&self) -> String {
        let Machine { cpu, cores, kernel } = &self.machine;
        let mut text = format!("{cpu}, {cores} cores, Linux {kernel}\n{}\n\n", self.settings);
        let mut rows = vec![self.row(String::new(), |measured| (measured.name.clone(), String::new()))];
        let reference = reference(&self.candidates);
        for figure in T::FIGURES {
            let decimals = figure.decimals;
            rows.push(self.row(figure.label.to_owned(), |measured| {
                let ratio = figure.ratio(measured, reference);
                (format!("{:.decimals$}", figure.value(measured)), ratio.map(ratio_text).unwrap_or_default())
            }));
            if matches!(figure.of, Of::Turns { range: true, .. }) {
                rows.push(self.row("  least … most".to_owned(), |measured| {
                    let (least, most) = figure.range(measured).unwrap_or_default();
                    (format!("{least:.decimals$} … {most:.decimals$}"), String::new())
                }));
            }
        }
        let ratios = if reference.is_some() { "; × is the ratio to floor" } else { "" };
        text.push_str(&aligned(&rows));
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "\nMedians over the rounds{ratios}.");
        text
    }

    fn row(&self, label: String, cell: impl Fn(&Measured<T>) -> (String, String)) -> Vec<String> {
        let cells = self.candidates.iter().flat_map(|measured| <[String; 2]>::from(cell(measured)));
        std::iter::once(label).chain(cells).collect()
    }
}

impl Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, events, pin, key_ring } = self;
        let keys = if *key_ring { "key ring from Secrets Manager" } else { "key from the environment" };
        write!(f, "{rounds} rounds of 1 and of {events} events; {}; {keys}", pinned(*pin))
    }
}

impl Display for StreamSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, records, pin } = self;
        write!(f, "{rounds} rounds of 1 and of {records} records; {}", pinned(*pin))
    }
}

fn pinned(pin: Option<usize>) -> String {
    pin.map_or("candidates not pinned".to_owned(), |core| format!("candidates on core {core}"))
}

fn reference<T>(candidates: &[Measured<T>]) -> Option<&Measured<T>> {
    candidates.iter().find(|measured| measured.name == REFERENCE)
}

fn ratio_text(ratio: f64) -> String {
    if ratio < 10.0 { format!("×{ratio:.2}") } else { format!("×{ratio:.1}") }
}

/// Aligns the first column left and values right, with ratios beside their values.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or_default();
            let _ = match column {
                0 => write!(line, "{cell:<width$}"),
                _ if column % 2 == 1 => write!(line, "   {cell:>width$}"),
                _ => write!(line, " {cell:<width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Serializes each candidate with its medians, ranges, ratios to the floor, and turns.
fn in_json<T: Figures, S: serde::Serializer>(candidates: &[Measured<T>], serializer: S) -> Result<S::Ok, S::Error> {
    let reference = reference(candidates);
    serializer.collect_seq(candidates.iter().map(|measured| {
        let (mut medians, mut ranges, mut ratios) = (Map::new(), Map::new(), Map::new());
        for figure in T::FIGURES {
            if matches!(figure.of, Of::Turns { .. }) {
                medians.insert(figure.name.to_owned(), json!(figure.value(measured)));
            }
            if let Some((least, most)) = figure.range(measured) {
                ranges.insert(figure.name.to_owned(), json!([least, most]));
            }
            if let Some(ratio) = figure.ratio(measured, reference) {
                ratios.insert(figure.name.to_owned(), json!(ratio));
            }
        }
        json!({
            "name": measured.name, "size": measured.size, "median": medians, "range": ranges,
            "ratio_to_floor": Value::Object(ratios), "turns": measured.turns,
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report<Settings, Turn> {
        let measured = |name: &str, init: [f64; 3], bytes| Measured {
            name: name.to_owned(),
            size: Size { bytes, zip_bytes: bytes / 2 },
            turns: init.map(|init_ms| Turn { init_ms, ..Turn::default() }).to_vec(),
        };
        Report {
            machine: Machine { cpu: "A CPU".into(), cores: 2, kernel: "6.1".into() },
            settings: Settings { rounds: 3, events: 100, pin: Some(1), key_ring: false },
            candidates: vec![
                measured("floor", [2.0, 1.0, 4.0], 1 << 20),
                measured("receive", [5.0, 30.0, 4.0], 8 << 20),
            ],
        }
    }

    #[test]
    fn the_table_has_medians_ranges_and_ratios() {
        let table = report().table();
        let line = |start: &str| table.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        let words = |start| line(start).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words("init, ms"), ["init,", "ms", "2.00", "5.00", "×2.50"]);
        assert_eq!(words("  least"), ["least", "…", "most", "1.00", "…", "4.00", "4.00", "…", "30.00"]);
        assert_eq!(words("artifact"), ["artifact,", "MiB", "1.00", "8.00", "×8.00"]);
        // A figure of 0 has no ratio.
        assert_eq!(words("warm p50"), ["warm", "p50,", "ms", "0.000", "0.000"]);
        assert!(table.starts_with("A CPU, 2 cores, Linux 6.1\n3 rounds of 1 and of 100 events; candidates on core 1;"));
    }

    #[test]
    fn the_columns_of_the_table_are_aligned() {
        let table = report().table();
        let at = |start: &str, what: &str| {
            let line = table.lines().find(|line| line.starts_with(start)).unwrap();
            line[..line.find(what).unwrap()].chars().count() + what.chars().count()
        };
        assert_eq!(at("init, ms", "2.00"), at("artifact", "1.00"));
        assert_eq!(at("init, ms", "5.00"), at("zip", "4.00"));
    }

    #[test]
    fn the_document_has_the_figures_of_the_table() {
        let document = serde_json::to_value(report()).unwrap();
        let receive = &document["candidates"][1];
        assert_eq!(receive["median"]["init_ms"], 5.0);
        assert_eq!(receive["range"]["init_ms"], json!([4.0, 30.0]));
        assert_eq!(receive["ratio_to_floor"]["bytes"], 8.0);
        assert_eq!(receive["turns"].as_array().unwrap().len(), 3);
        assert_eq!(document["candidates"][0]["ratio_to_floor"], json!({}));
        assert_eq!(document["machine"]["cores"], 2);
    }
}
