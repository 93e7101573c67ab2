//! Whom a run is charged to that measured nothing: red tests, a tool that did not start.
//!
//! Owns the look at base behind both. Invariants: a change is charged with what base does not have by itself; what says
//! something about the host is never a change's fault; what main is charged with is found out anew each time. Refuses to
//! judge a number.

use orch_domain::gate::Verdict;
use orch_domain::landing::{Blame, OnMain, blame};
use orch_domain::testnames::Failure;
use orch_domain::time::Millis;

use super::{Gate, Outcome, tree_of};
use crate::gates::answer::Cause;
use crate::gates::conclude::Found;
use crate::gates::site::Halt;

impl Gate<'_> {
    async fn on_base(&self) -> Result<Outcome, Halt> {
        let base = self.site.subject.rules_at();
        let tree = tree_of(&self.site.git, base).await.map_err(|error| error.to_string())?;
        self.measured(base, &tree, &self.plan.for_base(), false).await
    }

    /// The head's tests are red under the coverage command. So may base's be.
    pub(super) async fn red(&self, findings: &str) -> Result<(Found, Cause), Halt> {
        let (base, head) = (self.site.subject.rules_at(), &self.site.subject.head);
        if base == head {
            return Ok((self.found(Verdict::Failed, findings.to_owned()), Cause::None));
        }
        let on_base = match self.on_base().await {
            Ok(Outcome::Measured(_) | Outcome::NoReport(_)) => OnMain::Passed,
            Ok(Outcome::Red(findings) | Outcome::Failed(findings)) => OnMain::Failed(Failure::of(&findings)),
            Ok(Outcome::NotStarted(why)) | Err(Halt::CouldNotRun(why)) => OnMain::CouldNotRun(why),
            Err(cancelled @ Halt::Cancelled(_)) => return Err(cancelled),
        };
        let main = self.site.repo.main().await.unwrap_or_else(|_| "main".parse().expect("a branch name"));
        Ok(match blame(&Failure::of(findings), &main, &on_base) {
            Blame::Work { note, .. } => (self.found(Verdict::Failed, format!("{findings}\n\n{note}")), Cause::None),
            Blame::Main { note } => {
                let text = format!(
                    "{main} is red at {base} under the coverage command, nothing can land on it.\n{note}\n\n{findings}"
                );
                // A verdict that is found again does not know whose fault it was.
                (Found { life: Millis(0), ..self.found(Verdict::Failed, text) }, Cause::MainRed)
            }
            Blame::Unknown { why } => {
                let text = format!("tests fail under the coverage command; {why}\n\n{findings}");
                (self.found(Verdict::CouldNotRun, text), Cause::None)
            }
        })
    }

    /// The tool never started: the host's matter, unless it does start on base.
    pub(super) async fn not_started(&self, why: &str) -> Result<Found, Halt> {
        let (base, head) = (self.site.subject.rules_at(), &self.site.subject.head);
        if base != head && !matches!(self.on_base().await?, Outcome::NotStarted(_)) {
            let (base, head) = (base.short(), head.short());
            let text = format!("the coverage tool starts on base {base} and does not on {head}: {why}");
            return Ok(self.found(Verdict::Failed, text));
        }
        let text = format!("the coverage tool could not start: {why}");
        if self.site.repo.settings.coverage.policy.fail_closed {
            // Nothing lands, and no developer is asked to mend the host.
            let closed = "`gates.coverage.fail_closed` is on, so nothing lands unmeasured";
            let text = format!("{text}\n\n{closed}; install the tool, or name another command");
            return Ok(self.found(Verdict::CouldNotRun, text));
        }
        let warning = format!("coverage was NOT measured: {text}; install it, or name another command");
        let found = self.found(Verdict::Passed, text);
        Ok(Found { warnings: vec![warning], ..found })
    }
}
