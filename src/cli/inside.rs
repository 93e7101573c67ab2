//! Whether this command runs inside a job: an agent or a test must not stop the task that it works for, nor its supervisor.
//!
//! Owns the look: the mark that every job's environment carries, and a guard among the processes above. Refuses no more
//! than that: who hides both is held by its confinement, which keeps the token away from it.

use std::path::Path;

use orch_domain::variables;

use super::Env;
use super::output::CliError;

/// Most processes that are looked at on the way up.
const UP: usize = 256;

/// Refuses a verb that nobody inside a job may give.
pub(super) fn refuse(env: &Env, verb: &str) -> Result<(), CliError> {
    let job = env.get(variables::JOB).filter(|job| !job.is_empty()).map(|job| format!("job {job}"));
    let Some(job) = job.or_else(|| guard_above(Path::new("/proc")).map(|pid| format!("the guard {pid}"))) else {
        return Ok(());
    };
    let text =
        format!("`orch {verb}` was given inside {job} of a supervisor, which may not do that; give it from outside");
    Err(CliError::Refused(text))
}

/// The nearest guard of a job above this process.
fn guard_above(proc: &Path) -> Option<u32> {
    let mut pid = std::process::id();
    for _ in 0..UP {
        pid = parent_of(proc, pid).filter(|parent| *parent > 0)?;
        if is_guard(proc, pid) {
            return Some(pid);
        }
    }
    None
}

fn parent_of(proc: &Path, pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // The name in parentheses may hold anything, also spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// A guard is started as `/proc/self/exe shim`, or as our program with that word.
fn is_guard(proc: &Path, pid: u32) -> bool {
    let line = std::fs::read(proc.join(pid.to_string()).join("cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    matches!(name, b"exe" | b"orch") && words.next() == Some(b"shim")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(proc: &Path, pid: u32, parent: u32, name: &str, line: &[u8]) {
        let dir = proc.join(pid.to_string());
        std::fs::create_dir_all(&dir).expect("made");
        std::fs::write(dir.join("stat"), format!("{pid} ({name}) S {parent} 1 1")).expect("written");
        std::fs::write(dir.join("cmdline"), line).expect("written");
    }

    #[test]
    fn the_mark_of_a_job_is_refused() {
        let env = Env::from([(variables::JOB.to_owned(), "j123".to_owned())]);
        let said = refuse(&env, "task stop").expect_err("inside a job").to_string();
        assert!(said.contains("`orch task stop`") && said.contains("job j123"), "{said}");
    }

    #[test]
    fn a_guard_above_is_found_whatever_the_processes_between_are_called() {
        let dir = tempfile::tempdir().expect("a folder");
        let (proc, me) = (dir.path(), std::process::id());
        process(proc, me, 70, "orch", b"orch\0handover\0");
        process(proc, 70, 60, "sh (x) S 1", b"sh\0-c\0orch shim\0");
        process(proc, 60, 50, "orch", b"/proc/self/exe\0shim\0");
        process(proc, 50, 1, "orch", b"/usr/bin/orch\0serve\0");
        assert_eq!(guard_above(proc), Some(60));
        process(proc, 60, 50, "sh", b"/bin/sh\0shim\0");
        assert_eq!(guard_above(proc), None, "another program's word is no guard");
    }
}
