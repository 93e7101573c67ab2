//! Drives the pinned headless Chromium over its DevTools pipe: open a page, ask it something, wait for it, take its picture.
//!
//! Owns: the browser's process, its throw-away profile. Refuses: to wait without a bound, and to guess: a script error in the
//! page is an error here. Invariant: the browser is gone when the [`Browser`] is dropped.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::tools;

/// How long any single answer of the browser may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a page could not be driven.
#[derive(Debug, thiserror::Error)]
pub enum BrowserError {
    /// The process could not be started or spoken to.
    #[error("browser: cannot {what}: {source}")]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// No answer in time, or the browser ended.
    #[error("browser: no answer to {method} within {} s; its last words:\n{log}", ANSWER.as_secs())]
    Silent {
        /// The protocol method that was called.
        method: String,
        /// End of the browser's log.
        log: String,
    },
    /// The browser, or the script in the page, said no.
    #[error("browser: {method} failed: {answer}")]
    Refused {
        /// The protocol method that was called.
        method: String,
        /// The error as the browser gave it.
        answer: String,
    },
    /// What was waited for did not come.
    #[error("browser: `{expression}` did not become true within {waited:?}; the page says:\n{text}")]
    NeverTrue {
        /// The JavaScript expression.
        expression: String,
        /// How long it was waited for.
        waited: Duration,
        /// The page's visible text.
        text: String,
    },
}

/// One running browser with one page.
#[derive(Debug)]
pub struct Browser {
    process: Child,
    input: ChildStdin,
    answers: Receiver<Value>,
    session: String,
    next_id: u64,
    // Declared last, so that it is removed after the process has ended.
    profile: tempfile::TempDir,
}

impl Browser {
    /// Starts the browser with an empty page of 1280 x 800 points.
    ///
    /// # Panics
    /// When Chromium cannot be installed; the message says what to do.
    pub fn start() -> Result<Self, BrowserError> {
        let launcher = tools::chromium();
        let profile =
            tempfile::tempdir().map_err(|source| BrowserError::Io { what: "make a profile folder", source })?;
        let log = File::create(profile.path().join("log"))
            .map_err(|source| BrowserError::Io { what: "make a log file", source })?;
        // The browser reads commands on descriptor 3 and answers on 4; a shell can hand both over without unsafe code.
        let mut process = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 4>&1 0</dev/null 1>&2"#, "sh"])
            .arg(launcher)
            .args(["--remote-debugging-pipe", "--window-size=1280,800"])
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .arg("about:blank")
            .env("HOME", profile.path())
            .env("XDG_CACHE_HOME", profile.path().join("cache"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|source| BrowserError::Io { what: "start", source })?;
        let input = process.stdin.take().expect("standard input was asked for as a pipe");
        let output = process.stdout.take().expect("standard output was asked for as a pipe");
        let (send, answers) = mpsc::channel();
        // Ends by itself when the browser closes its end of the pipe.
        std::thread::spawn(move || {
            for message in BufReader::new(output).split(0).map_while(Result::ok) {
                let Ok(value) = serde_json::from_slice::<Value>(&message) else { continue };
                if send.send(value).is_err() {
                    break;
                }
            }
        });
        let mut browser = Self { process, input, answers, session: String::new(), next_id: 0, profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach)?;
        browser.session = attached["sessionId"].as_str().unwrap_or_default().to_owned();
        Ok(browser)
    }

    /// The throw-away folder of this browser; gone when it is dropped.
    pub fn profile(&self) -> &Path {
        self.profile.path()
    }

    /// Opens an address and waits until the document is complete.
    pub fn open(&mut self, url: &str) -> Result<(), BrowserError> {
        let answer = self.call("Page.navigate", json!({"url": url}))?;
        if let Some(text) = answer["errorText"].as_str() {
            return Err(BrowserError::Refused { method: format!("opening {url}"), answer: text.to_owned() });
        }
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'", ANSWER)
    }

    /// The value of a JavaScript expression in the page; a promise is awaited.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value, BrowserError> {
        let ask = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", ask)?;
        if answer.get("exceptionDetails").is_some() {
            let method = format!("`{expression}`");
            return Err(BrowserError::Refused { method, answer: answer["result"]["description"].to_string() });
        }
        Ok(answer["result"]["value"].clone())
    }

    /// The page's visible text.
    pub fn text(&mut self) -> Result<String, BrowserError> {
        Ok(self.evaluate("document.body.innerText")?.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a JavaScript expression is true in the page. It is looked at again after every frame of 50 ms, by the page.
    pub fn wait_for(&mut self, expression: &str, at_most: Duration) -> Result<(), BrowserError> {
        let end = Instant::now() + at_most;
        loop {
            // A page that is being left takes the pending question with it: such an error means "look again".
            let asked = self.evaluate(&format!(
                "new Promise(r => {{ const look = n => ({expression}) ? r(true) : n ? setTimeout(look, 50, n - 1) : r(false); look(20) }})"
            ));
            match asked {
                Ok(Value::Bool(true)) => return Ok(()),
                Err(error @ (BrowserError::Io { .. } | BrowserError::Silent { .. })) => return Err(error),
                Ok(_) | Err(_) if Instant::now() < end => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    let text = self.text().unwrap_or_default();
                    return Err(BrowserError::NeverTrue { expression: expression.to_owned(), waited: at_most, text });
                }
            }
        }
    }

    /// A picture of the page as PNG bytes.
    pub fn screenshot(&mut self) -> Result<Vec<u8>, BrowserError> {
        let method = "Page.captureScreenshot";
        let answer = self.call(method, json!({"format": "png"}))?;
        let data = answer["data"].as_str().unwrap_or_default();
        base64::engine::general_purpose::STANDARD
            .decode(data)
            .map_err(|error| BrowserError::Refused { method: method.to_owned(), answer: error.to_string() })
    }

    /// Calls a method of the DevTools protocol on the page (or on the browser, before there is one).
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, BrowserError> {
        self.next_id += 1;
        let mut message = json!({"id": self.next_id, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let sent = self.input.write_all(format!("{message}\0").as_bytes()).and_then(|()| self.input.flush());
        sent.map_err(|source| BrowserError::Io { what: "send a command", source })?;
        let end = Instant::now() + ANSWER;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(answer) = self.answers.recv_timeout(left) else {
                let log = fs::read_to_string(self.profile.path().join("log")).unwrap_or_default();
                return Err(BrowserError::Silent { method: method.to_owned(), log });
            };
            // Events and answers to other questions are not ours.
            if answer["id"] != json!(self.next_id) {
                continue;
            }
            return match answer.get("error") {
                Some(error) => Err(BrowserError::Refused { method: method.to_owned(), answer: error.to_string() }),
                None => Ok(answer["result"].clone()),
            };
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.session.clear();
        let closed = self.call("Browser.close", json!({})).is_ok();
        if !closed {
            // Nothing more can be asked of it; the helper processes end when the browser does.
            let _already_gone = self.process.kill();
        }
        let _reaped = self.process.wait();
    }
}
