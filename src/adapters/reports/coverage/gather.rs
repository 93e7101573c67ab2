//! What a parser has read so far.
//!
//! Owns the caps that keep a report, whatever it holds, from filling the memory: a name is looked up in the commit when it
//! is read, and of what is not there nothing is kept but a count and one example; a file has no more lines than its bytes
//! let it have; blocks of lines are counted. So what is kept is bounded by the commit, not by the report. Refuses to
//! open anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read};

use orch_domain::coverage::{Coverage, Lines, MOST_BLOCKS};

use super::owned::{Id, Look, Means};

/// A report as it was read.
#[derive(Debug)]
pub(super) struct Gathered {
    look: Look,
    files: BTreeMap<Id, Lines>,
    /// Files with lines that they cannot have, and what is to be said about the first of them.
    odd: BTreeSet<Id>,
    odd_example: Option<String>,
    /// Entries about files that are not in the commit, and the name of the first.
    outside: u64,
    example: Option<String>,
    sources: Vec<String>,
    open: Option<Open>,
    began: bool,
    /// Blocks of all files that are kept, without those of the open one.
    blocks: usize,
    /// Lines told not to count, as far as the format tells.
    pub(super) excluded: Option<u64>,
    /// The tool, as far as it says.
    pub(super) tool: Option<String>,
    /// Remarks.
    pub(super) notes: Vec<String>,
}

/// The file whose lines are being read.
#[derive(Debug)]
struct Open {
    means: Means,
    name: String,
    lines: Lines,
    excluded: Lines,
    /// The highest line that it can have.
    most: u32,
    beyond: Option<u32>,
}

impl Gathered {
    pub(super) fn new(look: Look) -> Self {
        Self {
            look,
            files: BTreeMap::new(),
            odd: BTreeSet::new(),
            odd_example: None,
            outside: 0,
            example: None,
            sources: Vec::new(),
            open: None,
            began: false,
            blocks: 0,
            excluded: None,
            tool: None,
            notes: Vec::new(),
        }
    }

    /// A folder that the names after it may be relative to.
    pub(super) fn source(&mut self, folder: String) -> Result<(), String> {
        if self.began {
            return Err("a `source` after the files, whose names were to be relative to it".to_owned());
        }
        self.sources.push(folder);
        Ok(())
    }

    /// How many sources there are.
    pub(super) fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Begins a file, or goes on with one that was named before.
    pub(super) fn begin(&mut self, name: &str) -> Result<(), String> {
        self.end();
        self.began = true;
        if name.is_empty() {
            return Err("a file without a name".to_owned());
        }
        let means = self.look.file(name, &self.sources);
        let mut open = Open {
            means,
            name: String::new(),
            lines: Lines::default(),
            excluded: Lines::default(),
            most: u32::MAX,
            beyond: None,
        };
        match means {
            Means::File(id) => {
                open.lines = self.files.remove(&id).unwrap_or_default();
                self.blocks -= open.lines.blocks();
                let most = self.look.size(id).map(|size| size.saturating_add(1));
                open.most = most.and_then(|most| u32::try_from(most).ok()).unwrap_or(u32::MAX);
            }
            Means::Either(..) => open.name = name.chars().take(200).collect(),
            Means::Nothing => {
                self.outside += 1;
                self.example.get_or_insert_with(|| name.chars().take(200).collect());
            }
        }
        self.open = Some(open);
        Ok(())
    }

    /// A line of the file that was begun.
    pub(super) fn line(&mut self, line: u32, covered: bool) -> Result<(), String> {
        let open = self.open.as_mut().ok_or("a line without a file")?;
        match open.means {
            Means::Nothing => return Ok(()),
            Means::Either(one, other) => {
                let (one, other) = (self.look.path(one), self.look.path(other));
                return Err(format!(
                    "`{}` may be {one} or {other}, both below its `source` folders; have coverage written as JSON or LCOV",
                    open.name
                ));
            }
            Means::File(_) => {}
        }
        if line > open.most {
            open.beyond.get_or_insert(line);
            return Ok(());
        }
        open.lines.add(line, covered);
        self.within()
    }

    /// A line of it that does not count, whatever else is said about it.
    pub(super) fn exclude(&mut self, line: u32) -> Result<(), String> {
        let open = self.open.as_mut().ok_or("a line without a file")?;
        if matches!(open.means, Means::File(_)) && line <= open.most {
            open.excluded.add(line, true);
        }
        self.within()
    }

    fn within(&self) -> Result<(), String> {
        let open = self.open.as_ref().map_or(0, |open| open.lines.blocks() + open.excluded.blocks());
        match self.blocks + open > MOST_BLOCKS {
            true => Err(format!("it needs more than {MOST_BLOCKS} blocks of lines")),
            false => Ok(()),
        }
    }

    /// Ends the file that was begun.
    pub(super) fn end(&mut self) {
        let Some(Open { means: Means::File(id), mut lines, excluded, beyond, .. }) = self.open.take() else { return };
        if let Some(line) = beyond {
            self.odd.insert(id);
            let (path, size) = (self.look.path(id), self.look.size(id).unwrap_or(0));
            self.odd_example.get_or_insert_with(|| format!("line {line} of {path}, which has {size} bytes"));
        }
        lines.remove_all(&excluded);
        if let Some(count) = self.excluded.as_mut() {
            *count += excluded.total();
        }
        self.blocks += lines.blocks();
        self.files.insert(id, lines);
    }

    /// Covered lines and lines that count, when nothing that the report names was left out.
    pub(super) fn whole(&self) -> Option<(u64, u64)> {
        let sum = |of: fn(&Lines) -> u64| self.files.values().map(of).sum::<u64>();
        (self.outside == 0 && self.odd.is_empty()).then(|| (sum(Lines::covered), sum(Lines::total)))
    }

    /// Takes over what belongs to the commit, with remarks about the rest; or says why the report belongs elsewhere.
    pub(super) fn take(self) -> Result<(Coverage, Vec<String>), String> {
        let Self { look, mut files, odd, odd_example, outside, example, excluded, mut notes, .. } = self;
        files.retain(|id, _| !odd.contains(id));
        if let Some(example) = odd_example {
            // Some tools are wrong about generated code. Wrong about most files: it was another checkout.
            if odd.len() > files.values().filter(|lines| !lines.is_empty()).count() {
                return Err(format!("it names {example}"));
            }
            notes.push(format!("{} files are left out: it names lines that they do not have, {example}", odd.len()));
        }
        if let Some(example) = example {
            if files.is_empty() {
                return Err(format!("none of its {outside} files is in the commit, such as {example}"));
            }
            notes.push(format!("{outside} measured files are not in the commit and do not count, such as {example}"));
        }
        let files = files.into_iter().map(|(id, lines)| (look.path(id).clone(), lines)).collect();
        Ok((Coverage { files, excluded }, notes))
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
