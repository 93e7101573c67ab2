//! What a parser has read so far, in the report's own words.
//!
//! Owns the caps that keep a report, whatever it holds, from filling the memory: files, the length of their names, and
//! blocks of lines. Refuses to look at the disk: whether a file belongs here is asked afterwards.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use orch_domain::coverage::Lines;

/// Most files of one report.
const MOST_FILES: usize = 200_000;
/// Longest name of a file.
const MOST_NAME: usize = 4_096;
/// Most blocks of 64 lines: a hundred million lines where they lie close, still two million where none is near another.
const MOST_BLOCKS: usize = 2_000_000;

/// A report as it was read.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// By name as the report gives it.
    pub(super) files: BTreeMap<String, Lines>,
    /// Lines told not to count, as far as the format tells.
    pub(super) excluded: Option<u64>,
    /// The tool, as far as it says.
    pub(super) tool: Option<String>,
    /// Folders that names are relative to, in order; none: the checkout.
    pub(super) sources: Vec<String>,
    /// Remarks.
    pub(super) notes: Vec<String>,
    open: Option<(String, Lines)>,
    blocks: usize,
}

impl Gathered {
    /// Begins a file, or goes on with one that was named before.
    pub(super) fn begin(&mut self, name: &str) -> Result<(), String> {
        self.end();
        if name.is_empty() || name.len() > MOST_NAME {
            return Err(format!("a file's name has {} bytes; 1 to {MOST_NAME} are read", name.len()));
        }
        let lines = self.files.remove(name).unwrap_or_default();
        if self.files.len() >= MOST_FILES {
            return Err(format!("it names more than {MOST_FILES} files"));
        }
        self.open = Some((name.to_owned(), lines));
        Ok(())
    }

    /// A line of the file that was begun.
    pub(super) fn line(&mut self, line: u32, covered: bool) -> Result<(), String> {
        let (_, lines) = self.open.as_mut().ok_or("a line without a file")?;
        self.blocks += usize::from(lines.add(line, covered));
        match self.blocks > MOST_BLOCKS {
            true => Err(format!("it needs more than {MOST_BLOCKS} blocks of lines")),
            false => Ok(()),
        }
    }

    /// A line of it that does not count.
    pub(super) fn exclude(&mut self, line: u32) {
        if let Some((_, lines)) = &mut self.open {
            lines.remove(line);
            self.excluded = Some(self.excluded.unwrap_or(0) + 1);
        }
    }

    /// Ends the file that was begun.
    pub(super) fn end(&mut self) {
        if let Some((name, lines)) = self.open.take() {
            self.files.insert(name, lines);
        }
    }
}

/// A reader that refuses to give more than it is allowed at a time, so that no single token fills the memory.
pub(super) struct Rationed<R> {
    inner: R,
    left: usize,
}

/// Most bytes of one token.
const RATION: usize = 1 << 20;

impl<R: BufRead> Rationed<R> {
    pub(super) const fn new(inner: R) -> Self {
        Self { inner, left: RATION }
    }

    /// A new token begins.
    pub(super) const fn refill(&mut self) {
        self.left = RATION;
    }
}

impl<R: BufRead> BufRead for Rationed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("one part is longer than {RATION} bytes")));
        }
        let buffer = self.inner.fill_buf()?;
        Ok(&buffer[..buffer.len().min(self.left)])
    }

    fn consume(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(amount);
        self.inner.consume(amount);
    }
}

impl<R: BufRead> Read for Rationed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let count = from.len().min(buf.len());
        buf[..count].copy_from_slice(&from[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// Passes JSON on, and refuses a string longer than a name may be: the parser would hold all of it.
pub(super) struct ShortStrings<R> {
    inner: R,
    inside: bool,
    escaped: bool,
    length: usize,
}

impl<R: Read> ShortStrings<R> {
    pub(super) const fn new(inner: R) -> Self {
        Self { inner, inside: false, escaped: false, length: 0 }
    }
}

impl<R: Read> Read for ShortStrings<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        for byte in &buf[..count] {
            self.length += 1;
            match (self.inside, self.escaped, byte) {
                (false, _, b'"') => (self.inside, self.length) = (true, 0),
                (false, ..) => self.length = 0,
                (true, true, _) => self.escaped = false,
                (true, false, b'\\') => self.escaped = true,
                (true, false, b'"') => self.inside = false,
                (true, false, _) => {}
            }
            if self.length > RATION {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a text longer than {RATION} bytes")));
            }
        }
        Ok(count)
    }
}
