//! `cargo run -p sandbox`: the whole system on this machine, with a demo.

use std::{
    fs,
    future::pending,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Parser;
use lambda_support::log;
use receive::breaker::Periods;
use sandbox::{
    checks::check_removed,
    demo::Demo,
    eventbridge,
    options::{Options, Ports},
    platform::{settings::Settings, style::Style},
    report::Report,
    services::Services,
    sqs,
    system::Sandbox,
};
use tokio::signal::unix::{SignalKind, signal};
use unith_events::timestamp::Timestamp;

/// A second of SQS in the demo: the first back-off of `redrive`, 30 s, takes 150 ms.
const DEMO_SECOND: Duration = Duration::from_millis(5);
/// `receive` asks the table again soon after the outage of the demo.
const DEMO_BREAKER_PERIOD: Duration = Duration::from_millis(200);

/// Runs the whole system on this machine: signed UNITH deliveries are verified and stored.
///
/// Starts an embedded DynamoDB, a simulated Secrets Manager, SQS and UNITH platform, and the functions' real handlers behind
/// a simulated API Gateway. Plays some conversations, prints the stored events, and keeps serving.
#[derive(Debug, Parser)]
#[command(version)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
struct Arguments {
    /// Stop after the demo; exit with 0 if the table holds exactly the expected events, with 1 otherwise
    #[arg(long, conflicts_with = "services_only")]
    once: bool,

    /// Rotate the webhook's key twice while the conversations are played; takes half a minute
    #[arg(long, conflicts_with = "services_only")]
    rotate_during_demo: bool,

    /// Number of conversations
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    conversations: u16,

    /// Play the same conversations as before; all events happen on 2026-01-15
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// Spelling of the deliveries
    #[arg(long, value_enum, default_value_t)]
    style: Style,

    /// Print one JSON object per line
    #[arg(long)]
    json: bool,

    /// Print the log line of every request
    #[arg(long)]
    logs: bool,

    /// Keep DynamoDB's data in this file
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,

    /// Start only the services, for functions that run under `cargo lambda watch`
    #[arg(long)]
    services_only: bool,

    /// File for the functions' environment, with --services-only
    #[arg(long, value_name = "PATH", default_value = "target/sandbox.env", requires = "services_only")]
    env_file: PathBuf,

    /// Base URL of the deliveries, with --services-only
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:9000/lambda-url/receive",
        requires = "services_only"
    )]
    webhook_base: String,

    #[command(flatten)]
    ports: Ports,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let stopped = async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = terminate.recv() => Ok(()),
        }
    };
    let result = tokio::select! {
        result = run(arguments) => result,
        _ = stopped => Ok(ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        anstream::eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut report = Report::new(arguments.json);
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let options = Options {
        // The pause is shorter than UNITH's, so that the demo is short.
        platform: Settings {
            style: arguments.style,
            seed,
            first_backoff: Duration::from_millis(100),
            ..Settings::default()
        },
        sqs: if arguments.services_only { sqs::Settings::default() } else { demo_sqs() },
        eventbridge: eventbridge::Faults::default(),
        breaker_periods: Periods { first: DEMO_BREAKER_PERIOD, longest: DEMO_BREAKER_PERIOD },
        ports: arguments.ports,
        data: arguments.data,
    };
    if arguments.services_only {
        let services = Services::start(&options, arguments.webhook_base).await?;
        let _stack = services.create_stack(services.provisioner()).await?;
        let environment = services.environment();
        write_env_file(&arguments.env_file, &environment)?;
        report.services_only(&services, &environment, &arguments.env_file.display().to_string())?;
        return pending().await;
    }
    let logs = arguments.logs;
    let mut sandbox = Sandbox::start(&options, move |line| {
        if logs {
            log::write_line(line);
        }
    })
    .await?;
    let demo = Demo {
        conversations: arguments.conversations,
        seed,
        start: start(arguments.seed),
        rotate: arguments.rotate_during_demo,
    };
    report.start(demo.conversations, seed, arguments.style)?;
    let mut verdict = demo.play(&sandbox, &mut report).await?;
    if arguments.once {
        sandbox.stack.delete().await?;
        verdict.mismatches.extend(check_removed(&sandbox.services).await?);
    }
    report.verdict(&verdict, arguments.once)?;
    if !arguments.once {
        report.serving(&sandbox.services, sandbox.api_gateway.url())?;
        return pending().await;
    }
    Ok(if verdict.mismatches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn demo_sqs() -> sqs::Settings {
    sqs::Settings { second: DEMO_SECOND, ..sqs::Settings::default() }
}

/// The start of the demo: fixed if a seed is given, so that the run can be repeated, and some minutes ago otherwise.
fn start(seed: Option<u64>) -> Timestamp {
    let fixed = seed.and_then(|_| Timestamp::parse("2026-01-15T09:57:33Z"));
    fixed.unwrap_or_else(|| Timestamp::now().minus(Duration::from_mins(15)))
}

/// Writes `NAME=value` lines, which `cargo lambda watch --env-file` reads.
fn write_env_file(path: &Path, environment: &[(&'static str, String)]) -> anyhow::Result<()> {
    let lines: Vec<_> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
    }
    fs::write(path, lines.join("\n") + "\n").with_context(|| format!("cannot write {}", path.display()))
}
