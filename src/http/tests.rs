//! Tests of the routes: every answer as a snapshot, the door from every side, bad input, the event stream.

use futures::StreamExt as _;
use orch_domain::task::{ApprovalOf, State, Step, WaitFor};
use orch_domain::time::Timestamp;
use serde_json::Value;
use warp::http::Response as Reply;
use warp::hyper::body::Bytes;
use warp::test::RequestBuilder;

use super::fake::FakeControl;
use super::*;

const TOKEN: &str = "sesame-sesame-sesame";

fn token() -> Token {
    Token::given(TOKEN, "test").expect("long enough")
}

fn app(control: Arc<FakeControl>) -> BoxedFilter<(Response,)> {
    let bound = SocketAddr::from(([127, 0, 0, 1], 7717));
    let (_, closing) = watch::channel(false);
    routes(Arc::new(Shared {
        control,
        guard: Arc::new(Guard::new(bound, &["board.example".to_owned()], token())),
        heartbeat: Duration::from_secs(15),
        work_digest: Some("0".repeat(64)),
        closing,
    }))
}

fn ask(method: &str, path: &str) -> RequestBuilder {
    warp::test::request().method(method).path(path).header("host", "localhost:7717")
}

fn with_token(method: &str, path: &str) -> RequestBuilder {
    ask(method, path).header("authorization", format!("Bearer {TOKEN}"))
}

fn value(reply: &Reply<Bytes>) -> Value {
    serde_json::from_slice(reply.body()).unwrap_or_else(|_| panic!("no JSON: {:?}", reply.body()))
}

/// Asserts the one error shape.
fn refused(reply: &Reply<Bytes>, status: u16, code: &str) -> String {
    let body = value(reply);
    assert_eq!((reply.status().as_u16(), body["error"]["code"].as_str()), (status, Some(code)), "{body}");
    assert_eq!(body.as_object().expect("an object").len(), 1);
    body["error"]["message"].as_str().expect("a message").to_owned()
}

#[tokio::test]
async fn every_answer_is_as_it_was_promised() {
    let app = app(FakeControl::with_tasks());
    let paths = [
        ("healthz", "/healthz"),
        ("readyz", "/readyz"),
        ("version", "/version"),
        ("queue", "/queue"),
        ("tasks", "/tasks"),
        ("tasks_closed", "/tasks?closed=true&repo=shop"),
        ("task", "/tasks/ORC-4"),
        ("task_all", "/tasks/ORC-3?all=1"),
        ("journal", "/tasks/ORC-2/journal?after=2"),
        ("why", "/tasks/ORC-1/why"),
        ("receipt", "/tasks/ORC-2/receipt"),
        ("log", "/tasks/ORC-2/log?offset=4"),
        ("logs", "/tasks/ORC-2/logs"),
        ("actors", "/actors"),
        ("leases", "/leases"),
        ("jobs", "/jobs"),
        ("repos", "/repos"),
        ("gc", "/gc"),
        ("coverages", "/coverage"),
        ("coverage", "/coverage/shop"),
        ("coverage_history", "/coverage/shop/history?before=2&limit=5"),
        ("salvages", "/salvages?repo=shop"),
        ("proofs", "/proofs?repo=shop"),
        ("proof_verified", "/tasks/ORC-3/proof?verify=1"),
        ("salvage", "/salvages/shop/orc-2%2F1%2Ft002r1"),
    ];
    for (name, path) in paths {
        let reply = with_token("GET", path).reply(&app).await;
        assert_eq!(reply.status(), 200, "{path}");
        insta::assert_json_snapshot!(name, value(&reply));
    }
    let metrics = with_token("GET", "/metrics").reply(&app).await;
    insta::assert_snapshot!("metrics", String::from_utf8_lossy(metrics.body()));
}

#[tokio::test]
async fn commands_reach_the_desk_with_their_caller() {
    let control = FakeControl::with_tasks();
    let app = app(control.clone());
    let add = with_token("POST", "/tasks").header("x-orch-by", "cli:me").json(&serde_json::json!({"title": "New"}));
    let reply = add.reply(&app).await;
    assert_eq!((reply.status().as_u16(), reply.headers()["location"].as_bytes()), (201, &b"/tasks/ORC-5"[..]));
    insta::assert_json_snapshot!("submitted", value(&reply));
    let stop = with_token("POST", "/tasks/ORC-2/stop").header("x-orch-by", "cli:me").reply(&app).await;
    assert_eq!((stop.status().as_u16(), stop.headers()["location"].as_bytes()), (202, &b"/tasks/ORC-2/receipt"[..]));
    insta::assert_json_snapshot!("stopped", value(&stop));
    assert_eq!(with_token("POST", "/tasks/ORC-3/retry").reply(&app).await.status(), 200);
    let all = with_token("POST", "/repos/shop/stop").reply(&app).await;
    assert_eq!((all.status().as_u16(), value(&all)["stopped"].as_array().map(Vec::len)), (202, Some(4)));
    refused(&with_token("POST", "/repos/other/stop").reply(&app).await, 404, "not_found");
    assert_eq!(with_token("POST", "/handover").reply(&app).await.status(), 202);
    let restore = with_token("POST", "/salvages/shop/orc-2%2F1%2Ft002r1/restore");
    assert_eq!(restore.json(&serde_json::json!({"into": "/tmp/x"})).reply(&app).await.status(), 201);
    refused(&with_token("GET", "/salvages/shop/none").reply(&app).await, 404, "not_found");
    let approve = with_token("POST", "/tasks/ORC-1%2F1/approve").json(&serde_json::json!({"what": "land"}));
    assert_eq!(approve.reply(&app).await.status(), 200);
    let dir = tempfile::tempdir().expect("temporary folder");
    let to = serde_json::json!({"to": dir.path().join("b.sqlite")});
    assert_eq!(with_token("POST", "/backup").json(&to).reply(&app).await.status(), 201);
    let pause = serde_json::json!({"why": "main is red"});
    assert_eq!(with_token("POST", "/repos/shop/pause").json(&pause).reply(&app).await.status(), 200);
    let drain = serde_json::json!({"why": "release", "drain": true});
    assert_eq!(with_token("POST", "/repos/shop/pause").json(&drain).reply(&app).await.status(), 200);
    assert_eq!(with_token("POST", "/repos/shop/resume").reply(&app).await.status(), 200);
    let by_hand = serde_json::json!({"repo": "shop", "covered": 8, "total": 10, "reason": "the old parser is gone"});
    let set = with_token("POST", "/coverage/baseline").header("x-orch-by", "cli:me").json(&by_hand).reply(&app).await;
    assert_eq!((set.status().as_u16(), value(&set)["repo"].as_str()), (200, Some("shop")));
    let last = serde_json::json!({"repo": "shop", "last": true, "reason": "what landed counts"});
    assert_eq!(with_token("POST", "/coverage/baseline").json(&last).reply(&app).await.status(), 200);
    let expected = [
        "submit `New` by cli:me",
        "stop ORC-2 by cli:me from cli",
        "retry ORC-3 by http",
        "stop all of shop by http from http",
        "stop ORC-1 by http from http",
        "stop ORC-2 by http from http",
        "stop ORC-3 by http from http",
        "stop ORC-5 by http from http",
        "hand over by http",
        "restore orc-2/1/t002r1 of shop into x",
        "approve land of ORC-1/1 at what waits by http",
        "backup b.sqlite",
        "lane of shop paused: `main is red` by http",
        "lane of shop draining: `release` by http",
        "lane of shop running: `` by http",
        "baseline of shop to 8 of 10: `the old parser is gone` by cli:me",
        "baseline of shop to last: true: `what landed counts` by http",
    ];
    assert_eq!(control.asked(), expected);
}

#[tokio::test]
async fn without_the_token_nothing_is_told_not_even_which_paths_exist() {
    let control = FakeControl::with_tasks();
    let app = app(control.clone());
    let closed = [
        ("GET", "/version"),
        ("GET", "/queue"),
        ("GET", "/tasks"),
        ("GET", "/tasks/ORC-1"),
        ("GET", "/tasks/ORC-1/log"),
        ("GET", "/events"),
        ("GET", "/metrics"),
        ("POST", "/tasks"),
        ("POST", "/tasks/ORC-1/stop"),
        ("POST", "/tasks/ORC-1/approve"),
        ("POST", "/backup"),
        ("POST", "/repos/shop/pause"),
        ("POST", "/repos/shop/resume"),
        ("POST", "/handover"),
        ("POST", "/repos/shop/stop"),
        ("GET", "/salvages"),
        ("GET", "/gc"),
        ("POST", "/gc"),
        ("GET", "/coverage"),
        ("GET", "/coverage/shop"),
        ("GET", "/coverage/shop/history"),
        ("POST", "/coverage/baseline"),
        ("POST", "/salvages/shop/x/restore"),
        ("GET", "/no/such/path"),
        ("DELETE", "/tasks"),
    ];
    for (method, path) in closed {
        let without = ask(method, path).reply(&app).await;
        refused(&without, 401, "unauthorized");
        assert_eq!(without.headers()["www-authenticate"], "Bearer");
        for wrong in ["Bearer wrong", "Bearer ", "Basic c2VzYW1l", "sesame-sesame-sesame", "Bearer sesame-sesame-sesam"]
        {
            let reply = ask(method, path).header("authorization", wrong).reply(&app).await;
            let said = refused(&reply, 401, "unauthorized");
            assert!(!said.contains("sesame"), "{said}");
        }
    }
    for open in ["/healthz", "/readyz"] {
        for method in ["GET", "HEAD"] {
            assert_eq!(ask(method, open).reply(&app).await.status(), 200, "{method} {open}");
        }
        let other = ask("POST", open).reply(&app).await;
        refused(&other, 405, "method_not_allowed");
        assert_eq!(other.headers()["allow"], "GET, HEAD");
    }
    assert!(control.asked().is_empty(), "{:?}", control.asked());
}

#[tokio::test]
async fn other_hosts_are_not_answered_to() {
    let app = app(FakeControl::with_tasks());
    let status = async |host: &str, path: &str| {
        let request = warp::test::request().path(path).header("host", host);
        let reply = request.header("authorization", format!("Bearer {TOKEN}")).reply(&app).await;
        reply.status().as_u16()
    };
    for good in
        ["localhost", "localhost:9", "127.0.0.1:7717", "127.0.0.9", "[::1]:7717", "Board.Example", "board.example:80"]
    {
        assert_eq!(status(good, "/queue").await, 200, "{good}");
    }
    for bad in ["evil.example", "evil.example:7717", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example", ""]
    {
        for path in ["/queue", "/", "/board.css", "/tasks/ORC-1/stop"] {
            assert_eq!(status(bad, path).await, 421, "{bad} {path}");
        }
    }
    assert_eq!(status("10.0.0.1:8080", "/healthz").await, 200, "probes come by address");
    let none = warp::test::request().path("/queue").header("authorization", format!("Bearer {TOKEN}"));
    refused(&none.reply(&app).await, 400, "invalid");
}

async fn cookie(app: &BoxedFilter<(Response,)>) -> String {
    let form = ask("POST", "/login").header("content-type", "application/x-www-form-urlencoded");
    let reply = form.body(format!("token={TOKEN}")).reply(app).await;
    assert_eq!((reply.status().as_u16(), reply.headers()["location"].as_bytes()), (303, &b"/"[..]));
    let set = reply.headers()["set-cookie"].to_str().expect("text").to_owned();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict") && !set.contains(TOKEN), "{set}");
    set.split(';').next().expect("a pair").to_owned()
}

#[tokio::test]
async fn the_boards_cookie_opens_reads_and_commands_of_its_own_pages_only() {
    let control = FakeControl::with_tasks();
    let app = app(control.clone());
    let cookie = cookie(&app).await;
    assert_eq!(ask("GET", "/queue").header("cookie", &cookie).reply(&app).await.status(), 200);
    let two = format!("other=1; {cookie}");
    assert_eq!(ask("GET", "/queue").header("cookie", two).reply(&app).await.status(), 200);
    refused(&ask("GET", "/queue").header("cookie", "orch_board=").reply(&app).await, 401, "unauthorized");
    let stop = || ask("POST", "/tasks/ORC-2/stop").header("cookie", &cookie);
    refused(&stop().reply(&app).await, 403, "cross_origin");
    for origin in ["https://evil.example", "null", "http://localhost", "http://localhost:7717.evil.example", ""] {
        refused(&stop().header("origin", origin).reply(&app).await, 403, "cross_origin");
    }
    assert!(control.asked().is_empty(), "{:?}", control.asked());
    let own = stop().header("origin", "http://localhost:7717").reply(&app).await;
    assert_eq!(own.status(), 303, "a form goes back to the board");
    assert_eq!(control.asked(), ["stop ORC-2 by board from http"]);
    let out = ask("POST", "/logout").header("cookie", &cookie).header("origin", "http://localhost:7717");
    assert!(out.reply(&app).await.headers()["set-cookie"].to_str().expect("text").contains("Max-Age=0"));
}

#[tokio::test]
async fn the_board_shows_nothing_before_the_login_and_escapes_everything_after() {
    let app = app(FakeControl::with_tasks());
    let page = ask("GET", "/").reply(&app).await;
    let text = String::from_utf8_lossy(page.body()).into_owned();
    assert!(text.contains("<form method=\"post\" action=\"/login\">") && !text.contains("ORC-"), "{text}");
    let wrong = ask("POST", "/login").header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(wrong.body("token=wrong").reply(&app).await.status(), 401);
    let elsewhere = ask("POST", "/login").header("origin", "https://evil.example");
    refused(&elsewhere.body(format!("token={TOKEN}")).reply(&app).await, 403, "cross_origin");

    let page = ask("GET", "/").header("cookie", cookie(&app).await).reply(&app).await;
    let text = String::from_utf8_lossy(page.body()).into_owned();
    assert!(text.contains("Add a &lt;b&gt;button&lt;/b&gt; [31m") && !text.contains("<b>button"), "{text}");
    assert!(text.contains("action=\"/tasks/ORC-3/retry\"") && !text.contains("action=\"/tasks/ORC-4/stop\""), "{text}");
    let policy = page.headers()["content-security-policy"].to_str().expect("text");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(!text.contains("style=") && !text.contains("onclick"), "the policy would forbid it");
    for (path, kind) in [("/board.css", "text/css; charset=utf-8"), ("/board.js", "text/javascript; charset=utf-8")] {
        assert_eq!(ask("GET", path).reply(&app).await.headers()["content-type"], kind);
    }
}

#[tokio::test]
async fn an_approval_is_given_on_the_board_for_the_commit_that_is_shown() {
    let control = FakeControl::with_tasks();
    let sha = "e".repeat(40);
    {
        let mut desk = control.desk.lock().expect("sound");
        let on = WaitFor::Approval { what: ApprovalOf::Land, sha: sha.parse().expect("hex") };
        desk.tasks[0].state = State::Waiting { on, then: Step::Land, since: Timestamp(0) };
    }
    let app = app(control.clone());
    let cookie = cookie(&app).await;
    let shown = ask("GET", "/").header("cookie", &cookie).reply(&app).await;
    let text = String::from_utf8_lossy(shown.body()).into_owned();
    let form = format!(
        "<form method=\"post\" action=\"/tasks/ORC-1/approve\"><input type=\"hidden\" name=\"what\" value=\"land\">\
         <input type=\"hidden\" name=\"sha\" value=\"{sha}\"><button aria-label=\"Approve to land eeeeeeeeee ORC-1\">"
    );
    assert!(text.contains(&form) && text.contains("you can: <code>orch task approve ORC-1 land"), "{text}");
    assert_eq!(text.matches("/approve\"").count(), 1, "nobody else waits for one: {text}");

    let send = |body: String| {
        let form = ask("POST", "/tasks/ORC-1/approve").header("content-type", "application/x-www-form-urlencoded");
        form.header("cookie", &cookie).header("origin", "http://localhost:7717").body(body)
    };
    assert_eq!(send(format!("what=land&sha={sha}")).reply(&app).await.status(), 303);
    assert_eq!(control.asked(), [format!("approve land of ORC-1 at {sha} by board")]);
    for wrong in ["what=lunch", "what=land&sha=short"] {
        refused(&send(wrong.to_owned()).reply(&app).await, 400, "invalid");
    }
}

#[tokio::test]
async fn the_page_of_a_task_tells_what_it_waits_for_and_escapes_everything() {
    let app = app(FakeControl::with_tasks());
    let without = ask("GET", "/board/ORC-3").reply(&app).await;
    let text = String::from_utf8_lossy(without.body()).into_owned();
    assert!(text.contains("action=\"/login\"") && !text.contains("ORC-3"), "{text}");
    let cookie = cookie(&app).await;
    let get = async |path: &str| {
        let reply = ask("GET", path).header("cookie", &cookie).reply(&app).await;
        (reply.status().as_u16(), String::from_utf8_lossy(reply.body()).into_owned())
    };
    let (status, text) = get("/board/ORC-3").await;
    assert_eq!(status, 200);
    for told in [
        "<dd><code>orch task retry ORC-3",
        "<pre>test_a failed\nat line 3</pre>",
        "<pre>one\ntwo</pre>",
        "/tasks/ORC-3/retry",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert!(get("/board/ORC-1").await.1.contains("<h2>Add a &lt;b&gt;button&lt;/b&gt; [31m</h2>"));
    let agents = get("/board/ORC-3?run=1").await.1;
    assert!(agents.contains("<pre>the agent&#39;s</pre>") && agents.contains("?run=2\">2 (gate of it)"), "{agents}");
    let (_, further) = get("/board/ORC-3?log=4").await;
    assert!(further.contains("<pre>two</pre>") && text.contains("href=\"/board/ORC-3?log=8\""), "{further}");
    assert_eq!(get("/board/ORC-99").await.0, 404);
    assert_eq!(get("/board/ORC-3?wombat=1").await.0, 400);
}

#[tokio::test]
async fn bad_input_is_refused_in_the_one_shape() {
    let control = FakeControl::with_tasks();
    let app = app(control.clone());
    let json =
        |body: &str| with_token("POST", "/tasks").header("content-type", "application/json; charset=utf-8").body(body);
    let broken = [
        ("{\n  \"title\": \"x\",\n}", "(line 3, column 1)"),
        ("", "no valid JSON (line 1, column 0)"),
        (" [\"t\",\"\",\"shop\",null,null,\"fast\",0,[],null]", "a list; send an object"),
        ("{\"title\": 3}", "does not fit (line 1, column 11): invalid type"),
        ("{\"titel\": \"x\"}", "unknown field `titel`, expected one of `title`"),
        ("{\"title\": \"  \"}", "the title is empty"),
        ("{\"title\": \"x\", \"key\": \"../x\"}", "task key `../x` is refused"),
        ("\u{fffd}", "no valid JSON"),
    ];
    for (body, expected) in broken {
        let said = refused(&json(body).reply(&app).await, 400, "invalid");
        assert!(said.contains(expected), "{body}: {said}");
    }
    let form = with_token("POST", "/tasks").header("content-type", "text/plain").body("{\"title\":\"x\"}");
    refused(&form.reply(&app).await, 415, "unsupported_media_type");
    refused(&with_token("POST", "/tasks").body("{}").reply(&app).await, 415, "unsupported_media_type");
    refused(&json(&"x".repeat(reply::BODY_LIMIT + 1)).reply(&app).await, 413, "body_too_large");

    let gets = [
        ("/tasks?limit=many", 400, "invalid", "`limit`: `many` is no whole number"),
        ("/tasks?limt=3", 400, "invalid", "no query parameter `limt`"),
        ("/tasks?closed=maybe", 400, "invalid", "neither true nor false"),
        ("/tasks?repo=../x", 400, "invalid", "repository name `../x` is refused"),
        ("/tasks?limit=1&limit=2", 400, "invalid", "given twice"),
        ("/tasks/..%2Fx", 400, "invalid", "refused"),
        ("/tasks/%zz", 400, "invalid", "percent-encoding"),
        ("/tasks/%ff", 400, "invalid", "percent-encoding"),
        ("/tasks/a%00b", 400, "invalid", "control character"),
        ("/tasks/ORC-1%2Fx", 400, "invalid", "no generation"),
        ("/tasks/ORC-99", 404, "not_found", "there is no task `ORC-99`"),
        ("/tasks/ORC-1%2F2", 404, "not_found", "`ORC-1/2`"),
        ("/events?after=x", 400, "invalid", "no whole number"),
        ("/coverage/other", 404, "not_found", "known: shop"),
        ("/coverage/..%2Fx", 400, "invalid", "refused"),
        ("/coverage/other/history", 404, "not_found", "known: shop"),
        ("/coverage/shop/history?before=x", 400, "invalid", "`before`: `x` is no whole number"),
        ("/coverage/shop/history?limit=-1", 400, "invalid", "no whole number"),
        ("/coverage/shop/history?limit=0", 400, "invalid", "0 lines are none"),
        ("/coverage/shop/history?after=1", 400, "invalid", "no query parameter `after`"),
        ("/events?task=ORC-99", 404, "not_found", "ORC-99"),
        ("/nowhere", 404, "not_found", "no such path"),
        ("/tasks/ORC-1/nowhere", 404, "not_found", "no such path"),
    ];
    for (path, status, code, expected) in gets {
        let said = refused(&with_token("GET", path).reply(&app).await, status, code);
        assert!(said.contains(expected), "{path}: {said}");
    }
    let baselines = [
        (r#"{"repo": "shop", "covered": 8, "total": 10}"#, 400, "invalid", "missing field `reason`"),
        (r#"{"covered": 8, "total": 10, "reason": "x"}"#, 400, "invalid", "missing field `repo`"),
        (r#"{"repo": "../x", "last": true, "reason": "x"}"#, 400, "invalid", "`../x` is refused"),
        (r#"{"repo": "shop", "covered": -8, "total": 10, "reason": "x"}"#, 400, "invalid", "invalid value"),
        (r#"{"repo": "shop", "covered": 8.5, "total": 10, "reason": "x"}"#, 400, "invalid", "invalid type"),
        (r#"{"repo": "shop", "percent": 80, "reason": "x"}"#, 400, "invalid", "unknown field `percent`"),
        (r#"{"repo": "shop", "last": true, "sha": "main", "reason": "x"}"#, 400, "invalid", "main"),
        (r#"{"repo": "other", "last": true, "reason": "x"}"#, 404, "not_found", "known: shop"),
    ];
    for (body, status, code, expected) in baselines {
        let post = with_token("POST", "/coverage/baseline").header("content-type", "application/json").body(body);
        let said = refused(&post.reply(&app).await, status, code);
        assert!(said.contains(expected), "{body}: {said}");
    }
    for (method, path, allow) in [
        ("POST", "/coverage", "GET"),
        ("PUT", "/coverage/shop", "GET"),
        ("DELETE", "/tasks", "GET, POST"),
        ("POST", "/queue", "GET"),
        ("GET", "/tasks/ORC-1/stop", "POST"),
        ("PUT", "/tasks/ORC-1", "GET"),
    ] {
        let reply = with_token(method, path).reply(&app).await;
        refused(&reply, 405, "method_not_allowed");
        assert_eq!(reply.headers()["allow"], allow, "{method} {path}");
    }
    assert!(control.asked().is_empty(), "{:?}", control.asked());
}

#[tokio::test]
async fn refusals_of_the_desk_have_their_status_and_inner_causes_stay_inside() {
    let control = FakeControl::with_tasks();
    let app = app(control.clone());
    refused(&with_token("POST", "/tasks/ORC-1/retry").reply(&app).await, 409, "conflict");
    control.desk.lock().expect("sound").intake_closed = true;
    let reply = with_token("POST", "/tasks").json(&serde_json::json!({"title": "x"})).reply(&app).await;
    refused(&reply, 503, "unavailable");
    assert_eq!(ask("GET", "/readyz").reply(&app).await.status(), 503);
    assert_eq!(ask("GET", "/healthz").reply(&app).await.status(), 200, "alive while it drains");
    control.desk.lock().expect("sound").broken = true;
    let said = refused(&with_token("GET", "/tasks/ORC-1").reply(&app).await, 500, "internal");
    assert!(!said.contains("secret"), "{said}");
}

#[tokio::test]
async fn every_answer_forbids_sniffing_framing_and_storing() {
    let app = app(FakeControl::with_tasks());
    for path in ["/", "/healthz", "/queue", "/nowhere", "/board.js"] {
        let reply = ask("GET", path).reply(&app).await;
        let header = |name: &str| reply.headers().get(name).map(|v| v.to_str().expect("text").to_owned());
        assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"), "{path}");
        assert_eq!(header("cache-control").as_deref(), Some("no-store"), "{path}");
        assert_eq!(header("x-frame-options").as_deref(), Some("DENY"), "{path}");
    }
}

#[tokio::test]
async fn the_document_lists_the_paths_that_there_are() {
    let app = app(FakeControl::with_tasks());
    let document = include_str!("../../docs/http.md");
    let rows = document.lines().filter_map(|l| l.strip_prefix("| `"));
    let routes: Vec<(&str, &str)> = rows.filter_map(|l| l.split('`').next()?.split_once(' ')).collect();
    assert!(routes.len() > 20, "{routes:?}");
    for (method, path) in routes {
        let path = path.split('?').next().expect("a path").replace("{key}", "ORC-1");
        let reply = with_token(method, &path).reply(&app).await;
        assert!(!matches!(reply.status().as_u16(), 404 | 405), "{method} {path}: {}", reply.status());
    }
    for wanted in
        ["/healthz", "/readyz", "/version", "/queue", "/tasks/{key}/journal", "/events", "/metrics", "/backup"]
    {
        assert!(document.contains(wanted), "{wanted} is not in docs/http.md");
    }
}

// -------------------------------------------------------------------------------------------------- on a real socket

struct Served {
    url: String,
    http: reqwest::Client,
    close: tokio::sync::oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

async fn served(control: Arc<FakeControl>) -> Served {
    let settings = HttpSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)), Vec::new(), token());
    let (close, closed) = tokio::sync::oneshot::channel::<()>();
    let (addr, serving) = serve(control, settings, async move { drop(closed.await) }).await.expect("a free port");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
    Served { url: format!("http://{addr}"), http, close, serving: tokio::spawn(serving) }
}

impl Served {
    async fn events(&self, query: &str, last: Option<&str>) -> impl futures::Stream<Item = String> + Unpin + use<> {
        let mut request = self.http.get(format!("{}/events{query}", self.url)).bearer_auth(TOKEN);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.expect("answered");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let parts = response.bytes_stream().map(|part| part.map(|p| String::from_utf8_lossy(&p).into_owned()));
        Box::pin(parts.take_while(|p| std::future::ready(p.is_ok())).map(|p| p.expect("taken while ok")))
    }
}

/// Reads until a text was seen, at most ten seconds.
async fn until(stream: &mut (impl futures::Stream<Item = String> + Unpin), wanted: &str) -> String {
    let mut seen = String::new();
    let read = async {
        while !seen.contains(wanted) {
            match stream.next().await {
                Some(part) => seen.push_str(&part),
                None => panic!("the stream ended before `{wanted}`: {seen}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("in time");
    seen
}

#[tokio::test]
async fn the_event_stream_resumes_where_it_was_left() {
    let control = FakeControl::with_tasks();
    let served = served(control.clone()).await;
    let mut all = served.events("?after=0", None).await;
    let seen = until(&mut all, "id:3").await;
    assert!(
        seen.contains("id:1") && seen.contains("event:record") && seen.contains("\"text\":\"agent started\""),
        "{seen}"
    );
    drop(all);
    control.push("ORC-1", 10, "while away");
    let mut resumed = served.events("?after=0", Some("3")).await;
    let seen = until(&mut resumed, "id:4").await;
    assert!(!seen.contains("id:3") && seen.contains("while away"), "{seen}");
    control.push("ORC-1", 11, "while there");
    assert!(until(&mut resumed, "id:5").await.contains("while there"));

    let mut live = served.events("", None).await;
    let mut one = served.events("?task=ORC-2&after=0", None).await;
    control.push("ORC-1", 12, "of another");
    control.push("ORC-2", 13, "of this one");
    let seen = until(&mut live, "id:7").await;
    assert!(seen.contains("id:6") && !seen.contains("id:5"), "without a position it begins now: {seen}");
    let seen = until(&mut one, "id:7").await;
    assert!(seen.contains("id:2") && !seen.contains("id:1\n") && !seen.contains("of another"), "{seen}");
}

#[tokio::test]
async fn closing_ends_event_streams_and_frees_the_port() {
    let control = FakeControl::with_tasks();
    let served = served(control.clone()).await;
    let mut stream = served.events("?after=0", None).await;
    until(&mut stream, "id:3").await;
    served.close.send(()).expect("still serving");
    tokio::time::timeout(Duration::from_secs(10), served.serving).await.expect("in time").expect("no panic");
    while stream.next().await.is_some() {}
    let addr: SocketAddr = served.url["http://".len()..].parse().expect("an address");
    TcpListener::bind(addr).await.expect("free again");
}

#[tokio::test]
async fn a_port_in_use_is_one_line_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = taken.local_addr().expect("bound");
    let settings = HttpSettings::new(addr, Vec::new(), token());
    let refused = serve(FakeControl::with_tasks(), settings, std::future::pending()).await.err().expect("refused");
    let text = refused.to_string();
    assert!(text.contains(&addr.to_string()) && text.contains("ORCH_HTTP_ADDR") && text.lines().count() == 1, "{text}");
}

#[tokio::test]
async fn an_oversized_body_gets_its_answer_over_a_real_connection() {
    let control = FakeControl::with_tasks();
    let served = served(control.clone()).await;
    let request = served.http.post(format!("{}/tasks", served.url)).bearer_auth(TOKEN);
    let reply = request.header("content-type", "application/json").body("x".repeat(2 << 20)).send().await;
    let reply = reply.expect("answered");
    assert_eq!(reply.status(), 413);
    let body: Value = serde_json::from_str(&reply.text().await.expect("text")).expect("JSON");
    assert_eq!(body["error"]["code"], "body_too_large");
    assert!(control.asked().is_empty());
}
