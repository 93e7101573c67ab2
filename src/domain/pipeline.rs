//! Pipelines: which stages a task goes through, as data.
//!
//! Owns the two built-in pipelines (`full`, `lite`), the YAML form of custom ones and their validation. Invariants of a
//! [`Pipeline`]: at least one stage, names unique, exactly one landing stage and it is the last, every rollback target is
//! an agent stage at or before the stage that names it. No pipeline can drop the gates: they belong to landing itself.

use serde::{Deserialize, Serialize};

use crate::names::StageName;
use crate::time::Millis;

/// Who an agent is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Understands the task; writes the analysis.
    Analyst,
    /// Plans the change; writes the architecture note.
    Architect,
    /// Changes the code.
    Developer,
    /// Reads the change; writes the review.
    Reviewer,
}

impl Role {
    /// The role's name in settings and prompts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Analyst => "analyst",
            Self::Architect => "architect",
            Self::Developer => "developer",
            Self::Reviewer => "reviewer",
        }
    }

    /// Whether runs of this role may change the code; the others may touch the artefact folder only.
    #[must_use]
    pub const fn may_change_code(self) -> bool {
        matches!(self, Self::Developer)
    }

    /// The artefact this role has to write, with the front-matter key that must say how it ended.
    #[must_use]
    pub const fn artefact(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Analyst => Some(("01-analysis.md", "analysis_status")),
            Self::Architect => Some(("02-architecture.md", "architecture_status")),
            Self::Developer => None,
            Self::Reviewer => Some(("12-review.md", "review_status")),
        }
    }
}

/// A command of the repository, by its role in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepoCommand {
    /// Quick check (format, lint, build) after development.
    Check,
    /// The test suite.
    Test,
    /// Deploys the task's head to a staging place.
    Staging,
}

impl RepoCommand {
    /// The command's name in settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Test => "test",
            Self::Staging => "staging",
        }
    }
}

/// What happens in a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Work {
    /// An agent works; afterwards, where named, a command of the repository checks its head.
    Agent {
        /// Who it is asked to be.
        role: Role,
        /// Prompt template that replaces the role's own.
        prompt: Option<String>,
        /// The exit check.
        check: Option<RepoCommand>,
    },
    /// A command of the repository runs on the task's head.
    Command {
        /// Which.
        command: RepoCommand,
    },
    /// The lane takes the change to `main`: gates, catch-up, landing, deploy.
    Land,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name; shown, journaled.
    pub name: StageName,
    /// What happens in it.
    pub work: Work,
    /// Longest run time of its agent or command; `None`: the kind's default.
    pub limit: Option<Millis>,
    /// Longest silence of its agent (a running tool call extends it) or command; `None`: the kind's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<Millis>,
    /// Where a failure sends the task; `None`: the nearest developer stage before.
    pub rollback_to: Option<StageName>,
}

/// A resolved, valid pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// Stages in order; see the invariants at the top of this file.
    pub stages: Vec<Stage>,
}

/// Why a pipeline was refused; each text names the place and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PipelineError {
    /// Not YAML, or not of this form.
    #[error("pipeline `{source_name}` is not valid: {detail}")]
    Unreadable {
        /// File or built-in name.
        source_name: String,
        /// Parser's words, with line and column.
        detail: String,
    },
    /// Well-formed, but breaks a rule.
    #[error("pipeline `{pipeline}`: {rule}")]
    BrokenRule {
        /// The pipeline's name.
        pipeline: String,
        /// The rule, the value, the way out.
        rule: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPipeline {
    name: String,
    stages: Vec<RawStage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStage {
    name: StageName,
    agent: Option<Role>,
    prompt: Option<String>,
    check: Option<RepoCommand>,
    command: Option<RepoCommand>,
    #[serde(default)]
    land: bool,
    limit_minutes: Option<u64>,
    silence_minutes: Option<u64>,
    rollback_to: Option<StageName>,
    next: Option<StageName>,
}

const FULL: &str = include_str!("pipelines/full.yaml");
const LITE: &str = include_str!("pipelines/lite.yaml");

impl Pipeline {
    /// A built-in pipeline by name.
    #[must_use]
    pub fn built_in(name: &str) -> Option<Self> {
        let yaml = match name {
            "full" => FULL,
            "lite" => LITE,
            _ => return None,
        };
        Some(Self::parse(name, yaml).expect("built-in pipelines are valid: tested"))
    }

    /// Reads a custom pipeline.
    ///
    /// # Errors
    /// [`PipelineError`] with line and column, or the rule that is broken.
    pub fn parse(source_name: &str, yaml: &str) -> Result<Self, PipelineError> {
        let raw: RawPipeline = serde_yaml::from_str(yaml).map_err(|e| {
            let mut detail = e.to_string();
            // Of the file itself the parser names no place.
            if detail == "missing field `name`" {
                detail.push_str(": begin it with `name: NAME`, above `stages:`");
            }
            PipelineError::Unreadable { source_name: source_name.to_owned(), detail }
        })?;
        let broken = |rule: String| PipelineError::BrokenRule { pipeline: raw.name.clone(), rule };
        if raw.name.is_empty() || raw.name.len() > 40 {
            return Err(broken("its name must have 1 to 40 characters".to_owned()));
        }
        let ordered = order(&raw.stages).map_err(&broken)?;
        let mut stages = Vec::with_capacity(ordered.len());
        for stage in ordered {
            stages.push(Stage {
                name: stage.name.clone(),
                work: work_of(stage).map_err(&broken)?,
                limit: stage.limit_minutes.map(Millis::from_mins),
                silence: stage.silence_minutes.map(Millis::from_mins),
                rollback_to: stage.rollback_to.clone(),
            });
        }
        let pipeline = Self { name: raw.name.clone(), stages };
        pipeline.check().map_err(broken)?;
        Ok(pipeline)
    }

    fn check(&self) -> Result<(), String> {
        let last = self.stages.len() - 1;
        for (i, stage) in self.stages.iter().enumerate() {
            match (&stage.work, i == last) {
                (Work::Land, false) => {
                    return Err(format!("stage `{}` lands but is not the last; move it to the end", stage.name));
                }
                (Work::Agent { .. } | Work::Command { .. }, true) => {
                    return Err(format!(
                        "the last stage `{}` must be the landing one: give it `land: true`",
                        stage.name
                    ));
                }
                _ => {}
            }
            if let Some(target) = &stage.rollback_to {
                let found = self.stages.iter().take(i + 1).find(|s| s.name == *target);
                match found.map(|s| &s.work) {
                    Some(Work::Agent { .. }) => {}
                    Some(_) => return Err(format!("rollback_to `{target}` of `{}` is no agent stage", stage.name)),
                    None => {
                        return Err(format!("rollback_to `{target}` of `{}` is unknown or comes later", stage.name));
                    }
                }
            } else if self.rollback_target(&stage.name).is_none() {
                return Err(format!(
                    "stage `{}` has nowhere to send failures back to: put a developer stage before it or name rollback_to",
                    stage.name
                ));
            }
        }
        Ok(())
    }

    /// The stage of that name.
    #[must_use]
    pub fn stage(&self, name: &StageName) -> Option<&Stage> {
        self.stages.iter().find(|s| s.name == *name)
    }

    /// The first stage.
    #[must_use]
    pub fn first(&self) -> &Stage {
        &self.stages[0]
    }

    /// The stage after the named one; `None` after the last.
    #[must_use]
    pub fn next(&self, name: &StageName) -> Option<&Stage> {
        let at = self.stages.iter().position(|s| s.name == *name)?;
        self.stages.get(at + 1)
    }

    /// Where a failure in the named stage sends the task: as named, else the nearest developer stage at or before it,
    /// else (stages before any developer) the stage itself.
    #[must_use]
    pub fn rollback_target(&self, name: &StageName) -> Option<&Stage> {
        let at = self.stages.iter().position(|s| s.name == *name)?;
        if let Some(target) = &self.stages[at].rollback_to {
            return self.stage(target);
        }
        let develops = |s: &&Stage| matches!(s.work, Work::Agent { role: Role::Developer, .. });
        let itself = matches!(self.stages[at].work, Work::Agent { .. }).then(|| &self.stages[at]);
        self.stages[..=at].iter().rev().find(develops).or(itself)
    }
}

fn work_of(stage: &RawStage) -> Result<Work, String> {
    match (stage.agent, stage.command, stage.land) {
        (Some(role), None, false) => Ok(Work::Agent { role, prompt: stage.prompt.clone(), check: stage.check }),
        (None, Some(command), false) if stage.prompt.is_none() && stage.check.is_none() => {
            Ok(Work::Command { command })
        }
        (None, None, true) if stage.prompt.is_none() && stage.check.is_none() => Ok(Work::Land),
        _ => Err(format!(
            "stage `{}` must have exactly one of `agent`, `command`, `land: true`; `prompt` and `check` go with `agent` only",
            stage.name
        )),
    }
}

/// Follows `next` from the first stage; without `next`, the stage written below follows.
fn order(stages: &[RawStage]) -> Result<Vec<&RawStage>, String> {
    if stages.is_empty() {
        return Err("it has no stages".to_owned());
    }
    for (i, stage) in stages.iter().enumerate() {
        if stages[..i].iter().any(|s| s.name == stage.name) {
            return Err(format!("stage `{}` is named twice", stage.name));
        }
    }
    let mut ordered: Vec<&RawStage> = Vec::with_capacity(stages.len());
    let mut at = 0;
    loop {
        let stage = &stages[at];
        if ordered.iter().any(|s| s.name == stage.name) {
            return Err(format!("the stages form a cycle: `{}` is reached again; mend its `next`", stage.name));
        }
        ordered.push(stage);
        at = match &stage.next {
            Some(next) => stages
                .iter()
                .position(|s| s.name == *next)
                .ok_or_else(|| format!("`next` of stage `{}` names the unknown stage `{next}`", stage.name))?,
            None if stage.land || at + 1 == stages.len() => break,
            None => at + 1,
        };
    }
    match stages.iter().find(|s| !ordered.iter().any(|o| o.name == s.name)) {
        Some(left) => Err(format!("stage `{}` is never reached; mend `next` or remove it", left.name)),
        None => Ok(ordered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pipeline: &Pipeline) -> Vec<&str> {
        pipeline.stages.iter().map(|s| s.name.as_str()).collect()
    }

    #[test]
    fn the_built_in_pipelines_are_those_of_the_design() {
        let full = Pipeline::built_in("full").expect("there");
        let expected = ["analysis", "architecture", "development", "review", "testing", "deploy-staging", "deploy"];
        assert_eq!(names(&full), expected);
        assert_eq!(names(&Pipeline::built_in("lite").expect("there")), ["development", "testing", "deploy"]);
        assert!(Pipeline::built_in("other").is_none());
    }

    #[test]
    fn failures_go_back_to_the_developer() {
        let full = Pipeline::built_in("full").expect("there");
        let target = |stage: &str| {
            let stage: StageName = stage.parse().expect("valid");
            full.rollback_target(&stage).expect("there").name.as_str().to_owned()
        };
        assert_eq!(target("testing"), "development");
        assert_eq!(target("deploy"), "development");
        assert_eq!(target("analysis"), "analysis");
    }

    #[test]
    fn a_stage_may_bound_its_time_and_its_silence() {
        let yaml = "name: slow\nstages:\n- {name: dev, agent: developer, limit_minutes: 90, silence_minutes: 20}\n- {name: ship, land: true}\n";
        let slow = Pipeline::parse("slow.yaml", yaml).expect("valid");
        assert_eq!(
            (slow.stages[0].limit, slow.stages[0].silence),
            (Some(Millis::from_mins(90)), Some(Millis::from_mins(20)))
        );
        assert_eq!((slow.stages[1].limit, slow.stages[1].silence), (None, None));
        // Pinned by an earlier version, which knew of no silence: it reads the same, and has the same hash.
        let pinned = serde_json::to_string(&slow.stages[1]).expect("serialises");
        assert!(!pinned.contains("silence"), "{pinned}");
        assert_eq!(serde_json::from_str::<Stage>(&pinned).expect("reads"), slow.stages[1]);
    }

    #[test]
    fn the_page_has_every_key_and_word_and_an_example_that_reads() {
        let page = include_str!("../../docs/pipelines.md");
        let example = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
        assert_eq!(
            names(&Pipeline::parse("the page", example).expect("valid")),
            ["plan", "development", "testing", "landing"]
        );
        // The parser names what it knows where it meets what it does not.
        let known = |yaml: &str| -> Vec<String> {
            let err = Pipeline::parse("p.yaml", yaml).expect_err(yaml).to_string();
            let (_, known) = err.split_once("expected ").expect(yaml);
            known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        let keys = [known("wombat: 1"), known("name: x\nstages: [{wombat: 1}]")].concat();
        assert!(keys.len() > 10, "{keys:?}");
        for key in keys {
            assert!(page.contains(&format!("\n| `{key}` |")), "`{key}` has no row");
        }
        for words in [
            known("name: x\nstages: [{name: a, agent: wombat}]"),
            known("name: x\nstages: [{name: a, command: wombat}]"),
        ] {
            assert!(words.len() > 2 && words.iter().all(|word| page.contains(&format!("`{word}`"))), "{words:?}");
        }
    }

    #[test]
    fn custom_order_by_next() {
        let yaml = "name: odd\nstages:\n- {name: dev, agent: developer, next: test}\n- {name: ship, land: true}\n- {name: test, command: test, next: ship}\n";
        assert_eq!(names(&Pipeline::parse("odd.yaml", yaml).expect("valid")), ["dev", "test", "ship"]);
    }

    #[test]
    fn broken_pipelines_are_refused_with_place_and_way_out() {
        let cases = [
            ("name: x\nstages: []", "it has no stages"),
            (
                "name: x\nstages:\n- {name: a, agent: developer, next: b}\n- {name: b, agent: developer, next: a}",
                "form a cycle",
            ),
            (
                "name: x\nstages:\n- {name: a, agent: developer, next: zz}\n- {name: d, land: true}",
                "unknown stage `zz`",
            ),
            ("name: x\nstages:\n- {name: a, agent: developer}\n- {name: a, land: true}", "named twice"),
            ("name: x\nstages:\n- {name: a, agent: developer}", "must be the landing one"),
            ("name: x\nstages:\n- {name: d, land: true}", "nowhere to send failures"),
            (
                "name: x\nstages:\n- {name: a, agent: developer, next: d}\n- {name: b, command: test}\n- {name: d, land: true}",
                "`b` is never reached",
            ),
            ("name: x\nstages:\n- {name: a, agent: developer, land: true}", "exactly one of"),
            (
                "name: x\nstages:\n- {name: a, agent: developer, rollback_to: d}\n- {name: d, land: true}",
                "unknown or comes later",
            ),
            ("name: x\nstages:\n- {name: a, agent: wizard}", "at line 3"),
            ("name: x\nstages:\n- {name: a, agnet: developer}", "unknown field `agnet`"),
            ("name: x\nstages:\n- {name: ../a, agent: developer}", "stage name `../a` is refused"),
            ("name: [", "not valid"),
            ("stages:\n- {name: a, agent: developer}\n- {name: d, land: true}", "begin it with `name: NAME`"),
        ];
        for (yaml, expected) in cases {
            let err = Pipeline::parse("p.yaml", yaml).expect_err(yaml).to_string();
            assert!(err.contains(expected), "{yaml}\n  gave: {err}\n  expected: {expected}");
        }
    }
}
