//! Measurements, kept in the data folder by key, so that no tree is measured twice.
//!
//! Owns their files. Invariants: only what a run concluded is kept; a file that does not read back whole is as good as none;
//! no job can reach the folder. Refuses to keep what never started: that says something about the host, not the tree.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orch_adapters::reports::{put_file, put_parts};
use orch_domain::coverage::Measurement;
use orch_domain::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::gates::conclude::EVIDENCE_LIFE;

/// Most bytes of a kept measurement that are read.
const MOST_BYTES: u64 = 256 << 20;

/// What is known about a tree.
#[derive(Clone, Debug)]
pub(in crate::gates) enum Kept {
    /// Measured.
    Measured(Arc<Measurement>),
    /// The tests ran and left no report that counts.
    NoReport(String),
    /// Tests fail; with their findings. Kept of base alone, which everybody's red run is compared with.
    Red(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Without {
    why: String,
    at: Timestamp,
    #[serde(default)]
    red: bool,
}

fn file(folder: &Path, key: &str, ending: &str) -> PathBuf {
    folder.join(format!("{key}.{ending}"))
}

/// Looks a key up. `within`: how old it may be; `None`: however old.
pub(in crate::gates) async fn find(ctx: &Context, key: &str, within: Option<Millis>) -> Option<Kept> {
    let (folder, key, now) = (ctx.paths.coverage.clone(), key.to_owned(), ctx.now());
    let fresh = move |at: Timestamp| within.is_none_or(|life| now < at.after(life));
    let found = tokio::task::spawn_blocking(move || {
        if let Some(lines) = open(&file(&folder, &key, "lines")) {
            let measured = Measurement::from_parts(lines);
            let measured =
                measured.inspect_err(|error| tracing::warn!(key, %error, "a kept measurement does not count"));
            return measured.ok().filter(|kept| fresh(kept.about.started)).map(|kept| Kept::Measured(Arc::new(kept)));
        }
        let none: Without = serde_json::from_str(&read(&file(&folder, &key, "none"))?).ok()?;
        fresh(none.at).then_some(if none.red { Kept::Red(none.why) } else { Kept::NoReport(none.why) })
    });
    found.await.ok().flatten()
}

/// What of a repeated run may be reused: as long as any other evidence.
pub(in crate::gates) async fn find_fresh(ctx: &Context, key: &str) -> Option<Kept> {
    find(ctx, key, Some(EVIDENCE_LIFE)).await
}

/// The lines of a kept measurement, each with its end.
fn open(path: &Path) -> Option<impl Iterator<Item = Result<String, String>> + use<>> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    let mut from = std::io::BufReader::new(std::fs::File::open(path).ok()?);
    let lines = std::iter::from_fn(move || {
        let mut line = String::new();
        match from.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(Ok(line)),
            Err(error) => Some(Err(error.to_string())),
        }
    });
    (meta.is_file() && meta.len() <= MOST_BYTES).then_some(lines)
}

fn read(path: &Path) -> Option<String> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    (meta.is_file() && meta.len() <= MOST_BYTES).then(|| std::fs::read_to_string(path).ok()).flatten()
}

/// Keeps what a run concluded.
pub(in crate::gates) async fn put(ctx: &Context, key: &str, kept: &Kept) {
    let (folder, key, kept, now) = (ctx.paths.coverage.clone(), key.to_owned(), kept.clone(), ctx.now());
    let written = tokio::task::spawn_blocking(move || {
        let other = match kept {
            Kept::Measured(measurement) => {
                put_parts(&file(&folder, &key, "lines"), measurement.parts())?;
                "none"
            }
            Kept::NoReport(ref why) | Kept::Red(ref why) => {
                let none = Without { why: why.clone(), at: now, red: matches!(kept, Kept::Red(_)) };
                let text = serde_json::to_string(&none).map_err(std::io::Error::other)?;
                put_file(&file(&folder, &key, "none"), text.as_bytes())?;
                "lines"
            }
        };
        match std::fs::remove_file(file(&folder, &key, other)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    });
    // Without it the same is measured again.
    match written.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a coverage measurement could not be kept"),
        Err(error) => tracing::warn!(%error, "a coverage measurement was not kept"),
    }
}

/// Measurements that may go: older than the logs of closed tasks are kept, and no baseline stands on them. What is in the
/// folder under another sort of name is left alone.
pub(crate) async fn doomed(ctx: &Context, now: Timestamp) -> Result<Vec<PathBuf>, String> {
    let kept = ctx.store.kept_measurements().await.map_err(|error| error.to_string())?;
    let (folder, life) = (ctx.paths.coverage.clone(), ctx.retention.logs);
    let found = tokio::task::spawn_blocking(move || {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.to_string()),
        };
        let mut doomed = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some((key, "lines" | "none")) = name.to_str().and_then(|name| name.rsplit_once('.')) else { continue };
            let is_key = key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_key || kept.iter().any(|kept| kept == key) {
                continue;
            }
            let written = entry.metadata().and_then(|meta| meta.modified()).map_err(|error| error.to_string())?;
            let since = written.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let at = Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
            if now >= at.after(life) {
                doomed.push(entry.path());
            }
        }
        doomed.sort();
        Ok(doomed)
    });
    found.await.map_err(|error| error.to_string())?
}

/// Removes the measurements that may go; how many.
pub(crate) async fn forget(ctx: &Context, now: Timestamp) -> Result<usize, String> {
    let doomed = doomed(ctx, now).await?;
    for path in &doomed {
        tokio::fs::remove_file(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(doomed.len())
}
