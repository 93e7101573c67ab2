//! The security gate's part about dependencies: does the branch add one with a known advisory that base does not have?
//!
//! Owns the way from two commits to what is said about them: lock files compared, the feed asked about what is added, the
//! ignore list of base. Invariants: a branch that adds nothing needs no network; the whole has a deadline, and what is not
//! answered by then is unknown; what is unknown is never clean. Refuses to read anything from a workspace, and to let a
//! list of ignored advisories that is not understood decide against the branch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_adapters::advisories::{self, Answers, Asker, FeedSpec, Tooling, changes_between};
use orch_adapters::git::{FileAt, GitError, Owner, RepoGit};
use orch_adapters::ports::JobLimits;
use orch_domain::deps::changes::Changes;
use orch_domain::deps::ignore::{Ignore, MOST_RULES, RULES_FILE, ignores_in};
use orch_domain::deps::judge::{Evidence, Judgement, judge};
use orch_domain::gate::{Count, ToolVersion, Verdict};
use orch_domain::ids::CommitSha;
use orch_domain::job::JobKind;
use orch_domain::names::RepoPath;
use orch_domain::policy::pin_hash;
use orch_domain::time::Millis;

use super::conclude::{EVIDENCE_LIFE, fenced};
use super::scratch::Scratch;
use crate::context::{AuditSettings, Context};

/// How long an answer with gaps may be used again: long enough for the landing that it lets begin, so that the lane does not
/// wait for a dead feed once more.
const DEGRADED_LIFE: Millis = Millis::from_mins(10);

/// For a feed that does not keep to its deadline.
const OVERTIME: Duration = Duration::from_secs(5);

/// What is asked.
pub(super) struct Question<'q> {
    pub(super) ctx: &'q Context,
    pub(super) git: &'q RepoGit,
    pub(super) owner: &'q Owner,
    pub(super) base: &'q CommitSha,
    pub(super) head: &'q CommitSha,
    /// Heads that were judged before: what they bring is not judged again.
    pub(super) known: &'q [CommitSha],
    pub(super) scratch: &'q Scratch,
}

/// What came of it.
pub(super) struct Audited {
    pub(super) verdict: Verdict,
    /// Note (passed), findings for the next prompt (failed), or why nothing can be concluded.
    pub(super) text: String,
    /// What must not be overlooked.
    pub(super) warnings: Vec<String>,
    pub(super) counts: Vec<Count>,
    pub(super) tools: Vec<ToolVersion>,
    /// Its section of the report.
    pub(super) section: String,
    /// How long it may be used again.
    pub(super) life: Millis,
}

impl Audited {
    /// The same with every text changed.
    pub(super) fn without(self, taken_out: impl Fn(&str) -> String) -> Self {
        Self {
            text: taken_out(&self.text),
            warnings: self.warnings.iter().map(|warning| taken_out(warning)).collect(),
            section: taken_out(&self.section),
            ..self
        }
    }
}

/// What its answers depend on besides the commits, for the key under which verdicts are kept.
pub(super) async fn digest(settings: &AuditSettings) -> String {
    if !settings.enabled {
        return "off".to_owned();
    }
    let feed = settings.feed.clone();
    // The times of files in a folder that may lie anywhere.
    let identity = tokio::task::spawn_blocking(move || advisories::identity(&feed)).await.unwrap_or_default();
    pin_hash(&(identity, settings.fail_closed))
}

/// Audits. `None`: the audit is switched off.
///
/// # Errors
/// [`GitError`] when our own repository cannot be read.
pub(super) async fn audit(question: &Question<'_>) -> Result<Option<Audited>, GitError> {
    let Question { ctx, git, base, head, known, .. } = question;
    let settings = &ctx.security.audit;
    if !settings.enabled {
        return Ok(None);
    }
    let mut changes = changes_between(git, base, head).await?;
    for judged in *known {
        changes.without(&changes_between(git, base, judged).await?);
    }
    let (answers, ignores) = match changes.added.is_empty() {
        true => (Answers::default(), Ok(Vec::new())),
        false => (question.ask(&changes).await, question.ignores().await?),
    };
    let (ignores, misread) = match ignores {
        Ok(ignores) => (ignores, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let now = ctx.now();
    let judgement = judge(&Evidence {
        changes: &changes,
        answers: &answers.by_package,
        feed_trouble: &answers.trouble,
        ignores: &ignores,
        now,
        fail_closed: settings.fail_closed,
    });
    let mut life = EVIDENCE_LIFE;
    if !changes.added.is_empty() {
        life = life.min(settings.cache_age);
    }
    if judgement.degraded {
        life = life.min(DEGRADED_LIFE);
    }
    for ignore in ignores.iter().filter(|ignore| !ignore.is_over(now)) {
        life = life.min(ignore.expires.end().since(now));
    }
    let audited = question.put(judgement, &changes, answers.tools, misread, life);
    settings.tally.note(audited.verdict, audited.warnings.first().cloned(), now);
    Ok(Some(audited))
}

impl Question<'_> {
    async fn ask(&self, changes: &Changes) -> Answers {
        let settings = &self.ctx.security.audit;
        let packages = changes.packages();
        let spec = FeedSpec {
            kind: settings.feed.clone(),
            cache: self.ctx.paths.data.join("advisories"),
            cache_age: settings.cache_age,
            tooling: Tooling {
                exec: Arc::new(self.ctx.runner.clone()),
                path: self.ctx.path.clone(),
                env: settings.env.clone(),
                read: self.ctx.tools_read.clone(),
                data: Some(self.ctx.paths.data.clone()),
                limits: JobLimits { stall: None, ..self.ctx.job_limits.of(JobKind::Gate) },
            },
        };
        // Making a client reads the certificates of the machine.
        let feed = match tokio::task::spawn_blocking(move || advisories::choose(spec)).await {
            Ok(Ok(feed)) => feed,
            Ok(Err(error)) => return Answers::unknown(&packages, &error.to_string()),
            Err(error) => return Answers::unknown(&packages, &error.to_string()),
        };
        let wait = Duration::from(settings.timeout);
        let asker = Asker {
            owner: self.owner.clone(),
            scratch: self.scratch.root().join("audit"),
            deadline: Instant::now() + wait,
            now: self.ctx.now(),
        };
        match tokio::time::timeout(wait + OVERTIME, feed.ask(&asker, &packages)).await {
            Ok(answers) => answers,
            Err(_) => Answers::unknown(&packages, &format!("no answer within {}", settings.timeout)),
        }
    }

    /// What people live with, as base has it; the inner error says why that is not understood.
    async fn ignores(&self) -> Result<Result<Vec<Ignore>, String>, GitError> {
        let path: RepoPath = RULES_FILE.parse().expect("a plain relative path");
        Ok(match self.git.read_file_at(self.base, &path, MOST_RULES).await? {
            FileAt::Missing => Ok(Vec::new()),
            FileAt::Bytes(bytes) => match std::str::from_utf8(&bytes) {
                Ok(text) => ignores_in(text),
                Err(_) => Err(format!("{RULES_FILE}: it is no UTF-8 text")),
            },
            FileAt::NotAFile => Err(format!("{RULES_FILE}: it is a link or a folder, which is not followed")),
            FileAt::TooLarge { bytes } => Err(format!("{RULES_FILE}: it has {bytes} bytes, more than {MOST_RULES}")),
        })
    }

    /// Puts the judgement into words.
    fn put(
        &self,
        judgement: Judgement,
        changes: &Changes,
        tools: Vec<ToolVersion>,
        misread: Option<String>,
        life: Millis,
    ) -> Audited {
        let mut section = judgement.section();
        section.push('\n');
        let mut warnings: Vec<String> = judgement.warning().into_iter().collect();
        let (mut verdict, mut text) = match judgement.verdict {
            Verdict::Passed => (Verdict::Passed, judgement.summary()),
            Verdict::Failed => (Verdict::Failed, judgement.findings()),
            Verdict::CouldNotRun => (Verdict::CouldNotRun, judgement.why().unwrap_or_default()),
        };
        if let Some(why) = misread {
            let at = self.base.short();
            let said = format!("what is ignored at {at} is not understood, so that nothing is: {why}");
            section.push_str(&format!("### The list of ignored advisories\n\n{}\n", fenced(&said)));
            if judgement.new.is_empty() {
                warnings.push(said);
            } else {
                // Perhaps a person has decided for it: then it is not the branch's to mend.
                verdict = Verdict::CouldNotRun;
                text = format!("{said}; mend it on main. Without it the branch does not pass:\n\n{text}");
            }
        }
        if !changes.changed.is_empty() {
            let files: Vec<&str> = changes.changed.iter().take(20).map(String::as_str).collect();
            section.push_str(&format!("Lock files that differ:\n\n{}\n", fenced(&files.join("\n"))));
        }
        if !changes.added.is_empty() {
            section.push_str(&format!("Asked: {}.\n\n", advisories::describe(&self.ctx.security.audit.feed)));
        }
        Audited { verdict, text: text.trim().to_owned(), warnings, counts: judgement.counts(), tools, section, life }
    }
}
