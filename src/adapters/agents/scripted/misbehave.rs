//! What a script can do that an agent must not: the supervisor has to hold against all of it.
//!
//! Owns the misbehaviours. Needs no unsafe code: signals are blocked instead of ignored (what we start inherits that),
//! and the daemon is forked by shells.

use std::fs;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use super::Event;
use super::run::{EXIT_STEP, Run};
use super::script::Misbehaviour;
use super::steps::{After, failed, quiet, tell};

/// Does one of them.
pub(super) fn perform(run: &Run, how: Misbehaviour) -> Result<After, (u8, String)> {
    match how {
        Misbehaviour::IgnoreTerm => {
            let deaf: SigSet = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT].into_iter().collect();
            deaf.thread_block().map_err(|err| (EXIT_STEP, format!("signals cannot be blocked: {err}")))?;
        }
        Misbehaviour::Daemon { seconds, pid_file } => daemon(run, seconds, pid_file.as_deref())?,
        Misbehaviour::FillLog { mb } => fill_log(mb).map_err(|err| failed("fill_log", &err))?,
        Misbehaviour::Hang => loop {
            thread::sleep(Duration::from_secs(3_600));
        },
        Misbehaviour::NoEndEvent => return Ok(After::EndSilently),
        Misbehaviour::RewriteRemote { url } => rewrite_remote(run, &url)?,
        Misbehaviour::TouchOutside { path } => {
            let text = match fs::write(&path, "written by an agent\n") {
                Ok(()) => format!("wrote {path}"),
                Err(err) => format!("could not write {path}: {err}"),
            };
            tell(&Event::Warn { text })?;
        }
    }
    Ok(After::GoOn)
}

/// The outer shell ends at once, so the inner one is nobody's child; it keeps our standard output open, as daemons do.
fn daemon(run: &Run, seconds: u32, pid_file: Option<&str>) -> Result<(), (u8, String)> {
    // Values travel as arguments, never inside the shell's text.
    const INNER: &str =
        r#"trap "" TERM HUP INT; if [ -n "$2" ]; then echo $$ > "$2.new" && mv "$2.new" "$2"; fi; exec sleep "$1""#;
    const OUTER: &str = r#"setsid sh -c "$1" daemon "$2" "$3" &"#;
    let status = Command::new("sh")
        .args(["-c", OUTER, "outer", INNER, &seconds.to_string(), pid_file.unwrap_or_default()])
        .current_dir(&run.workspace)
        .stdin(Stdio::null())
        .status()
        .map_err(|err| failed("daemon", &err))?;
    if status.success() { Ok(()) } else { Err((EXIT_STEP, format!("the daemon's shell ended with {status}"))) }
}

fn fill_log(mb: u32) -> io::Result<()> {
    let line = [b"nonsense ".repeat(113), b"fillers\n".to_vec()].concat();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut left = u64::from(mb) << 20;
    while left > 0 {
        out.write_all(&line)?;
        left = left.saturating_sub(line.len() as u64);
    }
    out.flush()
}

fn rewrite_remote(run: &Run, url: &str) -> Result<(), (u8, String)> {
    for name in ["remote.origin.url", "remote.origin.pushurl"] {
        let mut command = Command::new("git");
        let status = quiet(command.args(["config", name, url]), run).map_err(|err| failed("git config", &err))?;
        if !status.success() {
            return Err((EXIT_STEP, format!("git config {name} ended with {status}")));
        }
    }
    Ok(())
}
