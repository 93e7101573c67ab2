//! The board at `/` and a page for each task: made on the server, readable without scripts, live with them.
//!
//! Owns the HTML, the login form and the cookie. Text of tasks is untrusted and is always escaped; the content policy
//! allows our own two files and nothing in the page itself. Refuses to show anything before the token was given.

mod task;

use std::fmt::Write as _;
use std::sync::Arc;

use orch_actors::api::{LaneView, QueueView, TaskFilter};
use orch_domain::lane::LaneMode;
use orch_domain::task::Status;
use orch_domain::time::Timestamp;
use orch_domain::view::TaskView;
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::reply::{Reply as _, Response};

use super::Shared;
use super::guard::COOKIE;
use super::reply::{Answer, ApiError, form_field, media_type, percent_encode};

pub(super) use task::task;

const STYLE: &str = include_str!("board.css");
const SCRIPT: &str = include_str!("board.js");
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; \
                      frame-ancestors 'none'; base-uri 'none'";

/// Tasks shown at most.
const SHOWN: usize = 200;

/// `GET /`: the board, or the login form without the cookie.
pub(super) async fn board(shared: Arc<Shared>, headers: HeaderMap) -> Answer {
    if !shared.guard.has_cookie(&headers) {
        return page("Log in", &login_form(None), StatusCode::OK);
    }
    let tasks = shared.control.tasks(TaskFilter { repo: None, closed: true, limit: SHOWN }).await?;
    let queue = shared.control.queue().await?;
    page("Board", &board_body(&tasks, &queue), StatusCode::OK)
}

/// `GET /board.css`.
pub(super) fn style() -> Response {
    text(STYLE, "text/css; charset=utf-8")
}

/// `GET /board.js`.
pub(super) fn script() -> Response {
    text(SCRIPT, "text/javascript; charset=utf-8")
}

/// `POST /login`: the token for the cookie.
pub(super) async fn login(shared: Arc<Shared>, headers: HeaderMap, body: Vec<u8>) -> Answer {
    shared.guard.check_origin(&headers, false)?;
    if media_type(&headers).as_deref() != Some("application/x-www-form-urlencoded") {
        let message = "send the login as a form (application/x-www-form-urlencoded)";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let token = form_field(&headers, &body, "token").unwrap_or_default();
    if !shared.guard.token.is(token.trim()) {
        let form = login_form(Some("That is not the token."));
        return page("Log in", &form, StatusCode::UNAUTHORIZED);
    }
    let mut response = to_board()?;
    let cookie = format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict", shared.guard.cookie_value());
    set_cookie(&mut response, &cookie);
    Ok(response)
}

/// `POST /logout`.
pub(super) fn logout(shared: &Shared, headers: &HeaderMap) -> Answer {
    shared.guard.check_origin(headers, true)?;
    let mut response = to_board()?;
    set_cookie(&mut response, &format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"));
    Ok(response)
}

fn set_cookie(response: &mut Response, cookie: &str) {
    let value = HeaderValue::from_str(cookie).expect("a cookie of hex digits and fixed words is a header value");
    response.headers_mut().insert(header::SET_COOKIE, value);
}

/// Back to the board, by GET.
pub(super) fn to_board() -> Answer {
    let mut response = warp::reply().into_response();
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/"));
    Ok(response)
}

fn text(body: &'static str, kind: &'static str) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn page(title: &str, body: &str, status: StatusCode) -> Answer {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>orch: {title}</title>\n\
         <link rel=\"stylesheet\" href=\"/board.css\">\n<script src=\"/board.js\" defer></script>\n</head>\n\
         <body>\n{body}</body>\n</html>\n"
    );
    let mut response = warp::reply::html(html).into_response();
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    Ok(response)
}

fn login_form(problem: Option<&str>) -> String {
    let problem = problem.map(|p| format!("<p class=\"problem\" role=\"alert\">{p}</p>\n")).unwrap_or_default();
    format!(
        "<main class=\"login\">\n<h1>orch</h1>\n{problem}<form method=\"post\" action=\"/login\">\n\
         <label for=\"token\">Token (the file <code>token</code> in the data folder)</label>\n\
         <input id=\"token\" name=\"token\" type=\"password\" autocomplete=\"current-password\" required autofocus>\n\
         <button>Log in</button>\n</form>\n</main>\n"
    )
}

fn board_body(tasks: &[TaskView], queue: &QueueView) -> String {
    let mut out = String::from("<header>\n<h1>orch</h1>\n");
    let live = tasks.iter().filter(|t| !matches!(t.status, Status::Done | Status::Cancelled)).count();
    let _ = write!(
        out,
        "<p id=\"summary\" aria-live=\"polite\">{live} live, agents {}/{}, gates {}/{}, intake {}</p>\n\
         <form method=\"post\" action=\"/logout\"><button>Log out</button></form>\n</header>\n",
        queue.agents.used,
        queue.agents.total,
        queue.gates.used,
        queue.gates.total,
        escape(&queue.intake),
    );
    out.push_str(
        "<main>\n<table>\n<caption>Tasks, newest first</caption>\n<thead><tr><th scope=\"col\">Task</th>\
         <th scope=\"col\">Title</th><th scope=\"col\">Repository</th><th scope=\"col\">Stage</th>\
         <th scope=\"col\">Status</th><th scope=\"col\">What it waits for or does</th><th scope=\"col\">Since (UTC)</th>\
         <th scope=\"col\">Act</th></tr></thead>\n<tbody id=\"tasks\">\n",
    );
    for task in tasks {
        row(&mut out, task);
    }
    if tasks.is_empty() {
        out.push_str("<tr><td colspan=\"8\">No tasks yet: <code>orch task add --title ...</code></td></tr>\n");
    }
    out.push_str(
        "</tbody>\n</table>\n<table>\n<caption>Lanes to main</caption>\n<thead><tr><th scope=\"col\">Repository</th>\
         <th scope=\"col\">Lane, by whom and why</th><th scope=\"col\">Lands</th><th scope=\"col\">Wait for it</th>\
         <th scope=\"col\">Last landing (UTC)</th><th scope=\"col\">Act</th></tr></thead>\n<tbody id=\"lanes\">\n",
    );
    for lane in &queue.merge {
        lane_row(&mut out, lane);
    }
    out.push_str("</tbody>\n</table>\n</main>\n");
    out
}

fn lane_row(out: &mut String, lane: &LaneView) {
    let repo = escape(lane.lease.repo.as_str());
    let link = percent_encode(lane.lease.repo.as_str());
    let mode = lane.lane.mode.as_str();
    let holder = lane.lease.holder.as_ref().map_or("nothing", |key| key.as_str());
    let waiting: Vec<&str> = lane.lease.queue.iter().map(|key| key.as_str()).collect();
    let waiting = if waiting.is_empty() { "nobody".to_owned() } else { waiting.join(", ") };
    let last = lane.landings.first().map(|l| format!("{} {}", l.key, minutes(l.at))).unwrap_or_default();
    let _ = write!(
        out,
        "<tr class=\"{mode}\"><th scope=\"row\">{repo}</th><td><span class=\"status\">{}</span></td><td>{}</td><td>{}</td>\
         <td>{}</td><td>",
        escape(&lane.lane.to_string()),
        escape(holder),
        escape(&waiting),
        escape(&last),
    );
    let _ = match lane.lane.mode {
        LaneMode::Running => write!(
            out,
            "<form method=\"post\" action=\"/repos/{link}/pause\"><input name=\"why\" required maxlength=\"200\" \
             placeholder=\"why\" aria-label=\"Why pause {repo}\"><button aria-label=\"Pause {repo}\">Pause</button></form>"
        ),
        LaneMode::Draining | LaneMode::Paused => write!(
            out,
            "<form method=\"post\" action=\"/repos/{link}/resume\"><button aria-label=\"Resume {repo}\">Resume</button></form>"
        ),
    };
    out.push_str("</td></tr>\n");
}

fn row(out: &mut String, task: &TaskView) {
    let link = percent_encode(task.key.as_str());
    let status = task.status.as_str();
    let _ = writeln!(
        out,
        "<tr class=\"{status}\"><th scope=\"row\"><a href=\"/board/{link}\">{}</a></th><td>{}</td><td>{}</td><td>{}</td>\
         <td><span class=\"status\">{status}</span></td><td>{}{}</td><td>{}</td><td>{}</td></tr>",
        escape(task.key.as_str()),
        escape(&task.title),
        escape(task.repo.as_str()),
        escape(task.stage.as_str()),
        escape(&task.doing),
        waiting_for_a_person(task),
        minutes(task.since),
        acts(task),
    );
}

/// What a person who is waited for can do, on a line of its own.
fn waiting_for_a_person(task: &TaskView) -> String {
    match &task.hint {
        Some(hint) if matches!(task.status, Status::Blocked | Status::AwaitingPerson) => {
            format!("<div class=\"hint\">you can: <code>{}</code></div>", escape(hint))
        }
        _ => String::new(),
    }
}

/// The buttons of a task. An approval names the commit that is shown: another one that waits by then is not approved.
fn acts(task: &TaskView) -> String {
    let (link, key) = (percent_encode(task.key.as_str()), escape(task.key.as_str()));
    let button = |verb: &str, label: &str, fields: &str| {
        format!(
            "<form method=\"post\" action=\"/tasks/{link}/{verb}\">{fields}<button aria-label=\"{label} {key}\">{label}\
             </button></form>"
        )
    };
    let mut out = String::new();
    if let Some(wanted) = &task.approval {
        let field = |name: &str, value: &str| format!("<input type=\"hidden\" name=\"{name}\" value=\"{value}\">");
        let fields = field("what", wanted.what.as_str()) + &field("sha", wanted.sha.as_str());
        let label = format!("Approve to {} {}", wanted.what.as_str(), wanted.sha.short());
        out.push_str(&button("approve", &label, &fields));
    }
    if task.status == Status::Blocked {
        out.push_str(&button("retry", "Retry", ""));
    }
    if !matches!(task.status, Status::Done | Status::Cancelled | Status::Stopping) {
        out.push_str(&button("stop", "Stop", ""));
    }
    out
}

fn minutes(at: Timestamp) -> String {
    at.to_string().get(..16).unwrap_or_default().replace('T', " ")
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
