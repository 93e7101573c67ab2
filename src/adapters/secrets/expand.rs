//! What a file holds besides its own bytes: the members of archives, and text in two-byte characters.
//!
//! Owns opening gzip, zip and tar, one in another, within limits, and telling UTF-16. Works in memory and in this process, the
//! same for every engine. What is over a limit is refused, never cut; what cannot be opened (encrypted, broken, another
//! kind) is named. An archive is told by its bytes, never by its name, since the name is the branch's own choice.

use std::borrow::Cow;
use std::io::Read;
use std::sync::OnceLock;

use flate2::read::{DeflateDecoder, MultiGzDecoder};
use regex::bytes::Regex;

/// How far archives are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpandLimits {
    /// Archives inside archives.
    pub depth: usize,
    /// Most bytes that one file may hold in all its members together.
    pub bytes: u64,
    /// Most members of one file.
    pub members: usize,
}

impl Default for ExpandLimits {
    fn default() -> Self {
        Self { depth: 3, bytes: 256 << 20, members: 20_000 }
    }
}

/// One text that a file holds.
#[derive(Debug)]
pub(crate) struct Text<'t> {
    /// Path inside the file; empty for the file itself.
    pub(crate) member: Vec<u8>,
    /// What was done to read it, for people.
    pub(crate) wrapped: &'static str,
    /// The text.
    pub(crate) bytes: Cow<'t, [u8]>,
}

/// What could not be looked into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shut {
    /// Named, but no obstacle.
    pub(crate) unopened: Vec<String>,
    /// Over a limit: not to be passed over.
    pub(crate) refused: Vec<String>,
}

/// Gives every text of a file to `each`, the file itself first.
pub(crate) fn expand<E>(
    bytes: &[u8],
    limits: ExpandLimits,
    each: &mut dyn FnMut(Text<'_>) -> Result<(), E>,
) -> Result<Shut, E> {
    let mut state = State { limits, bytes: limits.bytes, members: limits.members, shut: Shut::default(), each };
    state.file(&[], Cow::Borrowed(bytes), 0)?;
    Ok(state.shut)
}

struct State<'e, E> {
    limits: ExpandLimits,
    /// What is left of the limits.
    bytes: u64,
    members: usize,
    shut: Shut,
    each: &'e mut dyn FnMut(Text<'_>) -> Result<(), E>,
}

impl<E> State<'_, E> {
    fn file(&mut self, member: &[u8], bytes: Cow<'_, [u8]>, depth: usize) -> Result<(), E> {
        if let Some(text) = from_utf16(&bytes) {
            (self.each)(Text { member: member.to_owned(), wrapped: "UTF-16", bytes: Cow::Owned(text) })?;
        }
        (self.each)(Text { member: member.to_owned(), wrapped: "", bytes: Cow::Borrowed(&bytes) })?;
        let Some(kind) = Archive::of(&bytes) else { return Ok(()) };
        if depth >= self.limits.depth {
            let most = self.limits.depth;
            self.refuse(member, &format!("archives are nested deeper than {most}"));
            return Ok(());
        }
        match kind {
            Archive::Gzip => self.gzip(member, &bytes, depth),
            Archive::Zip => self.zip(member, &bytes, depth),
            Archive::Tar => self.tar(member, &bytes, depth),
            Archive::Other(name) => {
                self.name(member, &format!("it is {name}, which is not opened"));
                Ok(())
            }
        }
    }

    fn refuse(&mut self, member: &[u8], why: &str) {
        add(&mut self.shut.refused, line(member, why));
    }

    fn name(&mut self, member: &[u8], why: &str) {
        add(&mut self.shut.unopened, line(member, why));
    }

    /// Reads a stream to its end, or says why not.
    fn inflate(&mut self, member: &[u8], stream: impl Read) -> Option<Vec<u8>> {
        if self.members == 0 {
            let most = self.limits.members;
            self.refuse(member, &format!("it holds more than {most} files"));
            return None;
        }
        self.members -= 1;
        let mut out = Vec::new();
        let read = stream.take(self.bytes + 1).read_to_end(&mut out);
        if out.len() as u64 > self.bytes {
            let most = self.limits.bytes;
            self.refuse(member, &format!("unpacked, it is longer than {most} bytes"));
            return None;
        }
        if let Err(error) = read {
            self.name(member, &format!("it is broken: {error}"));
        }
        self.bytes -= out.len() as u64;
        // What could be read of a broken one is looked at.
        Some(out)
    }

    fn gzip(&mut self, member: &[u8], bytes: &[u8], depth: usize) -> Result<(), E> {
        match self.inflate(member, MultiGzDecoder::new(bytes)) {
            Some(inner) => self.file(&joined(member, b"(gzip)"), Cow::Owned(inner), depth + 1),
            None => Ok(()),
        }
    }

    fn tar(&mut self, member: &[u8], bytes: &[u8], depth: usize) -> Result<(), E> {
        for entry in (TarEntries { bytes, at: 0 }) {
            let name = joined(member, entry.name);
            let full = self.members == 0;
            let Some(inner) = self.inflate(&name, entry.content) else {
                match full {
                    true => return Ok(()),
                    false => continue,
                }
            };
            self.file(&name, Cow::Owned(inner), depth + 1)?;
        }
        Ok(())
    }

    fn zip(&mut self, member: &[u8], bytes: &[u8], depth: usize) -> Result<(), E> {
        for entry in zip_entries(bytes) {
            let name = joined(member, entry.name);
            let full = self.members == 0;
            let inner = match (entry.encrypted, entry.method, entry.content) {
                (true, _, _) => {
                    self.name(&name, "it is encrypted");
                    continue;
                }
                (_, 0, Some(content)) => self.inflate(&name, content),
                (_, 8, Some(content)) => self.inflate(&name, DeflateDecoder::new(content)),
                (_, method, Some(_)) => {
                    self.name(&name, &format!("it is packed by method {method}, which is not opened"));
                    continue;
                }
                (_, _, None) => {
                    self.name(&name, "its place in the archive is broken");
                    continue;
                }
            };
            match inner {
                Some(inner) => self.file(&name, Cow::Owned(inner), depth + 1)?,
                None if full => return Ok(()),
                None => {}
            }
        }
        Ok(())
    }
}

/// Adds a line to as many as a person would read.
fn add(lines: &mut Vec<String>, line: String) {
    if lines.len() < 20 {
        lines.push(line);
    }
}

fn line(member: &[u8], why: &str) -> String {
    match member.is_empty() {
        true => why.to_owned(),
        false => format!("`{}` inside it: {why}", String::from_utf8_lossy(member)),
    }
}

fn joined(outer: &[u8], inner: &[u8]) -> Vec<u8> {
    match outer.is_empty() {
        true => inner.to_owned(),
        false => [outer, b"!".as_slice(), inner].concat(),
    }
}

enum Archive {
    Gzip,
    Zip,
    Tar,
    Other(&'static str),
}

/// First bytes of packed files that are not opened here.
const OTHERS: [(&[u8], &str); 6] = [
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "7-zip"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
];

impl Archive {
    fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"\x1f\x8b\x08") {
            return Some(Self::Gzip);
        }
        if bytes.get(257..262) == Some(b"ustar") {
            return Some(Self::Tar);
        }
        // A zip is told by its end: anything may stand before it.
        if end_of_zip(bytes).is_some() {
            return Some(Self::Zip);
        }
        OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, name)| Self::Other(name))
    }
}

// --------------------------------------------------------------------------------------------------------------- zip

struct ZipEntry<'z> {
    name: &'z [u8],
    method: u16,
    encrypted: bool,
    content: Option<&'z [u8]>,
}

/// Where the record at a zip's end begins: it is followed by a comment of at most 65 535 bytes.
fn end_of_zip(bytes: &[u8]) -> Option<usize> {
    static MARK: OnceLock<Regex> = OnceLock::new();
    let mark = MARK.get_or_init(|| Regex::new(r"(?-u)PK\x05\x06").expect("a plain pattern"));
    let from = bytes.len().saturating_sub(22 + 65_535);
    mark.find_iter(&bytes[from..]).map(|found| from + found.start()).filter(|at| at + 22 <= bytes.len()).last()
}

fn two(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])))
}

fn four(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 4).and_then(|b| usize::try_from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])).ok())
}

/// The entries by the directory at the end. Offsets count from where the archive begins, which need not be the file's start.
fn zip_entries(bytes: &[u8]) -> Vec<ZipEntry<'_>> {
    let mut all = Vec::new();
    let Some(end) = end_of_zip(bytes) else { return all };
    let (Some(size), Some(offset)) = (four(bytes, end + 12), four(bytes, end + 16)) else { return all };
    let mut at = end.saturating_sub(size);
    let shift = at.saturating_sub(offset);
    while bytes.get(at..at + 4) == Some(b"PK\x01\x02") {
        let Some(entry) = zip_entry(bytes, at, shift) else { break };
        at += 46 + entry.name.len() + two(bytes, at + 30).unwrap_or(0) + two(bytes, at + 32).unwrap_or(0);
        if !entry.name.ends_with(b"/") {
            all.push(entry);
        }
    }
    all
}

fn zip_entry(bytes: &[u8], at: usize, shift: usize) -> Option<ZipEntry<'_>> {
    let (flags, method) = (two(bytes, at + 8)?, two(bytes, at + 10)?);
    let (packed, name, local) = (four(bytes, at + 20)?, two(bytes, at + 28)?, four(bytes, at + 42)? + shift);
    let content = || {
        (bytes.get(local..local + 4)? == b"PK\x03\x04").then_some(())?;
        let start = local + 30 + two(bytes, local + 26)? + two(bytes, local + 28)?;
        bytes.get(start..start.checked_add(packed)?)
    };
    Some(ZipEntry {
        name: bytes.get(at + 46..at + 46 + name)?,
        method: u16::try_from(method).ok()?,
        encrypted: flags & 1 != 0,
        content: content(),
    })
}

// --------------------------------------------------------------------------------------------------------------- tar

struct TarEntry<'t> {
    name: &'t [u8],
    content: &'t [u8],
}

struct TarEntries<'t> {
    bytes: &'t [u8],
    at: usize,
}

impl<'t> Iterator for TarEntries<'t> {
    type Item = TarEntry<'t>;

    fn next(&mut self) -> Option<TarEntry<'t>> {
        loop {
            let header = self.bytes.get(self.at..self.at + 512)?;
            if header.get(257..262) != Some(b"ustar") {
                return None;
            }
            let digits = header[124..136].iter().copied().filter(|byte| (b'0'..=b'7').contains(byte));
            let size =
                digits.fold(0_usize, |size, digit| size.saturating_mul(8).saturating_add(usize::from(digit - b'0')));
            let start = self.at + 512;
            let end = start.saturating_add(size).min(self.bytes.len());
            self.at = start.saturating_add(size.div_ceil(512).saturating_mul(512));
            let name = &header[..100];
            let name = &name[..name.iter().position(|byte| *byte == 0).unwrap_or(100)];
            // Whatever the type says, bytes that are there are looked at: long names and extended headers too.
            if end > start {
                return Some(TarEntry { name, content: &self.bytes[start..end] });
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------------------ UTF-16

/// The text of a file in two-byte characters, by its mark or by its look.
fn from_utf16(bytes: &[u8]) -> Option<Vec<u8>> {
    let (little, body) = match bytes {
        [0xff, 0xfe, body @ ..] => (true, body),
        [0xfe, 0xff, body @ ..] => (false, body),
        body => {
            // Plain text in two bytes each has a zero in every second place.
            let sample = &body[..body.len().min(4_096)];
            let zeros = |from: usize| sample.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
            let (even, odd, half) = (zeros(0), zeros(1), sample.len() / 2);
            match half >= 8 {
                true if odd * 10 >= half * 8 && even * 10 <= half => (true, body),
                true if even * 10 >= half * 8 && odd * 10 <= half => (false, body),
                _ => return None,
            }
        }
    };
    let units = body.chunks_exact(2).map(|pair| match little {
        true => u16::from_le_bytes([pair[0], pair[1]]),
        false => u16::from_be_bytes([pair[0], pair[1]]),
    });
    let text: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    (!text.is_empty()).then(|| text.into_bytes())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;
    use std::io::Write;

    use super::*;

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        out.write_all(bytes).expect("into memory");
        out.finish().expect("into memory")
    }

    /// A zip of one file. Method 8 unless `stored`.
    pub(crate) fn zip(name: &str, bytes: &[u8], stored: bool) -> Vec<u8> {
        let packed = match stored {
            true => bytes.to_owned(),
            false => {
                let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
                out.write_all(bytes).expect("into memory");
                out.finish().expect("into memory")
            }
        };
        let method: u16 = if stored { 0 } else { 8 };
        let mut common = vec![0, 0];
        common.extend(method.to_le_bytes());
        common.extend([0; 8]);
        common.extend(u32::try_from(packed.len()).expect("small").to_le_bytes());
        common.extend(u32::try_from(bytes.len()).expect("small").to_le_bytes());
        common.extend(u16::try_from(name.len()).expect("small").to_le_bytes());
        let mut out = b"PK\x03\x04\x14\x00".to_vec();
        out.extend(&common);
        out.extend([0, 0]);
        out.extend(name.as_bytes());
        out.extend(&packed);
        let directory = out.len();
        out.extend(b"PK\x01\x02\x14\x00\x14\x00");
        out.extend(&common);
        out.extend([0; 2 + 2 + 2 + 2 + 4 + 4]);
        out.extend(name.as_bytes());
        let size = out.len() - directory;
        out.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
        out.extend(u32::try_from(size).expect("small").to_le_bytes());
        out.extend(u32::try_from(directory).expect("small").to_le_bytes());
        out.extend([0, 0]);
        out
    }

    pub(crate) fn tar(name: &str, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 512];
        out[..name.len()].copy_from_slice(name.as_bytes());
        out[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
        out[257..262].copy_from_slice(b"ustar");
        out.extend(bytes);
        out.resize(out.len().div_ceil(512) * 512 + 1024, 0);
        out
    }

    fn texts(bytes: &[u8], limits: ExpandLimits) -> (Vec<(String, String)>, Shut) {
        let mut all = Vec::new();
        let shut = expand::<Infallible>(bytes, limits, &mut |text| {
            all.push((
                String::from_utf8_lossy(&text.member).into_owned(),
                String::from_utf8_lossy(&text.bytes).into_owned(),
            ));
            Ok(())
        });
        (all, shut.unwrap_or_default())
    }

    fn holds(bytes: &[u8], member: &str, text: &str) {
        let (all, shut) = texts(bytes, ExpandLimits::default());
        assert!(all.iter().any(|(at, found)| at == member && found == text), "{all:?} {shut:?}");
        assert_eq!(shut, Shut::default());
    }

    #[test]
    fn archives_are_opened_also_one_in_another() {
        holds(b"plain", "", "plain");
        holds(&gzip(b"inside"), "(gzip)", "inside");
        holds(&zip("a/b.txt", b"inside", false), "a/b.txt", "inside");
        holds(&zip("a/b.txt", b"inside", true), "a/b.txt", "inside");
        holds(&tar("x.txt", b"inside"), "x.txt", "inside");
        holds(&gzip(&tar("x.txt", b"inside")), "(gzip)!x.txt", "inside");
        holds(&zip("x.gz", &gzip(b"inside"), true), "x.gz!(gzip)", "inside");
        // Something before the archive, as in a program that unpacks itself.
        let mut behind = b"#!/bin/sh\nexit 0\n".to_vec();
        behind.extend(zip("x", b"inside", false));
        holds(&behind, "x", "inside");
    }

    #[test]
    fn what_is_over_a_limit_is_refused_and_what_is_not_opened_is_named() {
        let bomb = gzip(&vec![b'a'; 100_000]);
        let (all, shut) = texts(&bomb, ExpandLimits { bytes: 1_000, ..ExpandLimits::default() });
        assert_eq!((all.len(), shut.refused.len()), (1, 1), "{shut:?}");
        assert!(shut.refused[0].contains("longer than 1000 bytes"), "{shut:?}");
        let nested = (0..5).fold(b"x".to_vec(), |inner, _| gzip(&inner));
        let (_, shut) = texts(&nested, ExpandLimits::default());
        assert!(shut.refused.iter().any(|line| line.contains("nested deeper than 3")), "{shut:?}");
        let (_, shut) = texts(&tar("a", b"x"), ExpandLimits { members: 0, ..ExpandLimits::default() });
        assert!(shut.refused[0].contains("more than 0 files"), "{shut:?}");
        let (_, shut) = texts(b"BZh91AY&SY", ExpandLimits::default());
        assert!(shut.unopened[0].contains("bzip2"), "{shut:?}");
        let (all, shut) = texts(&gzip(b"inside and more of it")[..20], ExpandLimits::default());
        assert!(shut.unopened[0].contains("broken"), "{shut:?} {all:?}");
        let mut locked = zip("x", b"inside", true);
        let entry = locked.windows(4).position(|w| w == b"PK\x01\x02").expect("a directory");
        locked[entry + 8] = 1;
        let (_, shut) = texts(&locked, ExpandLimits::default());
        assert!(shut.unopened[0].contains("encrypted"), "{shut:?}");
    }

    #[test]
    fn two_byte_text_is_read_with_a_mark_and_without() {
        let plain = "token = some text of more than eight signs";
        let little: Vec<u8> = plain.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = plain.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for bytes in
            [[b"\xff\xfe".to_vec(), little.clone()].concat(), [b"\xfe\xff".to_vec(), big.clone()].concat(), little, big]
        {
            holds(&bytes, "", plain);
        }
        let (all, _) = texts(b"just some plain text, longer than eight signs", ExpandLimits::default());
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn any_bytes_are_survived() {
        let whole = [zip("a", b"inside", false), tar("b", b"x"), gzip(b"y")];
        for bytes in whole {
            for cut in 0..bytes.len() {
                texts(&bytes[..cut], ExpandLimits::default());
                let mut broken = bytes.clone();
                broken[cut] ^= 0xff;
                texts(&broken, ExpandLimits::default());
            }
        }
    }
}
