//! The only place that writes to standard output and standard error.
//!
//! Owns cleaning (text of tasks and agents is untrusted: no control character reaches a terminal), the live line and the
//! meaning of a closed pipe: whoever reads us has had enough, which is worth no word, but never success.

use std::io::{self, IsTerminal as _, Write};

use serde::Serialize;

/// Why a verb ended early. The variant decides the exit code; the text is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CliError {
    /// The command line is wrong (64).
    #[error("{0}")]
    Usage(String),
    /// It was refused, or the task failed (1).
    #[error("{0}")]
    Refused(String),
    /// It could not run: bad input, nobody there, no space (2).
    #[error("{0}")]
    CouldNot(String),
    /// The reader of standard output has gone (141, as of a program that SIGPIPE has ended): what was to be told, a verdict
    /// perhaps, was not told.
    #[error("standard output was closed")]
    Closed,
}

impl CliError {
    /// The exit code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Closed => 141,
            Self::Refused(_) => 1,
            Self::CouldNot(_) => 2,
            Self::Usage(_) => 64,
        }
    }
}

/// Where a verb writes.
pub struct Output {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// Whether a person looks at it as it comes.
    pub terminal: bool,
    /// Whether answers are wanted as JSON.
    pub json: bool,
    live: bool,
    /// Columns, where they are not asked of the terminal.
    columns: Option<usize>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("terminal", &self.terminal).field("json", &self.json).finish_non_exhaustive()
    }
}

impl Output {
    /// Standard output and standard error.
    #[must_use]
    pub fn standard(json: bool) -> Self {
        let terminal = io::stdout().is_terminal() && !json;
        let (out, err) = (Box::new(io::stdout()), Box::new(io::stderr()));
        Self { out, err, terminal, json, live: false, columns: None }
    }

    /// Other places, for tests and the demo.
    #[must_use]
    pub fn to(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>, terminal: bool, json: bool) -> Self {
        Self { out, err, terminal, json, live: false, columns: None }
    }

    /// The same, on a terminal of so many columns.
    #[must_use]
    pub fn columns(self, columns: usize) -> Self {
        Self { columns: Some(columns), ..self }
    }

    /// The terminal may be made wider or narrower at any time.
    fn width(&self) -> usize {
        let asked = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        self.columns.or_else(asked).filter(|columns| *columns > 1).unwrap_or(80)
    }

    /// One line. Control characters are made visible.
    ///
    /// # Errors
    /// [`CliError::Closed`] when nobody reads any more, [`CliError::CouldNot`] when writing fails otherwise.
    pub fn line(&mut self, text: &str) -> Result<(), CliError> {
        let clear = self.clear();
        let text = format!("{clear}{}\n", clean(text));
        self.raw(text.as_bytes())
    }

    /// Text of several lines, cleaned but for its line ends and tabs.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn block(&mut self, text: &str) -> Result<(), CliError> {
        let clear = self.clear();
        let cleaned: Vec<String> = text.split('\n').map(clean).collect();
        self.raw(format!("{clear}{}", cleaned.join("\n")).as_bytes())
    }

    /// A value as JSON: indented for people, else on one line.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value).map_err(|e| CliError::CouldNot(format!("no JSON: {e}")))?;
        self.raw(format!("{text}\n").as_bytes())
    }

    /// A value as one line of JSON, for streams.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn json_line<T: Serialize>(&mut self, value: &T) -> Result<(), CliError> {
        let text = serde_json::to_string(value).map_err(|e| CliError::CouldNot(format!("no JSON: {e}")))?;
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Shows (or replaces) the one live line at the bottom; does nothing where no person looks.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn live(&mut self, text: &str) -> Result<(), CliError> {
        if !self.terminal {
            return Ok(());
        }
        // Longer than the terminal is wide it would wrap and could not be taken back.
        let short: String = clean(text).chars().take(self.width() - 1).collect();
        self.live = true;
        self.raw(format!("\r\u{1b}[K{short}").as_bytes())
    }

    /// The one line that says what went wrong, on standard error.
    pub fn problem(&mut self, text: &str) {
        let clear = self.clear();
        let _ = self.raw(clear.as_bytes());
        let one_line = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
        // Nothing can be said about a standard error that cannot be written to.
        let _ = writeln!(self.err, "orch: {}", clean(&one_line));
    }

    /// A remark for the person at the terminal, on standard error, so that standard output stays the answer.
    pub fn note(&mut self, text: &str) {
        let clear = self.clear();
        let _ = self.raw(clear.as_bytes());
        let _ = writeln!(self.err, "{}", clean(text));
    }

    fn clear(&mut self) -> &'static str {
        match std::mem::take(&mut self.live) {
            true => "\r\u{1b}[K",
            false => "",
        }
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => CliError::Closed,
            _ => CliError::CouldNot(format!("cannot write the output: {e}")),
        })
    }
}

/// Text without control characters: a task's title must not drive the reader's terminal.
#[must_use]
pub fn clean(text: &str) -> String {
    let bad = |c: char| (c.is_control() && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(bad) {
        return text.to_owned();
    }
    text.chars().flat_map(|c| if bad(c) { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(clean("a\u{1b}[31mb\rc\u{202e}"), "a\\u{1b}[31mb\\u{d}c\\u{202e}");
        assert_eq!(clean("tab\tstays, \u{e9}\u{65e5} too"), "tab\tstays, \u{e9}\u{65e5} too");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_trouble_and_no_success() {
        let mut out = Output::to(Box::new(Gone), Box::new(Vec::new()), false, false);
        let err = out.line("x").expect_err("closed");
        assert_eq!((err.clone(), err.code()), (CliError::Closed, 141));
    }
}
