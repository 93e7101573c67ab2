//! The engine as the verbs see it: started, stopped, and its data worked on when nobody runs it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orch_actors::api::Control;
use orch_adapters::disk::SystemDisk;
use orch_adapters::jobs::{LocalPlacement, LocalPlacementConfig};
use orch_adapters::ports::{Clock as _, Placement as _, SystemClock};
use orch_domain::stop::Level;
use orch_store::{OpenError, Store, StoreConfig};

use super::{Guard, Prepared, Running, StartError, demo, gate, look, means, prepare, runtime_dir};
use crate::cli::{self, DemoArgs, Engine, EngineStarter, GateArgs, GateOutcome, Health, Looked, Output, Probe, Sight};
use crate::config::Config;

/// Starts engines for the verbs.
pub struct Starter {
    env: BTreeMap<String, String>,
}

impl Starter {
    /// With the environment that agents' allow-lists are resolved in.
    #[must_use]
    pub fn new(env: BTreeMap<String, String>) -> Self {
        Self { env }
    }
}

fn refused(config: &Config, error: OpenError) -> cli::StartError {
    match error {
        OpenError::InUse { owner, .. } => cli::StartError::Owned { data_dir: config.data_dir.clone(), by: owner },
        other => cli::StartError::Refused(other.to_string()),
    }
}

#[async_trait]
impl Engine for Running {
    fn control(&self) -> Arc<dyn Control> {
        Self::control(self)
    }

    async fn shutdown(&self, level: Level, deadline: Duration) {
        self.stop(level, deadline).await;
        if level == Level::Kill {
            self.close();
        }
    }

    async fn handover_asked(&self) {
        self.handle().handover_asked().await;
    }

    async fn hand_over(&self, deadline: Duration) {
        self.hand_over(deadline).await;
    }
}

#[async_trait]
impl cli::Prepared for Prepared {
    async fn begin(self: Box<Self>) -> Result<Box<dyn Engine>, cli::StartError> {
        match (*self).begin().await {
            Ok(running) => Ok(Box::new(running)),
            Err(error) => Err(cli::StartError::Refused(error.to_string())),
        }
    }
}

#[async_trait]
impl EngineStarter for Starter {
    async fn prepare(&self, config: Config) -> Result<Box<dyn cli::Prepared>, cli::StartError> {
        match prepare(&config, &self.env, Guard::default(), Arc::new(SystemDisk)).await {
            Ok(prepared) => Ok(Box::new(prepared)),
            Err(StartError::Owned(error)) => Err(refused(&config, error)),
            Err(error) => Err(cli::StartError::Refused(error.to_string())),
        }
    }

    async fn look(&self, config: &Config, sight: Sight) -> Result<Option<Looked>, cli::StartError> {
        look::look(config, &self.env, sight).await.map_err(|error| match error {
            StartError::Owned(error) => refused(config, error),
            error => cli::StartError::Refused(error.to_string()),
        })
    }

    async fn backup(&self, config: &Config, to: &Path) -> Result<String, cli::StartError> {
        let store = Store::open(&StoreConfig::new(&config.data_dir, SystemClock.now()));
        let store = store.map_err(|e| refused(config, e))?;
        let report = store.backup(to.to_owned()).await.map_err(|e| cli::StartError::Refused(e.to_string()))?;
        Ok(format!("{} bytes, opened and checked", report.bytes))
    }

    async fn restore(&self, config: &Config, from: &Path) -> Result<String, cli::StartError> {
        let kept = Store::restore(from, &config.data_dir, SystemClock.now()).map_err(|e| refused(config, e))?;
        Ok(match kept {
            Some(path) => format!("is the store now; the file before it is kept at {}", path.display()),
            None => "is the store now; there was none before".to_owned(),
        })
    }

    async fn probe(&self, config: &Config) -> Vec<Probe> {
        let means = means(config);
        let settings = LocalPlacementConfig {
            means,
            ..LocalPlacementConfig::new(config.data_dir.join("jobs"), runtime_dir(&config.data_dir))
        };
        match LocalPlacement::new(settings) {
            Ok(placement) => placement
                .capabilities()
                .into_iter()
                .map(|text| {
                    let health = if text.contains(": not available") || text.contains(": switched off") {
                        Health::Warn
                    } else {
                        Health::Ok
                    };
                    Probe { name: "containment".to_owned(), health, text }
                })
                .collect(),
            Err(error) => {
                vec![Probe { name: "containment".to_owned(), health: Health::Fail, text: error.to_string() }]
            }
        }
    }

    async fn gate(&self, config: Config, args: &GateArgs) -> Result<GateOutcome, cli::CliError> {
        gate::ask(config, &self.env, args).await
    }

    async fn demo(&self, args: &DemoArgs, out: &mut Output) -> u8 {
        demo::tell(args, &self.env, out).await
    }
}
