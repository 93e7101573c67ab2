//! `orch baseline ...`: what repositories are held to in line coverage, and its history. A thin client.

use clap::{Args, Subcommand, value_parser};
use orch_actors::api::{CoveragePoint, CoverageView, SetBaseline};
use orch_domain::gate::InScope;
use orch_domain::ids::CommitSha;
use orch_domain::names::RepoName;

use super::client::Client;
use super::output::{CliError, Output};
use super::{Context, inside, show};
use crate::http::percent_encode;

/// What to do with baselines.
#[derive(Subcommand, Clone, Debug)]
pub enum BaselineVerb {
    /// Show what repositories are held to, or the history of one
    Show(ShowArgs),
    /// Set the baseline of a repository by hand
    Set(SetArgs),
}

/// What is shown.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// Only this repository
    #[arg(long, value_name = "NAME")]
    pub repo: Option<RepoName>,
    /// Its last lines of history instead, newest first
    #[arg(long, value_name = "LINES", requires = "repo", value_parser = value_parser!(u32).range(1..))]
    pub history: Option<u32>,
}

/// What is set.
#[derive(Args, Clone, Debug)]
pub struct SetArgs {
    /// The repository
    #[arg(long, value_name = "NAME")]
    pub repo: RepoName,
    /// Covered lines
    #[arg(long, value_name = "LINES", requires = "total", required_unless_present = "last")]
    pub covered: Option<u64>,
    /// Lines that count
    #[arg(long, value_name = "LINES", requires = "covered")]
    pub total: Option<u64>,
    /// Take what the last landing measured
    #[arg(long, conflicts_with_all = ["covered", "total"])]
    pub last: bool,
    /// The commit that it stands for [default: that of the last line of history]
    #[arg(long, value_name = "SHA")]
    pub sha: Option<CommitSha>,
    /// Refuse if another revision than this one stands [default: the present one]
    #[arg(long, value_name = "REVISION")]
    pub replaces: Option<u64>,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

pub(super) async fn run(context: &Context, verb: &BaselineVerb, out: &mut Output) -> Result<u8, CliError> {
    if let BaselineVerb::Set(_) = verb {
        inside::refuse(&context.env, "baseline set")?;
    }
    let client = Client::find(context)?;
    match verb {
        BaselineVerb::Show(ShowArgs { repo: None, .. }) => {
            all(&client.get::<Vec<CoverageView>>("/coverage").await?, out)
        }
        BaselineVerb::Show(ShowArgs { repo: Some(repo), history: None }) => {
            let path = format!("/coverage/{}", percent_encode(repo.as_str()));
            all(&[client.get(&path).await?], out)
        }
        BaselineVerb::Show(ShowArgs { repo: Some(repo), history: Some(limit) }) => {
            let path = format!("/coverage/{}/history?limit={limit}", percent_encode(repo.as_str()));
            history(&client.get::<Vec<CoveragePoint>>(&path).await?, out)
        }
        BaselineVerb::Set(args) => {
            let asked = SetBaseline {
                repo: args.repo.clone(),
                covered: args.covered,
                total: args.total,
                last: args.last,
                sha: args.sha.clone(),
                replaces: args.replaces,
                reason: args.reason.clone(),
            };
            let view: CoverageView = client.post("/coverage/baseline", Some(&asked)).await?;
            if !view.scope.is_asked() {
                out.note(&format!(
                    "the coverage gate is not asked about {} ({}), so nobody is held to this baseline",
                    view.repo,
                    match view.scope {
                        InScope::SwitchedOff => "`gates.coverage.enabled` is off",
                        InScope::OtherRepositories | InScope::Yes => "`gates.coverage.repos` does not name it",
                    }
                ));
            }
            all(&[view], out)
        }
    }
}

fn all(views: &[CoverageView], out: &mut Output) -> Result<u8, CliError> {
    if out.json {
        out.json(&views)?;
        return Ok(0);
    }
    let row = |view: &CoverageView| {
        let of = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let baseline = view.baseline.as_ref();
        vec![
            view.repo.to_string(),
            view.mode.as_str().to_owned(),
            of(baseline.map(|b| format!("{} ({} of {})", b.share.percent, b.share.covered, b.share.total))),
            of(baseline.map(|b| b.revision.to_string())),
            of(view.last.as_ref().map(|last| last.share.percent.clone())),
            of(baseline.map(|b| show::time(b.at))),
            of(baseline.map(|b| b.set_by.clone())),
            of(baseline.map(|b| b.reason.clone())),
        ]
    };
    let rows: Vec<Vec<String>> = views.iter().map(row).collect();
    out.block(&show::table(&["REPO", "RULE", "BASELINE", "REVISION", "LAST", "SINCE", "BY", "WHY"], &rows))?;
    Ok(0)
}

fn history(points: &[CoveragePoint], out: &mut Output) -> Result<u8, CliError> {
    if out.json {
        out.json(&points)?;
        return Ok(0);
    }
    let row = |point: &CoveragePoint| {
        let share = &point.share;
        vec![
            show::time(point.at),
            format!("{} ({} of {})", share.percent, share.covered, share.total),
            point.baseline.as_ref().map_or("-".to_owned(), |baseline| baseline.percent.clone()),
            point.step.as_str().to_owned(),
            point.sha.short().to_owned(),
            point.by.clone(),
            point.reason.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = points.iter().map(row).collect();
    out.block(&show::table(&["WHEN", "MEASURED", "BASELINE", "STEP", "COMMIT", "BY", "WHY"], &rows))?;
    Ok(0)
}
