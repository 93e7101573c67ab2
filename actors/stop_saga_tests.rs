//! A step of a STOP that panics: by a forge that does, behind everything else of the real tree.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orch_adapters::git::{Owner, ProtectedBranches};
use orch_adapters::ports::{Advance, Forge, ForgeError, LandingNote, Remote};
use orch_domain::ids::CommitSha;
use orch_domain::names::BranchName;
use orch_domain::stop::{Level, Receipt, StepResult, StopStep};

use crate::api::Control as _;
use crate::context::Commands;
use crate::gates::check_tests::World;
use crate::system::System;

const BOUND: Duration = Duration::from_secs(60);

/// A forge with a bug where it is asked which branches are protected.
struct Breaks(Arc<dyn Forge>);

#[async_trait]
impl Forge for Breaks {
    fn remote(&self) -> Remote {
        self.0.remote()
    }

    async fn main_branch(&self) -> Result<BranchName, ForgeError> {
        self.0.main_branch().await
    }

    async fn protected(&self) -> Result<ProtectedBranches, ForgeError> {
        panic!("a bug of the forge's, made for this test")
    }

    async fn head(&self, branch: &BranchName) -> Result<Option<CommitSha>, ForgeError> {
        self.0.head(branch).await
    }

    async fn advance_main(&self, owner: &Owner, main: &BranchName, expected: &CommitSha, to: &CommitSha) -> Advance {
        self.0.advance_main(owner, main, expected, to).await
    }

    async fn landing_note(&self, from: &CommitSha, to: &CommitSha) -> Option<LandingNote> {
        self.0.landing_note(from, to).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_panics_is_unproven_in_the_receipt_and_the_other_steps_go_on() {
    let world = World::new(Commands::default()).await;
    let mut ctx = world.context();
    for repo in ctx.repos.values_mut() {
        let repo = Arc::get_mut(repo).expect("nobody else has it yet");
        repo.forge = Arc::new(Breaks(repo.forge.clone()));
    }
    let system = System::start(Arc::new(ctx)).await.expect("it starts");
    let (desk, id) = (system.handle(), world.task.id.as_str());
    desk.stop(id, "ann", "test").await.expect("recorded");
    let whole = async {
        let mut grown = desk.watch_records();
        loop {
            match desk.receipt(id).await {
                Ok(receipt) if receipt.is_whole() && receipt.outcome == "cancelled" => return receipt,
                _ => drop(tokio::time::timeout(Duration::from_millis(50), grown.changed()).await),
            }
        }
    };
    let receipt: Receipt = tokio::time::timeout(BOUND, whole).await.expect("a whole receipt in time");
    for line in &receipt.lines {
        match (line.step, &line.result) {
            (StopStep::RemoteBranch, StepResult::Unproven { why }) => {
                assert!(why.contains("which is a bug; the others went on"), "{why}");
            }
            (StopStep::RemoteBranch, other) => panic!("{other:?}"),
            (_, StepResult::Done { .. } | StepResult::Nothing { .. }) => {}
            (step, other) => panic!("{step:?}: {other:?}"),
        }
    }
    system.stop(Level::Kill, Duration::from_secs(10)).await;
    system.close();
}
