//! coverage.py's JSON.
//!
//! Owns the reading of `files.*.executed_lines`, `missing_lines` and `excluded_lines`, as a stream: nothing else of the
//! report is kept. The lines are counted by ourselves: `percent_covered` mixes branches in (measured). Refuses JSON of
//! another sort, cut off, or followed by something else.

use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::gather::{Gathered, ShortStrings};
use super::owned::Look;

/// Reads a report.
pub(super) fn read(from: impl Read, look: Look) -> Result<Gathered, String> {
    let mut gathered = Gathered::new(look);
    // This format always tells.
    gathered.excluded = Some(0);
    let mut whole = Whole { gathered: &mut gathered, files: false, stated: None };
    let mut deserializer = serde_json::Deserializer::from_reader(std::io::BufReader::new(ShortStrings::new(from)));
    deserializer.deserialize_map(&mut whole).map_err(|error| error.to_string())?;
    let (files, stated) = (whole.files, whole.stated);
    deserializer.end().map_err(|error| error.to_string())?;
    gathered.end();
    if !files {
        return Err("it is JSON without `files`, so not coverage.py's".to_owned());
    }
    if let Some(((covered, total), counted)) =
        stated.zip(gathered.whole()).filter(|(stated, counted)| stated != counted)
    {
        gathered
            .notes
            .push(format!("its own totals say {covered} of {total} lines; counted are {} of {}", counted.0, counted.1));
    }
    Ok(gathered)
}

#[derive(Deserialize)]
struct Meta {
    version: Option<String>,
}

#[derive(Deserialize)]
struct Stated {
    covered_lines: u64,
    num_statements: u64,
}

struct Whole<'g> {
    gathered: &'g mut Gathered,
    files: bool,
    stated: Option<(u64, u64)>,
}

impl<'de> Visitor<'de> for &mut Whole<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("coverage.py's JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "meta" => {
                    let version = map.next_value::<Meta>()?.version;
                    self.gathered.tool = version.map(|version| format!("coverage.py {version}"));
                }
                "files" if self.files => return Err(A::Error::custom("`files` stands there twice")),
                "files" => {
                    self.files = true;
                    map.next_value_seed(Files { gathered: self.gathered })?;
                }
                "totals" => {
                    let stated: Stated = map.next_value()?;
                    self.stated = Some((stated.covered_lines, stated.num_statements));
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct Files<'g> {
    gathered: &'g mut Gathered,
}

impl<'de> DeserializeSeed<'de> for Files<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Files<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("files by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            self.gathered.begin(&name).map_err(A::Error::custom)?;
            map.next_value_seed(OneFile { gathered: &mut *self.gathered })?;
            self.gathered.end();
        }
        Ok(())
    }
}

struct OneFile<'g> {
    gathered: &'g mut Gathered,
}

impl<'de> DeserializeSeed<'de> for OneFile<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneFile<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a file's lines")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut executed, mut missing) = (0, 0);
        while let Some(key) = map.next_key::<String>()? {
            let what = match key.as_str() {
                "executed_lines" => What::Executed,
                "missing_lines" => What::Missing,
                // Older versions list excluded lines that ran among the executed ones.
                "excluded_lines" => What::Excluded,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            executed += i32::from(what == What::Executed);
            missing += i32::from(what == What::Missing);
            map.next_value_seed(LineList { gathered: &mut *self.gathered, what })?;
        }
        match (executed, missing) {
            (1, 1) => Ok(()),
            _ => Err(A::Error::custom("a file must have `executed_lines` and `missing_lines`, each once")),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Executed,
    Missing,
    Excluded,
}

struct LineList<'g> {
    gathered: &'g mut Gathered,
    what: What,
}

impl<'de> DeserializeSeed<'de> for LineList<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for LineList<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("line numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(line) = seq.next_element::<u32>()? {
            match self.what {
                What::Executed => self.gathered.line(line, true).map_err(A::Error::custom)?,
                What::Missing => self.gathered.line(line, false).map_err(A::Error::custom)?,
                What::Excluded => self.gathered.exclude(line).map_err(A::Error::custom)?,
            }
        }
        Ok(())
    }
}
