//! `orch backup [FILE]`, `orch backup restore FILE`: the running supervisor writes a backup of its store, or the store is
//! worked on directly when nobody owns it. A restore needs the supervisor to be stopped.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Context;
use super::client::{Client, ClientError};
use super::engine::StartError;
use super::output::{CliError, Output};
use crate::http::{BackupTo, read_address};

/// Where to.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BackupArgs {
    /// New file; one named by the time in the data folder's backups when left out
    pub to: Option<PathBuf>,
    /// Put a backup back instead
    #[command(subcommand)]
    pub verb: Option<BackupVerb>,
}

/// The way back.
#[derive(Subcommand, Clone, Debug)]
pub enum BackupVerb {
    /// Put a backup in the place of the store; the old file is kept
    Restore {
        /// The backup
        from: PathBuf,
    },
}

/// The store's file in a data folder: looked for only, never opened from here.
const STORE: &str = "orch.db";

fn stopped_first(error: StartError) -> CliError {
    match error {
        StartError::Owned { .. } => CliError::CouldNot(format!("{error}; stop the supervisor first")),
        StartError::Refused(text) => CliError::CouldNot(text),
    }
}

pub(super) async fn run(context: &Context, args: &BackupArgs, out: &mut Output) -> Result<u8, CliError> {
    let config = context.config()?;
    if let Some(BackupVerb::Restore { from }) = &args.verb {
        let from = std::path::absolute(from).map_err(|e| CliError::CouldNot(format!("{}: {e}", from.display())))?;
        if !from.is_file() {
            return Err(CliError::CouldNot(format!(
                "there is no file {}; name the backup to put back",
                from.display()
            )));
        }
        let said = context.starter.restore(&config, &from).await.map_err(stopped_first)?;
        if !out.json {
            out.line(&format!("{} {said}", from.display()))?;
            return Ok(0);
        }
        return answer(out, &said, &from);
    }
    let known = context.global.url.is_some()
        || context.env.contains_key("ORCH_URL")
        || read_address(&config.addr_file()).is_some();
    if !known && !config.data_dir.join(STORE).is_file() {
        return Err(CliError::CouldNot(format!(
            "there is no store in {}: nothing to back up; name the data folder with --data or ORCH_DATA_DIR",
            config.data_dir.display()
        )));
    }
    let to = match &args.to {
        Some(to) => std::path::absolute(to).map_err(|e| CliError::CouldNot(format!("{}: {e}", to.display())))?,
        None => {
            let folder = config.data_dir.join("backups");
            std::fs::create_dir_all(&folder)
                .map_err(|e| CliError::CouldNot(format!("{}: {e}; name a file to write to", folder.display())))?;
            let stem = format!("orch-{}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
            // More than one in a second is no reason to have none.
            let more = (2_u32..).map(|n| folder.join(format!("{stem}-{n}.sqlite")));
            let mut names = std::iter::once(folder.join(format!("{stem}.sqlite"))).chain(more);
            names.find(|name| !name.exists()).expect("some number is free")
        }
    };
    if to.exists() {
        return Err(CliError::CouldNot(format!("{} exists already; name a new file", to.display())));
    }
    if known {
        let client = Client::find(context)?;
        match client.post::<_, Value>("/backup", Some(&BackupTo { to: to.clone() })).await {
            Ok(said) => return answer(out, said["verified"].as_str().unwrap_or("written"), &to),
            // Nobody there: an address that a killed supervisor left. The store's own lock decides.
            Err(ClientError::Unreachable(_)) if context.global.url.is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    // Not made: a disk for backups that is not mounted would go unnoticed, and the backup would lie on the store's own.
    if let Some(folder) = to.parent().filter(|folder| !folder.is_dir()) {
        return Err(CliError::CouldNot(format!(
            "there is no folder {}; make it, mount its disk, or name another file",
            folder.display()
        )));
    }
    let said = context.starter.backup(&config, &to).await.map_err(stopped_first)?;
    answer(out, &said, &to)
}

fn answer(out: &mut Output, said: &str, path: &std::path::Path) -> Result<u8, CliError> {
    match out.json {
        true => out.json(&serde_json::json!({"path": path, "said": said}))?,
        false => out.line(&format!("{}: {said}", path.display()))?,
    }
    Ok(0)
}
