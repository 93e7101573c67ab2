//! The script's form: strict YAML, and which steps a run plays.
//!
//! Owns the step vocabulary and the choice by role and attempt. Refuses unknown keys, unknown steps and empty scripts,
//! naming file and line.

use std::collections::BTreeMap;

use orch_domain::pipeline::Role;
use serde::Deserialize;

/// A script.
///
/// `attempts` serves every role that `roles` does not name. Both are lists of attempts, each a list of steps; the last
/// attempt is played again for all later ones.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// A text that the prompt must hold, at every attempt.
    #[serde(default)]
    expect_prompt: Option<String>,
    /// Attempts of any role.
    #[serde(default)]
    attempts: Vec<Attempt>,
    /// Attempts of one role.
    #[serde(default)]
    roles: BTreeMap<Role, Vec<Attempt>>,
}

/// The steps of one attempt.
pub(super) type Attempt = Vec<Step>;

/// One step, written as a mapping with one key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Step {
    /// Ends with code 3 unless the prompt holds this text.
    ExpectPrompt(String),
    /// Ends with code 3 if the prompt holds this text.
    RefusePrompt(String),
    /// Writes a file, with its folders.
    Write { path: String, content: String },
    /// Adds to the end of a file.
    Append { path: String, content: String },
    /// Replaces every occurrence of a text, of which there must be one.
    Replace { path: String, from: String, to: String },
    /// Removes a file or folder.
    Delete { path: String },
    /// Makes a folder.
    Mkdir { path: String },
    /// Runs a shell line in the workspace as a tool call.
    Run {
        cmd: String,
        #[serde(default)]
        may_fail: bool,
    },
    /// Commits everything.
    Commit {
        message: String,
        #[serde(default)]
        allow_empty: bool,
    },
    /// Says something.
    Say { text: String },
    /// A warning in the stream.
    Warn { text: String },
    /// A tool call that takes this long and does nothing.
    Tool { name: String, ms: u64 },
    /// Silence.
    Delay { ms: u64 },
    /// Waits until a file exists: a test's way to hold an agent at a point. Absolute, or inside the workspace.
    WaitFor { path: String },
    /// Tokens and money used.
    Usage {
        #[serde(default)]
        input_tokens: Option<u64>,
        #[serde(default)]
        cached_tokens: Option<u64>,
        #[serde(default)]
        output_tokens: Option<u64>,
        #[serde(default)]
        cost_micro_usd: Option<u64>,
    },
    /// Writes an artefact with front matter into the artefact folder.
    Artefact {
        file: String,
        front: BTreeMap<String, String>,
        #[serde(default)]
        body: String,
        /// Folder instead of the one that the prompt names.
        #[serde(default)]
        dir: Option<String>,
    },
    /// Ends, claiming its provider's limit.
    RateLimit { text: String },
    /// Ends with this code: success for 0, an error for others.
    Exit { code: u8 },
    /// Does what an agent must not do.
    Misbehave(Misbehaviour),
}

/// What an agent must not do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Misbehaviour {
    /// From here on TERM, HUP and INT do nothing to it and to what it starts.
    IgnoreTerm,
    /// Leaves a process behind: forked twice, in a session of its own, deaf to TERM.
    Daemon {
        seconds: u32,
        /// Where it writes its process id.
        #[serde(default)]
        pid_file: Option<String>,
    },
    /// Writes this much nonsense to standard output.
    FillLog { mb: u32 },
    /// Never ends.
    Hang,
    /// Ends with code 0 without its end event.
    NoEndEvent,
    /// Points the clone's remote elsewhere.
    RewriteRemote {
        #[serde(default = "evil_remote")]
        url: String,
    },
    /// Writes outside the workspace; what came of it is a warning in the stream.
    TouchOutside { path: String },
}

fn evil_remote() -> String {
    "https://evil.invalid/repository.git".to_owned()
}

/// Why a script cannot be played.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}: {detail}")]
pub struct ScriptError {
    /// The script.
    file: String,
    /// Line, counted from 1.
    line: usize,
    /// What is wrong.
    detail: String,
}

impl Script {
    /// Reads a script; `file` is for errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScriptError> {
        let wrong = |line, detail| ScriptError { file: file.to_owned(), line, detail };
        let yaml = serde_yaml::Deserializer::from_str(text);
        let script: Self = serde_yaml::with::singleton_map_recursive::deserialize(yaml)
            .map_err(|err: serde_yaml::Error| wrong(err.location().map_or(1, |at| at.line()), err.to_string()))?;
        let named = script.roles.iter().find(|(_, attempts)| attempts.is_empty());
        if let Some((role, _)) = named {
            return Err(wrong(
                1,
                format!("role `{}` has no attempts; write at least one list of steps", role.as_str()),
            ));
        }
        if script.attempts.is_empty() && script.roles.is_empty() {
            return Err(wrong(
                1,
                "there are no attempts; write `attempts:` with at least one list of steps".to_owned(),
            ));
        }
        Ok(script)
    }

    /// The steps for a role and attempt (counted from 1), with the prompt check in front; `None` when the script has
    /// nothing for the role.
    pub(super) fn steps(&self, role: Option<Role>, attempt: u32) -> Option<Attempt> {
        let attempts = role.and_then(|role| self.roles.get(&role)).unwrap_or(&self.attempts);
        let index = usize::try_from(attempt.max(1) - 1).unwrap_or(usize::MAX);
        let steps = attempts.get(index).or_else(|| attempts.last())?;
        let check = self.expect_prompt.iter().cloned().map(Step::ExpectPrompt);
        Some(check.chain(steps.iter().cloned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY_STEP: &str = r#"
expect_prompt: Task
attempts:
  - - expect_prompt: "Attempt: 1"
    - refuse_prompt: "Findings to deal with"
    - write: { path: a/b.txt, content: "x\n" }
    - append: { path: a/b.txt, content: "y\n" }
    - replace: { path: a/b.txt, from: x, to: z }
    - delete: { path: a }
    - mkdir: { path: c }
    - run: { cmd: "true" }
    - run: { cmd: "false", may_fail: true }
    - commit: { message: Add }
    - commit: { message: Nothing, allow_empty: true }
    - say: { text: hello }
    - warn: { text: careful }
    - tool: { name: build, ms: 1 }
    - delay: { ms: 1 }
    - wait_for: { path: /nowhere }
    - usage: { input_tokens: 10, output_tokens: 2, cost_micro_usd: 3 }
    - artefact: { file: 01-analysis.md, front: { analysis_status: ready }, body: Text }
    - rate_limit: { text: later }
    - misbehave: ignore_term
    - misbehave: { daemon: { seconds: 5, pid_file: /nowhere/pid } }
    - misbehave: { fill_log: { mb: 1 } }
    - misbehave: hang
    - misbehave: no_end_event
    - misbehave: { rewrite_remote: {} }
    - misbehave: { touch_outside: { path: /nowhere/x } }
    - exit: { code: 7 }
  - - say: { text: again }
roles:
  reviewer:
    - - say: { text: fine }
"#;

    #[test]
    fn every_step_is_read() {
        let script = Script::parse("all.yaml", EVERY_STEP).expect("valid");
        let first = script.steps(Some(Role::Developer), 1).expect("steps");
        assert_eq!(first.len(), 28, "the prompt check comes before the steps");
        assert_eq!(first[0], Step::ExpectPrompt("Task".to_owned()));
        assert_eq!(first[20], Step::Misbehave(Misbehaviour::IgnoreTerm));
        assert_eq!(first.last(), Some(&Step::Exit { code: 7 }));
    }

    #[test]
    fn the_last_attempt_is_repeated_and_roles_have_their_own() {
        let script = Script::parse("all.yaml", EVERY_STEP).expect("valid");
        let said = |role, attempt| script.steps(role, attempt).and_then(|steps| steps.last().cloned());
        let say = |text: &str| Some(Step::Say { text: text.to_owned() });
        assert_eq!(said(None, 2), say("again"));
        assert_eq!(said(Some(Role::Analyst), 99), say("again"));
        assert_eq!(said(Some(Role::Reviewer), 1), say("fine"));
        assert_eq!(said(None, 0), Some(Step::Exit { code: 7 }), "an attempt of 0 is the first");
        let only = Script::parse("r.yaml", "roles: { reviewer: [[]] }").expect("valid");
        assert_eq!(only.steps(Some(Role::Developer), 1), None);
        assert_eq!(only.steps(Some(Role::Reviewer), 1), Some(Vec::new()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-a-z_: \\n\\[\\]{}&*!|>'\"#0-9]{0,200}", at in proptest::prelude::any::<proptest::sample::Index>()) {
            let _ = Script::parse("s.yaml", &text);
            let mut torn = EVERY_STEP.to_owned();
            torn.insert_str(at.index(EVERY_STEP.len()), &text);
            let _ = Script::parse("s.yaml", &torn);
        }
    }

    #[test]
    fn mistakes_name_file_and_line() {
        for (text, line, hint) in [
            ("attempts:\n  - - say: { txt: x }\n", 2, "txt"),
            ("attempts:\n  - - shout: { text: x }\n", 2, "shout"),
            ("attempts:\n  - - say: { text: a }\n    - run: {}\n", 3, "cmd"),
            ("atempts: []\n", 1, "atempts"),
            ("attempts: []\n", 1, "no attempts"),
            ("roles: { reviewer: [] }\n", 1, "reviewer"),
            ("attempts:\n  - - exit: { code: 900 }\n", 2, "900"),
            ("a: b: c\n", 1, ""),
            ("", 1, ""),
        ] {
            let err = Script::parse("s.yaml", text).expect_err(text).to_string();
            assert!(err.starts_with(&format!("s.yaml, line {line}: ")) && err.contains(hint), "{text:?}: {err}");
        }
    }
}
