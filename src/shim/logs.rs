//! The two outputs of a job: pipes that are always drained, files that stop growing at their cap.
//!
//! Owns the copying, and the two ways to keep to a cap. *Cut*: what comes later is not kept, which is marked in the file
//! and in the exit record, and the job goes on: a full pipe would hang it. *Roll*: what has been read for good makes room,
//! by a hole in the file, so that every offset stays true; while nothing can make room the pipe is left full and the job
//! waits, so that nothing unread is ever lost. A log that cannot be written (disk full) counts as cut from there on.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};

use crate::spec::Beyond;

/// Read at a time. Also the most that is taken from one output before the other is looked at.
const CHUNK: usize = 64 * 1024;
/// The beginning of a rolling log stays: it says how the job began.
const HEAD: u64 = CHUNK as u64;
/// A rolling log holds at least so much: what its reader saves up, and something to give back.
const ROLL_MIN: u64 = 4 * CHUNK as u64;
/// Holes begin and end at multiples of this.
const BLOCK: u64 = 4096;
/// How far a log has been read for good, in the job's folder.
const PARSED_FILE: &str = "stdout.parsed";
/// Digits of that number; written at once, so that a reader sees the old one or the new one.
const DIGITS: usize = 20;

/// How far standard output has been read for good: what lies before may make room. Kept in a file, so that it outlives
/// both who reads and who writes.
pub struct Parsed {
    file: File,
    told: u64,
}

impl Parsed {
    /// Opens it in a job's folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(PARSED_FILE);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Self { file, told: 0 })
    }

    /// Tells that everything before `offset` has been read for good. Small steps are saved up.
    ///
    /// # Errors
    /// When it cannot be written; it was not told then.
    pub fn tell(&mut self, offset: u64) -> io::Result<()> {
        if offset < self.told + CHUNK as u64 {
            return Ok(());
        }
        self.file.write_all_at(format!("{offset:0DIGITS$}").as_bytes(), 0)?;
        self.told = offset;
        Ok(())
    }
}

fn parsed(path: &Path) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A log that rolls.
struct Roll {
    parsed: PathBuf,
    /// Where the hole ends, which begins behind the head.
    hole_to: u64,
    /// No room could be made; the pipe waits.
    full: bool,
}

/// One output: its pipe and its file.
pub(crate) struct Output {
    pipe: Option<File>,
    file: File,
    cap: u64,
    seen: u64,
    cut: bool,
    roll: Option<Roll>,
}

impl Output {
    /// Makes the log's file; a job that never starts leaves it empty.
    pub(crate) fn create(path: &Path, cap: u64, beyond: Beyond) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let roll = match beyond {
            Beyond::Roll => Some(Roll { parsed: path.with_file_name(PARSED_FILE), hole_to: HEAD, full: false }),
            Beyond::Cut => None,
        };
        let cap = if roll.is_some() { cap.max(ROLL_MIN) } else { cap };
        Ok(Self { pipe: None, file, cap, seen: 0, cut: false, roll })
    }

    /// Begins to copy from a pipe.
    pub(crate) fn attach(&mut self, pipe: OwnedFd) -> io::Result<()> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        self.pipe = Some(File::from(pipe));
        Ok(())
    }

    /// What to poll, while there is a writer and room.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| !self.is_full()).map(AsFd::as_fd)
    }

    /// Whether the job waits until what it has said is read.
    pub(crate) fn is_full(&self) -> bool {
        self.roll.as_ref().is_some_and(|roll| roll.full)
    }

    /// Copies one chunk of what is there; answers how many bytes came. End of file closes the pipe.
    pub(crate) fn copy(&mut self, buffer: &mut Vec<u8>) -> usize {
        self.make_room();
        if self.is_full() {
            return 0;
        }
        self.take(buffer)
    }

    /// The same when the job is over: what is left in the pipe is taken, whether it fits or not.
    pub(crate) fn take(&mut self, buffer: &mut Vec<u8>) -> usize {
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
        let room = match self.roll {
            Some(_) => u64::MAX,
            None => self.cap.saturating_sub(self.seen),
        };
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

    /// Gives back the space of what has been read for good, as far as the cap asks for it.
    fn make_room(&mut self) {
        let Some(roll) = &mut self.roll else { return };
        let kept = self.seen - (roll.hole_to - HEAD);
        if kept < self.cap {
            roll.full = false;
            return;
        }
        // Down to three quarters, so that this is not done for every chunk.
        let wanted = roll.hole_to + (kept - self.cap / 4 * 3);
        let to = wanted.min(parsed(&roll.parsed)) / BLOCK * BLOCK;
        if to <= roll.hole_to {
            roll.full = true;
            return;
        }
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let place = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
        match fallocate(&self.file, hole, place(HEAD), place(to - HEAD)) {
            Ok(()) => {
                roll.hole_to = to;
                roll.full = self.seen - (to - HEAD) >= self.cap;
            }
            // This file system knows no holes: the log is cut at its cap, as others are.
            Err(_) => self.roll = None,
        }
    }

    /// Bytes that came, kept or not.
    pub(crate) const fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether something that nobody has read is missing in the file.
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
        let mut output = Output::create(&path, cap, Beyond::Cut).expect("made");
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

    struct Rolling {
        dir: tempfile::TempDir,
        output: Output,
        writer: File,
        buffer: Vec<u8>,
    }

    impl Rolling {
        fn new(cap: u64) -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let mut output = Output::create(&dir.path().join("stdout.log"), cap, Beyond::Roll).expect("made");
            let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
            output.attach(reader).expect("attached");
            Self { dir, output, writer: File::from(writer), buffer: Vec::new() }
        }

        /// Writes a chunk of one letter; answers how much of it was taken.
        fn say(&mut self, letter: u8) -> usize {
            self.writer.write_all(&[letter; CHUNK]).expect("fits the pipe");
            self.output.copy(&mut self.buffer)
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("stdout.log")
        }

        fn on_disk(&self) -> u64 {
            std::os::unix::fs::MetadataExt::blocks(&fs::metadata(self.path()).expect("there")) * 512
        }
    }

    #[test]
    fn a_rolling_log_waits_for_its_reader_and_then_forgets_what_was_read() {
        let cap = 8 * CHUNK as u64;
        let mut log = Rolling::new(cap);
        for letter in b'a'..b'i' {
            assert_eq!(log.say(letter), CHUNK);
        }
        assert_eq!(log.say(b'i'), 0, "nothing unread is dropped, so the job has to wait");
        assert!(log.output.is_full() && log.output.descriptor().is_none());
        let mut parsed = Parsed::open(log.dir.path()).expect("made");
        parsed.tell(5 * CHUNK as u64 + 100).expect("told");
        assert_eq!(log.output.copy(&mut log.buffer), CHUNK, "there is room again");
        assert!(!log.output.is_full());
        assert!(log.on_disk() <= cap, "{} bytes", log.on_disk());
        let text = fs::read(log.path()).expect("readable");
        assert_eq!(text.len(), 9 * CHUNK, "offsets stay true");
        assert_eq!((text[0], text[HEAD as usize - 1]), (b'a', b'a'), "the beginning stays");
        assert_eq!(text[HEAD as usize], 0, "what was read is gone");
        let unread = &text[5 * CHUNK + 100..];
        assert!(unread.iter().all(|byte| (b'f'..=b'i').contains(byte)), "nothing unread is missing");
        assert!(!log.output.is_cut());
    }

    #[test]
    fn what_is_left_when_the_job_is_over_is_taken_although_nobody_reads() {
        let mut log = Rolling::new(1);
        for letter in b'a'..b'e' {
            assert_eq!(log.say(letter), CHUNK, "even a small one holds a few chunks");
        }
        assert_eq!(log.say(b'e'), 0);
        assert_eq!(log.output.take(&mut log.buffer), CHUNK);
        assert_eq!(fs::read(log.path()).expect("readable").len(), 5 * CHUNK);
    }

    #[test]
    fn small_steps_of_a_reader_are_saved_up() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut parsed = Parsed::open(dir.path()).expect("made");
        parsed.tell(10).expect("told");
        assert_eq!(super::parsed(&dir.path().join(PARSED_FILE)), 0);
        for offset in [CHUNK as u64, 3 * CHUNK as u64] {
            parsed.tell(offset).expect("told");
            assert_eq!(super::parsed(&dir.path().join(PARSED_FILE)), offset);
        }
    }
}
