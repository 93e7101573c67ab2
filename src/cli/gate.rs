//! `orch gate NAME`: one gate of the landing, asked by hand about a range of commits. For people, hooks and CI.
//!
//! Owns the words and the exit code: 0 passed, 1 failed, 2 could not run, 64 usage. Changes nothing in the repository.

use std::path::PathBuf;

use clap::Args;
use orch_domain::gate::{GateName, Verdict};
use orch_domain::ids::CommitSha;
use serde_json::json;

use super::Context;
use super::output::{CliError, Output, clean};

/// What is asked.
#[derive(Args, Clone, Debug)]
pub struct GateArgs {
    /// security, merge, coverage or image-freshness
    #[arg(value_parser = landing_gate)]
    pub name: GateName,
    /// The repository
    #[arg(long, value_name = "PATH", default_value = ".")]
    pub repo: PathBuf,
    /// What the work stands on: a branch, a tag, a commit
    #[arg(long, value_name = "REV")]
    pub base: String,
    /// The work
    #[arg(long, value_name = "REV", default_value = "HEAD")]
    pub head: String,
    /// For merge: the shell line that tests [default: as the settings or base say]
    #[arg(long, value_name = "CMD", conflicts_with = "no_tests")]
    pub test_cmd: Option<String>,
    /// For merge: catch up only, there are no tests
    #[arg(long)]
    pub no_tests: bool,
    /// For coverage: the shell line that measures, or a preset [default: as the settings or base say]
    #[arg(long, value_name = "CMD")]
    pub coverage_cmd: Option<String>,
    /// For image-freshness: have the image built from the work first, as a landing does. It takes the image's name
    #[arg(long)]
    pub build: bool,
    /// Keep the report in this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

fn landing_gate(text: &str) -> Result<GateName, String> {
    let name = text.parse::<GateName>().ok().filter(|gate| gate.is_landing_gate());
    name.ok_or_else(|| "the gates are security, merge, coverage, image-freshness".to_owned())
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateOutcome {
    /// Which gate.
    pub gate: GateName,
    /// Its answer.
    pub verdict: Verdict,
    /// What the work stands on.
    pub base: CommitSha,
    /// The work.
    pub head: CommitSha,
    /// Note, findings, or why nothing can be said.
    pub text: String,
    /// What was let pass unseen.
    pub warnings: Vec<String>,
    /// The report, whole.
    pub report: Option<String>,
}

pub(super) async fn run(context: &Context, args: &GateArgs, out: &mut Output) -> Result<u8, CliError> {
    if args.name != GateName::Merge && (args.no_tests || args.test_cmd.is_some()) {
        let (flag, name) = (if args.no_tests { "--no-tests" } else { "--test-cmd" }, args.name);
        return Err(CliError::Usage(format!("{flag} is for `orch gate merge`; `{name}` asks something else")));
    }
    if args.test_cmd.as_ref().is_some_and(|line| line.trim().is_empty()) {
        return Err(CliError::Usage("--test-cmd is empty; name a shell line, or leave it out".to_owned()));
    }
    match (&args.coverage_cmd, args.name) {
        (Some(_), name) if name != GateName::Coverage => {
            return Err(CliError::Usage(format!(
                "--coverage-cmd is for `orch gate coverage`; `{name}` measures nothing"
            )));
        }
        (Some(line), _) if line.trim().is_empty() => {
            let what = "--coverage-cmd is empty; name a shell line or a preset, or leave it out";
            return Err(CliError::Usage(what.to_owned()));
        }
        _ => {}
    }
    if args.build && args.name != GateName::ImageFreshness {
        let what = format!("--build is for `orch gate image-freshness`; `{}` builds no image", args.name);
        return Err(CliError::Usage(what));
    }
    let config = context.config()?;
    if args.name == GateName::Coverage && !out.json {
        out.note("where coverage is measured, tests run: that takes its time");
    }
    let outcome = context.starter.gate(config, args).await?;
    let GateOutcome { gate, verdict, base, head, text, warnings, report } = &outcome;
    if out.json {
        out.json(&json!({
            "gate": gate, "verdict": verdict, "base": base, "head": head, "text": text, "warnings": warnings,
            "report": report,
        }))?;
    } else {
        out.line(&format!("{gate}: {verdict} ({}..{})", base.short(), head.short()))?;
        for line in text.lines() {
            out.line(&clean(line))?;
        }
        for warning in warnings {
            out.line(&format!("warning: {}", clean(warning)))?;
        }
    }
    // Behind the answer, which a bad path must not take away.
    if let (Some(path), Some(report)) = (&args.report, report) {
        std::fs::write(path, report).map_err(|e| CliError::CouldNot(format!("{}: {e}", path.display())))?;
    }
    Ok(match verdict {
        Verdict::Passed => 0,
        Verdict::Failed => 1,
        Verdict::CouldNotRun => 2,
    })
}
