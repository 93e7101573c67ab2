//! Git for the supervisor: three bare repositories per forge repository, workspaces, checkouts, imports, catch-up,
//! task-branch pushes and salvage. Contents; the rules are in the files.

mod capture;
mod catch_up;
mod compose;
mod cut;
mod direct;
mod error;
mod exec;
mod handles;
mod import;
mod lines;
mod pass;
mod plain_checkout;
mod plain_merge;
mod push;
pub(crate) mod read;
mod rooms;
mod runner;
mod strip;
mod vault;
mod workspace;

#[cfg(test)]
pub(crate) mod tests;

pub use capture::{CaptureFacts, CaptureSpec, Leftovers, read_capture};
pub use catch_up::{CatchUp, CatchUpSpec, WhyMerged};
pub use direct::DirectExec;
pub use error::GitError;
pub use exec::{Exec, ExecOutput, Git, GitSettings, Owner};
pub use import::{ImportError, ImportSpec, Imported};
pub use lines::ChangedLines;
pub use push::{BranchDeletion, BranchPush, ProtectedBranches, TaskBranch, TaskBranchError};
pub use read::{ChangeKind, ChangedPath, CommitLine, FileAt, TreeFile};
pub use rooms::{GitRooms, RepoGit};
pub use vault::{DOT_GIT, Salvage, SalvageError, SalvageSpec, Salvaged};
pub use workspace::{Checkout, Workspace, WorkspaceSpec};

pub(crate) use cut::Cut;
pub(crate) use error::words;
pub(crate) use exec::{GitCommand, mint_job, utf8};
pub(crate) use push::{PushSaid, PushTarget, shell_quote};
pub(crate) use read::commit as commit_of;
pub(crate) use rooms::{Place, find_repository, write_alternates};
