//! The image-freshness gate: is the image that will be deployed built from this very commit?
//!
//! Owns the build of the image on the caught-up commit (under the lease of whoever asks) and the look at what came of it.
//! Never reuses an earlier verdict: a name of an image may point elsewhere at any time. A build that fails is the branch's
//! doing only while the daemon answers. Refuses to trust an image further than its label goes: this is no proof of origin.

use orch_adapters::git::{GitError, Owner};
use orch_adapters::images::Seen;
use orch_domain::gate::{GateName, Verdict};
use orch_domain::image::{Freshness, Label, REVISION_LABEL, Standing};
use orch_domain::policy::pin_hash;
use orch_domain::testcount::{Judged, judge_command};
use orch_domain::time::Timestamp;
use orch_domain::variables;

use super::answer::{GateAnswer, GateSubject};
use super::cancel;
use super::checks::tree_of;
use super::conclude::{Evidence, Found, conclude, fenced, surroundings};
use super::output::tail_of;
use super::scratch::Scratch;
use super::site::{Halt, Line, Site};
use crate::context::Context;

/// What is said where no image is named.
pub const NOT_APPLICABLE: &str = "not applicable: no image is named for this repository (`image`)";

/// What the gate found, before it is written down.
struct Finding {
    state: Option<Freshness>,
    verdict: Verdict,
    text: String,
    body: String,
}

/// Asks the gate about the image of `subject.head`.
pub async fn run(ctx: &Context, subject: &GateSubject) -> GateAnswer {
    let started = ctx.now();
    let Some(repo) = ctx.repo(&subject.repo).cloned() else {
        return GateAnswer::could_not_run(format!("repository `{}` is not configured any more", subject.repo));
    };
    let site = Site::new(ctx, subject, repo.clone(), GateName::ImageFreshness);
    let tree = match tree_of(&site.git, &subject.head).await {
        Ok(tree) => tree,
        Err(error) => return GateAnswer::could_not_run(format!("the commit could not be read: {error}")),
    };
    let settings = &repo.settings;
    let evidence = Evidence {
        gate: GateName::ImageFreshness,
        tree,
        settings: pin_hash(&(&settings.image, &settings.image_inputs, &settings.commands.build_image)),
        environment: surroundings(ctx, &repo),
    };
    let Some(image) = &settings.image else {
        let found = Found::new(Verdict::Passed, NOT_APPLICABLE.to_owned(), started);
        return conclude(ctx, subject, &evidence, found).await;
    };
    let gate = Gate { site: &site, image };
    let looked = tokio::select! {
        biased;
        why = cancel::requested() => Err(Halt::Cancelled(why)),
        looked = gate.find() => looked,
    };
    let finding = match looked {
        Ok(finding) => finding,
        Err(Halt::Cancelled(why)) => return GateAnswer::could_not_run(format!("the image gate was ended: {why}")),
        Err(Halt::CouldNotRun(why)) => {
            Finding { state: None, verdict: Verdict::CouldNotRun, text: why, body: String::new() }
        }
    };
    conclude(ctx, subject, &evidence, written(finding, started)).await
}

fn written(finding: Finding, started: Timestamp) -> Found {
    let notes = finding.state.map(|state| format!("image: {}", state.as_str())).into_iter().collect();
    Found { body: finding.body, notes, ..Found::new(finding.verdict, finding.text, started) }
}

struct Gate<'g, 'c> {
    site: &'g Site<'c>,
    image: &'g str,
}

impl Gate<'_, '_> {
    async fn find(&self) -> Result<Finding, Halt> {
        if let Some(command) = self.site.repo.settings.commands.build_image.clone()
            && let Some(broken) = self.build(&command).await?
        {
            return Ok(broken);
        }
        let seen = self.site.ctx.images.look(&self.owner(), self.image).await;
        self.judge(seen).await
    }

    fn owner(&self) -> Owner {
        let subject = self.site.subject;
        Owner { epoch: subject.epoch, task: Some(subject.task.clone()), run: Some(subject.run.clone()) }
    }

    /// Builds the image from a clean checkout. `Some`: the build says no.
    async fn build(&self, command: &str) -> Result<Option<Finding>, Halt> {
        let scratch = self.site.scratch()?;
        let built = self.build_in(&scratch, command).await;
        scratch.close().await;
        built
    }

    async fn build_in(&self, scratch: &Scratch, command: &str) -> Result<Option<Finding>, Halt> {
        let (site, head) = (self.site, &self.site.subject.head);
        site.check_out(scratch, head).await?;
        let mut env = site.ctx.images.env();
        env.insert(variables::IMAGE.to_owned(), self.image.to_owned());
        env.insert(variables::IMAGE_LABEL.to_owned(), format!("{REVISION_LABEL}={head}"));
        let line = Line { what: "image build", line: command, limit: site.limit(), silence: None, env };
        let finished = site.job(scratch, &line).await?;
        let tail = tail_of(&finished, &scratch.tree()).unwrap_or_default();
        match judge_command(&finished.exit.end) {
            Judged::Passed { .. } => Ok(None),
            Judged::CouldNotRun { reason, why } => Err(site.no_answer(&line, reason, &why, &tail)),
            Judged::Failed { why } => {
                // A build fails in the same way when nobody builds.
                if let Seen::Unreachable { why: away } = site.ctx.images.look(&self.owner(), self.image).await {
                    return Err(Halt::CouldNotRun(format!(
                        "`{command}` failed ({why}), and images cannot be looked at: {away}"
                    )));
                }
                let text = format!("`{command}` failed on {}: {why}\n\n{tail}", head.short());
                let body = format!("End of the build's output:\n\n{}", fenced(&tail));
                Ok(Some(Finding { state: None, verdict: Verdict::Failed, text, body }))
            }
        }
    }

    async fn judge(&self, seen: Seen) -> Result<Finding, Halt> {
        let (image, head) = (self.image, &self.site.subject.head);
        let (state, says, id) = match seen {
            Seen::Absent => (Freshness::Absent, "there is no such image on this machine".to_owned(), None),
            Seen::Unreachable { why } => (Freshness::Unreachable, why, None),
            Seen::There { id, revision } => {
                let label = Label::read(revision.as_deref());
                let standing = self.standing(&label).await?;
                let says = match &revision {
                    None => format!("it has no label `{REVISION_LABEL}`"),
                    Some(value) => format!("its label `{REVISION_LABEL}` is `{}`", value.escape_debug()),
                };
                (Freshness::of(&label, head, standing), says, Some(id))
            }
        };
        let way_out = match state {
            Freshness::Fresh | Freshness::Equivalent => "",
            Freshness::Stale | Freshness::Dirty | Freshness::Unlabelled | Freshness::UnknownRevision => {
                "; build it with `--label \"$ORCH_IMAGE_LABEL\"` from the checkout that `commands.build_image` runs in"
            }
            Freshness::Absent => "; set `commands.build_image`, or have the image built before the task lands",
            Freshness::Unreachable => "",
        };
        let text = format!("image `{image}` is {} for {}: {says}{way_out}", state.as_str(), head.short());
        let mut body = format!("{}\n", fenced(&text));
        if let Some(id) = id {
            body.push_str(&format!(
                "Image id: `{}`\n",
                id.chars().filter(|c| c.is_ascii_graphic()).take(100).collect::<String>()
            ));
        }
        Ok(Finding { state: Some(state), verdict: state.verdict(), text, body })
    }

    /// How the labelled commit stands to ours.
    async fn standing(&self, label: &Label) -> Result<Standing, Halt> {
        let Label::Commit(built) = label else { return Ok(Standing::Unknown) };
        let (git, head) = (&self.site.git, &self.site.subject.head);
        let looked = async {
            if !git.has_commit(built).await? {
                return Ok::<_, GitError>(Standing::Unknown);
            }
            if !git.contains(built, head).await? {
                return Ok(Standing::Elsewhere);
            }
            let changed = git.changed_paths(built, head).await?;
            let inputs = &self.site.repo.settings.image_inputs;
            let goes_in = |path: &str| inputs.is_empty() || inputs.iter().any(|input| input.covers(path));
            let same = changed.iter().all(|change| !goes_in(&change.path));
            Ok(if same { Standing::SameInputs } else { Standing::Elsewhere })
        };
        looked.await.map_err(|error| Halt::CouldNotRun(format!("how {} stands to the commit: {error}", built.short())))
    }
}
