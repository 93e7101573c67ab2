//! The two outputs of a job: pipes that are always drained, files that stop growing at their cap.
//!
//! Owns the copying. A cut is marked in the file and in the exit record, and the job goes on: a full pipe would hang it.
//! A log that cannot be written (disk full) counts as cut from there on, for the same reason.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Read at a time. Also the most that is taken from one output before the other is looked at.
const CHUNK: usize = 64 * 1024;

/// One output: its pipe and its file.
pub(crate) struct Output {
    pipe: Option<File>,
    file: File,
    cap: u64,
    seen: u64,
    cut: bool,
}

impl Output {
    /// Makes the log's file; a job that never starts leaves it empty.
    pub(crate) fn create(path: &Path, cap: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { pipe: None, file, cap, seen: 0, cut: false })
    }

    /// Begins to copy from a pipe.
    pub(crate) fn attach(&mut self, pipe: OwnedFd) -> io::Result<()> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        self.pipe = Some(File::from(pipe));
        Ok(())
    }

    /// What to poll, while there is a writer.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Copies one chunk of what is there; answers how many bytes came. End of file closes the pipe.
    pub(crate) fn copy(&mut self, buffer: &mut Vec<u8>) -> usize {
        let Some(pipe) = &mut self.pipe else { return 0 };
        buffer.resize(CHUNK, 0);
        match pipe.read(buffer) {
            Ok(0) => {
                self.pipe = None;
                0
            }
            Ok(count) => {
                self.keep(&buffer[..count]);
                count
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => {
                self.pipe = None;
                0
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.cap.saturating_sub(self.seen);
        self.seen += bytes.len() as u64;
        if self.cut {
            return;
        }
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        if self.file.write_all(&bytes[..fits]).is_err() {
            self.cut = true;
            return;
        }
        if fits < bytes.len() {
            self.cut = true;
            // The mark is not output; should it not fit on the disk, the record still says that the log was cut.
            let _ = writeln!(self.file, "\n[orch: cut here, {} bytes are kept; the job went on]", self.cap);
        }
    }

    /// Bytes that came, kept or not.
    pub(crate) const fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether something is missing in the file.
    pub(crate) const fn is_cut(&self) -> bool {
        self.cut
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn run(cap: u64, parts: &[&[u8]]) -> (String, bool, u64) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let mut output = Output::create(&path, cap).expect("made");
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        output.attach(reader).expect("attached");
        let mut writer = File::from(writer);
        let mut buffer = Vec::new();
        for part in parts {
            writer.write_all(part).expect("fits the pipe");
            assert_eq!(output.copy(&mut buffer), part.len());
        }
        assert_eq!(output.copy(&mut buffer), 0, "an empty pipe does not block");
        assert!(output.descriptor().is_some(), "the writer is still there");
        drop(writer);
        output.copy(&mut buffer);
        assert!(output.descriptor().is_none(), "end of file is seen");
        (fs::read_to_string(&path).expect("readable"), output.is_cut(), output.seen())
    }

    #[test]
    fn keeps_all_up_to_exactly_the_cap() {
        assert_eq!(run(6, &[b"abc", b"def"]), ("abcdef".to_owned(), false, 6));
    }

    #[test]
    fn marks_one_cut_and_goes_on_counting() {
        let (text, cut, seen) = run(4, &[b"abc", b"def", b"ghi"]);
        assert!(text.starts_with("abcd\n[orch: cut here, 4 bytes"), "{text}");
        assert_eq!(text.matches("orch:").count(), 1);
        assert_eq!((cut, seen), (true, 9));
    }
}
