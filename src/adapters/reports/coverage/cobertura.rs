//! Cobertura's XML.
//!
//! Owns the reading of `class` elements with their `line` elements, and of `source` folders, as a stream. Rates are not
//! read: they have four decimals. Names are relative to a `source`, so those come first; a name that fits two of them is
//! refused, for nobody knows which file it means. A document type is skipped and never fetched; one that declares entities of its own is
//! refused, as are documents that are cut off or nested beyond reason.

use std::io::BufRead;

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

use super::gather::{Gathered, Rationed};
use super::owned::Look;

/// Deepest nesting of elements.
const MOST_DEPTH: usize = 64;
/// Most `source` folders.
const MOST_SOURCES: usize = 100;
/// Longest of them: a path can have no more bytes.
const MOST_SOURCE: usize = 4_096;

struct State {
    gathered: Gathered,
    depth: usize,
    /// Depth of the `class` element that is open.
    class: Option<usize>,
    /// Text of the `source` element that is open.
    source: Option<String>,
    root: bool,
}

/// Reads a report.
pub(super) fn read(from: impl BufRead, look: Look) -> Result<Gathered, String> {
    let mut reader = Reader::from_reader(Rationed::new(from));
    let mut buffer = Vec::new();
    let mut state = State { gathered: Gathered::new(look), depth: 0, class: None, source: None, root: false };
    loop {
        buffer.clear();
        reader.get_mut().refill();
        let at = reader.buffer_position();
        let broken = |why: String| format!("at byte {at}: {why}");
        match reader.read_event_into(&mut buffer).map_err(|error| broken(error.to_string()))? {
            Event::Start(start) => state.open(&start, false).map_err(broken)?,
            Event::Empty(start) => state.open(&start, true).map_err(broken)?,
            Event::End(_) => state.close().map_err(broken)?,
            Event::DocType(text) if text.contains('[') => {
                return Err(broken("a document type with declarations of its own is not read".to_owned()));
            }
            Event::Text(text) => {
                if let Some(source) = &mut state.source {
                    source.push_str(&text);
                }
            }
            Event::CData(text) => {
                if let Some(source) = &mut state.source {
                    source.push_str(&text);
                }
            }
            Event::GeneralRef(reference) => {
                if let Some(source) = &mut state.source {
                    let number = reference.resolve_char_ref().map_err(|error| broken(error.to_string()))?;
                    match (number, resolve_predefined_entity(&reference)) {
                        (Some(character), _) => source.push(character),
                        (None, Some(text)) => source.push_str(text),
                        (None, None) => return Err(broken(format!("`&{};` is not known", short(&reference)))),
                    }
                }
            }
            Event::Eof => break,
            Event::DocType(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
    match (state.root, state.depth) {
        (false, _) => Err("it is XML without `coverage`, so not Cobertura's".to_owned()),
        (true, 0) => Ok(state.gathered),
        (true, _) => Err("it ends in the middle of an element".to_owned()),
    }
}

impl State {
    fn open(&mut self, start: &BytesStart<'_>, empty: bool) -> Result<(), String> {
        if self.depth >= MOST_DEPTH {
            return Err(format!("more than {MOST_DEPTH} elements deep"));
        }
        match start.local_name().as_ref() {
            "coverage" if self.depth == 0 => {
                self.root = true;
                let version = attribute(start, "version")?.filter(|version| !version.is_empty());
                self.gathered.tool = version.map(|version| format!("cobertura {version}"));
            }
            _ if self.depth == 0 => return Err("its root is not `coverage`".to_owned()),
            "source" if !empty => self.source = Some(String::new()),
            "class" if self.class.is_some() => return Err("a `class` inside a `class`".to_owned()),
            "class" => {
                let name = attribute(start, "filename")?.ok_or("a `class` without a `filename`")?;
                self.gathered.begin(name.trim())?;
                self.class = Some(self.depth);
            }
            "line" if self.class.is_some() => {
                let number = attribute(start, "number")?.ok_or("a `line` without a `number`")?;
                let hits = attribute(start, "hits")?.ok_or("a `line` without `hits`")?;
                let number: u32 = number.trim().parse().map_err(|_| format!("line `{}`", short(&number)))?;
                let hits = hits.trim();
                if hits.is_empty() || !hits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(format!("line {number} has `{}` hits", short(hits)));
                }
                self.gathered.line(number, hits.bytes().any(|byte| byte != b'0'))?;
            }
            _ => {}
        }
        if empty {
            self.class_ends_at(self.depth);
        } else {
            self.depth += 1;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        self.depth = self.depth.checked_sub(1).ok_or("an element is closed that was not open")?;
        self.class_ends_at(self.depth);
        if let Some(source) = self.source.take() {
            let source = source.trim().to_owned();
            if self.gathered.sources() >= MOST_SOURCES {
                return Err(format!("more than {MOST_SOURCES} `source` folders"));
            }
            if source.len() > MOST_SOURCE {
                return Err(format!("a `source` of {} bytes", source.len()));
            }
            if !source.is_empty() {
                self.gathered.source(source)?;
            }
        }
        Ok(())
    }

    fn class_ends_at(&mut self, depth: usize) {
        if self.class == Some(depth) {
            self.class = None;
            self.gathered.end();
        }
    }
}

fn attribute(start: &BytesStart<'_>, name: &str) -> Result<Option<String>, String> {
    let found = start.try_get_attribute(name).map_err(|error| error.to_string())?;
    let Some(found) = found else { return Ok(None) };
    let plain = quick_xml::escape::unescape(&found.value).map_err(|error| error.to_string())?;
    Ok(Some(plain.into_owned()))
}

fn short(text: &str) -> String {
    text.escape_debug().take(40).collect()
}
