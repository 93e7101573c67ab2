//! The page of one task: where it is, what a person can do about that, why it was sent back, its runs, and its logs.
//!
//! Owns its HTML. Refuses to show without the cookie; all text is untrusted and escaped.

use std::fmt::Write as _;
use std::sync::Arc;

use orch_actors::api::{ControlError, LogPage, LogView};
use orch_domain::view::TaskDetail;
use warp::http::{HeaderMap, StatusCode};

use super::{Shared, acts, escape, login_form, minutes, page};
use crate::http::reply::{Answer, ApiError, Query, percent_encode, task_key};

/// Bytes of the log on one page.
const LOG_SHOWN: usize = 64 << 10;

/// Which log is shown, and from where on.
struct Shown {
    /// By its number; the newest where none is named.
    run: Option<u32>,
    /// The first byte.
    from: u64,
    page: LogPage,
    all: Vec<LogView>,
}

/// `GET /board/{key}?run=&log=`: the page, with a run's log (the newest) from an offset, or the login form without the cookie.
pub(in crate::http) async fn task(shared: Arc<Shared>, headers: HeaderMap, part: String, raw: String) -> Answer {
    if !shared.guard.has_cookie(&headers) {
        return page("Log in", &login_form(None), StatusCode::OK);
    }
    let key = task_key(&part)?;
    let query = Query::parse(&raw, &["run", "log"])?;
    let run = query.number("run")?.map(|run| u32::try_from(run).unwrap_or(u32::MAX));
    let from = query.number("log")?.unwrap_or(0);
    let found = shared.control.task(&key, false).await?.into_iter().next();
    let detail = found.ok_or_else(|| ControlError::NotFound(format!("there is no task `{key}`")))?;
    let page_of_log = match shared.control.log(&key, run, from, LOG_SHOWN).await {
        Ok(log) => log,
        // Logs go earlier than tasks do: the rest is shown all the same.
        Err(ControlError::NotFound(text)) => LogPage { text, next_offset: from, ended: true, ..LogPage::default() },
        Err(error) => return Err(ApiError::from(error)),
    };
    let shown = Shown { run, from, page: page_of_log, all: shared.control.logs(&key).await? };
    page(&escape(detail.task.key.as_str()), &body(&detail, &shown), StatusCode::OK)
}

fn body(detail: &TaskDetail, shown: &Shown) -> String {
    let task = &detail.task;
    let why = &detail.why;
    let mut out = format!(
        "<header>\n<h1><a href=\"/\">orch</a></h1>\n<p>{}, life {}</p>\n</header>\n<main id=\"task\">\n<h2>{}</h2>\n<dl class=\"{}\">\n",
        escape(task.key.as_str()),
        task.generation,
        escape(&task.title),
        task.status.as_str(),
    );
    let mut fact = |name: &str, value: &str| {
        let _ = writeln!(out, "<dt>{name}</dt><dd>{value}</dd>");
    };
    fact("Status", &format!("<span class=\"status\">{}</span> since {}", task.status.as_str(), minutes(task.since)));
    fact("What it waits for or does", &escape(&why.waits_for));
    if let Some(holder) = &why.held_by {
        fact("Held by", &escape(holder));
    }
    fact("Ends by", &escape(&why.ends_by));
    if let Some(hint) = &why.hint {
        fact("You can", &format!("<code>{}</code>", escape(hint)));
    }
    fact("Repository", &escape(task.repo.as_str()));
    fact("Stage", &format!("{} of {}", escape(task.stage.as_str()), escape(&task.pipeline)));
    fact("Branch", &escape(task.branch.as_str()));
    if let Some(head) = &task.head {
        fact("Head", &format!("<code>{head}</code>"));
    }
    if let Some(landed) = &task.landed {
        fact("Landed", &format!("<code>{}</code> at {}", landed.sha, minutes(landed.at)));
    }
    let attempts = &task.attempts;
    fact(
        "Attempts",
        &format!(
            "{} runs, {} sent back, {} interrupted",
            attempts.runs,
            attempts.developer_retries + attempts.conflicts,
            attempts.interrupted
        ),
    );
    let _ = writeln!(out, "</dl>\n<div class=\"acts\">{}</div>", acts(task));
    section(&mut out, "Description", &detail.body);
    section(&mut out, "Last findings", detail.findings.as_deref().unwrap_or_default());
    runs(&mut out, detail);
    logs(&mut out, detail, shown);
    let link = percent_encode(task.key.as_str());
    let _ = writeln!(
        out,
        "<p>As JSON: <a href=\"/tasks/{link}\">task</a>, <a href=\"/tasks/{link}/journal\">journal</a>, \
         <a href=\"/tasks/{link}/proof\">proofs</a></p>\n</main>"
    );
    out
}

/// The log that is shown, the way on in it, and the others.
fn logs(out: &mut String, detail: &TaskDetail, shown: &Shown) {
    let link = percent_encode(detail.task.key.as_str());
    let of = shown.page.run.as_deref().map(|run| format!(" of {}", escape(run))).unwrap_or_default();
    section(out, &format!("Log{of}"), &shown.page.text);
    if shown.page.next_offset > shown.from {
        let run = shown.run.map(|run| format!("run={run}&amp;")).unwrap_or_default();
        let next = shown.page.next_offset;
        let _ = writeln!(out, "<p><a href=\"/board/{link}?{run}log={next}\">Further in the log</a></p>");
    }
    if shown.all.len() > 1 {
        let name = |log: &LogView| {
            format!("<a href=\"/board/{link}?run={}\">{} ({})</a>", log.number, log.number, escape(&log.label))
        };
        let names: Vec<String> = shown.all.iter().map(name).collect();
        let _ = writeln!(out, "<p>Logs: {}</p>", names.join(", "));
    }
}

/// A heading and text as it is; nothing where there is none.
fn section(out: &mut String, heading: &str, text: &str) {
    if !text.trim().is_empty() {
        let lines: Vec<String> = text.lines().map(escape).collect();
        let _ = writeln!(out, "<h3>{heading}</h3>\n<pre>{}</pre>", lines.join("\n"));
    }
}

fn runs(out: &mut String, detail: &TaskDetail) {
    if detail.runs.is_empty() {
        return;
    }
    out.push_str(
        "<table>\n<caption>Runs</caption>\n<thead><tr><th scope=\"col\">Run</th><th scope=\"col\">How it ended</th>\
         <th scope=\"col\">Stage</th><th scope=\"col\">Kind</th><th scope=\"col\">Began (UTC)</th>\
         <th scope=\"col\">Took</th></tr></thead>\n<tbody>\n",
    );
    for run in &detail.runs {
        // As `orch task show` has it: the whole id only tells tasks apart.
        let id = run.run.as_str();
        let number = id.rfind('r').map_or(id, |at| &id[at..]);
        let took = run.ended.map(|at| at.since(run.started).to_string()).unwrap_or_default();
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{took}</td></tr>",
            escape(number),
            escape(run.outcome.as_deref().unwrap_or("running")),
            escape(run.stage.as_str()),
            escape(&run.kind),
            minutes(run.started),
        );
    }
    out.push_str("</tbody>\n</table>\n");
}
