//! `orch serve` as a process of its own, asked over HTTP as any client would.
//!
//! Owns its start, its end, and a client that says one thing at a time. The token goes by environment, never by argument.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A running `orch serve`; dropped, it is killed.
pub(crate) struct Served {
    /// The process.
    pub(crate) child: Child,
    addr: String,
    token: String,
}

impl Served {
    /// Starts it with settings; returns when it takes work.
    pub(crate) fn start(settings: &Path) -> Result<Self, Box<dyn Error>> {
        let token = format!("bench-{:032x}", std::process::id());
        let mut child = Command::new(env!("CARGO_BIN_EXE_orch"))
            .args(["serve", "--json", "--config"])
            .arg(settings)
            .env("ORCH_TOKEN", &token)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut said)?;
        let url = serde_json::from_str::<Value>(&said).ok();
        let addr = url.and_then(|said| said["url"].as_str()?.strip_prefix("http://").map(str::to_owned));
        let Some(addr) = addr else {
            let mut why = String::new();
            child.kill()?;
            child.wait()?;
            child.stderr.take().ok_or("no error output")?.read_to_string(&mut why)?;
            return Err(format!("`orch serve` did not start: {} {}", said.trim(), why.trim()).into());
        };
        // What it logs is not looked at, but has to go somewhere.
        if let Some(mut log) = child.stderr.take() {
            std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        }
        let served = Self { child, addr, token };
        served.ask("GET", "/readyz", "")?;
        Ok(served)
    }

    /// One request; anything but a success is an error.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Result<Value, Box<dyn Error>> {
        let mut stream = TcpStream::connect(&self.addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let (addr, token, length) = (&self.addr, &self.token, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer has no end of its head")?;
        match head.split(' ').nth(1) {
            Some(status) if status.starts_with('2') => Ok(serde_json::from_str(body)?),
            _ => Err(format!("{method} {path}: {} {body}", head.lines().next().unwrap_or_default()).into()),
        }
    }

    /// Ends it as an operator would.
    pub(crate) fn end(mut self) -> Result<(), Box<dyn Error>> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("`orch serve` ended with {status}").into()),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Ended already, or a bench that failed: nothing of it may stay behind. Both calls may find nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
