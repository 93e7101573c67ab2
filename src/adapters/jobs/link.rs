//! One connection to a shim's control socket.
//!
//! Owns the conversation: greeting with the secret, requests and replies in order, the one event `ended`. A link ends
//! for good when the other side closes it; what that means (record written, shim dead, accident) is for the placement
//! to find out. Dropping the last owner closes the connection, and that is how a shim loses its supervisor.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::Duration;

use orch_domain::job::JobExit;
use orch_shim::protocol::{LINE_MAX, Reply, Request, VERSIONS};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// A shim answers within milliseconds; it is given this long on a loaded host.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has become of a link.
#[derive(Clone, Debug)]
pub(super) enum LinkState {
    /// In use.
    Open,
    /// The shim has told how the job ended.
    Ended(Box<JobExit>),
    /// Closed without that.
    Broken,
}

type Exchange = (Request, oneshot::Sender<Reply>);

/// A greeted connection.
pub(super) struct Link {
    requests: mpsc::Sender<Exchange>,
    state: watch::Receiver<LinkState>,
}

impl Link {
    /// Connects and shows the secret; `supervise` makes this the supervisor's hold on the job.
    pub(super) async fn connect(socket: &Path, secret: &str, supervise: bool) -> io::Result<Self> {
        let greeting = Request::Hello { versions: VERSIONS.to_vec(), secret: secret.to_owned(), supervise };
        let greet = async {
            let (reader, mut writer) = UnixStream::connect(socket).await?.into_split();
            let mut reader = BufReader::new(reader);
            send(&mut writer, &greeting).await?;
            match receive(&mut reader).await? {
                Some(Reply::Hello { .. }) => Ok((reader, writer)),
                Some(Reply::Refused { why }) => Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
                other => Err(io::Error::other(format!("unexpected answer to the greeting: {other:?}"))),
            }
        };
        let (reader, writer) = timeout(PATIENCE, greet).await.map_err(|_| silent())??;
        let (requests, inbox) = mpsc::channel(16);
        let (tell, state) = watch::channel(LinkState::Open);
        tokio::spawn(converse(reader, writer, inbox, tell));
        Ok(Self { requests, state })
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(&self, request: Request) -> io::Result<Reply> {
        let (answer, reply) = oneshot::channel();
        let asked = async {
            self.requests.send((request, answer)).await.map_err(|_| closed())?;
            reply.await.map_err(|_| closed())
        };
        timeout(PATIENCE, asked).await.map_err(|_| silent())?
    }

    /// Whether it can still be used.
    pub(super) fn is_open(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Open)
    }

    /// Waits until the job has ended or the link is broken.
    pub(super) async fn over(&self) -> LinkState {
        let mut state = self.state.clone();
        match state.wait_for(|state| !matches!(state, LinkState::Open)).await {
            Ok(state) => state.clone(),
            Err(_) => LinkState::Broken,
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the shim has closed the connection")
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", PATIENCE.as_secs()))
}

async fn send(writer: &mut OwnedWriteHalf, request: &Request) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

/// Reads one line; `None` at the end.
async fn receive(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Reply>> {
    let mut line = Vec::new();
    let bound = LINE_MAX as u64 + 1;
    reader.take(bound).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Serves the link until either side lets go of it.
async fn converse(
    mut reader: BufReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
    mut inbox: mpsc::Receiver<Exchange>,
    tell: watch::Sender<LinkState>,
) {
    // A read that is cut off by `select!` would lose half a line, so reading has a task of its own.
    let (heard, mut replies) = mpsc::channel(16);
    let listener = tokio::spawn(async move {
        while let Ok(Some(reply)) = receive(&mut reader).await {
            if heard.send(reply).await.is_err() {
                break;
            }
        }
    });
    let mut waiting: VecDeque<oneshot::Sender<Reply>> = VecDeque::new();
    let mut last = LinkState::Broken;
    loop {
        tokio::select! {
            exchange = inbox.recv() => {
                let Some((request, answer)) = exchange else { break };
                waiting.push_back(answer);
                // When it cannot be sent, the shim may still have said how the job ended: go on reading.
                let _ = send(&mut writer, &request).await;
            }
            reply = replies.recv() => match reply {
                Some(Reply::Ended { exit }) => last = LinkState::Ended(Box::new(exit)),
                Some(reply) => {
                    if let Some(answer) = waiting.pop_front() {
                        let _ = answer.send(reply);
                    }
                }
                None => break,
            },
        }
    }
    listener.abort();
    tell.send_replace(last);
}
