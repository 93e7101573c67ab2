//! [`DirectExec`]: runs git's jobs as plain children, without shim and ledger.
//!
//! For tests and for verbs that run by hand without a supervisor. Owns the child's whole process group until it ended:
//! the deadline kills the group. Refuses confinement: a spec that demands it is not run.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use orch_domain::job::{JobEnd, JobExit};

use super::exec::{Exec, ExecOutput};
use crate::ports::{Clock, JobError, JobSpec, SystemClock};

/// Runs each job as a plain child process of ours.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectExec;

#[async_trait]
impl Exec for DirectExec {
    async fn run(&self, spec: JobSpec) -> Result<ExecOutput, JobError> {
        let job = spec.id.clone();
        if spec.confinement.enforced {
            return Err(JobError::Refused { job, why: "a plain child cannot be confined".to_owned() });
        }
        match tokio::task::spawn_blocking(move || run(spec)).await {
            Ok(done) => done,
            Err(err) => Err(JobError::Unreachable { job, why: err.to_string() }),
        }
    }
}

fn run(spec: JobSpec) -> Result<ExecOutput, JobError> {
    let clock = SystemClock;
    let started = clock.now();
    let Some((program, args)) = spec.argv.split_first() else {
        return Err(JobError::NotStarted { job: spec.id, why: "it has no program".to_owned() });
    };
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(&spec.env).current_dir(&spec.cwd).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = |end: JobEnd, proven_gone: bool| JobExit {
        end,
        started: Some(started),
        ended: clock.now(),
        proven_gone,
        swept: 0,
        log_cut: false,
    };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(err) => {
            let end = JobEnd::CouldNotStart { why: format!("{program}: {err}") };
            return Ok(ExecOutput { exit: ended(end, true), stdout: Vec::new(), stderr: Vec::new() });
        }
    };
    let deadline = Instant::now() + Duration::from(spec.limits.wall);
    let stdin = child.stdin.take();
    std::thread::spawn(move || {
        // A child that does not read to the end is no error of ours.
        let _ = stdin.map(|mut pipe| pipe.write_all(&spec.stdin));
    });
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let (out, err) = (collect(&stdout, deadline), collect(&stderr, deadline));
    let timed_out = out.is_none() || err.is_none();
    if timed_out {
        kill_group(&child);
    }
    let status = child.wait().map_err(|err| JobError::Unreachable { job: spec.id, why: err.to_string() })?;
    let end = match (timed_out, status.code(), status.signal()) {
        (true, _, _) => JobEnd::TimedOut,
        (false, Some(code), _) => JobEnd::Exited { code },
        (false, None, signal) => JobEnd::Signalled { signal: signal.unwrap_or(0) },
    };
    Ok(ExecOutput { exit: ended(end, false), stdout: out.unwrap_or_default(), stderr: err.unwrap_or_default() })
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        // The receiver has left when the deadline passed.
        let _ = send.send(bytes);
    });
    receive
}

fn collect(output: &Receiver<Vec<u8>>, deadline: Instant) -> Option<Vec<u8>> {
    match output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(bytes) => Some(bytes),
        Err(RecvTimeoutError::Disconnected) => Some(Vec::new()),
        Err(RecvTimeoutError::Timeout) => None,
    }
}

fn kill_group(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // Gone already is as good.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
