//! What valid settings name that is not there: told by `orch config check` before a start or a task finds out.
//!
//! Owns looks at this machine's files, and no more than looks. Refuses to make anything of them invalid: a disk may not be
//! mounted yet, and settings are often checked elsewhere than they are used.

use super::{Config, refs};

impl Config {
    /// One line for each repository and script that cannot be used as it stands, with its key, value and what comes of it.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, repo) in &self.repos {
            let Some(path) = &repo.path else { continue };
            if let Err(error) = orch_adapters::forge::look_at(path) {
                found.push(format!("repos.{name}.path: {error}; `orch serve` will refuse it"));
                continue;
            }
            if let Some(main) = repo.main.as_ref().filter(|main| refs::has_branch(path, main) == Some(false)) {
                found.push(format!(
                    "repos.{name}.main: there is no branch `{main}` in {}; `orch serve` will refuse it",
                    path.display()
                ));
            }
        }
        for (name, agent) in &self.agents {
            if let Some(script) = agent.script.as_ref().filter(|script| !script.is_file()) {
                found.push(format!("agents.{name}.script: there is no file {}; its runs will fail", script.display()));
            }
        }
        found
    }
}
