//! Two supervisors of processes that the bench of STOP is measured against: supervisord and pueue, each at one pinned version.
//!
//! Owns their recipes. Like the tools, they come from package registries only; unlike them nothing but a bench asks for them.
//! pueue is built from source, which takes minutes once. Refuses: a version that happens to be in PATH.

use std::path::PathBuf;
use std::process::Command;

use crate::install::{Bench, InstallError, Recipe, Shelf};
use crate::tools::python_environment;

/// Version of supervisord.
pub const SUPERVISORD_VERSION: &str = "4.3.0";
/// Version of pueue.
pub const PUEUE_VERSION: &str = "4.0.4";

const SUPERVISORD_PINS: &str =
    "supervisor==4.3.0 --hash=sha256:0bcb763fddafba410f35cbde226aa7f8514b9fb82eb05a0c85f6588d1c13f8db\n";

/// The folder with `supervisord` and `supervisorctl`.
///
/// # Errors
/// When it cannot be installed; the text says why and what to do.
pub fn supervisord() -> Result<PathBuf, InstallError> {
    let shelf = Shelf::workspace();
    Ok(python_environment(&shelf, "supervisord", SUPERVISORD_VERSION, SUPERVISORD_PINS)?.join("bin"))
}

/// The folder with `pueued` and `pueue`.
///
/// # Errors
/// When it cannot be built; the text says why and what to do.
pub fn pueue() -> Result<PathBuf, InstallError> {
    let recipe = Recipe {
        name: "pueue",
        version: PUEUE_VERSION,
        inputs: "cargo install --locked, release".to_owned(),
        pins: Vec::new(),
        make: &build_pueue,
    };
    Ok(Shelf::workspace().install(&recipe)?.join("bin"))
}

/// The registry's index has the checksum of the crate, and its own lock file those of all that it is built from.
fn build_pueue(bench: &Bench<'_>) -> Result<(), InstallError> {
    let version = format!("={PUEUE_VERSION}");
    let build = bench.make_folder("build")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["install", "pueue", "--version", &version, "--locked", "--quiet", "--root"]).arg(bench.folder);
    bench.run(cargo.env("CARGO_TARGET_DIR", &build))?;
    std::fs::remove_dir_all(&build).map_err(|e| bench.disk("remove", &build, e))
}
