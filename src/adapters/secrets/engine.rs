//! Which engine scans: the operator's word, and what there is on this machine.
//!
//! Owns the choice. Invariants: a binary that is there but cannot be used is an error, also under `auto`; without any usable
//! engine nothing is scanned, and that is an error too, never a pass.

use std::path::PathBuf;
use std::sync::Arc;

use super::gitleaks::locate;
use super::{Builtin, Gitleaks, ScanError, SecretScanner, find_gitleaks};
use crate::git::{Exec, Owner};
use crate::ports::JobLimits;

/// The operator's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// The binary where it is found, else the engine in this process, loudly.
    #[default]
    Auto,
    /// The binary, and nothing else.
    Gitleaks,
    /// The engine in this process.
    Builtin,
}

/// What an engine needs to work.
pub struct EngineSpec {
    /// Which.
    pub kind: EngineKind,
    /// The binary, by name or path.
    pub program: String,
    /// Where a name is looked for.
    pub path: String,
    /// The only checksum that is accepted, if one is.
    pub sha256: Option<String>,
    /// What runs the binary.
    pub exec: Arc<dyn Exec>,
    /// For whom.
    pub owner: Owner,
    /// Where its folders are made.
    pub scratch: PathBuf,
    /// The data folder, closed to it; `None`: it is not confined.
    pub data: Option<PathBuf>,
    /// Bounds of its job.
    pub limits: JobLimits,
}

/// The engine that a scan uses, and what is to be said loudly about the choice.
///
/// # Errors
/// [`ScanError::Tool`]: there is none that may be used.
pub fn choose(spec: EngineSpec) -> Result<(Box<dyn SecretScanner>, Option<String>), ScanError> {
    let found = match spec.kind {
        EngineKind::Builtin => return Ok((Box::new(Builtin), None)),
        EngineKind::Auto | EngineKind::Gitleaks => find_gitleaks(&spec.program, &spec.path, spec.sha256.as_deref())?,
    };
    match found {
        Some(program) => {
            let EngineSpec { exec, owner, scratch, data, limits, .. } = spec;
            Ok((Box::new(Gitleaks { program, exec, owner, scratch, data, limits }), None))
        }
        None if spec.kind == EngineKind::Auto => {
            let name = &spec.program;
            let notice = format!(
                "`{name}` was not found, so the built-in engine looked for secrets: well-known formats and the rules of the \
                 repository, no guesses by variable names; install gitleaks, or say `engine: builtin` to mean it"
            );
            Ok((Box::new(Builtin), Some(notice)))
        }
        None => Err(ScanError::Tool {
            tool: "gitleaks".to_owned(),
            why: format!(
                "`{}` was not found in {}; install it, or choose another engine (`gates.security.engine`)",
                spec.program, spec.path
            ),
        }),
    }
}

/// In words, which engine a scan would use now. Looks at names only; a scan looks closer.
#[must_use]
pub fn describe(kind: EngineKind, program: &str, path: &str) -> String {
    let found = locate(program, path);
    match (kind, found) {
        (EngineKind::Builtin, _) => "builtin".to_owned(),
        (_, Some(at)) => format!("gitleaks at {}", at.display()),
        (EngineKind::Auto, None) => format!("builtin (`{program}` is not found)"),
        (EngineKind::Gitleaks, None) => format!("none: `{program}` is not found"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::git::DirectExec;

    fn spec(kind: EngineKind, path: &std::path::Path, sha256: Option<&str>) -> EngineSpec {
        EngineSpec {
            kind,
            program: "gitleaks".to_owned(),
            path: path.to_string_lossy().into_owned(),
            sha256: sha256.map(str::to_owned),
            exec: Arc::new(DirectExec),
            owner: Owner::default(),
            scratch: path.to_owned(),
            data: None,
            limits: JobLimits::default(),
        }
    }

    #[test]
    fn the_choice_falls_back_only_where_there_is_none_and_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let chosen =
            |kind, sha256| choose(spec(kind, folder.path(), sha256)).map(|(engine, said)| (engine.name(), said));
        assert_eq!(chosen(EngineKind::Builtin, None).expect("chosen"), ("builtin", None));
        let (name, said) = chosen(EngineKind::Auto, None).expect("chosen");
        assert!(name == "builtin" && said.is_some_and(|said| said.contains("not found")));
        let why = chosen(EngineKind::Gitleaks, None).expect_err("there is none").to_string();
        assert!(why.contains("not found") && why.contains("gates.security.engine"), "{why}");
        let program = folder.path().join("gitleaks");
        std::fs::write(&program, "#!/bin/sh\nexit 3\n").expect("written");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o644)).expect("set");
        assert_eq!(chosen(EngineKind::Auto, None).expect("chosen").0, "builtin", "no program, by its mode");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("set");
        assert_eq!(chosen(EngineKind::Auto, None).expect("chosen"), ("gitleaks", None));
        let why = chosen(EngineKind::Auto, Some("00")).expect_err("another checksum").to_string();
        assert!(why.contains("gitleaks_sha256"), "{why}");
    }
}
