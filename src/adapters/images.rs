//! Container images, as the docker program shows them.
//!
//! Owns the port [`Images`] and its one real implementation, which asks `docker image inspect` as a job. Returns facts:
//! what an image is labelled with, that there is none, or that nobody answered. Refuses names that the program could take
//! for an option, and to guess: a program that is missing, a daemon that is away and a right that is lacking are all
//! *unreachable*, never *absent*.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use orch_domain::image::REVISION_LABEL;
use orch_domain::job::{JobEnd, JobKind, OnLoss};
use orch_domain::time::Millis;
use serde_json::Value;

use crate::git::Owner;
use crate::jobs::{FinishedJob, Runner};
use crate::ports::{Confinement, JobError, JobLimits, JobSpec};

/// Longest look at an image.
const DEADLINE: Millis = Millis::from_secs(60);
/// Most bytes that are read of an answer.
const MOST: u64 = 4 << 20;
/// Most characters that are quoted of what the program said.
const QUOTED: usize = 500;

/// What is seen of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is there.
    There {
        /// Its id.
        id: String,
        /// Its revision label, as it stands there.
        revision: Option<String>,
    },
    /// There is none of that name.
    Absent,
    /// Nobody could tell.
    Unreachable {
        /// What was said, or what was missing.
        why: String,
    },
}

/// Where images are looked for.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// Looks at an image, on behalf of `owner`.
    async fn look(&self, owner: &Owner, image: &str) -> Seen;
    /// Environment that a build needs to put its image where this looks.
    fn env(&self) -> BTreeMap<String, String>;
}

/// The docker program (or one that speaks like it).
pub struct DockerCli {
    /// Runs it.
    pub runner: Runner,
    /// Where it is found.
    pub path: String,
    /// Its own settings: where the daemon is.
    pub env: BTreeMap<String, String>,
    /// An existing folder to run in.
    pub cwd: PathBuf,
}

impl DockerCli {
    /// Names of the variables by which the program is told where its daemon is.
    pub const VARIABLES: [&'static str; 5] =
        ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"];

    async fn run(&self, owner: &Owner, args: &[&str]) -> Result<FinishedJob, String> {
        let mut env = self.env.clone();
        env.insert("PATH".to_owned(), self.path.clone());
        env.insert("LC_ALL".to_owned(), "C".to_owned());
        let spec = JobSpec {
            id: crate::git::mint_job(),
            kind: JobKind::Gate,
            task: owner.task.clone(),
            run: owner.run.clone(),
            epoch: owner.epoch,
            label: format!("docker {}", args.first().copied().unwrap_or_default()),
            argv: std::iter::once("docker").chain(args.iter().copied()).map(str::to_owned).collect(),
            cwd: self.cwd.clone(),
            env,
            stdin: Vec::new(),
            limits: JobLimits { wall: DEADLINE, ..JobLimits::default() },
            // The operator's own program, asked about a name from the settings.
            confinement: Confinement::default(),
            on_loss: OnLoss::End,
        };
        self.runner.run(spec).await.map_err(|error: JobError| error.to_string())
    }

    /// Whether the daemon answers; if not, what was said.
    async fn daemon(&self, owner: &Owner) -> Result<(), String> {
        let finished = self.run(owner, &["version", "--format", "{{.Server.Version}}"]).await?;
        match finished.exit.end {
            JobEnd::Exited { code: 0 } => Ok(()),
            _ => Err(words(&finished)),
        }
    }
}

#[async_trait]
impl Images for DockerCli {
    async fn look(&self, owner: &Owner, image: &str) -> Seen {
        if image.is_empty() || image.starts_with('-') || image.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Seen::Unreachable { why: format!("`{}` is no name of an image", image.escape_debug()) };
        }
        let finished = match self.run(owner, &["image", "inspect", "--", image]).await {
            Ok(finished) => finished,
            Err(why) => return Seen::Unreachable { why },
        };
        match &finished.exit.end {
            JobEnd::Exited { code: 0 } => match finished.stdout(MOST) {
                Ok(text) => read(&text),
                Err(error) => Seen::Unreachable { why: format!("its answer cannot be read: {error}") },
            },
            JobEnd::CouldNotStart { .. } | JobEnd::Exited { code: 126 | 127 } => Seen::Unreachable {
                why: "the program `docker` cannot be run; put it on the supervisor's PATH".to_owned(),
            },
            JobEnd::Exited { .. } => {
                let said = words(&finished);
                // A missing image and a missing daemon have the same exit code.
                match self.daemon(owner).await {
                    Ok(()) if said.to_ascii_lowercase().contains("no such") => Seen::Absent,
                    Ok(()) => Seen::Unreachable { why: said },
                    Err(why) => Seen::Unreachable { why: format!("the docker daemon does not answer: {why}") },
                }
            }
            end => Seen::Unreachable { why: format!("`docker image inspect` ended: {end}") },
        }
    }

    fn env(&self) -> BTreeMap<String, String> {
        self.env.clone()
    }
}

/// Reads the answer: a list with one image.
fn read(text: &str) -> Seen {
    let image = serde_json::from_str::<Value>(text).ok().and_then(|all| all.get(0).cloned());
    let id = image.as_ref().and_then(|image| image["Id"].as_str());
    match (&image, id) {
        (Some(image), Some(id)) => {
            let revision = image["Config"]["Labels"][REVISION_LABEL].as_str().map(str::to_owned);
            Seen::There { id: id.to_owned(), revision }
        }
        _ => Seen::Unreachable { why: "`docker image inspect` gave no image in JSON".to_owned() },
    }
}

/// What a program said, in one bounded line.
fn words(finished: &FinishedJob) -> String {
    let said = finished.stderr(MOST).unwrap_or_default();
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.is_empty() {
        true => format!("it said nothing ({})", finished.exit.end),
        false => line.chars().filter(|c| !c.is_control()).take(QUOTED).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_where_docker_puts_them() {
        let with = r#"[{"Id":"sha256:1","Config":{"Labels":{"org.opencontainers.image.revision":"abc"}}}]"#;
        assert_eq!(read(with), Seen::There { id: "sha256:1".to_owned(), revision: Some("abc".to_owned()) });
        for without in [r#"[{"Id":"sha256:1","Config":{"Labels":null}}]"#, r#"[{"Id":"sha256:1"}]"#] {
            assert_eq!(read(without), Seen::There { id: "sha256:1".to_owned(), revision: None });
        }
        for broken in ["", "[]", "{}", "[{}]", "no"] {
            assert!(matches!(read(broken), Seen::Unreachable { .. }), "{broken}");
        }
    }
}
