//! What a receipt says: pure, from the rows as they stand at the end, so that it is the same whenever a crash cut in.
//!
//! Owns the words of jobs, processes and deploys. Refuses to say more than the rows hold: a guard that was lost has
//! reported nothing, and a job whose guard was lost may well have begun.

use orch_domain::job::{JobEnd, JobExit, JobStatus};
use orch_store::{JobRow, Window, WindowKind};
use serde_json::Value;

/// Most characters of a deploy's own words.
const DEPLOY_WORDS: usize = 400;

/// How many jobs there were, and how they ended.
pub(super) fn of_jobs(jobs: &[JobRow]) -> String {
    let live = jobs.iter().filter(|job| job.status.is_live()).count();
    let lost = jobs.iter().filter(|job| is_lost(job)).count();
    let over = jobs.iter().filter(|job| !job.status.is_live());
    let unbegun = over.filter(|job| !is_lost(job) && !has_begun(job)).count();
    let mut text = format!("{live} live, {} ended, {unbegun} of them before they began", jobs.len() - live);
    if lost > 0 {
        text += &format!(", {lost} of them without a word of their guards");
    }
    text
}

/// How it is known that nothing is left of them, when it is.
pub(super) fn of_processes(jobs: &[JobRow]) -> String {
    let lost = jobs.iter().filter(|job| is_lost(job)).count();
    match (jobs.len() - lost, lost) {
        (0, 0) => "0 processes: no job was ever prepared".to_owned(),
        (told, 0) => format!("0 processes: each of {told} shims reported that nothing of its job is left"),
        (told, lost) => format!(
            "0 processes: {told} shims reported that nothing of their jobs is left; {lost} ended without a report, and \
             the kernel has nothing of their jobs any more"
        ),
    }
}

fn exit(job: &JobRow) -> Option<&JobExit> {
    job.exit.as_ref()
}

fn is_lost(job: &JobRow) -> bool {
    exit(job).is_some_and(|exit| exit.end == JobEnd::Lost)
}

fn has_begun(job: &JobRow) -> bool {
    exit(job).is_some_and(|exit| exit.started.is_some()) || job.status == JobStatus::Running
}

/// What became of the deploy of what has landed, as its windows say.
pub(super) fn of_deploy(windows: &[Window], configured: bool) -> String {
    let deploys = windows.iter().filter(|window| window.kind == WindowKind::Deploy);
    let Some(newest) = deploys.max_by_key(|window| window.opened) else {
        return match configured {
            true => "its deploy was not begun".to_owned(),
            false => "nothing was to be deployed".to_owned(),
        };
    };
    let outcome = newest.outcome.as_ref();
    let text = |name: &str| outcome.and_then(|o| o.get(name)).and_then(Value::as_str).map(one_line);
    let is = |name: &str| outcome.and_then(|o| o.get(name)).and_then(Value::as_bool);
    match (is("deployed"), is("began"), text("failed"), text("unknown")) {
        (Some(true), ..) => "deployed and healthy".to_owned(),
        (_, Some(false), Some(why), _) => format!("its deploy was not begun: {why}"),
        (_, _, _, Some(why)) => format!("nobody knows what became of its deploy, look at the target: {why}"),
        (_, _, Some(why), _) => format!("its deploy failed: {why}"),
        _ => "its deploy did not succeed".to_owned(),
    }
}

fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").chars().take(DEPLOY_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use orch_domain::ids::Epoch;
    use orch_domain::time::Timestamp;
    use serde_json::json;

    use super::*;

    fn window(kind: WindowKind, opened: i64, outcome: Value) -> Window {
        Window {
            id: "window1".parse().expect("an id"),
            kind,
            repo: "demo".parse().expect("a name"),
            task: "task1".parse().expect("an id"),
            sha: "0123456789abcdef0123456789abcdef01234567".parse().expect("a sha"),
            expected: None,
            epoch: Epoch(1),
            job: None,
            opened: Timestamp(opened),
            closed: Some(Timestamp(opened + 1)),
            outcome: Some(outcome),
            detail: None,
        }
    }

    #[test]
    fn the_newest_deploy_is_told_as_it_ended() {
        let land = window(WindowKind::Land, 1, json!({"landed": true}));
        assert_eq!(of_deploy(std::slice::from_ref(&land), true), "its deploy was not begun");
        assert_eq!(of_deploy(std::slice::from_ref(&land), false), "nothing was to be deployed");
        let told = |outcome: Value| {
            let older = window(WindowKind::Deploy, 2, json!({"deployed": false, "failed": "older"}));
            let newest = window(WindowKind::Deploy, 3, outcome);
            let rollback = window(WindowKind::Rollback, 4, json!({"failed": "a rollback's"}));
            of_deploy(&[land.clone(), older, newest, rollback], true)
        };
        assert_eq!(told(json!({"deployed": true})), "deployed and healthy");
        let failed = told(json!({"deployed": false, "failed": "exit code 1\n\nthe rollback failed too: exit code 7"}));
        assert_eq!(failed, "its deploy failed: exit code 1; the rollback failed too: exit code 7");
        let unknown = told(json!({"unknown": "its guard was lost"}));
        assert_eq!(unknown, "nobody knows what became of its deploy, look at the target: its guard was lost");
        let not_begun = told(json!({"deployed": false, "began": false, "failed": "no checkout"}));
        assert_eq!(not_begun, "its deploy was not begun: no checkout");
    }
}
