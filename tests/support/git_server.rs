//! Real git servers on loopback, for tests: git's own `daemon` and `http-backend` behind a listener of ours.
//!
//! Owns the listener, a thread and a child process per connection, and their end. The answers are git's: the listener hands
//! a socket to `git daemon --inetd`, or speaks just enough HTTP for the CGI program `git http-backend`. Everything below
//! the root can be read and pushed to by whoever can connect, which is this machine. Refuses to serve anything else.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Longest request line or header line.
const MOST_LINE: u64 = 16 << 10;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `git daemon`, with pushes allowed.
    Daemon,
    /// `git http-backend`, with pushes allowed.
    Http,
}

/// A running server; it ends when dropped.
pub struct GitServer {
    protocol: Protocol,
    port: u16,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    root: PathBuf,
    stop: AtomicBool,
    /// What every HTTP request must show as `Authorization`, if anything.
    authorization: Option<String>,
    served: AtomicUsize,
    connections: Mutex<Vec<JoinHandle<()>>>,
}

impl GitServer {
    /// Serves every repository below `root`.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(protocol: Protocol, root: &Path) -> io::Result<Self> {
        Self::start_asking(protocol, root, None)
    }

    /// The same; over HTTP each request must carry exactly this `Authorization` header.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start_asking(protocol: Protocol, root: &Path, authorization: Option<String>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            root: root.canonicalize()?,
            stop: AtomicBool::new(false),
            authorization,
            served: AtomicUsize::new(0),
            connections: Mutex::default(),
        });
        let own = shared.clone();
        let listener = std::thread::spawn(move || listen(protocol, &listener, &own));
        Ok(Self { protocol, port, shared, listener: Some(listener) })
    }

    /// The address of a repository, by its path below the root.
    #[must_use]
    pub fn url(&self, repo: &str) -> String {
        let scheme = match self.protocol {
            Protocol::Daemon => "git",
            Protocol::Http => "http",
        };
        format!("{scheme}://127.0.0.1:{}/{repo}", self.port)
    }

    /// How many connections were served.
    #[must_use]
    pub fn served(&self) -> usize {
        self.shared.served.load(Ordering::SeqCst)
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The listener waits for a connection: this one.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(listener) = self.listener.take() {
            drop(listener.join());
        }
        let mut connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in connections.drain(..) {
            drop(connection.join());
        }
    }
}

fn listen(protocol: Protocol, listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        shared.served.fetch_add(1, Ordering::SeqCst);
        let own = shared.clone();
        let connection = std::thread::spawn(move || {
            // A connection that breaks is the client's to notice.
            drop(match protocol {
                Protocol::Daemon => daemon(stream, &own),
                Protocol::Http => http(stream, &own),
            });
        });
        let mut connections = shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| !connection.is_finished());
        connections.push(connection);
    }
}

/// git without anybody's settings.
fn git(shared: &Shared) -> Command {
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", &shared.root)
        .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("LC_ALL", "C")])
        // The repositories may belong to another user than the one who runs the tests.
        .envs([("GIT_CONFIG_COUNT", "2"), ("GIT_CONFIG_KEY_0", "safe.directory"), ("GIT_CONFIG_VALUE_0", "*")])
        .envs([("GIT_CONFIG_KEY_1", "http.receivepack"), ("GIT_CONFIG_VALUE_1", "true")])
        .current_dir(&shared.root);
    command
}

fn daemon(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let base = format!("--base-path={}", shared.root.display());
    let mut command = git(shared);
    command.args(["daemon", "--inetd", "--export-all", "--enable=receive-pack", &base]);
    let other: OwnedFd = stream.try_clone()?.into();
    command.stdin(Stdio::from(other)).stdout(Stdio::from(OwnedFd::from(stream))).stderr(Stdio::null());
    command.status().map(drop)
}

/// One request, one answer, and the connection is over.
fn http(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    let first = line(&mut reader)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = BTreeMap::new();
    loop {
        let header = line(&mut reader)?;
        let Some((name, value)) = header.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    if shared.authorization.is_some() && headers.get("authorization") != shared.authorization.as_ref() {
        let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\n";
        return write!(out, "{head}Content-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let body = body(&mut reader, &headers)?;
    let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
    let mut command = git(shared);
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &shared.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .envs([("REQUEST_METHOD", method), ("PATH_INFO", path), ("QUERY_STRING", query)])
        .envs([("CONTENT_TYPE", header("content-type")), ("HTTP_CONTENT_ENCODING", header("content-encoding"))])
        .envs([("GIT_PROTOCOL", header("git-protocol")), ("REMOTE_ADDR", "127.0.0.1"), ("REMOTE_USER", "test")])
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut input = child.stdin.take().ok_or_else(|| io::Error::other("no pipe"))?;
    let feeding = std::thread::spawn(move || input.write_all(&body));
    let mut answer = Vec::new();
    let read = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?.read_to_end(&mut answer);
    // A program that does not read everything has its reasons.
    drop(feeding.join());
    child.wait()?;
    read?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let content = answer.get(end + 4..).unwrap_or_default();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    write!(out, "HTTP/1.1 {status}\r\n")?;
    for line in head.lines().filter(|line| !line.starts_with("Status: ") && !line.is_empty()) {
        write!(out, "{line}\r\n")?;
    }
    write!(out, "Content-Length: {}\r\nConnection: close\r\n\r\n", content.len())?;
    out.write_all(content)?;
    out.flush()
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    reader.by_ref().take(MOST_LINE).read_line(&mut text)?;
    Ok(text.trim_end().to_owned())
}

/// The request's body: as long as it says, or in chunks, as git sends larger packs.
fn body(reader: &mut impl BufRead, headers: &BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let size = line(reader)?;
            let size = size.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            reader.by_ref().take(size).read_to_end(&mut body)?;
            line(reader)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    let length = headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut body)?;
    Ok(body)
}
