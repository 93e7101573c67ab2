//! One landing, from the lease to `main`: the side task of a RepoLeaseActor.
//!
//! Owns the saga of DESIGN 8 and its borders. Invariants: everything happens under a lease whose epoch fences it; `main`
//! moves only by compare-and-swap to a commit whose tree was tested on exactly this base; the intent is durable before
//! it is sent, and once sent it ends only by seen success or a definitive refusal; whatever is open is attached to, never
//! executed again. STOP is read at each border before the intent, never after it. A lease that is busy is not waited for,
//! and one that is lost ends the attempt at its next border: the task comes back later, and nothing more is sent before.

mod branch;
mod judge;
mod notes;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use orch_adapters::git::{Owner, RepoGit};
use orch_adapters::ports::Advance;
use orch_domain::coverage::Landed as Measured;
use orch_domain::event::{DeployEnd, LandingEnd};
use orch_domain::ids::{CommitSha, Epoch, TaskId};
use orch_domain::job::JobKind;
use orch_domain::journal::Entry;
use orch_domain::landing::{Permit, Said, Then, after_advance, permit};
use orch_domain::names::BranchName;
use orch_domain::task::{Landed, State, Step, Task};
use orch_store::{Acquire, Holder, LeaseError, NewLanding, NewWindow, Window, WindowClose, WindowError, WindowKind};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::context::{Context, RepoRuntime};
use crate::deploy;
use crate::directory::Directory;
use crate::ids::mint;
use crate::lease::{LeaseGuard, Lost};
use crate::merged::{Merged, landed_of};
use crate::snapshots::Snapshots;
use crate::turns::TurnNotes;
use judge::out_of_scope;

pub use notes::Notes;

/// How often a compare-and-swap without an answer is repeated before the landing steps aside, its window still open.
const REPEATS: u32 = 12;
/// Between two of them, at most.
const REPEAT_MOST: Duration = Duration::from_secs(20);

/// Why a landing should end at its next border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halted {
    /// Its task is stopped.
    Task,
    /// The supervisor stops; the task stays where it is and lands after the next start.
    System,
    /// The lane was paused; the task stays where it is and lands when the lane runs again.
    Lane,
}

/// One landing to be carried out.
pub struct Landing {
    /// Shared.
    pub ctx: Arc<Context>,
    /// Addresses.
    pub directory: Directory,
    /// Snapshots.
    pub snapshots: Snapshots,
    /// The repository.
    pub repo: Arc<RepoRuntime>,
    /// The task.
    pub task: TaskId,
    /// Only what is open is brought to its end, in whatever state the task is: it was stopped meanwhile.
    pub finish: bool,
    /// Set when it should end at its next border.
    pub halted: watch::Receiver<Option<Halted>>,
    /// What it says in the task's journal.
    pub notes: Notes,
    /// What is to be known of this turn afterwards.
    pub turn: TurnNotes,
    /// Said when the lease is found to be somebody else's.
    pub lost: Lost,
    /// What is tidied up behind it.
    pub tidying: Tidying,
    /// Which of its requests the task was in when the turn began: what is told to it answers that one.
    pub asked: OnceLock<u32>,
}

/// What a landing leaves to be tidied up: it needs no lease, and the next turn does not wait for it. The task does.
#[derive(Debug, Default)]
pub struct Tidying(Mutex<Option<JoinHandle<()>>>);

impl Tidying {
    fn set(&self, work: JoinHandle<()>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
    }
}

/// What came of carrying a landing out.
pub struct Carried {
    /// How it ended. `None` when the task stays in the lane (the supervisor stops, or it is not there any more).
    pub end: Option<LandingEnd>,
    /// What is still to be waited for before that is told to the task.
    pub tidying: Option<JoinHandle<()>>,
    /// Which of the task's requests it answers; `None`: the row was never read.
    pub asked: Option<u32>,
}

impl From<Option<LandingEnd>> for Carried {
    fn from(end: Option<LandingEnd>) -> Self {
        Self { end, tidying: None, asked: None }
    }
}

/// How the saga leaves its straight way. `None`: nothing is to be said, the task stays in the lane.
pub(crate) type Halt = Option<LandingEnd>;

pub(crate) fn could_not_run(error: impl std::fmt::Display) -> Halt {
    Some(LandingEnd::CouldNotRun { why: error.to_string() })
}

/// Whether a window was opened just now, or by somebody who may have sent it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tries {
    First,
    Attached,
}

/// The proof that was noted when the window was opened; attached to, it says so too.
fn proof_of(window: &Window, tries: Tries) -> serde_json::Value {
    let mut proof = window.detail.as_ref().and_then(|d| d.get("proof")).cloned().unwrap_or_else(|| json!({}));
    if let (Tries::Attached, Some(fields)) = (tries, proof.as_object_mut()) {
        fields.insert("attached".to_owned(), json!(true));
    }
    proof
}

/// What the coverage gate measured on the tree that lands, as noted when the window was opened.
fn coverage_of(window: &Window) -> Option<Measured> {
    let noted = window.detail.as_ref()?.get("coverage").filter(|noted| !noted.is_null())?;
    let read = serde_json::from_value(noted.clone());
    read.inspect_err(|error| tracing::error!(window.id = %window.id, %error, "what coverage measured is not readable"))
        .ok()
}

/// What was judged and may land.
struct Candidate {
    head: CommitSha,
    main_at: CommitSha,
    proof: serde_json::Value,
    coverage: Option<Measured>,
}

impl Landing {
    /// Carries the landing out.
    pub async fn carry_out(self) -> Carried {
        let guard = match self.lease().await {
            Ok(guard) => guard,
            Err(end) => return Carried { end, tidying: None, asked: self.asked.get().copied() },
        };
        let mut end = match self.saga(guard.epoch()).await {
            Ok(end) => Some(end),
            Err(halt) => halt,
        };
        // Whatever a stale owner was refused looks like trouble of ours, or like an end that nobody saw.
        if let Some(
            LandingEnd::CouldNotRun { .. }
            | LandingEnd::OutcomeUnknown { .. }
            | LandingEnd::Landed { deploy: DeployEnd::CouldNotRun { .. }, .. },
        ) = end
        {
            guard.look().await;
            if let Err(halt) = self.still_held() {
                end = halt;
            }
        }
        self.notes.written().await;
        guard.release().await;
        self.snapshots.clear_activity(&self.task);
        let tidying = self.tidying.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        Carried { end, tidying, asked: self.asked.get().copied() }
    }

    /// Takes the lease. A busy one is not waited for: the task comes back later, holding nothing meanwhile. One whose
    /// holder does not live in this process is reclaimed: the data folder's lock proves that no other process can hold it.
    async fn lease(&self) -> Result<LeaseGuard, Halt> {
        let store = &self.ctx.store;
        let name = &self.repo.settings.name;
        let deploys = matches!(self.load().await?.state, State::Landing { step: Step::Deploy, .. });
        let purpose = if deploys { "deploy" } else { "landing" };
        let holder = Holder { task: Some(self.task.clone()), purpose: purpose.to_owned() };
        loop {
            let now = self.ctx.now();
            let expires = now.after(self.ctx.limits.lease);
            match store.acquire_lease(name, holder.clone(), expires, now).await.map_err(could_not_run)? {
                Acquire::Acquired { epoch } => {
                    let lost = self.lost.clone();
                    return Ok(LeaseGuard::new(&self.ctx, &self.directory, name.clone(), epoch, holder, lost));
                }
                Acquire::Busy(lease) if self.directory.lease_is_held(name, lease.epoch) => {
                    let whose = lease.holder.task.map_or_else(String::new, |task| format!(" of task {task}"));
                    let (what, since) = (lease.holder.purpose, lease.since);
                    let why = format!("the lane's lease is held for the {what}{whose} since {since}");
                    return Err(Some(LandingEnd::Deferred { why }));
                }
                Acquire::Busy(lease) => {
                    let proof = "no landing of this process holds it, and the lock on the data folder excludes others";
                    match store.reclaim_lease(name, lease.epoch, proof, now).await {
                        // Freed or taken in between: asked again.
                        Ok(()) | Err(LeaseError::StaleEpoch { .. } | LeaseError::NotHolder) => {}
                        Err(error @ LeaseError::Store(_)) => return Err(could_not_run(error)),
                    }
                }
            }
        }
    }

    /// Whether the lease is ours as far as is known: whoever lost it sends nothing more.
    fn still_held(&self) -> Result<(), Halt> {
        match self.lost.why() {
            Some(why) => Err(Some(LandingEnd::Deferred { why: why.to_owned() })),
            None => Ok(()),
        }
    }

    async fn saga(&self, epoch: Epoch) -> Result<LandingEnd, Halt> {
        let task = self.load().await?;
        // A message may come late or twice: only a task that waits for the lane is served.
        let step = match task.state {
            State::Landing { step, .. } => step,
            _ if self.finish => Step::Land,
            _ => return Err(None),
        };
        if let Some(landing) = self.ctx.store.landing_of(&self.task).await.map_err(could_not_run)? {
            self.turn.deploys_only();
            self.bring_main().await;
            return Ok(self.after_landing(&task, landed_of(landing), epoch, Tries::Attached).await);
        }
        if step == Step::Deploy {
            self.turn.deploys_only();
            let why = "the deploy was asked for, but no landing is recorded".to_owned();
            return Ok(LandingEnd::OutcomeUnknown { why, landed: None });
        }
        let main = self.repo.main_for(&task).await.map_err(could_not_run)?;
        let windows = self.ctx.store.open_windows(&self.repo.settings.name).await.map_err(could_not_run)?;
        if let Some(window) = windows.into_iter().find(|w| w.task == self.task && w.kind == WindowKind::Land) {
            self.note("window-attached", format!("attached to the landing window {}", window.id));
            self.wait_for_pushes().await?;
            match self.finish_window(&main, &window, epoch, Tries::Attached).await? {
                Some(landed) => return Ok(self.after_landing(&task, landed, epoch, Tries::Attached).await),
                None => self.note("main-moved", format!("the interrupted landing had not reached {main}")),
            }
        }
        if self.finish {
            return Ok(LandingEnd::Stopped);
        }
        self.border().await?;
        let mut seen = match self.merged_by_others(&task, &main).await? {
            Merged::Landed(landed) => return Ok(self.after_landing(&task, landed, epoch, Tries::Attached).await),
            Merged::No { main_at } => main_at,
        };
        for _ in 0..self.ctx.limits.catch_ups {
            self.border().await?;
            let candidate = self.candidate(&task, &main, seen.take(), epoch).await?;
            let window = NewWindow {
                id: mint("w"),
                kind: WindowKind::Land,
                repo: self.repo.settings.name.clone(),
                task: self.task.clone(),
                sha: candidate.head.clone(),
                expected: Some(candidate.main_at.clone()),
                epoch,
                detail: json!({"proof": candidate.proof, "coverage": candidate.coverage}),
            };
            let stored = self.open(window).await?;
            if let Some(landed) = self.finish_window(&main, &stored, epoch, Tries::First).await? {
                return Ok(self.after_landing(&task, landed, epoch, Tries::First).await);
            }
            self.turn.reset("main-moved");
            let text = format!("{main} moved during the landing; catching up again, nobody is blamed");
            self.note("main-moved", text);
        }
        let n = self.ctx.limits.catch_ups;
        Ok(LandingEnd::MainMoved { why: format!("{main} moved {n} times while it was being landed") })
    }

    /// Catches up with main (as `seen` a moment ago, if it was), publishes the branch, tests the result.
    async fn candidate(
        &self,
        task: &Task,
        main: &BranchName,
        seen: Option<CommitSha>,
        epoch: Epoch,
    ) -> Result<Candidate, Halt> {
        let git = &self.repo.lane_git;
        let main_at = match seen {
            Some(at) => at,
            None => {
                self.say(&format!("fetching {main}"));
                git.fetch_main(main).await.map_err(could_not_run)?
            }
        };
        self.turn.main_is(&main_at);
        let Some(own) = task.head.clone() else {
            return Err(could_not_run("the task has no commit to land"));
        };
        let caught = self.catch_up(git, task, &own, (main, &main_at)).await?;
        let head = self.strip(git, task, &caught.head, (main, &main_at)).await?;
        self.border().await?;
        // Where nothing is left to land, main's own head must not show up as a task branch.
        let left = head != main_at;
        // The one does not touch what the other reads; whichever says no ends both.
        let publish = async {
            match left {
                true => self.publish_branch(git, task, &head, epoch).await,
                false => Ok(()),
            }
        };
        let ((), judged) = futures::try_join!(publish, self.judge(task, &main_at, &head, &caught))?;
        self.turn.proven(&head);
        self.border().await?;
        match permit(task, &head, &main_at) {
            Permit::Lands => {}
            Permit::AwaitsApproval => return Err(Some(LandingEnd::AwaitingApproval { head })),
            Permit::AwaitsMerge => return Err(Some(LandingEnd::AwaitingMerge { head })),
        }
        let tree = self.tree(git, &head).await?;
        judged.still_stands(task.policy.gates, &head, &tree, &main_at).await?;
        let untested = own != caught.head && !task.policy.gates.merge.is_asked();
        // What nobody has tested is not called tested.
        let of_tree = if task.policy.gates.merge.is_asked() { "tested_tree" } else { "tree" };
        let proof = json!({
            "branch": task.branch(), "own_head": own, "caught_up": own != caught.head, "catch_up": caught.how,
            "already_on_main": caught.account.already_on_main, "caught_up_untested": untested, of_tree: tree,
            "gates": judged.proof(&self.ctx.paths), "switched_off": judged.switched_off(), "out_of_scope": out_of_scope(task),
            "lease_epoch": epoch,
        });
        Ok(Candidate { head, main_at, proof, coverage: judged.coverage().cloned() })
    }

    async fn open(&self, window: NewWindow) -> Result<Window, Halt> {
        let id = window.id.clone();
        self.say("landing");
        self.notes.written().await;
        match self.ctx.store.open_window(window, self.ctx.now()).await {
            Ok(()) => {}
            Err(WindowError::StopRecorded) => return Err(Some(LandingEnd::Stopped)),
            Err(WindowError::AlreadyLanded | WindowError::AlreadyOpen { .. }) => {
                return Err(Some(LandingEnd::Deferred { why: "another landing of it was found".to_owned() }));
            }
            Err(error) => return Err(could_not_run(error)),
        }
        let windows = self.ctx.store.windows_of(&self.task).await.map_err(could_not_run)?;
        windows.into_iter().find(|w| w.id == id).ok_or_else(|| could_not_run(format!("window {id} is not stored")))
    }

    /// Carries an open window to its honest end. `None`: definitely not landed, since main is elsewhere.
    async fn finish_window(
        &self,
        main: &BranchName,
        window: &Window,
        epoch: Epoch,
        tries: Tries,
    ) -> Result<Option<Landed>, Halt> {
        let Some(expected) = window.expected.clone() else {
            return Err(could_not_run(format!("window {} does not say what {main} was", window.id)));
        };
        let tree = self.tree(&self.repo.lane_git, &window.sha).await?;
        let proof = proof_of(window, tries);
        let owner = self.owner(epoch);
        let mut unknown = String::new();
        for n in 0..REPEATS {
            // Its successor attaches to the window.
            self.still_held()?;
            let ever_sent = n > 0 || tries == Tries::Attached;
            let answer = self.repo.forge.advance_main(&owner, main, &expected, &window.sha).await;
            let (said, words, at) = self.heard(main, window, answer).await?;
            match after_advance(said, ever_sent) {
                Then::Verify => return self.verified(main, window, &expected, tree, epoch, proof).await,
                Then::CatchUpAgain => {
                    self.close(window, epoch, json!({"landed": false, "main_at": at}), None).await?;
                    return Ok(None);
                }
                Then::NeedsPerson => {
                    self.close(window, epoch, json!({"landed": false, "refused": words}), None).await?;
                    return Err(Some(LandingEnd::Refused { why: words }));
                }
                // Nothing was ever sent for this window: it is over, and no forge has refused anything.
                Then::Void => {
                    self.close(window, epoch, json!({"landed": false, "not_sent": words}), None).await?;
                    return Err(could_not_run(words));
                }
                Then::Repeat => {
                    self.say("the forge did not answer; asking again");
                    unknown = words;
                    tokio::time::sleep(REPEAT_MOST.min(Duration::from_millis(200 << n.min(8)))).await;
                }
            }
        }
        // The window stays open: whoever comes next repeats the same compare-and-swap.
        Err(Some(LandingEnd::CouldNotRun { why: format!("the forge does not say whether {main} moved: {unknown}") }))
    }

    /// The forge's answer in the rules' words, with its own, and where `main` is if it is elsewhere.
    async fn heard(
        &self,
        main: &BranchName,
        window: &Window,
        answer: Advance,
    ) -> Result<(Said, String, Option<CommitSha>), Halt> {
        Ok(match answer {
            Advance::Moved => (Said::Moved, String::new(), None),
            Advance::Refused { why } => (Said::Refused, why, None),
            Advance::NotSent { why } => (Said::NotSent, why, None),
            Advance::Unknown { why } => (Said::Unknown, why, None),
            Advance::MainMoved { at } => {
                // It may have landed and been built upon: what main contains has landed.
                let git = &self.repo.lane_git;
                git.fetch_main(main).await.map_err(could_not_run)?;
                let contains = git.contains(&window.sha, &at).await.map_err(could_not_run)?;
                (Said::Elsewhere { contains }, String::new(), Some(at))
            }
        })
    }

    /// Pushes that an earlier supervisor sent may still be under way: repeated beside them, the same compare-and-swap
    /// could be refused for the other's lock, and that would not be definitive.
    async fn wait_for_pushes(&self) -> Result<(), Halt> {
        let jobs = self.ctx.store.live_jobs().await.map_err(could_not_run)?;
        let (repo, task) = (&self.repo.settings.name, &self.task);
        let near = |j: &orch_store::JobRow| match (&j.lane, &j.record.task) {
            // Of a release that did not say whose pushes they are.
            (None, None) => true,
            (lane, owner) => lane.as_ref() == Some(repo) || owner.as_ref() == Some(task),
        };
        for job in jobs.into_iter().filter(|j| j.record.kind == JobKind::Push && near(j)) {
            self.say("waiting for a push that an earlier supervisor sent");
            if let Err(error) = self.repo.lane_runner.adopt(job.record.identity).wait().await {
                tracing::info!(task.id = %self.task, %error, "the end of an earlier push was not seen; asking again will tell");
            }
        }
        Ok(())
    }

    async fn verified(
        &self,
        main: &BranchName,
        window: &Window,
        expected: &CommitSha,
        tree: CommitSha,
        epoch: Epoch,
        proof: serde_json::Value,
    ) -> Result<Option<Landed>, Halt> {
        let git = &self.repo.lane_git;
        let looked = git.remote_head(main).await.map_err(could_not_run)?;
        let (at, contained) = match looked {
            Some(at) if at == window.sha => (at, true),
            _ => {
                let at = git.fetch_main(main).await.map_err(could_not_run)?;
                let contained = git.contains(&window.sha, &at).await.map_err(could_not_run)?;
                (at, contained)
            }
        };
        if !contained {
            return Err(could_not_run(format!("the forge says done, but {main} at {} does not hold it", at.short())));
        }
        let landing = NewLanding {
            task: self.task.clone(),
            sha: window.sha.clone(),
            tree: tree.clone(),
            base: expected.clone(),
            proof,
            coverage: coverage_of(window),
        };
        // What main is now, the next turn and every new workspace will ask for; nothing of ours follows from it.
        let closed = self.close(window, epoch, json!({"landed": true, "main_at": at}), Some(landing));
        futures::join!(closed, self.bring_main()).0?;
        self.turn.landed(&at);
        if let Some(note) = self.repo.forge.landing_note(expected, &window.sha).await {
            let data = json!({"left_behind": note.left_behind});
            self.notes.say(Entry::new("landing-note", note.text).with(data), self.ctx.now());
        }
        Ok(Some(Landed { sha: window.sha.clone(), tree, at: self.landed_at().await? }))
    }

    async fn close(
        &self,
        window: &Window,
        epoch: Epoch,
        outcome: serde_json::Value,
        landing: Option<NewLanding>,
    ) -> Result<(), Halt> {
        self.notes.written().await;
        let close = WindowClose { id: window.id.clone(), epoch, outcome, landing };
        match self.ctx.store.close_window(close, self.ctx.now()).await {
            Ok(_) | Err(WindowError::AlreadyClosed | WindowError::AlreadyLanded) => Ok(()),
            Err(error) => Err(could_not_run(error)),
        }
    }

    /// What comes after main has moved, whoever saw that: also after a restart between the one and the other.
    async fn after_landing(&self, task: &Task, landed: Landed, epoch: Epoch, tries: Tries) -> LandingEnd {
        self.tidy_behind(task);
        let just_judged = tries == Tries::First;
        let deploy = deploy::Deploy { landing: self, task, landed: &landed, epoch, just_judged };
        deploy.carry_out().await
    }

    /// Brings in what the forge has as main, for whoever asks next.
    async fn bring_main(&self) {
        let brought = match self.repo.main().await {
            Ok(main) => self.repo.lane_git.fetch_main(&main).await.map(drop).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = brought {
            tracing::debug!(task.id = %self.task, error, "main was not brought in after a landing; it is fetched when needed");
        }
    }

    pub(crate) async fn tree(&self, git: &RepoGit, commit: &CommitSha) -> Result<CommitSha, Halt> {
        let tree = git.tree_of(commit).await.map_err(could_not_run)?;
        tree.parse().map_err(could_not_run)
    }

    async fn load(&self) -> Result<Task, Halt> {
        let stored = self.ctx.store.load_task(&self.task).await.map_err(could_not_run)?;
        let task = stored.map(|s| s.task).ok_or(None)?;
        self.asked.get_or_init(|| task.lane_asked);
        Ok(task)
    }

    /// Reads STOP: from the lane's own word, and from the store. A lost lease ends the attempt here.
    async fn border(&self) -> Result<(), Halt> {
        self.still_held()?;
        if self.halted.borrow().is_some() {
            return Err(self.halt_now());
        }
        match self.load().await?.stop {
            Some(_) => Err(Some(LandingEnd::Stopped)),
            None => Ok(()),
        }
    }

    fn halt_now(&self) -> Halt {
        match *self.halted.borrow() {
            Some(Halted::System | Halted::Lane) | None => None,
            Some(Halted::Task) => Some(LandingEnd::Stopped),
        }
    }

    /// For whom it pushes: fenced by the lease. What only looks needs no fence, and goes on under a STOP.
    fn owner(&self, epoch: Epoch) -> Owner {
        Owner { epoch, task: Some(self.task.clone()), run: None }
    }

    pub(crate) fn say(&self, text: &str) {
        self.snapshots.set_activity(&self.task, text);
    }

    /// Journals a step of it, behind what goes on.
    pub(crate) fn note(&self, kind: &str, text: String) {
        self.notes.say(Entry::new(kind, text), self.ctx.now());
    }
}

/// Journals a step of a task's landing.
pub(crate) async fn note(ctx: &Context, task: &TaskId, kind: &str, text: String) {
    notes::append(ctx, task, vec![Entry::new(kind, text)], ctx.now()).await;
}
