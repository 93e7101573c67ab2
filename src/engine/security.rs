//! The security gate's settings in the actors' words, and the key of the hashes by which secrets are spoken of.
//!
//! Owns the key's file. Invariant: the key is random, made once, and readable by us alone; it never leaves the data folder.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use orch_actors::context::{AuditSettings, SecuritySettings};
use orch_adapters::advisories::FeedKind;
use orch_adapters::secrets::{CollectLimits, EngineKind, ExpandLimits, HashKey};

use super::StartError;
use crate::config::{AuditProvider, Config, SecretEngine, SecurityGate};

/// What a tool needs to reach a service from here: these may hold a password, so they are handed on and never shown.
const NETWORK: [&str; 10] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
];

/// What the actors are told.
pub(super) fn settings(config: &Config, env: &BTreeMap<String, String>) -> Result<SecuritySettings, StartError> {
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
        audit: audit(settings, env),
    })
}

fn audit(settings: &SecurityGate, env: &BTreeMap<String, String>) -> AuditSettings {
    let endpoint = settings.dep_audit_endpoint.trim_end_matches('/').to_owned();
    let feed = match (&settings.dep_audit_offline, settings.dep_audit_provider) {
        (Some(folder), _) => FeedKind::Folder { folder: folder.clone(), stale_after: settings.dep_audit_stale_after },
        (None, AuditProvider::Osv) => FeedKind::Osv { endpoint },
        (None, AuditProvider::PipAudit) => FeedKind::PipAudit { endpoint, program: settings.pip_audit.clone() },
    };
    AuditSettings {
        enabled: settings.dep_audit_enabled,
        fail_closed: settings.dep_audit_fail_closed,
        feed,
        cache_age: settings.dep_audit_cache_age,
        timeout: settings.dep_audit_timeout,
        env: NETWORK.iter().filter_map(|name| Some(((*name).to_owned(), env.get(*name)?.clone()))).collect(),
        tally: Arc::default(),
    }
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
