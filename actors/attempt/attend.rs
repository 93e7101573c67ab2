//! Following an agent's job to its end.
//!
//! Owns the reading of its output as it comes, the telling how far that is (so that a long log can make room), and silence:
//! a run that says nothing for too long is ended, unless a tool of it runs or the disk is full. Invariant: an event is told before its place in
//! the log may be given up.

use std::time::Duration;

use orch_adapters::agents::StreamParser;
use orch_adapters::jobs::{FinishedJob, Parsed, RunningJob, follow};
use orch_adapters::ports::EndLevel;
use orch_domain::agent::{AgentClaim, AgentEvent};
use orch_domain::stop::Level;
use orch_domain::task::first_line;
use tokio::time::Instant;

use super::{Attempt, Halt, Told};
use crate::context::AgentSetup;

impl Attempt {
    /// Follows the job to its end, or until it is to be left; `true` when it was ended for being silent.
    pub(super) async fn attend(
        &mut self,
        job: &RunningJob,
        setup: &AgentSetup,
        parser: &mut dyn StreamParser,
    ) -> Result<(FinishedJob, bool), Halt> {
        let over = job.clone();
        let mut lines = follow(&job.stdout_path(), 0, async move {
            // An error shows again below, where it is reported.
            let _ = over.wait().await;
        });
        let mut parsed =
            Parsed::open(&job.identity.dir).map_err(|e| format!("how far its output is read cannot be noted: {e}"))?;
        let stall: Option<Duration> = self.task.current().silence.or(setup.stall).map(Into::into);
        let (mut heard, mut stalled, mut open) = (Instant::now(), false, true);
        let mut standstills = self.ctx.disk.standstills();
        while open {
            let silence = async {
                match stall {
                    Some(stall) if !stalled => tokio::time::sleep_until(heard + stall).await,
                    _ => std::future::pending().await,
                }
            };
            // The end of the run comes before its output, output before silence: nothing said is counted as silence.
            tokio::select! {
                biased;
                Ok(()) = self.told.changed() => {
                    let told = *self.told.borrow_and_update();
                    match told {
                        Some(Told::Leave) => return Err(Halt::Left),
                        Some(Told::End(Level::Kill)) => self.end(job, EndLevel::Kill).await,
                        Some(Told::End(_)) => self.end(job, EndLevel::Term).await,
                        None => {}
                    }
                },
                line = lines.next_line() => match line {
                    Ok(Some(line)) => {
                        heard = Instant::now();
                        for event in parser.line(line.text.as_bytes()) {
                            self.tell_event(&event);
                        }
                        // Not telling costs room in the log, and in the end time; it loses nothing.
                        if let Err(error) = parsed.tell(line.next_offset) {
                            tracing::warn!(run.id = %self.run, %error, "how far an agent's output is read could not be noted");
                        }
                    }
                    Ok(None) => open = false,
                    Err(error) => return Err(format!("the agent's output cannot be read: {error}").into()),
                },
                // Who stands still is not silent, and begins anew when all goes on.
                Ok(()) = standstills.changed() => heard = Instant::now(),
                () = silence => {
                    if parser.tool_running() || standstills.borrow().is_some() {
                        heard = Instant::now();
                    } else {
                        stalled = true;
                        self.end(job, EndLevel::Term).await;
                    }
                }
            }
        }
        let finished = job.wait().await.map_err(|e| e.to_string())?;
        Ok((finished, stalled))
    }

    pub(super) async fn end(&self, job: &RunningJob, level: EndLevel) {
        if let Err(error) = job.end(level).await {
            tracing::warn!(run.id = %self.run, %error, "run {} could not be told to end", self.run);
        }
    }

    fn tell_event(&self, event: &AgentEvent) {
        let text = match event {
            AgentEvent::Started { .. } => "the agent has started".to_owned(),
            AgentEvent::Said { text } => first_line(text).to_owned(),
            AgentEvent::ToolStarted { what, .. } => format!("tool: {what}"),
            AgentEvent::Warned { text } => format!("warning: {}", first_line(text)),
            AgentEvent::Finished { claim } => match claim {
                AgentClaim::Success => "the agent says it is done".to_owned(),
                AgentClaim::Error { text } | AgentClaim::RateLimited { text } => first_line(text).to_owned(),
            },
            AgentEvent::ToolEnded { .. } | AgentEvent::Unknown => return,
        };
        self.say(&text);
    }
}
