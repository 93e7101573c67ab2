//! The board, as a person meets it: a real browser logs in, sees a task live, and stops it.

use std::time::Duration;

use orch::http::{self, HttpSettings, Token};
use orch_domain::task::Status;
use orch_test_support::browser::Browser;

use crate::world::Setup;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const STEADY: &str = "attempts:\n- - say: {text: Working}\n  - delay: {ms: 600000}\n";
/// Longest wait for the page to show something.
const PAGE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_sees_the_task_and_stops_it() {
    let world = Setup::default().agent("steady", STEADY).open().await;
    let task = world.submit("Never <i>ends</i>").await;
    world.expect_status(&task, Status::Running).await;
    let token = Token::given(TOKEN, "a test").expect("a token");
    let settings = HttpSettings::new(([127, 0, 0, 1], 0).into(), Vec::new(), token);
    let (close, closed) = tokio::sync::oneshot::channel::<()>();
    let (addr, serving) =
        http::serve(world.control(), settings, async move { drop(closed.await) }).await.expect("served");
    let serving = tokio::spawn(serving);

    let seen = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start().expect("a browser");
        browser.open(&format!("http://{addr}/")).expect("the login page");
        let fill = format!("document.getElementById('token').value = '{TOKEN}'; document.forms[0].submit(); true");
        browser.evaluate(&fill).expect("the form is sent");
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
