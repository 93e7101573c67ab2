//! Texts inside texts: percent signs, `\u` escapes, hexadecimal, base64, one in another.
//!
//! Owns finding such pieces, putting what they mean in their place, and the way back from a position in the result to the
//! text as it was. Only what reads as plain ASCII counts as meaning something, so that random data is not "decoded".

use std::ops::Range;

/// How often pieces are decoded that came out of pieces.
pub(crate) const DEPTH: usize = 5;

/// A piece that was replaced by its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where its meaning stands in the result.
    pub(crate) decoded: Range<usize>,
    /// Where it stood in the text as it was at the very beginning.
    pub(crate) original: Range<usize>,
    /// Whether the last pass made it.
    pub(crate) fresh: bool,
    /// What it was.
    pub(crate) kind: &'static str,
}

/// One pass: the text with its pieces replaced, or `None` when it has none.
pub(crate) fn pass(text: &[u8], earlier: &[Piece]) -> Option<(Vec<u8>, Vec<Piece>)> {
    let mut out = Vec::new();
    let mut made: Vec<(Range<usize>, Piece)> = Vec::new();
    let (mut at, mut copied) = (0, 0);
    while let Some((span, kind)) = next_piece(text, at) {
        at = span.end;
        let Some(meaning) = meaning(&text[span.clone()], kind) else { continue };
        out.extend_from_slice(&text[copied..span.start]);
        let start = out.len();
        out.extend_from_slice(&meaning);
        copied = span.end;
        let original = original(earlier, &span);
        made.push((span, Piece { decoded: start..out.len(), original, fresh: true, kind: kind.word() }));
    }
    if made.is_empty() {
        return None;
    }
    out.extend_from_slice(&text[copied..]);
    let pieces = together(earlier, made);
    Some((out, pieces))
}

/// Earlier pieces that are still there, moved by what was made before them, and the new ones; sorted.
fn together(earlier: &[Piece], made: Vec<(Range<usize>, Piece)>) -> Vec<Piece> {
    let mut all = Vec::with_capacity(earlier.len() + made.len());
    let (mut next, mut longer, mut shorter) = (0, 0, 0);
    for piece in earlier {
        while let Some((span, new)) = made.get(next).filter(|(span, _)| span.end <= piece.decoded.start) {
            longer += new.decoded.len();
            shorter += span.len();
            next += 1;
        }
        // What overlaps a new piece is found by way of that one.
        if made.get(next).is_none_or(|(span, _)| span.start >= piece.decoded.end) {
            let moved = |at: usize| (at + longer).saturating_sub(shorter);
            let decoded = moved(piece.decoded.start)..moved(piece.decoded.end);
            all.push(Piece { decoded, fresh: false, ..piece.clone() });
        }
    }
    all.extend(made.into_iter().map(|(_, new)| new));
    all.sort_by_key(|piece| piece.decoded.start);
    all
}

/// Where a range of a text stood in the beginning.
pub(crate) fn original(pieces: &[Piece], range: &Range<usize>) -> Range<usize> {
    place(pieces, range.start).start..place(pieces, range.end.saturating_sub(1)).end.max(1)
}

/// Where one position stood: the whole of a piece, or the single position.
fn place(pieces: &[Piece], at: usize) -> Range<usize> {
    let (mut longer, mut shorter) = (0, 0);
    for piece in pieces {
        if piece.decoded.contains(&at) {
            return piece.original.clone();
        }
        if piece.decoded.start > at {
            break;
        }
        longer = piece.original.end;
        shorter = piece.decoded.end;
    }
    let at = at - shorter + longer;
    at..at + 1
}

/// What was decoded for a match to be there; `None` when nothing new was, and an earlier pass has seen the match.
pub(crate) fn fresh_under(pieces: &[Piece], range: &Range<usize>) -> Option<String> {
    let touching = |piece: &&Piece| piece.decoded.start < range.end && range.start < piece.decoded.end;
    let mut kinds: Vec<&str> = Vec::new();
    let mut fresh = false;
    for piece in pieces.iter().filter(touching) {
        fresh |= piece.fresh;
        if !kinds.contains(&piece.kind) {
            kinds.push(piece.kind);
        }
    }
    fresh.then(|| kinds.join(", "))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Percent,
    Unicode,
    Hex,
    Base64,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Percent => "percent",
            Self::Unicode => "unicode escapes",
            Self::Hex => "hex",
            Self::Base64 => "base64",
        }
    }
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_')
}

/// The next piece that begins at or after a position.
fn next_piece(text: &[u8], from: usize) -> Option<(Range<usize>, Kind)> {
    let mut at = from;
    while at < text.len() {
        match text[at] {
            b'%' if is_percent(text, at) => return Some((at..percent_end(text, at), Kind::Percent)),
            b'\\' => {
                let end = escapes_end(text, at);
                if end > at {
                    return Some((at..end, Kind::Unicode));
                }
                at += 1;
            }
            byte if is_base64(byte) => {
                let end = at + text[at..].iter().take_while(|byte| is_base64(**byte)).count();
                if let Some((start, end)) = code_points(text, at, end) {
                    return Some((start..end, Kind::Unicode));
                }
                let hex = text[at..end].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                if hex >= 32 {
                    return Some((at..at + hex, Kind::Hex));
                }
                if end - at >= 16 {
                    let padding = text[end..].iter().take(2).take_while(|byte| **byte == b'=').count();
                    return Some((at..end + padding, Kind::Base64));
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    None
}

fn is_percent(text: &[u8], at: usize) -> bool {
    text.len() >= at + 3 && text[at] == b'%' && text[at + 1].is_ascii_hexdigit() && text[at + 2].is_ascii_hexdigit()
}

/// Behind the last percent code of the line.
fn percent_end(text: &[u8], start: usize) -> usize {
    let line = text[start..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |length| start + length);
    let last = (start..line).rev().find(|at| is_percent(text, *at)).unwrap_or(start);
    last + 3
}

/// Behind a row of `\u0041` (or `\\u0041`); the start itself when there is none.
fn escapes_end(text: &[u8], start: usize) -> usize {
    let mut at = start;
    loop {
        let slashes = text[at..].iter().take(3).take_while(|byte| **byte == b'\\').count();
        let code = &text[(at + slashes).min(text.len())..];
        let is_code = code.len() >= 5 && matches!(code[0], b'u' | b'U') && code[1..5].iter().all(u8::is_ascii_hexdigit);
        if !(1..=2).contains(&slashes) || !is_code {
            return at;
        }
        at += slashes + 5;
    }
}

/// A row of `U+0041 ` inside a run of letters, with the spaces between.
fn code_points(text: &[u8], from: usize, to: usize) -> Option<(usize, usize)> {
    let is_code = |at: usize| {
        text.len() >= at + 6
            && text[at..].starts_with(b"U+")
            && text[at + 2..at + 6].iter().all(u8::is_ascii_hexdigit)
            && text.get(at + 6).is_none_or(u8::is_ascii_whitespace)
    };
    let start = (from..to).find(|at| text[*at] == b'U' && is_code(*at))?;
    let mut at = start;
    while is_code(at) {
        at = (at + 7).min(text.len());
    }
    Some((start, at))
}

const fn is_plain(byte: u8) -> bool {
    byte > 0x08 && byte < 0x7f
}

fn meaning(piece: &[u8], kind: Kind) -> Option<Vec<u8>> {
    let meaning = match kind {
        Kind::Percent => percent(piece),
        Kind::Unicode => Some(unicode(piece)),
        Kind::Hex => hexadecimal(piece),
        Kind::Base64 => base64(piece),
    };
    meaning.filter(|meaning| !meaning.is_empty())
}

fn percent(piece: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(piece.len());
    let mut at = 0;
    while at < piece.len() {
        if is_percent(piece, at) {
            let byte = nibbles(piece[at + 1], piece[at + 2])?;
            if !is_plain(byte) {
                return None;
            }
            out.push(byte);
            at += 3;
        } else {
            out.push(piece[at]);
            at += 1;
        }
    }
    Some(out)
}

/// Each four hexadecimal digits behind a `u` or `U+` are a character.
fn unicode(piece: &[u8]) -> Vec<u8> {
    let mut out = String::new();
    let mut at = 0;
    while at < piece.len() {
        let skip = piece[at..].iter().position(u8::is_ascii_hexdigit).unwrap_or(piece.len() - at);
        let digits = piece.get(at + skip..at + skip + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(digits) = digits else { break };
        out.push(u32::from_str_radix(digits, 16).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER));
        at += skip + 4;
    }
    out.into_bytes()
}

fn hexadecimal(piece: &[u8]) -> Option<Vec<u8>> {
    if !piece.len().is_multiple_of(2) {
        return None;
    }
    piece.chunks(2).map(|pair| nibbles(pair[0], pair[1]).filter(|byte| is_plain(*byte))).collect()
}

fn nibbles(high: u8, low: u8) -> Option<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(value(high)? << 4 | value(low)?).ok()
}

fn base64(piece: &[u8]) -> Option<Vec<u8>> {
    let digits = piece.iter().take_while(|byte| **byte != b'=').count();
    if digits % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(digits / 4 * 3 + 2);
    for chunk in piece[..digits].chunks(4) {
        let mut bits = 0_u32;
        for byte in chunk {
            bits = bits << 6 | sextet(*byte);
        }
        bits <<= 6 * (4 - chunk.len());
        let bytes = bits.to_be_bytes();
        for byte in &bytes[1..chunk.len()] {
            // Soon, for nearly every run of letters that is none.
            if !is_plain(*byte) {
                return None;
            }
            out.push(*byte);
        }
    }
    Some(out)
}

const fn sextet(byte: u8) -> u32 {
    (match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        _ => 63,
    }) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(text: &str) -> String {
        let (out, _) = pass(text.as_bytes(), &[]).unwrap_or_else(|| panic!("nothing decoded in {text}"));
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn each_kind_is_read() {
        assert_eq!(once("a=%61%62%20c%21 d"), "a=ab c! d");
        assert_eq!(once("k: \\u0061\\u0062 x"), "k: ab x");
        assert_eq!(once("k: \\\\u0061 x"), "k: a x");
        assert_eq!(once("k: U+0061 U+0062"), "k: ab");
        assert_eq!(once(&format!("k={}", hex::encode("sixteen or more!"))), "k=sixteen or more!");
        assert_eq!(once("k=\"c2l4dGVlbiBvciBtb3JlIQ==\""), "k=\"sixteen or more!\"");
        assert_eq!(once("k=c2l4dGVlbiBvciBtb3JlIQ;"), "k=sixteen or more!;", "padding may be missing");
        // 0xfb 0xff need `-_` or `+/`; they are no plain text, so nothing is read from them.
        assert_eq!(pass(b"____--------------", &[]), None);
    }

    #[test]
    fn what_reads_as_no_text_is_left_alone() {
        for text in ["some_long_function_name_here", "deadbeefdeadbeefdeadbeefdeadbeef", "100% of it", "\\user", "U+00"]
        {
            assert_eq!(pass(text.as_bytes(), &[]), None, "{text}");
        }
    }

    #[test]
    fn positions_lead_back_to_where_a_piece_stood() {
        let text = "first %41%42 and c2l4dGVlbiBvciBtb3JlIQ== end";
        let (out, pieces) = pass(text.as_bytes(), &[]).expect("decoded");
        assert_eq!(String::from_utf8_lossy(&out), "first AB and sixteen or more! end");
        let sixteen = out.windows(7).position(|w| w == b"sixteen").expect("there");
        let back = original(&pieces, &(sixteen..sixteen + 7));
        assert_eq!(&text[back], "c2l4dGVlbiBvciBtb3JlIQ==");
        let end = out.windows(3).position(|w| w == b"end").expect("there");
        assert_eq!(&text[original(&pieces, &(end..end + 3))], "end");
        assert_eq!(fresh_under(&pieces, &(end..end + 3)), None);
        assert_eq!(fresh_under(&pieces, &(sixteen..sixteen + 7)).as_deref(), Some("base64"));
    }

    #[test]
    fn a_piece_inside_a_piece_takes_two_passes_and_leads_back_all_the_way() {
        let inner = "c2l4dGVlbiBvciBtb3JlIQ==";
        let text = format!("x {} y", hex::encode(inner));
        let (once, pieces) = pass(text.as_bytes(), &[]).expect("decoded");
        assert_eq!(String::from_utf8_lossy(&once), format!("x {inner} y"));
        let (twice, pieces) = pass(&once, &pieces).expect("decoded again");
        assert_eq!(String::from_utf8_lossy(&twice), "x sixteen or more! y");
        let back = original(&pieces, &(3..8));
        assert_eq!(&text[back], hex::encode(inner).as_str());
        assert_eq!(pass(&twice, &pieces), None);
        let (y, whole) = (twice.len() - 1, text.len());
        assert_eq!(original(&pieces, &(y..y + 1)), whole - 1..whole);
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut seed = 7_u64;
        for _ in 0..400 {
            let bytes: Vec<u8> = (0..97)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    b"%\\uU+0041 abcQ=/\n\xff"[(seed >> 33) as usize % 18]
                })
                .collect();
            let (mut text, mut pieces) = (bytes.clone(), Vec::new());
            for _ in 0..DEPTH {
                let Some((next, next_pieces)) = pass(&text, &pieces) else { break };
                for at in 0..next.len() {
                    let back = original(&next_pieces, &(at..at + 1));
                    assert!(back.start < back.end, "{back:?}");
                }
                (text, pieces) = (next, next_pieces);
            }
        }
    }
}
