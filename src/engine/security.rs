//! The security gate's settings in the actors' words, and the key of the hashes by which secrets are spoken of.
//!
//! Owns the key's file. Invariant: the key is random, made once, and readable by us alone; it never leaves the data folder.

use std::io::Write as _;
use std::path::Path;

use orch_actors::context::SecuritySettings;
use orch_adapters::secrets::{CollectLimits, EngineKind, ExpandLimits, HashKey};

use super::StartError;
use crate::config::{Config, SecretEngine};

/// What the actors are told.
pub(super) fn settings(config: &Config) -> Result<SecuritySettings, StartError> {
    let settings = &config.gates.security;
    Ok(SecuritySettings {
        engine: match settings.engine {
            SecretEngine::Auto => EngineKind::Auto,
            SecretEngine::Gitleaks => EngineKind::Gitleaks,
            SecretEngine::Builtin => EngineKind::Builtin,
        },
        gitleaks: settings.gitleaks.clone(),
        gitleaks_sha256: settings.gitleaks_sha256.clone(),
        rules: settings.rules.clone(),
        timeout: settings.timeout,
        limits: CollectLimits { file: settings.file_size, total: settings.total_size, ..CollectLimits::default() },
        expand: ExpandLimits::default(),
        key: hash_key(&config.data_dir)?,
    })
}

/// The key of the hashes by which secrets are spoken of: random, made at the first start, for our eyes only.
fn hash_key(data: &Path) -> Result<HashKey, StartError> {
    let path = data.join("secret-hash.key");
    let refuse = |error: std::io::Error| {
        StartError::Settings(format!("{}: {error}; remove it to have it made again", path.display()))
    };
    let made = || -> std::io::Result<()> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
        let mut file = tempfile::Builder::new().prefix(".secret-hash").tempfile_in(data)?;
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        // Whoever was first has made it; both go on with the same.
        match file.persist_noclobber(&path) {
            Err(error) if error.error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.error),
            _ => Ok(()),
        }
    };
    if !path.exists() {
        made().map_err(refuse)?;
    }
    let bytes = std::fs::read(&path).map_err(refuse)?;
    if bytes.len() != 32 {
        return Err(refuse(std::io::Error::other(format!("it has {} bytes, not 32", bytes.len()))));
    }
    Ok(HashKey::new(bytes))
}
