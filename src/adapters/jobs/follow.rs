//! Reads a growing log line by line, until told that nothing more will come.
//!
//! Owns the rule that nothing is lost and nothing comes twice: a line is given when it is complete; what stands behind
//! the last line break is given, marked as incomplete, only after the end is known and the file was read once more.
//! Each line comes with the offset behind it, so that a reader can go on there after a restart.

use std::future::Future;
use std::io::{self, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::sleep;

/// How often a silent log is looked at: at first, and at most.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// Longest line that is kept whole; a longer one comes in pieces marked as incomplete.
const LINE_MAX: usize = 8 << 20;

/// Where the next bytes are that a log still holds, from `offset` on: what has been read for good may have made room.
///
/// # Errors
/// When the file cannot be asked.
pub fn kept_from(file: impl AsFd, offset: u64) -> io::Result<u64> {
    let from = i64::try_from(offset).map_err(io::Error::other)?;
    match nix::unistd::lseek(file, from, nix::unistd::Whence::SeekData) {
        Ok(data) => Ok(u64::try_from(data).unwrap_or(offset).max(offset)),
        // Nothing behind it, or a file system that knows no holes.
        Err(nix::errno::Errno::ENXIO | nix::errno::Errno::EINVAL) => Ok(offset),
        Err(error) => Err(error.into()),
    }
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Its text without the line break; what is not UTF-8 is replaced.
    pub text: String,
    /// Where the next line begins, in bytes from the start of the file.
    pub next_offset: u64,
    /// `false` for the rest behind the last line break, and for pieces of an overlong line.
    pub complete: bool,
}

/// Follows one log.
pub struct LogFollower<'a> {
    path: PathBuf,
    file: Option<File>,
    ended: Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>,
    /// Bytes read and not yet given, from `offset` on.
    pending: Vec<u8>,
    /// Part of `pending` known to hold no line break.
    searched: usize,
    offset: u64,
    /// Where to go on when the lines in `pending` are given: there is a hole behind them.
    jump: Option<u64>,
    /// The next line has lost its beginning.
    broken: bool,
    drained: bool,
}

/// Follows the log at `path` from byte `from_offset` until `ended` is ready and all is read. The file need not exist
/// yet; if it never does, there are no lines.
pub fn follow<'a>(path: &Path, from_offset: u64, ended: impl Future<Output = ()> + Send + 'a) -> LogFollower<'a> {
    LogFollower {
        path: path.to_owned(),
        file: None,
        ended: Some(Box::pin(ended)),
        pending: Vec::new(),
        searched: 0,
        offset: from_offset,
        jump: None,
        broken: false,
        drained: false,
    }
}

impl<'a> LogFollower<'a> {
    /// The next line; `None` when the log has ended. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn next_line(&mut self) -> io::Result<Option<LogLine>> {
        let mut pause = LOOK_EVERY.0;
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.drained {
                return Ok(self.take_rest());
            }
            if self.read_more().await? > 0 {
                pause = LOOK_EVERY.0;
                continue;
            }
            // Nothing new. Only what is read after the end was known can be the last.
            let Some(ended) = &mut self.ended else {
                self.drained = true;
                continue;
            };
            let over = tokio::select! {
                () = ended => true,
                () = sleep(pause) => false,
            };
            if over {
                self.ended = None;
            }
            pause = (pause * 2).min(LOOK_EVERY.1);
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<LogLine>> + Send + 'a {
        futures::stream::unfold(Some(self), |follower| async move {
            let mut follower = follower?;
            match follower.next_line().await {
                Ok(Some(line)) => Some((Ok(line), Some(follower))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    fn take_line(&mut self) -> Option<LogLine> {
        loop {
            let found = self.pending[self.searched..].iter().position(|b| *b == b'\n').map(|at| self.searched + at);
            match found {
                Some(at) if self.broken => {
                    self.give(at, 1);
                    self.broken = false;
                }
                Some(at) if at <= LINE_MAX => return Some(self.give(at, 1)),
                _ if self.pending.len() > LINE_MAX => return Some(self.give(LINE_MAX, 0)),
                _ => {
                    self.searched = self.pending.len();
                    self.leap();
                    return None;
                }
            }
        }
    }

    /// Goes over a hole. It is met by who reads again from the beginning: what was in it has been read for good before, and
    /// so has the line that it cuts off; the one that it ends in is no line any more.
    fn leap(&mut self) {
        if let Some(kept) = self.jump.take() {
            self.pending.clear();
            self.searched = 0;
            self.offset = kept;
            self.broken = true;
        }
    }

    fn take_rest(&mut self) -> Option<LogLine> {
        (!self.pending.is_empty()).then(|| self.give(self.pending.len(), 0))
    }

    /// Gives `length` bytes and skips the line break behind them, if there is one.
    fn give(&mut self, length: usize, line_break: usize) -> LogLine {
        let text = String::from_utf8_lossy(&self.pending[..length]).into_owned();
        self.pending.drain(..length + line_break);
        self.searched = 0;
        self.offset += (length + line_break) as u64;
        LogLine { text, next_offset: self.offset, complete: line_break == 1 }
    }

    async fn read_more(&mut self) -> io::Result<usize> {
        if self.file.is_none() {
            match File::open(&self.path).await {
                Ok(mut file) => {
                    file.seek(SeekFrom::Start(self.offset)).await?;
                    self.file = Some(file);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                Err(error) => return Err(error),
            }
        }
        let Some(file) = &mut self.file else { return Ok(0) };
        self.pending.reserve(32 * 1024);
        let count = file.read_buf(&mut self.pending).await?;
        let fresh = self.pending.len() - count;
        let zero = self.pending[fresh..].iter().position(|byte| *byte == 0).map(|at| fresh + at);
        if let Some(zero) = zero {
            let place = self.offset + zero as u64;
            let kept = kept_from(&*file, place)?;
            // The kernel's place was moved by asking.
            let on = if kept > place { kept } else { self.offset + self.pending.len() as u64 };
            file.seek(SeekFrom::Start(on)).await?;
            if kept > place {
                self.pending.truncate(zero);
                self.jump = Some(kept);
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures::StreamExt;
    use tokio::sync::oneshot;

    use super::*;

    fn line(text: &str, next_offset: u64, complete: bool) -> LogLine {
        LogLine { text: text.to_owned(), next_offset, complete }
    }

    #[tokio::test]
    async fn gives_each_line_once_and_the_rest_at_the_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let (end, ended) = oneshot::channel::<()>();
        let mut follower = follow(&path, 0, async move {
            let _ = ended.await;
        });
        // The file comes later than its follower.
        let mut file = std::fs::File::create(&path).expect("made");
        file.write_all(b"one\ntwo\nthr").expect("written");
        assert_eq!(follower.next_line().await.expect("read"), Some(line("one", 4, true)));
        assert_eq!(follower.next_line().await.expect("read"), Some(line("two", 8, true)));
        assert!(futures::poll!(Box::pin(follower.next_line())).is_pending(), "half a line is not given");
        file.write_all(b"ee\nrest").expect("written");
        assert_eq!(follower.next_line().await.expect("read"), Some(line("three", 14, true)));
        end.send(()).expect("heard");
        assert_eq!(follower.next_line().await.expect("read"), Some(line("rest", 18, false)));
        assert_eq!(follower.next_line().await.expect("read"), None);
    }

    #[tokio::test]
    async fn goes_on_at_an_offset_and_reads_what_came_before_the_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        std::fs::write(&path, "one\ntwo\nthree\n").expect("written");
        let lines: Vec<_> = follow(&path, 4, std::future::ready(())).into_stream().collect().await;
        let lines: Vec<_> = lines.into_iter().map(|line| line.expect("read")).collect();
        assert_eq!(lines, [line("two", 8, true), line("three", 14, true)]);
    }

    #[tokio::test]
    async fn an_overlong_line_comes_in_pieces() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let text = "x".repeat(LINE_MAX + 10);
        std::fs::write(&path, format!("{text}\nend\n")).expect("written");
        let lines: Vec<_> = follow(&path, 0, std::future::ready(())).into_stream().collect().await;
        let lines: Vec<_> = lines.into_iter().map(|line| line.expect("read")).collect();
        assert_eq!(lines.iter().map(|line| line.complete).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<String>(), format!("{text}end"));
    }

    #[tokio::test]
    async fn who_reads_again_goes_over_what_has_made_room() {
        use nix::fcntl::{FallocateFlags, fallocate};
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let text: String = (0..20_000).map(|number| format!("{number:015}\n")).collect();
        std::fs::write(&path, format!("{text}nul \0 inside\n")).expect("written");
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let file = std::fs::File::options().write(true).open(&path).expect("there");
        // Not at the ends of lines: 16 bytes each, the hole is moved by a few.
        std::fs::write(&path, format!("abc\n{text}nul \0 inside\n")).expect("written");
        fallocate(&file, hole, 8_192, 65_536).expect("this file system knows holes");
        let lines: Vec<_> = follow(&path, 0, std::future::ready(())).into_stream().collect().await;
        let lines: Vec<_> = lines.into_iter().map(|line| line.expect("read").text).collect();
        assert_eq!(lines[0], "abc");
        assert_eq!(lines.last().map(String::as_str), Some("nul \0 inside"), "a zero that was written is no hole");
        let numbers: Vec<u32> =
            lines[1..lines.len() - 1].iter().map(|line| line.parse().expect("a whole line")).collect();
        let gap = numbers.windows(2).position(|pair| pair[1] != pair[0] + 1).expect("something has made room");
        assert_eq!((numbers[0], numbers[gap], numbers[gap + 1]), (0, 510, 4_608));
        assert_eq!(numbers.last(), Some(&19_999));
    }

    #[tokio::test]
    async fn a_log_that_never_came_has_no_lines() {
        let missing = follow(Path::new("/no/such/log"), 0, std::future::ready(())).next_line().await;
        assert_eq!(missing.expect("no error"), None);
    }
}
