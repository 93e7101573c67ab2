//! `orch proof`: what has landed, what judged it, and whether the repository still says so. A thin client.

use clap::Args;
use orch_actors::api::ProofView;
use orch_domain::names::RepoName;

use super::client::Client;
use super::engine::Sight;
use super::output::{CliError, Output, clean};
use super::{Context, show};
use crate::http::percent_encode;

/// Whose proofs.
#[derive(Args, Clone, Debug)]
pub struct ProofArgs {
    /// Only what landed in this repository
    pub repo: Option<RepoName>,
    /// Only this task, by its key
    #[arg(long, value_name = "KEY", conflicts_with = "repo")]
    pub task: Option<String>,
    /// Compare each with the repository, its reports and the chain of proofs: 1 if anything does not fit
    #[arg(long)]
    pub verify: bool,
}

pub(super) async fn run(context: &Context, args: &ProofArgs, out: &mut Output) -> Result<u8, CliError> {
    let sight = if args.verify { Sight::Repositories } else { Sight::Records };
    let client = Client::reading(context, sight, out).await?;
    let verify = u8::from(args.verify);
    let path = match (&args.task, &args.repo) {
        (Some(key), _) => format!("/tasks/{}/proof?verify={verify}", percent_encode(key)),
        (None, Some(repo)) => format!("/proofs?repo={}&verify={verify}", percent_encode(repo.as_str())),
        (None, None) => format!("/proofs?verify={verify}"),
    };
    let proofs: Vec<ProofView> = client.get(&path).await?;
    let wrong = proofs.iter().filter(|proof| proof.check.as_ref().is_some_and(|check| !check.wrong.is_empty())).count();
    if out.json {
        out.json(&proofs)?;
    } else {
        for proof in &proofs {
            show_one(proof, out)?;
        }
        out.line(&summary(&proofs, args.verify, wrong))?;
    }
    Ok(u8::from(wrong > 0))
}

fn summary(proofs: &[ProofView], verify: bool, wrong: usize) -> String {
    let landings = match proofs.len() {
        0 => return "nothing has landed yet".to_owned(),
        1 => "1 landing".to_owned(),
        n => format!("{n} landings"),
    };
    match (verify, wrong) {
        (false, _) => format!("{landings}; `--verify` compares them with the repository"),
        (true, 0) => format!("{landings}, everything fits"),
        (true, wrong) => format!("{landings}, {wrong} that do not fit"),
    }
}

fn show_one(proof: &ProofView, out: &mut Output) -> Result<(), CliError> {
    let under = proof.lease_epoch.map_or_else(String::new, |epoch| format!(", lease epoch {epoch}"));
    out.line(&format!(
        "{} {}/{}: {} on {} at {}{under}",
        proof.repo,
        proof.key,
        proof.generation,
        proof.sha.short(),
        proof.base.short(),
        show::time(proof.at)
    ))?;
    let said = |name: &str| proof.proof.get(name).and_then(serde_json::Value::as_str);
    let holds = |name: &str| proof.proof.get(name).and_then(serde_json::Value::as_bool) == Some(true);
    if let Some(by) = said("merged_by") {
        out.line(&format!("  merged by {}", clean(by)))?;
    }
    if let Some(how) = said("catch_up") {
        out.line(&format!("  {}", clean(how)))?;
    }
    out.line(&format!("  tree {}", proof.tree))?;
    for gate in &proof.gates {
        let on = gate.head.as_ref().map_or_else(String::new, |head| format!(" on {}", head.short()));
        let sha256 =
            gate.report_sha256.as_ref().map_or_else(|| "no report".to_owned(), |hash| format!("sha256 {hash}"));
        out.line(&format!("  {} {}{on}, {sha256}", clean(&gate.gate), clean(&gate.verdict)))?;
    }
    if holds("caught_up_untested") {
        out.line("  NOT TESTED after it was caught up with main")?;
    }
    if !proof.switched_off.is_empty() {
        out.line(&format!("  switched off: {}", clean(&proof.switched_off.join(", "))))?;
    }
    let other = proof.proof.get("out_of_scope").and_then(serde_json::Value::as_array).into_iter().flatten();
    let other: Vec<&str> = other.filter_map(serde_json::Value::as_str).collect();
    if !other.is_empty() {
        out.line(&format!("  out of scope, not asked: {}", clean(&other.join(", "))))?;
    }
    if let Some(check) = &proof.check {
        if let (true, Some(main_at)) = (check.wrong.is_empty(), &check.main_at) {
            out.line(&format!("  fits, with main at {}", main_at.short()))?;
        }
        for wrong in &check.wrong {
            out.line(&format!("  WRONG: {}", clean(wrong)))?;
        }
        for remark in &check.remarks {
            out.line(&format!("  note: {}", clean(remark)))?;
        }
    }
    Ok(())
}
