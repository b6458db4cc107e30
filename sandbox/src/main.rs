//! `cargo run -p sandbox`: the whole system on this machine, with a demo.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use lambda_support::log;
use sandbox::{
    Options, Ports, Sandbox, Services,
    demo::{Demo, check_removed},
    platform::Style,
    report::Report,
    write_env_file,
};
use tokio::signal::unix::{SignalKind, signal};
use unith_events::timestamp::Timestamp;

/// Signed UNITH deliveries, verified and stored, on this machine alone.
///
/// Starts an embedded DynamoDB and Secrets Manager, a simulated UNITH platform, and the functions' real handlers behind
/// a front that does what API Gateway does. Plays some conversations, shows what is stored, and keeps serving.
#[derive(Debug, Parser)]
#[command(version)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
struct Arguments {
    /// Stop after the demo: with 0 if exactly what must be stored is stored, with 1 if not
    #[arg(long, conflicts_with = "services_only")]
    once: bool,

    /// Rotate the webhook's key twice while the conversations are played; takes half a minute
    #[arg(long, conflicts_with = "services_only")]
    rotate_during_demo: bool,

    /// How many conversations to play
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    conversations: u16,

    /// Play what was played under this seed; its events happen on 2026-01-15
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// How the simulated UNITH platform spells its deliveries
    #[arg(long, value_enum, default_value_t)]
    style: Style,

    /// Tell in JSON, an object a line
    #[arg(long)]
    json: bool,

    /// Show the log line of every request as well
    #[arg(long)]
    logs: bool,

    /// Keep the DynamoDB's data in this file
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,

    /// Start the services alone, for functions that run under `cargo lambda watch`
    #[arg(long)]
    services_only: bool,

    /// Where to write the functions' environment, with --services-only
    #[arg(long, value_name = "PATH", default_value = "target/sandbox.env", requires = "services_only")]
    env_file: PathBuf,

    /// Where deliveries go, with --services-only
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:9000/lambda-url/receive",
        requires = "services_only"
    )]
    webhook_base: String,

    /// Port of the front; a free one if left out
    #[arg(long, default_value_t = 0)]
    port: u16,

    /// Port of the DynamoDB; a free one if left out
    #[arg(long, default_value_t = 0)]
    dynamodb_port: u16,

    /// Port of the Secrets Manager; a free one if left out
    #[arg(long, default_value_t = 0)]
    secrets_manager_port: u16,

    /// Port of the simulated UNITH platform; a free one if left out
    #[arg(long, default_value_t = 0)]
    unith_port: u16,
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
        style: arguments.style,
        ports: Ports {
            front: arguments.port,
            dynamodb: arguments.dynamodb_port,
            secrets_manager: arguments.secrets_manager_port,
            unith: arguments.unith_port,
        },
        data: arguments.data,
        seed,
        // A tenth of a second of waiting shows a retry as well as a whole one.
        first_backoff: Duration::from_millis(100),
    };
    if arguments.services_only {
        let services = Services::start(&options, arguments.webhook_base).await?;
        let _stack = services.stack(services.provisioner()?).await?;
        let environment = services.environment();
        write_env_file(&arguments.env_file, &environment)?;
        report.services_only(&services, &environment, &arguments.env_file.display().to_string())?;
        return std::future::pending().await;
    }
    let logs = arguments.logs;
    let mut sandbox = Sandbox::start(&options, move |record| {
        if logs {
            log::write_line(record);
        }
    })
    .await?;
    let demo = Demo {
        conversations: arguments.conversations.into(),
        seed,
        start: start(arguments.seed),
        rotate: arguments.rotate_during_demo,
    };
    report.opening(demo.conversations, seed, arguments.style)?;
    let mut verdict = demo.play(&sandbox, &mut report).await?;
    if arguments.once {
        sandbox.stack.delete().await?;
        check_removed(&sandbox, &mut verdict).await?;
    }
    report.verdict(&verdict, arguments.once)?;
    if !arguments.once {
        report.serving(&sandbox)?;
        return std::future::pending().await;
    }
    Ok(if verdict.mismatches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Under a given seed everything is the same each time, the events' instants too; else the demo's past is recent.
fn start(seed: Option<u64>) -> Timestamp {
    let fixed = seed.and_then(|_| Timestamp::parse("2026-01-15T09:57:33Z"));
    fixed.unwrap_or_else(|| Timestamp::now().plus(time::Duration::minutes(-15)))
}
