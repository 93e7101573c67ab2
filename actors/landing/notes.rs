//! What a landing says in its task's journal, written behind it.
//!
//! Owns the order of these entries, and that they are there before what counts: whoever commits an intent or an end waits
//! for them first, and by then they have been written long since. Nothing else waits, since nothing follows from an entry.
//! Refuses no entry; one that cannot be written is said in the log.

use std::sync::Arc;

use orch_domain::ids::TaskId;
use orch_domain::journal::Entry;
use orch_domain::time::Timestamp;
use orch_store::Subject;
use tokio::sync::{mpsc, oneshot};

use crate::context::Context;

/// The entries of one landing. Dropped, what was said before is still written.
#[derive(Debug)]
pub struct Notes {
    say: mpsc::UnboundedSender<Said>,
}

#[derive(Debug)]
enum Said {
    Entry(Entry, Timestamp),
    /// Answered when everything before it is written.
    Mark(oneshot::Sender<()>),
}

impl Notes {
    /// Of one task's landing.
    #[must_use]
    pub fn of(ctx: &Arc<Context>, task: &TaskId) -> Self {
        let (say, said) = mpsc::unbounded_channel();
        tokio::spawn(write(ctx.clone(), task.clone(), said));
        Self { say }
    }

    /// Says a step.
    pub(super) fn say(&self, entry: Entry, at: Timestamp) {
        // It ends with the last sender only.
        let _ = self.say.send(Said::Entry(entry, at));
    }

    /// Waits until everything that was said is written.
    pub(crate) async fn written(&self) {
        let (mark, passed) = oneshot::channel();
        if self.say.send(Said::Mark(mark)).is_ok() {
            let _ = passed.await;
        }
    }
}

async fn write(ctx: Arc<Context>, task: TaskId, mut said: mpsc::UnboundedReceiver<Said>) {
    while let Some(first) = said.recv().await {
        let (mut entries, mut at, mut mark) = (Vec::new(), None, None);
        let mut next = Some(first);
        // What waits meanwhile goes into one commit.
        while let Some(said_next) = next.take() {
            match said_next {
                Said::Entry(entry, then) => {
                    at.get_or_insert(then);
                    entries.push(entry);
                    next = said.try_recv().ok();
                }
                Said::Mark(passed) => mark = Some(passed),
            }
        }
        if let Some(at) = at {
            append(&ctx, &task, entries, at).await;
        }
        if let Some(mark) = mark {
            // Whoever waited may have been cut off.
            let _ = mark.send(());
        }
    }
}

/// Journals steps of a task's landing.
pub(crate) async fn append(ctx: &Context, task: &TaskId, entries: Vec<Entry>, at: Timestamp) {
    let written = match ctx.store.load_task(task).await {
        Ok(Some(stored)) => ctx.store.append(Subject::task(&stored.task), entries, at).await.map(drop),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        tracing::warn!(task.id = %task, %error, "a step of a landing could not be journaled");
    }
}
