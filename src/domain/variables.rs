//! What a job finds in its environment: the names that the supervisor itself sets, and what they mean.
//!
//! Owns the whole list, so that whoever sets one and whoever has to tell them from settings mean the same. Invariant: no
//! name is also the name of a setting (tested where settings are). Values are made where the job is.

/// The job's id; every process of a job carries it.
pub const JOB: &str = "ORCH_JOB";
/// The task's key.
pub const TASK: &str = "ORCH_TASK";
/// The stage of the run.
pub const STAGE: &str = "ORCH_STAGE";
/// The agent's role in that stage.
pub const ROLE: &str = "ORCH_ROLE";
/// The number of the attempt at its stage.
pub const ATTEMPT: &str = "ORCH_ATTEMPT";
/// The file that the prompt is in.
pub const PROMPT_FILE: &str = "ORCH_PROMPT_FILE";
/// The repository's name.
pub const REPO: &str = "ORCH_REPO";
/// The gate or command stage that asks.
pub const GATE: &str = "ORCH_GATE";
/// The commit whose rules hold.
pub const BASE: &str = "ORCH_BASE";
/// The commit that is judged.
pub const HEAD: &str = "ORCH_HEAD";
/// The commit that is deployed.
pub const SHA: &str = "ORCH_SHA";
/// The image to build.
pub const IMAGE: &str = "ORCH_IMAGE";
/// The label by which the image says which commit it was built from.
pub const IMAGE_LABEL: &str = "ORCH_IMAGE_LABEL";
/// The fresh file that a coverage command is asked to write.
pub const COVERAGE_REPORT: &str = "ORCH_COVERAGE_REPORT";
/// The fresh folder that it lies in, for tools that want a folder.
pub const COVERAGE_DIR: &str = "ORCH_COVERAGE_DIR";
/// The name that a git server is told.
pub const GIT_USERNAME: &str = "ORCH_GIT_USERNAME";
/// The file that holds the password for it.
pub const GIT_PASSWORD_FILE: &str = "ORCH_GIT_PASSWORD_FILE";

/// All of them with what they are, in the order in which documents list them.
pub const ALL: [(&str, &str); 17] = [
    (JOB, "The job's id, in every job."),
    (TASK, "The task's key."),
    (STAGE, "The stage, for agents."),
    (ROLE, "The agent's role in that stage, for agents."),
    (ATTEMPT, "The number of the attempt at its stage, for agents."),
    (PROMPT_FILE, "The file that the prompt is in, for agents given as a shell line."),
    (REPO, "The repository's name, for gates and commands."),
    (GATE, "Which gate or command it is, for gates and commands."),
    (BASE, "The commit whose rules hold, for gates and commands."),
    (HEAD, "The commit that is judged, for gates and commands."),
    (SHA, "The commit that is deployed, for deploy, health, status and rollback commands."),
    (IMAGE, "The image to build, for image builds."),
    (IMAGE_LABEL, "The label that ties the image to its commit, for image builds."),
    (COVERAGE_REPORT, "The fresh file to write the report to, for coverage commands."),
    (COVERAGE_DIR, "The fresh folder that it lies in, for coverage commands."),
    (GIT_USERNAME, "The name that a git server is told, for git commands of the supervisor's own."),
    (GIT_PASSWORD_FILE, "The file that holds the password for it, for the same."),
];
