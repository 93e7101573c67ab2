//! The security gate: does what a branch brings hold a secret, or a dependency with a known advisory, that base does not?
//!
//! Owns the question, the words for the next prompt, and the report. Judges the objects of `base..head` by the rules of base,
//! before any catch-up; after one, only the objects that it made. Fails closed: without an engine, rules or an answer that
//! counts there is no pass. Refuses to push, deploy or change anything, and to show a secret: a keyed hash and a hint must do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use orch_adapters::git::{GitError, Owner, RepoGit};
use orch_adapters::ports::JobLimits;
use orch_adapters::secrets::{
    self, Bounds, CollectSpec, EngineSpec, Finding, InspectError, Inspected, RulesFrom, ScanError,
};
use orch_domain::gate::{GateName, ToolVersion, Verdict};
use orch_domain::ids::CommitSha;
use orch_domain::job::JobKind;
use orch_domain::policy::pin_hash;
use orch_domain::time::Timestamp;

use super::answer::{GateAnswer, GateSubject};
use super::audit::{self, Audited, Question};
use super::cancel;
use super::checks::tree_of;
use super::conclude::{Evidence, Found, conclude, count, fenced, known as known_answer};
use super::scratch::Scratch;
use crate::context::{Context, RepoRuntime};

/// Most findings that are told in words; more are counted.
const MOST_TOLD: usize = 50;

/// Asks the gate about what `subject.head` brings on top of `subject.base`. `known` are heads that were judged before: what
/// they hold is not looked at again.
pub async fn run(ctx: &Context, subject: &GateSubject, known: &[CommitSha]) -> GateAnswer {
    let started = ctx.now();
    let Some(repo) = ctx.repo(&subject.repo).cloned() else {
        return GateAnswer::could_not_run(format!("repository `{}` is not configured any more", subject.repo));
    };
    let Some(base) = subject.base.clone() else {
        return GateAnswer::could_not_run("the commit that the branch stands on is not known");
    };
    let owner = Owner { epoch: subject.epoch, task: Some(subject.task.clone()), run: Some(subject.run.clone()) };
    let git = repo.git.for_owner(owner.clone());
    let tree = match tree_of(&git, &subject.head).await {
        Ok(tree) => tree,
        Err(error) => return GateAnswer::could_not_run(format!("the commit under test could not be read: {error}")),
    };
    let scratch = match Scratch::take(&ctx.paths.checkouts, &subject.run) {
        Ok(scratch) => scratch,
        Err(error) => {
            let folder = ctx.paths.checkouts.display();
            return GateAnswer::could_not_run(format!("no folder for the scan in {folder}: {error}"));
        }
    };
    let cancelled = Arc::new(AtomicBool::new(false));
    let gate = Gate { ctx, subject, repo: &repo, git, base, known, tree, owner, started, cancelled: cancelled.clone() };
    let answer = tokio::select! {
        biased;
        why = cancel::requested() => {
            cancelled.store(true, Ordering::Relaxed);
            GateAnswer::could_not_run(format!("the security gate was ended: {why}"))
        }
        answer = gate.judge(&scratch) => answer,
    };
    scratch.close().await;
    answer
}

/// One run of the gate, with everything that is known before it.
struct Gate<'g> {
    ctx: &'g Context,
    subject: &'g GateSubject,
    repo: &'g RepoRuntime,
    git: RepoGit,
    base: CommitSha,
    known: &'g [CommitSha],
    tree: CommitSha,
    owner: Owner,
    started: Timestamp,
    cancelled: Arc<AtomicBool>,
}

impl Gate<'_> {
    async fn judge(&self, scratch: &Scratch) -> GateAnswer {
        let settings = &self.ctx.security;
        let from = settings.rules.clone().map_or_else(|| RulesFrom::Commit(self.base.clone()), RulesFrom::File);
        let rules = secrets::rules_for(&self.git, &from).await;
        let engine = secrets::choose(self.engine(scratch));
        let (rules, engine, said) = match (rules, engine) {
            (Ok(rules), Ok((engine, said))) => (rules, engine, said),
            (Err(error), _) => return self.could_not_run(&error, String::new()).await,
            (_, Err(error)) => return self.could_not_run(&error.into(), String::new()).await,
        };
        let version = match engine.version().await {
            Ok(version) => version,
            Err(error) => return self.could_not_run(&error.into(), String::new()).await,
        };
        let limits = (settings.limits.file, settings.limits.total, settings.limits.commits);
        let audit = audit::digest(&settings.audit).await;
        let pinned = pin_hash(&(rules.0.hash(), engine.name(), &version, limits, self.known, audit));
        let evidence = self.evidence(pinned.clone());
        if let Some(answer) = known_answer(self.ctx, self.subject, &evidence).await {
            return answer;
        }
        let spec = CollectSpec {
            base: self.base.clone(),
            head: self.subject.head.clone(),
            known: self.known.to_vec(),
            limits: settings.limits,
        };
        let bounds = Bounds {
            deadline: Instant::now() + Duration::from(settings.timeout),
            cancelled: self.cancelled.clone(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            expand: settings.expand,
        };
        let question = Question {
            ctx: self.ctx,
            git: &self.git,
            owner: &self.owner,
            base: &self.base,
            head: &self.subject.head,
            known: self.known,
            scratch,
        };
        // Side by side: one computes, the other mostly waits for a feed.
        let (inspected, audited) = tokio::join!(
            secrets::inspect(&self.git, &spec, rules, (engine.as_ref(), version), &bounds, &settings.key),
            audit::audit(&question),
        );
        match inspected.and_then(|inspected| Ok((inspected, audited?))) {
            Ok((inspected, audited)) => {
                conclude(self.ctx, self.subject, &evidence, self.found(&inspected, said, audited)).await
            }
            Err(InspectError::Scan(ScanError::Cancelled(why)) | InspectError::Git(GitError::Stopped { why, .. })) => {
                GateAnswer::could_not_run(format!("the security gate was ended: {why}"))
            }
            Err(error) => self.could_not_run(&error, pinned).await,
        }
    }

    fn engine(&self, scratch: &Scratch) -> EngineSpec {
        let settings = &self.ctx.security;
        EngineSpec {
            kind: settings.engine,
            program: settings.gitleaks.clone(),
            path: self.ctx.path.clone(),
            sha256: settings.gitleaks_sha256.clone(),
            exec: Arc::new(self.ctx.runner.clone()),
            owner: self.owner.clone(),
            scratch: scratch.root().to_owned(),
            data: Some(self.ctx.paths.data.clone()),
            // A scanner is silent while it works.
            limits: JobLimits { stall: None, ..self.ctx.job_limits.of(JobKind::Gate) },
        }
    }

    fn evidence(&self, settings: String) -> Evidence {
        Evidence {
            gate: GateName::Security,
            tree: self.tree.clone(),
            settings,
            environment: pin_hash(&self.ctx.version),
        }
    }

    /// A report that says that nothing is known; it is never reused.
    async fn could_not_run(&self, error: &InspectError, settings: String) -> GateAnswer {
        let text = format!("secrets were not looked for, so nothing passes: {error}");
        let body = format!("{}\n", fenced(&text));
        let found = Found { body, ..Found::new(Verdict::CouldNotRun, text, self.started) };
        conclude(self.ctx, self.subject, &self.evidence(settings), found).await
    }

    fn found(&self, seen: &Inspected, said: Option<String>, audited: Option<Audited>) -> Found {
        let secrets = match seen.findings.is_empty() && seen.refused.is_empty() {
            true => Verdict::Passed,
            false => Verdict::Failed,
        };
        let verdict = Verdict::fold(std::iter::once(secrets).chain(audited.as_ref().map(|audited| audited.verdict)));
        let told = match secrets {
            Verdict::Passed => {
                let (commits, versions) = (many(seen.commits, "commit"), many(seen.blobs, "new file version"));
                format!("no secret in {commits} with {versions} ({})", seen.engine)
            }
            _ => self.told(seen),
        };
        // A file's name may be a secret, and the audit speaks of files.
        let audited = audited.map(|audited| audited.without(|text| seen.hidden.taken_out(text)));
        // One prompt with everything that has to be mended, and with nothing else.
        let parts = [(secrets, told.as_str())].into_iter();
        let parts = parts.chain(audited.as_ref().map(|audited| (audited.verdict, audited.text.as_str())));
        let parts: Vec<&str> = parts.filter(|(of, _)| *of == verdict).map(|(_, text)| text).collect();
        let text = match (verdict, parts.as_slice()) {
            (Verdict::Passed, parts) => parts.join("; "),
            (_, [one]) => (*one).to_owned(),
            (_, parts) => {
                // The journal and the notice show the first line only.
                let heads = parts.iter().filter_map(|part| part.lines().next());
                let heads: Vec<&str> = heads.map(|line| line.trim_end_matches(':')).collect();
                format!("{}\n\n{}", heads.join("; "), parts.join("\n\n"))
            }
        };
        let mut warnings: Vec<String> = said.into_iter().collect();
        warnings.extend(seen.unopened.iter().map(|line| format!("not looked into: {line}")));
        let mut notes = seen.notes.clone();
        if !seen.rules_changed.is_empty() {
            let files = seen.rules_changed.join("`, `");
            let by = match self.ctx.security.rules {
                None => "by the rules of base, so that this has no effect yet",
                Some(_) => "by the operator's rules, so that this has no effect",
            };
            notes.push(format!("the branch changes `{files}`; judged {by}"));
        }
        let number = |name, value: usize| count(name, u64::try_from(value).unwrap_or(u64::MAX));
        let mut found = Found {
            warnings,
            notes,
            counts: vec![
                number("secrets", seen.findings.len()),
                number("refused", seen.refused.len()),
                number("held_by_base", seen.held_by_base),
                number("unopened", seen.unopened.len()),
                number("commits", seen.commits),
                number("blobs", seen.blobs),
                count("bytes", seen.bytes),
            ],
            tools: vec![ToolVersion { name: seen.engine.clone(), version: seen.version.clone() }],
            ..Found::new(verdict, text, self.started)
        };
        let mut section = "## Dependencies\n\nThe audit is switched off.\n\n".to_owned();
        if let Some(audited) = audited {
            found.warnings.extend(audited.warnings);
            found.counts.extend(audited.counts);
            found.tools.extend(audited.tools);
            found.life = audited.life;
            section = audited.section;
        }
        found.body = self.body(seen, &section);
        found
    }

    /// For whoever has to mend it.
    fn told(&self, seen: &Inspected) -> String {
        let mut text = String::new();
        if !seen.findings.is_empty() {
            let count = seen.findings.len();
            text.push_str(&format!(
                "{} in what this branch brings on top of {}:\n\n",
                many(count, "secret"),
                self.base.short()
            ));
            for (at, finding) in seen.findings.iter().take(MOST_TOLD).enumerate() {
                text.push_str(&format!("{}. {}\n", at + 1, lines(finding).join("\n   ")));
            }
            if count > MOST_TOLD {
                text.push_str(&format!("... and {} more\n", count - MOST_TOLD));
            }
            text.push_str(&self.way_out(seen));
        }
        if !seen.refused.is_empty() {
            text.push_str("\nRefused, since it cannot be looked into:\n");
            for line in seen.refused.iter().take(MOST_TOLD) {
                text.push_str(&format!("- {line}\n"));
            }
            text.push_str("Leave it out of every commit of the branch, or make it smaller.\n");
        }
        text.trim().to_owned()
    }

    fn way_out(&self, seen: &Inspected) -> String {
        let base = self.base.short();
        let gone = seen.findings.iter().filter(|finding| !finding.at_head).count();
        let earlier = match gone {
            0 => String::new(),
            gone => format!(
                "{gone} of them no longer stand in the newest version, but an earlier commit still holds them. "
            ),
        };
        format!(
            "\n{earlier}Every commit of the branch lands, so a further commit that takes a secret out does not help: the history has to \
             be rewritten, until no commit since {base} holds it. For example `git reset --soft {base}` and one new commit, or \
             `git rebase -i {base}`. Read the value from the environment or a secret store at run time instead. A secret that has \
             been committed should be revoked by its owner. Comments like `gitleaks:allow`, a `.gitleaksignore` and changes to \
             `{}` on this branch have no effect: what is no secret is said on the main branch, by a person.\n",
            secrets::RULES_FILE
        )
    }

    fn body(&self, seen: &Inspected, dependencies: &str) -> String {
        let mut body = String::from("## Secrets\n\n");
        if seen.findings.is_empty() {
            body.push_str("None that base does not hold.\n\n");
        } else {
            let all: Vec<String> = seen.findings.iter().map(|finding| lines(finding).join("\n  ")).collect();
            body.push_str(&fenced(&all.join("\n")));
            body.push_str(&format!("{}\n", self.way_out(seen)));
        }
        for (title, all) in [("Refused", &seen.refused), ("Not looked into", &seen.unopened)] {
            if !all.is_empty() {
                body.push_str(&format!("## {title}\n\n{}\n", fenced(&all.join("\n"))));
            }
        }
        body.push_str(dependencies);
        let changed = match seen.rules_changed.as_slice() {
            [] => "nothing".to_owned(),
            files => format!("`{}`", files.join("`, `")),
        };
        let known = match self.known {
            [] => String::new(),
            known => {
                let heads: Vec<&str> = known.iter().map(CommitSha::short).collect();
                format!("- judged before, not looked at again: what {} holds\n", heads.join(", "))
            }
        };
        body.push_str(&format!(
            "## How\n\n- engine: {}, version {}\n- rules: {}, SHA-256 `{}`\n- the branch changed about the rules: {changed}\n\
             - looked at: {}, {}, {} bytes with commit texts and file names\n{known}\
             - left out since base holds the same: {}\n- repository: {}\n",
            seen.engine,
            seen.version,
            seen.rules_from,
            seen.rules_hash,
            many(seen.commits, "commit"),
            many(seen.blobs, "new file version"),
            seen.bytes,
            seen.held_by_base,
            self.repo.settings.name,
        ));
        body
    }
}

/// A number of things.
fn many(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A finding in words: rule, place, commit; never the secret.
fn lines(finding: &Finding) -> Vec<String> {
    let Finding { rule, description, place, commits, at_head, wrapped, hash, hint, .. } = finding;
    let title = match description.is_empty() {
        true => rule.clone(),
        false => format!("{rule}: {description}"),
    };
    let mut all = vec![title, format!("at {place}")];
    if !commits.is_empty() {
        let shown: Vec<&str> = commits.iter().take(5).map(CommitSha::short).collect();
        let more = if commits.len() > 5 { format!(" and {} more", commits.len() - 5) } else { String::new() };
        let still = if *at_head { "" } else { "; no longer in the newest version, but in the history" };
        all.push(format!("commit {}{more}{still}", shown.join(", ")));
    }
    if !wrapped.is_empty() {
        all.push(format!("wrapped: {wrapped}"));
    }
    let hint = if hint.is_empty() { String::new() } else { format!("{hint}, ") };
    all.push(format!("secret: {hint}keyed hash {hash}"));
    all
}
