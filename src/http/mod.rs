//! Room `http`: inspection, control, events, metrics and the board, over the front desk's `Control` and nothing else.
//!
//! Owns the routes, joined in one place, and the server's life. Closed by default: everything but `/healthz`, `/readyz`
//! and the login needs the token or the board's cookie. Never blocks on an actor's work, never opens the store.

mod board;
mod events;
#[cfg(test)]
pub(crate) mod fake;
mod files;
mod guard;
mod inside;
mod metrics;
mod read;
mod reply;
mod write;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use orch_actors::api::Control;
use tokio::net::TcpListener;
use tokio::sync::watch;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

pub use files::{Token, TokenError, read_address, write_address};
pub use inside::Inside;
pub use reply::percent_encode;
pub use write::{Approve, BackupTo, Pause, RestoreInto, Resume, SETTINGS_HEADER};

use guard::{Caller, Guard};
use reply::{refusal, send};

/// How long open answers may take once the server closes.
const CLOSING: Duration = Duration::from_secs(5);

/// How to listen and whom to let in.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Address and port; port 0 takes any free one.
    pub bind: SocketAddr,
    /// Host names answered to, besides loopback and the bound address.
    pub allowed_hosts: Vec<String>,
    /// What opens the door.
    pub token: Token,
    /// Silence on an event stream after which a sign of life is sent.
    pub heartbeat: Duration,
    /// The digest of the settings that tasks are worked on with; tasks that ask for others are refused.
    pub work_digest: Option<String>,
}

impl HttpSettings {
    /// Settings with the usual heartbeat and no digest.
    #[must_use]
    pub fn new(bind: SocketAddr, allowed_hosts: Vec<String>, token: Token) -> Self {
        Self { bind, allowed_hosts, token, heartbeat: Duration::from_secs(15), work_digest: None }
    }
}

/// Why the HTTP interface could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Somebody else has the port.
    #[error(
        "address {addr} is in use by another program or another orch; stop it, or choose another with http.bind (ORCH_HTTP_ADDR)"
    )]
    InUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {why}; choose another address with http.bind (ORCH_HTTP_ADDR)")]
    CannotListen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        why: std::io::Error,
    },
}

/// What all handlers share.
struct Shared {
    control: Arc<dyn Control>,
    guard: Arc<Guard>,
    heartbeat: Duration,
    work_digest: Option<String>,
    closing: watch::Receiver<bool>,
}

/// An address that is ours, where nobody is answered yet: requests wait in its queue.
#[derive(Debug)]
pub struct Listening {
    settings: HttpSettings,
    listener: TcpListener,
    bound: SocketAddr,
}

/// Takes the address.
///
/// # Errors
/// [`HttpError`] when it cannot be had.
pub async fn listen(settings: HttpSettings) -> Result<Listening, HttpError> {
    let addr = settings.bind;
    let failed = |why: std::io::Error| match why.kind() {
        std::io::ErrorKind::AddrInUse => HttpError::InUse { addr },
        _ => HttpError::CannotListen { addr, why },
    };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok(Listening { settings, listener, bound })
}

/// Opens the HTTP interface: the address that is listened on, and the future that serves until `shutdown`, then lets open
/// answers end (event streams at once, others for at most five seconds).
///
/// # Errors
/// [`HttpError`] when the address cannot be had.
pub async fn serve(
    control: Arc<dyn Control>,
    settings: HttpSettings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(SocketAddr, impl Future<Output = ()> + Send + 'static), HttpError> {
    Ok(answer(listen(settings).await?, control, shutdown))
}

/// The same at an address that is taken already.
pub fn answer(
    listening: Listening,
    control: Arc<dyn Control>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> (SocketAddr, impl Future<Output = ()> + Send + 'static) {
    let Listening { settings, listener, bound } = listening;
    let (close, closing) = watch::channel(false);
    let shared = Arc::new(Shared {
        control,
        guard: Arc::new(Guard::new(bound, &settings.allowed_hosts, settings.token)),
        heartbeat: settings.heartbeat,
        work_digest: settings.work_digest,
        closing: closing.clone(),
    });
    let server = warp::serve(routes(shared)).incoming(listener).graceful(async move {
        shutdown.await;
        close.send_replace(true);
    });
    let mut closing = closing;
    let serving = async move {
        let overdue = async {
            let closed = closing.wait_for(|closing| *closing).await.is_ok();
            tokio::time::sleep(CLOSING).await;
            closed
        };
        tokio::select! {
            () = server.run() => {}
            _ = overdue => tracing::warn!("the HTTP interface closed while answers were still open"),
        }
    };
    (bound, serving)
}

/// All routes, every refusal in the one error shape, every answer with the same protecting headers.
fn routes(shared: Arc<Shared>) -> BoxedFilter<(Response,)> {
    let guard = Arc::clone(&shared.guard);
    let outer = health(&shared)
        .or(public(&shared))
        .unify()
        .or(guard::caller(guard).and(inspection(&shared)).map(|_: Caller, r: Response| r))
        .unify()
        .or(control_routes(&shared))
        .unify();
    let recovered = outer
        .recover(|rejection: warp::Rejection| async move {
            Ok::<_, std::convert::Infallible>(refusal(&rejection).response())
        })
        .unify();
    warp::path::full().and(recovered).map(finished).boxed()
}

/// Headers that every answer has.
fn finished(path: warp::path::FullPath, mut response: Response) -> Response {
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allow = HeaderValue::from_static(allowed_methods(path.as_str()));
        response.headers_mut().insert(header::ALLOW, allow);
    }
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Not `no-referrer`: under that browsers send `Origin: null` with the board's own forms, which is refused.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn allowed_methods(path: &str) -> &'static str {
    match path.rsplit('/').next() {
        Some("healthz" | "readyz") => "GET, HEAD",
        Some("tasks") => "GET, POST",
        Some("stop" | "retry" | "approve" | "pause" | "resume" | "login" | "logout") => "POST",
        Some("backup" | "handover" | "restore" | "baseline") => "POST",
        _ => "GET",
    }
}

type Route = BoxedFilter<(Response,)>;

fn with(
    shared: &Arc<Shared>,
) -> impl Filter<Extract = (Arc<Shared>,), Error = std::convert::Infallible> + Clone + use<> {
    let shared = Arc::clone(shared);
    warp::any().map(move || Arc::clone(&shared))
}

fn query() -> impl Filter<Extract = (String,), Error = std::convert::Infallible> + Clone {
    warp::query::raw().or(warp::any().map(String::new)).unify()
}

/// A body that was read, or why not. The refusal must not be a rejection: other routes would be tried with a body that is
/// gone.
fn body() -> impl Filter<Extract = (Result<Vec<u8>, reply::ApiError>,), Error = warp::Rejection> + Clone {
    warp::body::stream().then(reply::body)
}

/// Answered to anybody, on any Host: probes know neither names nor secrets. Many of them ask with HEAD. Other methods are
/// refused here, since the door behind would ask them for a token that is not needed.
fn health(shared: &Arc<Shared>) -> Route {
    let asks = |method: &Method| matches!(*method, Method::GET | Method::HEAD);
    let alive = warp::path!("healthz").and(warp::method()).map(move |method| match asks(&method) {
        true => send(read::healthz()),
        false => reply::no_such_method().response(),
    });
    let ready = warp::path!("readyz").and(warp::method()).and(with(shared));
    let ready = ready.then(move |method, shared| async move {
        match asks(&method) {
            true => send(read::readyz(shared).await),
            false => reply::no_such_method().response(),
        }
    });
    alive.or(ready).unify().boxed()
}

/// The login and what its page needs; no data.
fn public(shared: &Arc<Shared>) -> Route {
    let host = || guard::host(Arc::clone(&shared.guard));
    let headers = warp::header::headers_cloned;
    let page = warp::path::end().and(warp::get()).and(host()).and(with(shared)).and(headers());
    let page = page.then(|s, h| async move { send(board::board(s, h).await) });
    let task = warp::path!("board" / String).and(warp::get()).and(host()).and(with(shared)).and(headers()).and(query());
    let task = task.then(|k, s, h, q| async move { send(board::task(s, h, k, q).await) });
    let style = warp::path!("board.css").and(warp::get()).and(host()).map(board::style);
    let script = warp::path!("board.js").and(warp::get()).and(host()).map(board::script);
    let login = warp::path!("login").and(warp::post()).and(host()).and(with(shared)).and(headers()).and(body());
    let login = login.then(|s, h, b: Result<Vec<u8>, reply::ApiError>| async move {
        match b {
            Ok(b) => send(board::login(s, h, b).await),
            Err(e) => e.response(),
        }
    });
    let logout = warp::path!("logout").and(warp::post()).and(host()).and(with(shared)).and(headers());
    let logout = logout.map(|s: Arc<Shared>, h| send(board::logout(&s, &h)));
    page.or(task).unify().or(style).unify().or(script).unify().or(login).unify().or(logout).unify().boxed()
}

/// Read-only paths behind the token.
fn inspection(shared: &Arc<Shared>) -> Route {
    let s = || with(shared);
    let get = warp::get;
    let version = warp::path!("version").and(get()).and(s()).map(|s: Arc<Shared>| send(read::version(&s)));
    let queue = warp::path!("queue").and(get()).and(s()).then(|s| async { send(read::queue(s).await) });
    let actors = warp::path!("actors").and(get()).and(s()).then(|s| async { send(read::actors(s).await) });
    let leases = warp::path!("leases").and(get()).and(s()).then(|s| async { send(read::leases(s).await) });
    let jobs = warp::path!("jobs").and(get()).and(s()).then(|s| async { send(read::jobs(s).await) });
    let repos = warp::path!("repos").and(get()).and(s()).then(|s| async { send(read::repos(s).await) });
    let salvages = warp::path!("salvages").and(get()).and(s()).and(query());
    let salvages = salvages.then(|s, q| async { send(read::salvages(s, q).await) });
    let salvage = warp::path!("salvages" / String / String).and(get()).and(s());
    let salvage = salvage.then(|r, i, s| async { send(read::salvage(s, r, i).await) });
    let metrics = warp::path!("metrics").and(get()).and(s()).then(|s| async { send(metrics::metrics(s).await) });
    let events = warp::path!("events").and(get()).and(s()).and(warp::header::headers_cloned()).and(query());
    let events = events.then(|s, h, q| async { send(events::events(s, h, q).await) });
    let whole = version.or(queue).unify().or(actors).unify().or(leases).unify().or(jobs).unify().or(repos).unify();
    let gc = warp::path!("gc").and(get()).and(s());
    let gc = gc.then(|s| async { send(read::gc_plan(s).await) });
    let whole = whole.or(metrics).unify().or(events).unify().or(salvages).unify().or(salvage).unify();
    let whole = whole.or(gc).unify().boxed();

    let tasks = warp::path!("tasks").and(get()).and(s()).and(query());
    let tasks = tasks.then(|s, q| async { send(read::tasks(s, q).await) });
    let task = warp::path!("tasks" / String).and(get()).and(s()).and(query());
    let task = task.then(|k, s, q| async { send(read::task(s, k, q).await) });
    let journal = warp::path!("tasks" / String / "journal").and(get()).and(s()).and(query());
    let journal = journal.then(|k, s, q| async { send(read::journal(s, k, q).await) });
    let why = warp::path!("tasks" / String / "why").and(get()).and(s());
    let why = why.then(|k, s| async { send(read::why(s, k).await) });
    let receipt = warp::path!("tasks" / String / "receipt").and(get()).and(s());
    let receipt = receipt.then(|k, s| async { send(read::receipt(s, k).await) });
    let log = warp::path!("tasks" / String / "log").and(get()).and(s()).and(query());
    let log = log.then(|k, s, q| async { send(read::log(s, k, q).await) });
    let logs = warp::path!("tasks" / String / "logs").and(get()).and(s());
    let logs = logs.then(|k, s| async { send(read::logs(s, k).await) });
    let coverages = warp::path!("coverage").and(get()).and(s()).then(|s| async { send(read::coverages(s).await) });
    let coverage = warp::path!("coverage" / String).and(get()).and(s());
    let coverage = coverage.then(|r, s| async { send(read::coverage(s, r).await) });
    let history = warp::path!("coverage" / String / "history").and(get()).and(s()).and(query());
    let history = history.then(|r, s, q| async { send(read::coverage_history(s, r, q).await) });
    let proofs = warp::path!("proofs").and(get()).and(s()).and(query());
    let proofs = proofs.then(|s, q| async { send(read::proofs(s, q).await) });
    let proof = warp::path!("tasks" / String / "proof").and(get()).and(s()).and(query());
    let proof = proof.then(|k, s, q| async { send(read::proof(s, k, q).await) });
    let whole = whole.or(proofs).unify().or(proof).unify();
    let whole = whole.or(coverages).unify().or(coverage).unify().or(history).unify().boxed();
    let of_tasks = tasks.or(task).unify().or(journal).unify().or(why).unify().or(receipt).unify().or(log).unify();
    let of_tasks = of_tasks.or(logs).unify();
    whole.or(of_tasks).unify().boxed()
}

/// Paths that change something, behind the token; with the board's cookie only from the board's own pages.
fn control_routes(shared: &Arc<Shared>) -> Route {
    let s = || with(shared);
    let who = || guard::caller(Arc::clone(&shared.guard));
    let sent = || warp::header::headers_cloned().and(body()).map(reply::Sent::new);
    let submit = warp::path!("tasks").and(warp::post()).and(who()).and(s()).and(sent());
    let submit = submit.then(|c, s, b| async { send(write::submit(s, c, b).await) });
    let stop = warp::path!("tasks" / String / "stop").and(warp::post()).and(who()).and(s());
    let stop = stop.then(|k, c, s| async { send(write::stop(s, c, k).await) });
    let retry = warp::path!("tasks" / String / "retry").and(warp::post()).and(who()).and(s());
    let retry = retry.then(|k, c, s| async { send(write::retry(s, c, k).await) });
    let approve = warp::path!("tasks" / String / "approve").and(warp::post()).and(who()).and(s()).and(sent());
    let approve = approve.then(|k, c, s, b| async { send(write::approve(s, c, k, b).await) });
    let of_tasks = submit.or(stop).unify().or(retry).unify().or(approve).unify();

    let pause = warp::path!("repos" / String / "pause").and(warp::post()).and(who()).and(s()).and(sent());
    let pause = pause.then(|n, c, s, b| async { send(write::pause(s, c, n, b).await) });
    let resume = warp::path!("repos" / String / "resume").and(warp::post()).and(who()).and(s()).and(sent());
    let resume = resume.then(|n, c, s, b| async { send(write::resume(s, c, n, b).await) });
    let stop_repo = warp::path!("repos" / String / "stop").and(warp::post()).and(who()).and(s());
    let stop_repo = stop_repo.then(|n, c, s| async { send(write::stop_repo(s, c, n).await) });
    let of_repos = pause.or(resume).unify().or(stop_repo).unify().boxed();

    let hand_over = warp::path!("handover").and(warp::post()).and(who()).and(s());
    let hand_over = hand_over.then(|c, s| async { send(write::hand_over(s, c).await) });
    let restore = warp::path!("salvages" / String / String / "restore").and(warp::post()).and(who()).and(s());
    let restore = restore.and(sent()).then(|r, i, _: Caller, s, b| async { send(write::restore(s, r, i, b).await) });
    let gc = warp::path!("gc").and(warp::post()).and(who()).and(s());
    let gc = gc.then(|c, s| async { send(write::gc(s, c).await) });
    let baseline = warp::path!("coverage" / "baseline").and(warp::post()).and(who()).and(s()).and(sent());
    let baseline = baseline.then(|c, s, b| async { send(write::set_baseline(s, c, b).await) });
    let backup = warp::path!("backup").and(warp::post()).and(who()).and(s()).and(sent());
    let backup = backup.then(|_: Caller, s, b| async { send(write::backup(s, b).await) });
    let whole = hand_over.or(restore).unify().or(gc).unify().or(baseline).unify().or(backup).unify().boxed();
    of_tasks.or(of_repos).unify().or(whole).unify().boxed()
}

#[cfg(test)]
mod tests;
