//! The control socket: who is connected, who has shown the secret, and the lines that come and go.
//!
//! Owns connections and their buffers. Refuses to block: what cannot be written is kept, up to a bound; who sends too
//! much, or does not show the secret in time, is dropped. The job can reach the socket (same user), so strangers must
//! never be able to keep the supervisor out: the oldest stranger makes room for a newcomer.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::protocol::{LINE_MAX, Reply, Request, negotiate, same_secret};

/// Most connections at a time.
const CONNECTIONS_MAX: usize = 32;
/// How long a stranger may stay.
pub(crate) const STRANGER_STAYS: Duration = Duration::from_secs(5);
/// Replies kept for a client that does not read.
const UNREAD_MAX: usize = 256 * 1024;

/// Names a connection for the time of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientId(u64);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Stranger,
    Visitor,
    Supervisor,
}

struct Client {
    id: ClientId,
    stream: UnixStream,
    standing: Standing,
    since: Instant,
    input: Vec<u8>,
    output: Vec<u8>,
    /// No more is read; it goes once its output is written.
    leaving: bool,
}

/// The listening socket and its connections.
pub(crate) struct Server {
    listener: UnixListener,
    secret: String,
    clients: Vec<Client>,
    next: u64,
}

impl Server {
    /// Binds the socket, readable by its owner only.
    pub(crate) fn bind(path: &Path, secret: String) -> io::Result<Self> {
        let listener = UnixListener::bind(path)
            .map_err(|error| io::Error::new(error.kind(), format!("socket `{}`: {error}", path.display())))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, secret, clients: Vec::new(), next: 0 })
    }

    /// What to poll: for reading, and whether for writing too.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let clients = self.clients.iter().map(|client| (client.stream.as_fd(), !client.output.is_empty()));
        std::iter::once((self.listener.as_fd(), false)).chain(clients)
    }

    /// Whether a supervisor holds the job.
    pub(crate) fn is_supervised(&self) -> bool {
        self.clients.iter().any(|client| client.standing == Standing::Supervisor)
    }

    /// When the next stranger has to go.
    pub(crate) fn due(&self) -> Option<Instant> {
        let strangers = self.clients.iter().filter(|client| client.standing == Standing::Stranger);
        strangers.map(|client| client.since + STRANGER_STAYS).min()
    }

    /// Accepts, reads and writes what can be without waiting; answers the requests of those who may ask.
    pub(crate) fn serve(&mut self, now: Instant) -> Vec<(ClientId, Request)> {
        self.accept(now);
        let mut requests = Vec::new();
        for client in &mut self.clients {
            let open = client.read();
            while let Some(line) = client.next_line() {
                match serde_json::from_slice::<Request>(&line) {
                    Ok(Request::Hello { versions, secret, supervise }) => {
                        client.greet(&versions, same_secret(&secret, &self.secret), supervise);
                    }
                    Ok(request) if client.standing != Standing::Stranger => requests.push((client.id, request)),
                    Ok(_) => client.dismiss("the first line must be `hello`, with the job's secret"),
                    Err(error) => client.dismiss(&format!("not a request: {error}")),
                }
            }
            if !open {
                client.leaving = true;
                client.output.clear();
            }
        }
        self.flush(now);
        requests
    }

    fn accept(&mut self, now: Instant) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.clients.len() >= CONNECTIONS_MAX {
                match self.clients.iter().position(|client| client.standing == Standing::Stranger) {
                    Some(oldest) => drop(self.clients.remove(oldest)),
                    None => continue,
                }
            }
            self.next += 1;
            self.clients.push(Client {
                id: ClientId(self.next),
                stream,
                standing: Standing::Stranger,
                since: now,
                input: Vec::new(),
                output: Vec::new(),
                leaving: false,
            });
        }
    }

    /// Answers a request.
    pub(crate) fn reply(&mut self, to: ClientId, reply: &Reply) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == to) {
            client.say(reply);
        }
    }

    /// Tells everybody who may hear.
    pub(crate) fn broadcast(&mut self, reply: &Reply) {
        for client in self.clients.iter_mut().filter(|client| client.standing != Standing::Stranger) {
            client.say(reply);
        }
    }

    /// Writes what can be written, and lets go of who is to go.
    pub(crate) fn flush(&mut self, now: Instant) {
        self.clients.retain_mut(|client| {
            let healthy = client.write();
            let overstayed = client.standing == Standing::Stranger && now >= client.since + STRANGER_STAYS;
            healthy && !overstayed && !(client.leaving && client.output.is_empty())
        });
    }
}

impl Client {
    /// Reads what is there; `false` when the other side is gone or does not keep to the bounds.
    fn read(&mut self) -> bool {
        let mut buffer = [0_u8; 4096];
        while !self.leaving {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            if self.input.len() > LINE_MAX {
                return self.input.contains(&b'\n');
            }
        }
        true
    }

    fn next_line(&mut self) -> Option<Vec<u8>> {
        if self.leaving {
            return None;
        }
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        let mut line: Vec<u8> = self.input.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    fn greet(&mut self, versions: &[u32], knows_the_secret: bool, supervise: bool) {
        if !knows_the_secret {
            return self.dismiss("the secret is not this job's");
        }
        match negotiate(versions) {
            Some(version) => {
                self.standing = if supervise { Standing::Supervisor } else { Standing::Visitor };
                self.say(&Reply::Hello { version });
            }
            None => self.dismiss("no protocol version in common"),
        }
    }

    fn dismiss(&mut self, why: &str) {
        self.say(&Reply::Refused { why: why.to_owned() });
        self.leaving = true;
    }

    fn say(&mut self, reply: &Reply) {
        if let Ok(mut line) = serde_json::to_vec(reply) {
            line.push(b'\n');
            self.output.extend_from_slice(&line);
        }
    }

    /// Writes what can be written; `false` when the connection is of no more use.
    fn write(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.output.len() <= UNREAD_MAX,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    struct World {
        _dir: tempfile::TempDir,
        server: Server,
        path: std::path::PathBuf,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        World { server: Server::bind(&path, "secret".to_owned()).expect("bound"), path, _dir: dir }
    }

    impl World {
        fn connect(&self) -> UnixStream {
            UnixStream::connect(&self.path).expect("connected")
        }
    }

    fn hello(secret: &str) -> String {
        format!("{{\"op\":\"hello\",\"versions\":[1],\"secret\":\"{secret}\",\"supervise\":true}}\n")
    }

    fn line(stream: &UnixStream) -> String {
        let mut text = String::new();
        BufReader::new(stream).read_line(&mut text).expect("a line");
        text
    }

    #[test]
    fn hears_only_who_shows_the_secret_first() {
        let mut world = world();
        let now = Instant::now();
        let (mut good, mut bad, mut rude) = (world.connect(), world.connect(), world.connect());
        good.write_all(hello("secret").as_bytes()).expect("sent");
        bad.write_all(format!("{}{{\"op\":\"go\"}}\n", hello("wrong!")).as_bytes()).expect("sent");
        rude.write_all(b"{\"op\":\"go\"}\n").expect("sent");
        assert_eq!(world.server.serve(now), []);
        assert!(line(&good).contains("\"re\":\"hello\""));
        assert!(line(&bad).contains("refused"));
        assert!(line(&rude).contains("refused"));
        assert_eq!(world.server.clients.len(), 1);
        assert!(world.server.is_supervised());

        good.write_all(b"{\"op\":\"ping\"}\n{\"op\":\"sta").expect("sent");
        let heard = world.server.serve(now);
        assert_eq!(heard.iter().map(|(_, request)| request.clone()).collect::<Vec<_>>(), [Request::Ping]);
        drop(good);
        world.server.serve(now);
        assert!(!world.server.is_supervised(), "a closed connection is a lost supervisor");
    }

    #[test]
    fn strangers_cannot_keep_others_out() {
        let mut world = world();
        let now = Instant::now();
        let mut crowd = Vec::new();
        for _ in 0..CONNECTIONS_MAX + 5 {
            crowd.push(world.connect());
            world.server.serve(now);
        }
        let mut late = world.connect();
        late.write_all(hello("secret").as_bytes()).expect("sent");
        world.server.serve(now);
        assert!(line(&late).contains("hello"));
        assert_eq!(world.server.clients.len(), CONNECTIONS_MAX);
        world.server.serve(now + STRANGER_STAYS);
        assert_eq!(world.server.clients.len(), 1);
    }

    #[test]
    fn drops_who_sends_without_end() {
        let mut world = world();
        let now = Instant::now();
        let mut client = world.connect();
        client.set_nonblocking(true).expect("set");
        for _ in 0..LINE_MAX / 1024 + 8 {
            let _ = client.write(&[b'x'; 1024]);
            world.server.serve(now);
        }
        assert!(world.server.clients.is_empty());
    }
}
