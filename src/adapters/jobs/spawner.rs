//! The one thread that starts shims and waits for them.
//!
//! Owns the parentage of every shim of this process: it forks them, remembers which pids are shims, and reaps exactly
//! those. It never waits for "any child": other parts of the process may have children of their own. The list of known
//! shims is what tells an orphan of a dead shim from a shim.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

/// How often children are asked whether they have ended, on kernels without process handles.
const ASK_EVERY_MILLIS: u16 = 200;

/// A started shim, with the ends of its standard streams.
pub(super) struct Started {
    pub(super) pid: i32,
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
}

struct Order {
    command: Command,
    reply: oneshot::Sender<io::Result<Started>>,
}

struct Spawner {
    orders: Sender<Order>,
    wake: io::PipeWriter,
}

/// What is known about the shims that this process has started.
#[derive(Default)]
struct Shims {
    /// Pid and start time of those not yet reaped.
    living: HashMap<i32, u64>,
    /// Pid and start time of those that are gone.
    gone: HashMap<i32, u64>,
}

static SHIMS: OnceLock<Mutex<Shims>> = OnceLock::new();

fn shims() -> MutexGuard<'static, Shims> {
    SHIMS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a child of this process is a shim that has not been reaped.
pub(super) fn is_living_shim(pid: i32) -> bool {
    shims().living.contains_key(&pid)
}

/// Whether a shim that is gone was a child of this process: then everything it held has come to us.
pub(super) fn was_ours(pid: i32, start_ticks: u64) -> bool {
    let shims = shims();
    shims.gone.get(&pid) == Some(&start_ticks) || shims.living.get(&pid) == Some(&start_ticks)
}

/// Starts a shim from the spawner's thread.
pub(super) async fn start(command: Command) -> io::Result<Started> {
    static SPAWNER: OnceLock<Mutex<Option<Spawner>>> = OnceLock::new();
    let (reply, answer) = oneshot::channel();
    {
        let mut slot = SPAWNER.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        let spawner = match &mut *slot {
            Some(spawner) => spawner,
            None => slot.insert(Spawner::begin()?),
        };
        spawner.orders.send(Order { command, reply }).map_err(|_| io::Error::other("the spawner's thread is gone"))?;
        // A full pipe means that the thread has not yet seen earlier wake-ups: it will see this order with them.
        match spawner.wake.write(&[1]) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    answer.await.map_err(|_| io::Error::other("the spawner's thread is gone"))?
}

impl Spawner {
    fn begin() -> io::Result<Self> {
        let (wakened, wake) = io::pipe()?;
        fcntl(&wakened, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        fcntl(&wake, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let (orders, inbox) = channel();
        std::thread::Builder::new().name("orch-spawner".to_owned()).spawn(move || serve(&inbox, wakened))?;
        Ok(Self { orders, wake })
    }
}

struct Kept {
    child: Child,
    handle: Option<OwnedFd>,
}

fn serve(inbox: &Receiver<Order>, mut wakened: io::PipeReader) {
    let mut kept: Vec<Kept> = Vec::new();
    let mut buffer = [0_u8; 64];
    loop {
        while wakened.read(&mut buffer).is_ok_and(|count| count > 0) {}
        while let Ok(order) = inbox.try_recv() {
            let _ = order.reply.send(launch(order.command, &mut kept));
        }
        kept.retain_mut(|kept| match kept.child.try_wait() {
            Ok(None) => true,
            Ok(Some(_)) | Err(_) => {
                let pid = pid_of(&kept.child);
                let mut shims = shims();
                if let Some(start_ticks) = shims.living.remove(&pid) {
                    shims.gone.insert(pid, start_ticks);
                }
                false
            }
        });
        let mut descriptors = vec![PollFd::new(wakened.as_fd(), PollFlags::POLLIN)];
        let handles = kept.iter().filter_map(|kept| kept.handle.as_ref());
        descriptors.extend(handles.map(|handle| PollFd::new(handle.as_fd(), PollFlags::POLLIN)));
        let all_have_handles = descriptors.len() == kept.len() + 1;
        let timeout = if all_have_handles { PollTimeout::NONE } else { PollTimeout::from(ASK_EVERY_MILLIS) };
        // An interrupted or failed poll only means looking again.
        let _ = poll(&mut descriptors, timeout);
    }
}

fn launch(mut command: Command, kept: &mut Vec<Kept>) -> io::Result<Started> {
    // Held over the fork: nobody may see the new child as an orphan before it is known.
    let mut shims = shims();
    let mut child = command.spawn()?;
    let pid = pid_of(&child);
    // It is our unreaped child, so its pid cannot have been given away.
    let start_ticks = orch_shim::procs::stat(pid).map_or(0, |stat| stat.start_ticks);
    shims.gone.remove(&pid);
    shims.living.insert(pid, start_ticks);
    drop(shims);
    let streams = child.stdin.take().zip(child.stdout.take());
    kept.push(Kept { handle: orch_shim::sys::pidfd_open(pid).ok(), child });
    let (stdin, stdout) = streams.ok_or_else(|| io::Error::other("the shim's standard streams are not pipes"))?;
    Ok(Started { pid, stdin, stdout })
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap_or(-1)
}
