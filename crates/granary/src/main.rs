//! The binary: settings, listeners, metrics, admin endpoint, command line, and the wiring between them.
//!
//! What objects, drives and keys are is the business of the crates below; what it is to be a process is this one's.

mod access;
mod admin;
mod audit;
mod cli;
mod cli_access;
mod cli_ai;
mod cli_upstream;
mod commands;
mod commands_access;
mod commands_ai;
mod commands_upstream;
mod drive_list;
mod engine;
mod fetch;
mod key_commands;
mod keys;
mod logging;
mod metrics;
mod notify;
mod outbound;
mod preset;
mod process;
mod residency_cli;
mod runs;
mod serve;
mod server;
mod settings;
mod startup;
mod top;
mod upstream;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use admin::client::ClientError;
use cli::{BenchCommand, Cli, Command, DevArgs, RebuildArgs, ServeArgs};
use drive_list::{DriveList, DriveListError};
use serve::{DataDir, ServeError, Start};
use settings::{Settings, SettingsError};

/// glibc's took an eighth of a small request's time (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Drive folders that `granary dev` makes when nothing is said.
const DEV_DRIVES_DEFAULT: usize = 6;
/// Keys for SSE-KMS that `granary dev` has when nothing is said: the ids that S3 test suites name.
const DEV_KMS_KEYS: [&str; 2] = ["testkey-1", "testkey-2"];

/// Why the program ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Logging(#[from] logging::FilterError),
    #[error(transparent)]
    DriveList(#[from] DriveListError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Audit(#[from] audit::cli::AuditError),
    #[error("bench: {0}")]
    Bench(#[from] granary_bench::target::BenchError),
    #[error(transparent)]
    Residency(#[from] residency_cli::ResidencyError),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Dev(args) => dev(args).map(|()| true),
        Command::Serve(args) => serve(args).map(|()| true),
        Command::User(command) => commands_access::user(&command).map(|()| true).map_err(Failure::from),
        Command::Group(command) => commands_access::group(&command).map(|()| true).map_err(Failure::from),
        Command::Policy(command) => commands_access::policy(&command).map(|()| true).map_err(Failure::from),
        Command::Drive(command) => commands::drive(&command).map_err(Failure::from),
        Command::Key(command) => key_commands::run(&command).map(|()| true).map_err(Failure::from),
        Command::Bucket(command) => commands::bucket(&command).map(|()| true).map_err(Failure::from),
        Command::Rebuild(args) => rebuild(args).map(|()| true),
        Command::Heal(args) => commands::heal(&args).map_err(Failure::from),
        Command::Status(args) => commands::status(&args).map(|()| true).map_err(Failure::from),
        Command::Top(args) => top::run(&args).map(|()| true).map_err(Failure::from),
        Command::Audit(command) => audit::cli::run(&command).map_err(Failure::from),
        Command::Residency(command) => residency_cli::run(&command).map_err(Failure::from),
        Command::Health(args) => commands::health(&args).map(|()| true).map_err(Failure::from),
        Command::Checkpoint(command) => commands_ai::checkpoint(&command).map_err(Failure::from),
        Command::Dataset(command) => commands_ai::dataset(&command).map_err(Failure::from),
        Command::Cache(command) => commands_ai::cache(&command).map_err(Failure::from),
        Command::Bench(BenchCommand::Training(args)) => granary_bench::training::run(&args).map_err(Failure::from),
        Command::Bench(BenchCommand::Checkpoint(args)) => granary_bench::checkpoint::run(&args).map_err(Failure::from),
        Command::Preset(command) => commands_ai::preset(&command).map_err(Failure::from),
        Command::Config => {
            // A pipe that was closed early (`| head`) is no failure.
            let _closed = std::io::stdout().write_all(settings::rendered_default().as_bytes());
            Ok(true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            // One line per problem, each readable on its own.
            failure.to_string().lines().for_each(|line| eprintln!("granary: {line}"));
            ExitCode::FAILURE
        }
    }
}

fn dev(args: DevArgs) -> Result<(), Failure> {
    let mut settings = Settings::default().overlay(std::env::vars())?;
    settings.node.data_dir = args.data;
    if settings.keys.kms_keys.is_empty() {
        settings.keys.kms_keys = DEV_KMS_KEYS.map(str::to_owned).to_vec();
    }
    if let Some(listen) = args.listen {
        settings.s3.listen = listen;
    }
    if let Some(admin) = args.admin {
        settings.admin.listen = admin;
    }
    settings.s3.plaintext = !args.tls && (settings.s3.plaintext || settings.s3.listen.ip().is_loopback());
    if let Some(erasure) = args.erasure {
        settings.drives.erasure = erasure;
    }
    process::harden();
    logging::start(&settings)?;
    let data = DataDir::lock(&settings.node.data_dir)?;
    let mut drive_list = None;
    if settings.drives.paths.is_empty() {
        let list = DriveList::new(&settings.node.data_dir)
            .map_err(|source| DriveListError::Io { path: settings.node.data_dir.clone(), source })?;
        settings.drives.paths = list.obtain(args.drives.map(usize::from), DEV_DRIVES_DEFAULT)?;
        drive_list = Some(list);
    }
    let settings = settings.check()?;
    Ok(serve::run(Start { settings, preset: args.preset, show_secret: args.show_secret, drive_list }, data)?)
}

fn rebuild(args: RebuildArgs) -> Result<(), Failure> {
    let mut settings = match &args.config {
        Some(file) => Settings::read(file)?.overlay(std::env::vars())?,
        None => Settings::default().overlay(std::env::vars())?,
    };
    if let Some(data) = args.data {
        settings.node.data_dir = data;
    }
    process::harden();
    logging::start(&settings)?;
    let data = DataDir::lock(&settings.node.data_dir)?;
    if settings.drives.paths.is_empty() {
        let list = DriveList::new(&settings.node.data_dir)
            .map_err(|source| DriveListError::Io { path: settings.node.data_dir.clone(), source })?;
        settings.drives.paths = list.obtain(None, DEV_DRIVES_DEFAULT)?;
    }
    let settings = settings.check()?;
    Ok(serve::rebuild(&settings, data, args.complete_uploads)?)
}

fn serve(args: ServeArgs) -> Result<(), Failure> {
    let settings = Settings::read(&args.config)?.overlay(std::env::vars())?.check()?;
    process::harden();
    logging::start(&settings)?;
    let data = DataDir::lock(&settings.node.data_dir)?;
    Ok(serve::run(Start { settings, preset: args.preset, show_secret: false, drive_list: None }, data)?)
}
