//! The OSV service over HTTP: asked in batches, then once for each advisory.
//!
//! Owns paging, limits and patience: every request, every body and the whole have a bound; what fails for a while is
//! tried again, what is nonsense is not. Invariants: an answer that does not fit its question is trouble, not silence;
//! when the service is away, what it said earlier still accuses, but no longer acquits. Refuses endpoints that carry
//! credentials, and redirects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt as _;
use orch_domain::deps::advisory::{Advisory, Answer, is_id};
use orch_domain::deps::package::{Ecosystem, Package};
use orch_domain::gate::ToolVersion;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cache::{Cache, Remembered};
use super::osv::Entry;
use super::{AdvisoryFeed, Answers, Asker, one_line};

/// What the service takes in one batch.
const MOST_QUERIES: usize = 1_000;
/// Most pages of one question.
const MOST_PAGES: usize = 20;
/// Most advisories that one audit reads.
const MOST_ADVISORIES: usize = 5_000;
/// Largest answer to a batch.
const MOST_BATCH_BYTES: usize = 32 << 20;
/// Largest advisory.
const MOST_ENTRY_BYTES: usize = 4 << 20;
/// Advisories that are read at a time.
const AT_A_TIME: usize = 8;

/// How long and how often the service is tried.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one request, from its beginning to the last byte of its answer.
    pub request: Duration,
    /// Tries of one request.
    pub tries: u32,
    /// Before the second try; doubled each time.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { request: Duration::from_secs(20), tries: 3, pause: Duration::from_millis(500) }
    }
}

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// It is no address of this kind.
    #[error(
        "`{0}` is no address of an OSV service; write http://... or https://... without credentials, query or fragment"
    )]
    Address(String),
    /// The HTTP client cannot be made.
    #[error("no HTTP client for {endpoint}: {why}")]
    Client {
        /// For which address.
        endpoint: String,
        /// What the system said.
        why: String,
    },
}

/// The service.
pub struct OsvApi {
    http: Client,
    endpoint: String,
    cache: Cache,
    patience: Patience,
}

/// What a batch says about one package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    id: String,
    modified: String,
}

#[derive(Deserialize)]
struct Batch {
    results: Vec<Option<Page>>,
}

#[derive(Default, Deserialize)]
struct Page {
    #[serde(default)]
    vulns: Option<Vec<Mention>>,
    #[serde(default)]
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
struct Mention {
    id: String,
    #[serde(default)]
    modified: String,
}

/// The ids for a package, and why they may not be all.
#[derive(Clone, Debug, Default)]
struct Ids {
    listed: Vec<Listed>,
    trouble: Option<String>,
}

/// Whether an endpoint can be one: its form only, nobody is asked.
///
/// # Errors
/// [`EndpointError::Address`].
pub fn check_endpoint(endpoint: &str) -> Result<(), EndpointError> {
    read_endpoint(endpoint).map(drop)
}

fn read_endpoint(endpoint: &str) -> Result<Url, EndpointError> {
    let refused = || EndpointError::Address(one_line(&without_credentials(endpoint), 200));
    let url = Url::parse(endpoint).map_err(|_| refused())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !matches!(url.scheme(), "http" | "https") || !plain || url.fragment().is_some() || url.host_str().is_none() {
        return Err(refused());
    }
    Ok(url)
}

impl OsvApi {
    /// A client for an endpoint such as `https://api.osv.dev`.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn new(endpoint: &str, cache: Cache, patience: Patience) -> Result<Self, EndpointError> {
        let url = read_endpoint(endpoint)?;
        // Somebody else's choice of a provider, made earlier in this process, is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(patience.request.min(Duration::from_secs(10)))
            .timeout(patience.request)
            .user_agent(concat!("orch/", env!("CARGO_PKG_VERSION")));
        if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            builder = builder.no_proxy();
        }
        if url.scheme() == "http" {
            // No certificates are needed, and a bare container may have none to load.
            builder = builder.tls_certs_only([]);
        }
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let http = builder
            .build()
            .map_err(|error| EndpointError::Client { endpoint: endpoint.clone(), why: error.to_string() })?;
        Ok(Self { http, endpoint, cache, patience })
    }

    /// What a package is asked under in the cache.
    fn question(&self, package: &Package) -> String {
        format!("{} query {package}", self.endpoint)
    }

    /// The ids for each package: from the cache where it is fresh, else from the service.
    async fn ids(&self, asker: &Asker, packages: &BTreeSet<Package>) -> BTreeMap<Package, Ids> {
        let (cache, now) = (self.cache.clone(), asker.now);
        let questions: Vec<(Package, String)> = packages.iter().map(|p| (p.clone(), self.question(p))).collect();
        let look = move || {
            cache.clear();
            let found = questions.into_iter().map(|(package, question)| (package, cache.get(&question, now)));
            found.collect::<Vec<(Package, Option<Remembered<Vec<Listed>>>)>>()
        };
        let remembered = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        let mut stale: BTreeMap<Package, Remembered<Vec<Listed>>> = BTreeMap::new();
        let mut ids = BTreeMap::new();
        for (package, known) in remembered {
            match known {
                Some(known) if known.fresh => {
                    ids.insert(package, Ids { listed: known.answer, trouble: None });
                }
                Some(known) => drop(stale.insert(package, known)),
                None => {}
            }
        }
        let open: Vec<Package> = packages.iter().filter(|package| !ids.contains_key(*package)).cloned().collect();
        for chunk in open.chunks(MOST_QUERIES) {
            let answers = self.batch(asker, chunk).await;
            self.remember(asker, &answers).await;
            for (package, mut answer) in answers {
                if let (Some(why), Some(known)) = (&answer.trouble, stale.remove(&package)) {
                    // It still accuses; whether more has become known since, nobody knows.
                    answer.trouble = Some(format!("{why}; what was known at {} counts", known.at));
                    answer.listed.extend(known.answer);
                }
                ids.insert(package, answer);
            }
        }
        ids
    }

    async fn remember(&self, asker: &Asker, answers: &BTreeMap<Package, Ids>) {
        let (cache, now) = (self.cache.clone(), asker.now);
        let whole = answers.iter().filter(|(_, ids)| ids.trouble.is_none());
        let entries: Vec<(String, Vec<Listed>)> =
            whole.map(|(p, ids)| (self.question(p), ids.listed.clone())).collect();
        let keep = move || entries.iter().for_each(|(question, listed)| cache.put(question, listed, now));
        let _ = tokio::task::spawn_blocking(keep).await;
    }

    /// One batch with all its pages.
    async fn batch(&self, asker: &Asker, packages: &[Package]) -> BTreeMap<Package, Ids> {
        let mut ids: BTreeMap<Package, Ids> = packages.iter().map(|p| (p.clone(), Ids::default())).collect();
        let mut open: Vec<(Package, Option<String>)> = packages.iter().map(|p| (p.clone(), None)).collect();
        for page in 0.. {
            if open.is_empty() {
                break;
            }
            let answered = match page {
                MOST_PAGES => Err(format!("it answers on more than {MOST_PAGES} pages")),
                _ => self.page(asker, &open).await,
            };
            let pages = match answered {
                Ok(pages) => pages,
                Err(why) => {
                    for (package, _) in &open {
                        ids.entry(package.clone()).or_default().trouble = Some(why.clone());
                    }
                    break;
                }
            };
            let mut further = Vec::new();
            for ((package, _), page) in open.into_iter().zip(pages) {
                let entry = ids.entry(package.clone()).or_default();
                for Mention { id, modified } in page.vulns.unwrap_or_default() {
                    if is_id(&id) {
                        entry.listed.push(Listed { id, modified });
                    } else {
                        entry.trouble = Some(format!("{} names an advisory `{}`", self.endpoint, one_line(&id, 40)));
                    }
                }
                if let Some(token) = page.next_page_token.filter(|token| !token.is_empty()) {
                    further.push((package, Some(token)));
                }
            }
            open = further;
        }
        ids
    }

    /// One request: what it says about each of the packages, in their order.
    async fn page(&self, asker: &Asker, open: &[(Package, Option<String>)]) -> Result<Vec<Page>, String> {
        let query = |(package, token): &(Package, Option<String>)| {
            let mut query = json!({
                "package": {"name": package.name(), "ecosystem": package.ecosystem().as_str()},
                "version": package.version(),
            });
            if let Some(token) = token {
                query["page_token"] = Value::from(token.as_str());
            }
            query
        };
        let body = json!({"queries": open.iter().map(query).collect::<Vec<_>>()});
        let url = format!("{}/v1/querybatch", self.endpoint);
        let bytes = self.fetch(asker, MOST_BATCH_BYTES, || self.http.post(&url).json(&body)).await?;
        let batch: Batch = serde_json::from_slice(&bytes).map_err(|_| self.nonsense(&bytes))?;
        if batch.results.len() != open.len() {
            let (asked, got) = (open.len(), batch.results.len());
            return Err(format!("{} gave {got} answers to {asked} questions", self.endpoint));
        }
        Ok(batch.results.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// One advisory: from the cache when it is the same, else from the service.
    async fn entry(&self, asker: &Asker, listed: &Listed) -> Result<Entry, String> {
        let question = format!("{} advisory {} {}", self.endpoint, listed.id, listed.modified);
        let (cache, key, now) = (self.cache.clone(), question.clone(), asker.now);
        // Nothing but its id and its time of change decides what is in it, so age does not matter here.
        let known = tokio::task::spawn_blocking(move || cache.get::<Entry>(&key, now)).await.ok().flatten();
        if let Some(known) = known.filter(|known| known.fresh || !listed.modified.is_empty()) {
            return Ok(known.answer);
        }
        let url = format!("{}/v1/vulns/{}", self.endpoint, listed.id);
        let bytes = self.fetch(asker, MOST_ENTRY_BYTES, || self.http.get(&url)).await?;
        let entry = Entry::read(&bytes).map_err(|why| format!("{}: {why}", listed.id))?;
        if entry.id != listed.id {
            return Err(format!("{} gave {} for {}", self.endpoint, one_line(&entry.id, 40), listed.id));
        }
        let (cache, kept) = (self.cache.clone(), entry.clone());
        let _ = tokio::task::spawn_blocking(move || cache.put(&question, &kept, now)).await;
        Ok(entry)
    }

    fn nonsense(&self, bytes: &[u8]) -> String {
        let begin = one_line(&String::from_utf8_lossy(&bytes[..bytes.len().min(60)]), 30);
        format!("{} answers with something else than OSV (`{begin}`)", self.endpoint)
    }

    /// One request with its tries.
    async fn fetch(&self, asker: &Asker, most: usize, request: impl Fn() -> RequestBuilder) -> Result<Vec<u8>, String> {
        let mut pause = self.patience.pause;
        let mut last = String::new();
        for attempt in 1..=self.patience.tries.max(1) {
            let left = asker.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let last = if last.is_empty() { String::new() } else { format!(" (last: {last})") };
                return Err(format!("{} did not answer in time{last}", self.endpoint));
            }
            let tried = tokio::time::timeout(left, self.once(request(), most)).await;
            last = match tried {
                Ok(Ok(bytes)) => return Ok(bytes),
                Ok(Err(Attempt::Hopeless(why))) => return Err(why),
                Ok(Err(Attempt::Again(why))) => why,
                Err(_) => format!("{} did not answer in time", self.endpoint),
            };
            if attempt < self.patience.tries {
                tokio::time::sleep(pause.min(asker.deadline.saturating_duration_since(Instant::now()))).await;
                pause = pause.saturating_mul(2);
            }
        }
        Err(last)
    }

    async fn once(&self, request: RequestBuilder, most: usize) -> Result<Vec<u8>, Attempt> {
        let away = |error: reqwest::Error| Attempt::Again(format!("{}: {}", self.endpoint, cause(&error)));
        let mut response = request.send().await.map_err(away)?;
        let status = response.status();
        if !status.is_success() {
            let why = format!("{} answers {status}", self.endpoint);
            let passing = status.is_server_error()
                || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
            return Err(if passing { Attempt::Again(why) } else { Attempt::Hopeless(why) });
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(away)? {
            if bytes.len() + chunk.len() > most {
                return Err(Attempt::Hopeless(format!("{} answers with more than {most} bytes", self.endpoint)));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// How one try went wrong.
enum Attempt {
    /// It may go better in a moment.
    Again(String),
    /// It will not.
    Hopeless(String),
}

/// The innermost reason; the outer ones repeat the address.
fn cause(error: &reqwest::Error) -> String {
    let mut at: &dyn std::error::Error = error;
    while let Some(inner) = at.source() {
        at = inner;
    }
    match error.is_timeout() {
        true => "it did not answer in time".to_owned(),
        false => one_line(&at.to_string(), 200),
    }
}

/// An address for a message; what stands before an `@` is not shown.
fn without_credentials(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((_, host)) => format!("...@{host}"),
        None => address.to_owned(),
    }
}

#[async_trait]
impl AdvisoryFeed for OsvApi {
    fn covers(&self, _: Ecosystem) -> bool {
        true
    }

    fn identity(&self) -> String {
        format!("osv {}", self.endpoint)
    }

    async fn ask(&self, asker: &Asker, packages: &BTreeSet<Package>) -> Answers {
        let ids = self.ids(asker, packages).await;
        let mut wanted: BTreeMap<&str, &Listed> = BTreeMap::new();
        for listed in ids.values().flat_map(|ids| &ids.listed) {
            wanted.entry(&listed.id).or_insert(listed);
        }
        let read = futures::stream::iter(wanted.into_values().take(MOST_ADVISORIES).cloned())
            .map(|listed| async move {
                let entry = self.entry(asker, &listed).await;
                (listed.id, entry)
            })
            .buffer_unordered(AT_A_TIME);
        let entries: BTreeMap<String, Result<Entry, String>> = read.collect().await;
        let tools = vec![ToolVersion { name: "osv".to_owned(), version: self.endpoint.clone() }];
        let mut answers = Answers { tools, ..Answers::default() };
        for package in packages {
            let answer = match ids.get(package) {
                Some(ids) => settle(package, ids, &entries),
                None => Answer::unknown("the feed gave no answer"),
            };
            answers.by_package.insert(package.clone(), answer);
        }
        answers
    }
}

/// From ids and entries to an answer.
fn settle(package: &Package, ids: &Ids, entries: &BTreeMap<String, Result<Entry, String>>) -> Answer {
    let mut answer = Answer { advisories: Vec::new(), trouble: ids.trouble.clone() };
    let names: BTreeSet<&str> = ids.listed.iter().map(|listed| listed.id.as_str()).collect();
    for id in names {
        let found: Option<Advisory> = match entries.get(id) {
            Some(Ok(entry)) => entry.about(package),
            Some(Err(why)) => {
                answer.trouble = Some(format!("{id} is listed, and could not be read: {why}"));
                None
            }
            None => {
                answer.trouble = Some(format!("{id} is listed; more than {MOST_ADVISORIES} are not read"));
                None
            }
        };
        answer.advisories.extend(found);
    }
    answer
}
