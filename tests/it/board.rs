//! The board, as a person meets it: a real browser logs in, sees a task live, and stops or approves it.

use std::net::SocketAddr;
use std::time::Duration;

use orch::http::{self, HttpSettings, Token};
use orch_domain::policy::LandMode;
use orch_domain::task::Status;
use orch_test_support::browser::Browser;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::world::{Setup, World};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const QUICK: &str = "attempts:\n- - run: {cmd: 'echo x > x.txt && git add -A && git commit -q -m Make'}\n";
const STEADY: &str = "attempts:\n- - say: {text: Working}\n  - delay: {ms: 600000}\n";
/// Longest wait for the page to show something.
const PAGE: Duration = Duration::from_secs(60);

/// The world's board on a port of its own: where, what closes it, and its end.
async fn served(world: &World) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let token = Token::given(TOKEN, "a test").expect("a token");
    let settings = HttpSettings::new(([127, 0, 0, 1], 0).into(), Vec::new(), token);
    let (close, closed) = oneshot::channel::<()>();
    let (addr, serving) =
        http::serve(world.control(), settings, async move { drop(closed.await) }).await.expect("served");
    (addr, close, tokio::spawn(serving))
}

/// A browser that has given the token.
fn logged_in(addr: SocketAddr) -> Browser {
    let mut browser = Browser::start().expect("a browser");
    browser.open(&format!("http://{addr}/")).expect("the login page");
    let fill = format!("document.getElementById('token').value = '{TOKEN}'; document.forms[0].submit(); true");
    browser.evaluate(&fill).expect("the form is sent");
    browser
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_reads_what_waits_and_approves_the_commit_that_is_shown() {
    let world = Setup::default().agent("quick", QUICK).repo(|r| r.land = LandMode::Approval).open().await;
    let task = world.submit("Ask <me> first").await;
    let waits = world.expect_status(&task, Status::AwaitingPerson).await;
    let (addr, close, serving) = served(&world).await;
    let key = task.key.to_string();
    let told = tokio::task::spawn_blocking(move || {
        let mut browser = logged_in(addr);
        let button = "document.querySelector('#tasks tr.awaiting-person form[action$=\"/approve\"] button')";
        browser.wait_for(&format!("!!{button}"), PAGE).expect("the button");
        // By the link of the row: the whole about this task, as a page.
        browser.evaluate("document.querySelector('#tasks tr th a').click(); true").expect("the link");
        browser.wait_for("!!document.querySelector('main#task dl')", PAGE).expect("the task's page");
        let told = browser.text().expect("text");
        browser.open(&format!("http://{addr}/")).expect("back");
        browser.wait_for(&format!("!!{button}"), PAGE).expect("the button");
        browser.evaluate(&format!("{button}.click(); true")).expect("it is pressed");
        browser.wait_for("!!document.querySelector('#tasks tr.done')", PAGE).expect("the board tells by itself");
        told
    });
    let told = told.await.expect("the browser's story");
    for words in
        ["Ask <me> first", &format!("orch task approve {key} land"), "a person's approval to land", "Approve to land"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.landed.map(|landed| landed.sha), waits.task.approval.map(|wanted| wanted.sha));
    drop(close);
    serving.await.expect("served to the end");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_sees_the_task_and_stops_it() {
    let world = Setup::default().agent("steady", STEADY).open().await;
    let task = world.submit("Never <i>ends</i>").await;
    world.expect_status(&task, Status::Running).await;
    let (addr, close, serving) = served(&world).await;

    let seen = tokio::task::spawn_blocking(move || {
        let mut browser = logged_in(addr);
        browser.wait_for("!!document.querySelector('#tasks tr.running')", PAGE).expect("the board with the task");
        let text = browser.text().expect("text");
        let press = "document.querySelector('#tasks tr.running form[action$=\"/stop\"] button').click(); true";
        browser.evaluate(press).expect("stop is pressed");
        browser.wait_for("!!document.querySelector('#tasks tr.cancelled')", PAGE).expect("the board tells by itself");
        text
    });
    let text = seen.await.expect("the browser's story");
    assert!(text.contains("Never <i>ends</i>"), "what a tracker says is text, never markup: {text}");
    world.expect_status(&task, Status::Cancelled).await;
    drop(close);
    serving.await.expect("served to the end");
    world.close().await;
}
