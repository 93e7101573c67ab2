//! The event stream: server-sent events, level-triggered.
//!
//! Owns resumption: each event's id is its position, `Last-Event-ID` (or `?after=`) goes on behind it, without either the
//! stream begins now. The watch only says that there is more; what there is, is always read from the store, so no wake-up
//! can be lost and none is needed twice. Ends when the client goes or the server closes.

use std::convert::Infallible;
use std::sync::Arc;

use futures::StreamExt as _;
use orch_domain::ids::{Seq, TaskId};
use orch_domain::journal::Record;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use warp::http::HeaderMap;
use warp::reply::Reply as _;
use warp::sse::Event;

use super::Shared;
use super::reply::{Answer, ApiError, Query, printable, task_key};

/// Records read at a time; also how many wait for a slow client before reading pauses.
const BATCH: usize = 256;

/// `GET /events?after=&task=`.
pub(super) async fn events(shared: Arc<Shared>, headers: HeaderMap, raw: String) -> Answer {
    let query = Query::parse(&raw, &["after", "task"])?;
    let resumed = match headers.get("last-event-id") {
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            let wrong = |_| ApiError::bad(format!("Last-Event-ID {} is no position", printable(text)));
            Some(text.trim().parse().map_err(wrong)?)
        }
        None => query.number("after")?,
    };
    let task = match query.text("task") {
        Some(key) => {
            let key = task_key(&super::percent_encode(key))?;
            let newest = shared.control.task(&key, false).await?;
            let missing =
                || ApiError::from(orch_actors::api::ControlError::NotFound(format!("there is no task `{key}`")));
            Some(newest.into_iter().next().ok_or_else(missing)?.task.id)
        }
        None => None,
    };
    let from = Seq(resumed.unwrap_or_else(|| shared.control.watch_records().borrow().0));
    let (sender, receiver) = mpsc::channel(BATCH);
    tokio::spawn(pump(Arc::clone(&shared), from, task, sender));
    let stream = ReceiverStream::new(receiver).map(|record| Ok::<_, Infallible>(event(&record)));
    let alive = warp::sse::keep_alive().interval(shared.heartbeat).text("alive");
    Ok(warp::sse::reply(alive.stream(stream)).into_response())
}

fn event(record: &Record) -> Event {
    let event = Event::default().id(record.seq.to_string()).event("record");
    let text = serde_json::to_string(record).expect("a record serialises: it was read from the same form");
    event.data(text)
}

/// Reads on behind a position for as long as somebody listens.
async fn pump(shared: Arc<Shared>, mut after: Seq, task: Option<TaskId>, sender: mpsc::Sender<Record>) {
    let mut grown = shared.control.watch_records();
    let mut closing = shared.closing.clone();
    loop {
        // Marked as seen before reading: what comes in between wakes the next wait.
        grown.borrow_and_update();
        let records = match shared.control.records_after(after, BATCH).await {
            Ok(records) => records,
            Err(error) => {
                // The client comes back by itself and names where it was.
                tracing::warn!(%error, "an event stream ended: the journal could not be read");
                return;
            }
        };
        let more = records.len() == BATCH;
        for record in records {
            after = after.max(record.seq);
            let wanted = task.is_none() || record.task == task;
            if wanted && sender.send(record).await.is_err() {
                return;
            }
        }
        if more {
            continue;
        }
        tokio::select! {
            changed = grown.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}
