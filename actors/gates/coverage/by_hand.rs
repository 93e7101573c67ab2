//! The gate asked by hand, where no landing has set a baseline: base is measured, and stands for it.
//!
//! Owns that one difference; everything else is the gate of the landing. Invariant: the answer is about this range of
//! commits alone. Refuses to leave a baseline behind.

use std::sync::OnceLock;

use orch_domain::coverage::{CoverageMode, Measurement, Step};
use orch_store::Baseline;

use super::{Gate, Outcome, Planned, Slot, find_out, not_applicable, tree_of};
use crate::context::Context;
use crate::gates::answer::{GateAnswer, GateSubject};
use crate::gates::site::Halt;

/// Asks the gate about `subject.head`, compared with `subject.base`. Both are measured.
pub async fn run_by_hand(ctx: &Context, subject: &GateSubject) -> GateAnswer {
    let started = ctx.now();
    let no_tests = ctx.repo(&subject.repo).is_some_and(|repo| repo.settings.policy.no_tests);
    let (site, tree, planned) = match find_out(ctx, subject, no_tests).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let plan = match planned {
        Planned::Measure(plan) => *plan,
        Planned::NotApplicable(why) => return not_applicable(&site, &tree, &why, started).await,
    };
    let mut gate = Gate { site, plan, tree, baseline: None, started, by_hand: true, seen: OnceLock::new() };
    // The absolute rule compares with nothing.
    if gate.site.repo.settings.coverage.policy.mode != CoverageMode::Absolute {
        match gate.of_base().await {
            Ok(baseline) => gate.baseline = baseline,
            Err(Halt::CouldNotRun(why) | Halt::Cancelled(why)) => {
                let base = subject.rules_at().short();
                let way_out = "mend that, or ask with `gates.coverage.mode: absolute`, which compares with nothing";
                return GateAnswer::could_not_run(format!("base {base} could not be measured; {way_out}: {why}"));
            }
        }
    }
    gate.answer(&Slot::default()).await
}

impl Gate<'_> {
    /// What base has, as if a landing had set it. `None`: the tool does not start on base; what that means is said about
    /// the head.
    async fn of_base(&self) -> Result<Option<Baseline>, Halt> {
        let base = self.site.subject.rules_at();
        let tree = tree_of(&self.site.git, base).await.map_err(|error| error.to_string())?;
        let plan = self.plan.for_base();
        let measured = match self.measured(base, &tree, &plan, false).await? {
            Outcome::Measured(measured) => measured,
            Outcome::NotStarted(_) => return Ok(None),
            other => return Err(Halt::CouldNotRun(other.why())),
        };
        let Measurement { about, coverage } = measured.as_ref();
        Ok(Some(Baseline {
            revision: 1,
            totals: coverage.totals(),
            sha: base.clone(),
            step: Step::First,
            set_by: "orch gate".to_owned(),
            reason: "base, measured".to_owned(),
            at: self.started,
            measured_by: Some(about.measured_by.clone()),
            measurement: Some(self.key_of(&plan, &tree)),
            excluded: coverage.excluded,
            format: Some(about.format),
            tool: about.tool.clone(),
            configuration: Some(about.configuration.clone()),
        }))
    }
}
