//! supervisord and pueue as an operator would have set them up to stop as much as they can.
//!
//! Owns their start, one program each, its stop, and their end. Both get their strongest settings: supervisord signals and
//! kills whole groups, pueue kills whole groups at once.

use std::error::Error;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::zoo::{self, Kind, MARK};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// One of them, at work.
pub(crate) enum Rival {
    /// supervisord with its socket.
    Supervisord {
        /// The daemon.
        child: Child,
        /// Where it is asked.
        socket: PathBuf,
    },
    /// pueued with its client.
    Pueue {
        /// The daemon.
        child: Child,
        /// The client.
        client: PathBuf,
        /// Settings of both.
        settings: PathBuf,
    },
}

/// A start of an animal under a rival.
pub(crate) struct Cage {
    /// What is in it.
    pub(crate) kind: Kind,
    /// Its home.
    pub(crate) dir: PathBuf,
    /// Its mark.
    pub(crate) mark: String,
    name: String,
}

impl Cage {
    /// Makes a home.
    pub(crate) fn new(root: &Path, kind: Kind, name: String) -> Fallible<Self> {
        let dir = root.join(&name);
        fs::create_dir_all(&dir)?;
        let mark = format!("{}-{name}", std::process::id());
        Ok(Self { kind, dir, mark, name })
    }
}

impl Rival {
    /// supervisord, with a program for each cage.
    pub(crate) fn supervisord(bin: &Path, root: &Path, cages: &[Cage]) -> Fallible<Self> {
        let (socket, settings) = (root.join("s.sock"), root.join("supervisord.conf"));
        let place = root.display();
        let mut text = format!(
            "[unix_http_server]\nfile={}\n[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\n\
             pidfile={place}/s.pid\nchildlogdir={place}\n[rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n",
            socket.display()
        );
        for Cage { kind, dir, mark, name } in cages {
            let line = zoo::argv(kind.as_str(), dir)?.join(" ");
            text.push_str(&format!(
                "[program:{name}]\ncommand={line}\nautostart=false\nautorestart=false\nstartsecs=0\nstopwaitsecs=1\n\
                 stopasgroup=true\nkillasgroup=true\nenvironment={MARK}=\"{mark}\"\nstdout_logfile=NONE\n\
                 stderr_logfile=NONE\n"
            ));
        }
        fs::write(&settings, text)?;
        let mut command = Command::new(bin.join("supervisord"));
        command.arg("-c").arg(&settings).current_dir(root).stdin(Stdio::null()).stdout(Stdio::null());
        let rival = Self::Supervisord { child: command.stderr(Stdio::null()).spawn()?, socket: socket.clone() };
        zoo::until("supervisord to listen", || Ok(UnixStream::connect(&socket).is_ok()))?;
        Ok(rival)
    }

    /// pueued, with nothing to do yet.
    pub(crate) fn pueue(bin: &Path, root: &Path) -> Fallible<Self> {
        let settings = root.join("pueue.yml");
        let place = root.display();
        let text = format!(
            "shared: {{pueue_directory: '{place}/state', runtime_directory: '{place}', use_unix_socket: true}}\n\
             client: {{}}\ndaemon: {{}}\n"
        );
        fs::write(&settings, text)?;
        fs::create_dir_all(root.join("state"))?;
        let mut command = Command::new(bin.join("pueued"));
        command.arg("--config").arg(&settings).current_dir(root).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::null()).spawn()?;
        let rival = Self::Pueue { child, client: bin.join("pueue"), settings };
        zoo::until("pueued to listen", || Ok(rival.ask(&["status"], None).is_ok()))?;
        Ok(rival)
    }

    /// Starts what is in a cage; its handle.
    pub(crate) fn start(&self, cage: &Cage) -> Fallible<String> {
        match self {
            Self::Supervisord { .. } => {
                self.call("startProcess", &cage.name)?;
                Ok(cage.name.clone())
            }
            Self::Pueue { .. } => {
                let line = zoo::argv(cage.kind.as_str(), &cage.dir)?.join(" ");
                let id = self.ask(&["add", "--immediate", "--print-task-id", "--", &line], Some(&cage.mark))?;
                Ok(id.trim().to_owned())
            }
        }
    }

    /// Stops it, and returns when the rival says that it has been stopped.
    pub(crate) fn stop(&self, handle: &str) -> Fallible<()> {
        match self {
            // One that has left by itself is no longer known as running: that is as good.
            Self::Supervisord { .. } => match self.call("stopProcess", handle) {
                Err(error) if error.to_string().contains("NOT_RUNNING") => Ok(()),
                answer => answer,
            },
            Self::Pueue { .. } => {
                // One that has left by itself cannot be killed: what it is called decides.
                let _ = self.ask(&["kill", handle], None);
                zoo::until("pueue to call it ended", || {
                    let said: serde_json::Value = serde_json::from_str(&self.ask(&["status", "--json"], None)?)?;
                    Ok(!said["tasks"][handle]["status"]["Done"].is_null())
                })
            }
        }
    }

    fn ask(&self, args: &[&str], mark: Option<&str>) -> Fallible<String> {
        let Self::Pueue { client, settings, .. } = self else { return Err("it has no such client".into()) };
        let mut command = Command::new(client);
        command.arg("--config").arg(settings).args(args).stdin(Stdio::null());
        if let Some(mark) = mark {
            command.env(MARK, mark);
        }
        let output = command.output()?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(format!("pueue {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)).into()),
        }
    }

    /// One call of XML-RPC over its socket, as its own client makes it.
    fn call(&self, method: &str, name: &str) -> Fallible<()> {
        let Self::Supervisord { socket, .. } = self else { return Err("it has no such socket".into()) };
        let body = format!(
            "<?xml version='1.0'?><methodCall><methodName>supervisor.{method}</methodName><params><param><value><string>{name}\
             </string></value></param></params></methodCall>"
        );
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let length = body.len();
        write!(
            stream,
            "POST /RPC2 HTTP/1.0\r\nHost: localhost\r\nContent-Type: text/xml\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.contains("<boolean>1</boolean>") {
            true => Ok(()),
            false => Err(format!("supervisord, {method} {name}: {answer}").into()),
        }
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        // What it held has been cleared away; of itself nothing may stay.
        let (Self::Supervisord { child, .. } | Self::Pueue { child, .. }) = self;
        let _ = child.kill();
        let _ = child.wait();
    }
}
