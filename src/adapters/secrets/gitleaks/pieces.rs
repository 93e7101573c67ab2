//! Texts as files for the binary, under names that say nothing.
//!
//! Owns how a text is cut and named, and the way back from a file to the text. The binary passes over what it takes for a
//! binary file by its first bytes (two letters `MZ` are enough), over names that its default lists allow, and over the
//! seam of its own chunks; so each piece begins with line ends, has a neutral name, is shorter than a chunk, and overlaps
//! the next. Names keep an ending only where a default rule asks for one.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::expand::expand;
use super::super::{Bounds, Item, Material, Place, ScanError, Spot, shown};

/// Shorter than the binary's chunk of 100 000 bytes, line ends before it included.
const PIECE: usize = 96_000;
/// Longer than any key.
const OVERLAP: usize = 24_000;
/// Files per folder.
const PER_FOLDER: usize = 1_000;

/// Names and endings that default rules of the binary look for.
const ENDINGS: [&str; 7] = ["php", "tf", "hcl", "yml", "yaml", "p12", "pfx"];
const NUGET: &str = "nuget.config";

/// First bytes that make the binary pass over a file, and where it looks for them. Those that it looks for at the very
/// beginning are not listed: no piece begins with them.
const INNER_MAGIC: [(usize, &[u8]); 7] = [
    (257, b"ustar"),
    (128, b"DICM"),
    (32_769, b"CD001"),
    (34_817, b"CD001"),
    (36_865, b"CD001"),
    (34, b"LP"),
    (4, b"ftyp"),
];

/// Where a file came from.
#[derive(Debug)]
pub(super) struct Piece {
    /// Which text.
    pub(super) item: usize,
    /// Where in it, for archives.
    pub(super) member: Vec<u8>,
    /// How it was wrapped.
    pub(super) wrapped: &'static str,
    /// Lines of the text before the piece, less those put before it.
    pub(super) lines_before: i64,
}

/// All files of one scan.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// By file number.
    pub(super) all: Vec<Piece>,
    pub(super) unopened: Vec<String>,
    pub(super) refused: Vec<String>,
}

impl Pieces {
    /// Writes everything that is to be looked at below `folder`. `bare` says that rules look at the beginning of a text, so
    /// that it is written without line ends before it, too.
    pub(super) fn write(
        folder: &Path,
        material: &dyn Material,
        bounds: &Bounds,
        bare: bool,
        left_out: &dyn Fn(&Place) -> bool,
    ) -> Result<Self, ScanError> {
        let mut pieces = Self::default();
        let mut reader = material.reader()?;
        for (at, item) in material.items().iter().enumerate() {
            if item.places.iter().all(left_out) {
                continue;
            }
            bounds.check()?;
            let bytes = reader.read(at)?;
            let shut = expand(&bytes, bounds.expand, &mut |text| {
                let names = names(item, &text.member);
                for piece in cut(&text.bytes) {
                    for name in &names {
                        let lines_before = text.bytes[..piece.start].iter().filter(|b| **b == b'\n').count();
                        let ends = line_ends(&text.bytes[piece.clone()]);
                        for before in if bare { vec![ends, 0] } else { vec![ends] } {
                            let number = pieces.all.len();
                            put(folder, number, name, before, &text.bytes[piece.clone()])?;
                            pieces.all.push(Piece {
                                item: at,
                                member: text.member.clone(),
                                wrapped: text.wrapped,
                                lines_before: i64::try_from(lines_before).unwrap_or(i64::MAX)
                                    - i64::try_from(before).unwrap_or(0),
                            });
                        }
                    }
                }
                bounds.check()
            })?;
            let name = item.places.first().map(shown).unwrap_or_default();
            pieces.unopened.extend(shut.unopened.iter().map(|line| format!("{name}: {line}")));
            pieces.refused.extend(shut.refused.iter().map(|line| format!("{name}: {line}")));
        }
        Ok(pieces)
    }

    /// The piece that a path of the report names.
    pub(super) fn of(&self, path: &str) -> Option<&Piece> {
        let leaf = Path::new(path).components().nth(1)?.as_os_str().to_str()?;
        let digits: String = leaf.chars().take_while(char::is_ascii_digit).collect();
        self.all.get(digits.parse::<usize>().ok()?)
    }
}

/// The path of a file below the folder of texts.
fn path_of(number: usize, name: &str) -> PathBuf {
    let folder = PathBuf::from(format!("{:05}", number / PER_FOLDER));
    match name {
        "" => folder.join(format!("{number:07}")),
        NUGET => folder.join(format!("{number:07}")).join(NUGET),
        ending => folder.join(format!("{number:07}.{ending}")),
    }
}

fn put(folder: &Path, number: usize, name: &str, line_ends: usize, bytes: &[u8]) -> Result<(), ScanError> {
    let path = folder.join(path_of(number, name));
    let write = || {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&vec![b'\n'; line_ends])?;
        file.write_all(bytes)
    };
    write().map_err(|error| ScanError::Read {
        what: format!("a text for the scanner, in {}", path.display()),
        why: error.to_string(),
    })
}

/// The text at a path of the report, for rules that look at the line.
pub(super) fn read_back(folder: &Path, path: &str) -> Vec<u8> {
    fs::read(folder.join(path)).unwrap_or_default()
}

/// Which names a text needs: none in particular, or those that default rules ask for.
fn names(item: &Item, member: &[u8]) -> BTreeSet<String> {
    let ending = |path: &[u8]| {
        let path = String::from_utf8_lossy(path).to_lowercase();
        let leaf = path.rsplit(['/', '!']).next().unwrap_or_default().to_owned();
        let end = leaf.rsplit_once('.').map_or("", |(_, end)| end).to_owned();
        match () {
            () if leaf.ends_with(NUGET) => NUGET.to_owned(),
            () if ENDINGS.contains(&end.as_str()) => end,
            () => String::new(),
        }
    };
    let mut names: BTreeSet<String> = match member {
        [] => item
            .places
            .iter()
            .filter_map(|p| if let Spot::File(path) = &p.spot { Some(ending(path)) } else { None })
            .collect(),
        member => BTreeSet::from([ending(member)]),
    };
    if names.is_empty() {
        names.insert(String::new());
    }
    names
}

/// Where a text is cut.
fn cut(text: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut all = Vec::new();
    let mut from = 0;
    loop {
        let to = (from + PIECE).min(text.len());
        all.push(from..to);
        if to == text.len() {
            return all;
        }
        from = to - OVERLAP;
    }
}

/// How many line ends before a piece leave nothing at the places where the binary looks.
fn line_ends(piece: &[u8]) -> usize {
    let harmless = |before: &usize| {
        INNER_MAGIC
            .iter()
            .all(|(at, magic)| at.checked_sub(*before).is_none_or(|at| piece.get(at..at + magic.len()) != Some(*magic)))
    };
    (1..64).find(harmless).unwrap_or(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_overlap_and_cover_everything() {
        for length in [0, 1, PIECE, PIECE + 1, 3 * PIECE] {
            let text = vec![b'x'; length];
            let all = cut(&text);
            assert_eq!((all[0].start, all[all.len() - 1].end), (0, length));
            for pair in all.windows(2) {
                assert_eq!(pair[0].end - pair[1].start, OVERLAP);
            }
            assert!(all.iter().all(|piece| piece.len() + 64 < 100_000));
        }
    }

    #[test]
    fn no_piece_shows_a_magic_where_the_binary_looks() {
        for (at, magic) in INNER_MAGIC {
            for shift in 0..4 {
                let mut piece = vec![b'a'; 40_000];
                let from = at - shift.min(at);
                piece[from..from + magic.len()].copy_from_slice(magic);
                let before = line_ends(&piece);
                let written = [vec![b'\n'; before], piece].concat();
                assert!(INNER_MAGIC.iter().all(|(at, magic)| !written[*at..].starts_with(magic)), "{at} {shift}");
            }
        }
    }

    #[test]
    fn names_keep_an_ending_only_where_a_default_rule_asks_for_it() {
        let item =
            |paths: &[&str]| Item { places: paths.iter().map(|path| Place::file(None, *path)).collect(), bytes: 1 };
        let of = |paths: &[&str]| names(&item(paths), b"").into_iter().collect::<Vec<_>>();
        assert_eq!(of(&["a/b.svg"]), [""]);
        assert_eq!(of(&["a/package-lock.json", "x.TF"]), ["", "tf"]);
        assert_eq!(of(&["A/NuGet.Config"]), [NUGET]);
        assert_eq!(names(&item(&["a.zip"]), b"in/k.pfx").into_iter().collect::<Vec<_>>(), ["pfx"]);
        let commit = Item { places: vec![Place { commit: None, spot: Spot::Commit }], bytes: 1 };
        assert_eq!(names(&commit, b"").into_iter().collect::<Vec<_>>(), [""]);
    }
}
