//! An OSV service on loopback, for tests: it knows the advisories that it is given, and can be in any mood.
//!
//! Owns the three addresses that are asked (`/v1/query`, `/v1/querybatch`, `/v1/vulns/ID`) and the list of what was asked.
//! Matches versions by the advisory's own list of them, nothing else. Refuses to be a model of the real service: moods are
//! the ways in which a service is away or talks nonsense. Ends with its value; a hanging answer ends with it too.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

/// How the service answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    #[default]
    Good,
    /// With this status and an empty document.
    Status(u16),
    /// As it should, after this many answers with status 500.
    Recovering(u32),
    /// With a page for people.
    Html,
    /// With JSON of another shape.
    Garbage,
    /// Never.
    Hanging,
    /// Byte after byte, with a pause between them, so that it takes for ever.
    Dripping,
    /// With half of what it says it sends.
    Cut,
    /// With 64 MiB.
    Huge,
    /// With one answer too few.
    Short,
    /// In pages of one advisory each.
    Paging,
    /// In pages without end.
    Endless,
    /// Batches as it should, but no single advisory.
    WithoutDetails,
}

/// The service; it ends when this is dropped.
pub struct OsvStub {
    shared: Arc<Shared>,
    address: String,
    server: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    mood: Mood,
    advisories: BTreeMap<String, Value>,
    asked: Vec<Asked>,
    ended: bool,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Its path.
    pub path: String,
    /// Its body, if it is JSON.
    pub body: Value,
}

/// An advisory against versions of a package; the first of the ids is its own.
#[must_use]
pub fn advisory(ids: &[&str], ecosystem: &str, name: &str, versions: &[&str], fixed: &str) -> Value {
    json!({
        "schema_version": "1.6.0",
        "id": ids[0],
        "aliases": &ids[1..],
        "modified": "2026-01-01T00:00:00Z",
        "published": "2026-01-01T00:00:00Z",
        "summary": format!("{name} has a hole"),
        "affected": [{
            "package": {"ecosystem": ecosystem, "name": name},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": fixed}]}],
            "versions": versions,
        }],
    })
}

impl OsvStub {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When loopback has no port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = format!("http://{}", listener.local_addr().expect("it listens"));
        let shared = Arc::new(Shared { state: Mutex::default(), ended: Condvar::new() });
        let serving = Arc::clone(&shared);
        let server = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.lock().ended {
                    return;
                }
                let shared = Arc::clone(&serving);
                // A client that goes away is no trouble of ours.
                std::thread::spawn(move || drop(shared.answer(stream)));
            }
        });
        Self { shared, address, server: Some(server) }
    }

    /// Where it is, as an endpoint in the settings.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.address
    }

    /// Makes it know an advisory.
    ///
    /// # Panics
    /// When the advisory has no id.
    pub fn publish(&self, advisory: Value) {
        let id = advisory["id"].as_str().expect("an advisory has an id").to_owned();
        self.shared.lock().advisories.insert(id, advisory);
    }

    /// Changes its mood.
    pub fn set_mood(&self, mood: Mood) {
        self.shared.lock().mood = mood;
    }

    /// What it was asked since the last time, in the order of arrival.
    #[must_use]
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.lock().asked)
    }
}

impl Drop for OsvStub {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.ended.notify_all();
        // The listener wakes up for a caller only.
        let _woken = TcpStream::connect(self.address.trim_start_matches("http://"));
        if let Some(server) = self.server.take() {
            let _ended = server.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end, at most so long; whether it has come.
    fn ends_within(&self, time: Duration) -> bool {
        let waited = self.ended.wait_timeout_while(self.lock(), time, |state| !state.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let Some(asked) = read_request(&stream)? else { return Ok(()) };
        let (mood, document) = {
            let mut state = self.lock();
            state.asked.push(asked.clone());
            let mood = state.mood;
            if let Mood::Recovering(left) = mood {
                state.mood = if left <= 1 { Mood::Good } else { Mood::Recovering(left - 1) };
            }
            (mood, state.document(&asked))
        };
        let is_single = asked.path.starts_with("/v1/vulns/");
        let (status, body) = match mood {
            Mood::Status(status) => (status, "{}".to_owned()),
            Mood::Recovering(_) => (500, "{}".to_owned()),
            Mood::WithoutDetails if is_single => (500, "{}".to_owned()),
            Mood::Html => (200, "<!doctype html><title>Log in</title>".to_owned()),
            Mood::Garbage => (200, "{\"results\": 7, \"vulns\": {\"id\": []}}".to_owned()),
            _ => document.map_or((404, "{\"code\": 5}".to_owned()), |document| (200, document.to_string())),
        };
        let length = if mood == Mood::Huge { 64 << 20 } else { body.len() };
        let head = format!(
            "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        match mood {
            Mood::Hanging => while !self.ends_within(Duration::from_secs(60)) {},
            Mood::Dripping => {
                stream.write_all(head.as_bytes())?;
                for byte in body.as_bytes().iter().take(body.len().saturating_sub(1)).cycle() {
                    stream.write_all(&[*byte])?;
                    if self.ends_within(Duration::from_millis(40)) {
                        break;
                    }
                }
            }
            Mood::Cut => {
                stream.write_all(head.as_bytes())?;
                stream.write_all(&body.as_bytes()[..body.len() / 2])?;
            }
            Mood::Huge => {
                stream.write_all(head.as_bytes())?;
                let chunk = vec![b' '; 1 << 20];
                for _ in 0..64 {
                    stream.write_all(&chunk)?;
                }
            }
            _ => {
                stream.write_all(head.as_bytes())?;
                stream.write_all(body.as_bytes())?;
            }
        }
        stream.flush()
    }
}

impl State {
    /// What the service says to a request; `None` when it knows no such thing.
    fn document(&self, asked: &Asked) -> Option<Value> {
        if let Some(id) = asked.path.strip_prefix("/v1/vulns/") {
            return self.advisories.get(id).cloned();
        }
        match asked.path.as_str() {
            "/v1/query" => match self.matching(&asked.body) {
                found if found.is_empty() => Some(json!({})),
                found => Some(json!({"vulns": found})),
            },
            "/v1/querybatch" => {
                let queries = asked.body["queries"].as_array()?;
                let mut results: Vec<Value> = queries.iter().map(|query| self.mentions(query)).collect();
                if self.mood == Mood::Short {
                    results.pop();
                }
                Some(json!({"results": results}))
            }
            _ => None,
        }
    }

    fn mentions(&self, query: &Value) -> Value {
        let mention = |entry: &&Value| json!({"id": entry["id"], "modified": entry["modified"]});
        let found: Vec<Value> = self.matching(query).iter().map(mention).collect();
        let page: usize = query["page_token"].as_str().and_then(|token| token.parse().ok()).unwrap_or(0);
        match self.mood {
            Mood::Endless => json!({"vulns": found, "next_page_token": (page + 1).to_string()}),
            Mood::Paging if page + 1 < found.len() => {
                json!({"vulns": [found[page]], "next_page_token": (page + 1).to_string()})
            }
            Mood::Paging if page < found.len() => json!({"vulns": [found[page]]}),
            // The service leaves the list out when it is empty.
            _ if found.is_empty() => json!({}),
            _ => json!({"vulns": found}),
        }
    }

    fn matching(&self, query: &Value) -> Vec<&Value> {
        let concerns = |entry: &&Value| {
            let mut affected = entry["affected"].as_array().into_iter().flatten();
            affected.any(|affected| {
                let listed = affected["versions"].as_array().is_some_and(|all| all.contains(&query["version"]));
                affected["package"]["name"] == query["package"]["name"]
                    && affected["package"]["ecosystem"] == query["package"]["ecosystem"]
                    && listed
            })
        };
        self.advisories.values().filter(concerns).collect()
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Option<Asked>> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let Some(path) = line.split_whitespace().nth(1).map(str::to_owned) else { return Ok(None) };
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Asked { path, body: serde_json::from_slice(&body).unwrap_or_default() }))
}
