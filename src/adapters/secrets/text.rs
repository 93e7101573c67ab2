//! One text under all rules: what matches, what of it is the secret, and whether that counts.
//!
//! Owns the order in which a match becomes a finding: keywords wake rules, patterns match, a group is the secret, its
//! randomness is measured, lists leave it out, other rules it needs must be near, a generic rule gives way to a precise
//! one. The same on what is encoded inside the text. Invariant: the rules are followed as the binary follows them, but
//! never on less of the text.

use std::ops::Range;

use super::rules::{Compiled, CompiledRule, Seen};
use super::{Place, Secret, decode, entropy};

/// Longest stretch in which encoded pieces are read at a time; stretches overlap.
const STRETCH: usize = 1 << 20;
const OVERLAP: usize = 32 << 10;

/// A finding in a text.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    /// Which rule, by its place.
    pub(super) rule: usize,
    /// Line of the match, from 1.
    pub(super) line: u64,
    column: u64,
    pub(super) secret: Secret,
    /// What was decoded to see it.
    pub(super) wrapped: String,
    /// Where it counts.
    pub(super) places: Vec<Place>,
}

/// Looks at one text that stands in these places.
pub(super) fn scan(rules: &Compiled, text: &[u8], places: &[Place]) -> Vec<Hit> {
    let places: Vec<&Place> =
        places.iter().filter(|place| !rules.lists.iter().any(|list| list.allows_place(place))).collect();
    if places.is_empty() || text.is_empty() {
        return Vec::new();
    }
    let look = Look { rules, places: &places };
    let plain = Layer { text, original: text, offset: 0, pieces: &[] };
    let mut hits = look.layer(&plain);
    let mut from = 0;
    loop {
        let to = (from + STRETCH).min(text.len());
        look.encoded(&text[from..to], text, from, &mut hits);
        if to == text.len() {
            break;
        }
        from = to - OVERLAP;
    }
    give_way(rules, hits)
}

/// A text, as it is or with its encoded pieces replaced.
struct Layer<'t> {
    /// What patterns are run on.
    text: &'t [u8],
    /// The whole text as it stands there.
    original: &'t [u8],
    /// Where this layer's text begins in it.
    offset: usize,
    /// What was replaced; none for the text as it is.
    pieces: &'t [decode::Piece],
}

struct Look<'l> {
    rules: &'l Compiled,
    places: &'l [&'l Place],
}

impl Look<'_> {
    fn encoded(&self, stretch: &[u8], original: &[u8], offset: usize, hits: &mut Vec<Hit>) {
        let (mut text, mut pieces) = (std::borrow::Cow::Borrowed(stretch), Vec::new());
        for _ in 0..decode::DEPTH {
            let Some((next, next_pieces)) = decode::pass(&text, &pieces) else { return };
            (text, pieces) = (std::borrow::Cow::Owned(next), next_pieces);
            hits.extend(self.layer(&Layer { text: &text, original, offset, pieces: &pieces }));
        }
    }

    fn layer(&self, layer: &Layer<'_>) -> Vec<Hit> {
        let mut hits = Vec::new();
        for at in self.rules.awake(layer.text) {
            let rule = &self.rules.rules[at];
            if rule.skip_report {
                continue;
            }
            let mut found = self.matches(at, rule, layer);
            if !rule.required.is_empty() && !found.is_empty() {
                self.keep_accompanied(rule, layer, &mut found);
            }
            hits.extend(found);
        }
        hits
    }

    fn matches(&self, at: usize, rule: &CompiledRule, layer: &Layer<'_>) -> Vec<Hit> {
        let Some(regex) = &rule.regex else { return Vec::new() };
        let places: Vec<&Place> = self.places.iter().filter(|place| rule.place.applies_at(place)).copied().collect();
        if places.is_empty() {
            return Vec::new();
        }
        let found = regex.find_iter(layer.text).map(|found| found.range());
        found.filter_map(|range| self.hit(at, rule, layer, range, &places)).collect()
    }

    fn hit(
        &self,
        at: usize,
        rule: &CompiledRule,
        layer: &Layer<'_>,
        range: Range<usize>,
        places: &[&Place],
    ) -> Option<Hit> {
        let wrapped = match layer.pieces {
            [] => String::new(),
            // A match without anything new in it was seen by an earlier pass.
            pieces => decode::fresh_under(pieces, &range)?,
        };
        let range = without_newlines(layer.text, range);
        let matched = &layer.text[range.clone()];
        let secret = secret_of(rule, matched);
        if rule.entropy != 0.0 && entropy::shannon(secret) <= rule.entropy {
            return None;
        }
        let seen = Seen { secret, matched, line: line_around(layer.text, &range) };
        let left_out =
            |place: &Place| self.rules.lists.iter().chain(&rule.place.lists).any(|list| list.allows(place, seen));
        let places: Vec<Place> = places.iter().filter(|place| !left_out(place)).map(|place| (*place).clone()).collect();
        if places.is_empty() {
            return None;
        }
        let start = match layer.pieces {
            [] => range.start,
            pieces => decode::original(pieces, &range).start,
        };
        let (line, column) = position(layer.original, layer.offset + start);
        Some(Hit { rule: at, line, column, secret: Secret::new(secret), wrapped, places })
    }

    /// Keeps the findings that have one of each required rule near them.
    fn keep_accompanied(&self, rule: &CompiledRule, layer: &Layer<'_>, found: &mut Vec<Hit>) {
        for required in &rule.required {
            let others = self.matches(required.rule, &self.rules.rules[required.rule], layer);
            let near = |hit: &Hit| {
                others.iter().any(|other| {
                    required.within_lines.is_none_or(|most| hit.line.abs_diff(other.line) <= most)
                        && required.within_columns.is_none_or(|most| hit.column.abs_diff(other.column) <= most)
                })
            };
            found.retain(near);
        }
    }
}

/// Of the groups of a match, the one that is the secret: the named one, else the first that holds anything, else all.
pub(super) fn secret_of<'t>(rule: &CompiledRule, matched: &'t [u8]) -> &'t [u8] {
    let Some(regex) = &rule.regex else { return matched };
    if regex.captures_len() < 2 {
        return matched;
    }
    let Some(groups) = regex.captures(matched) else { return matched };
    let group = match rule.secret_group {
        0 => groups.iter().skip(1).flatten().find(|group| !group.is_empty()),
        wanted => groups.get(wanted),
    };
    match (group, rule.secret_group) {
        (Some(group), _) => group.as_bytes(),
        (None, 0) => matched,
        // As the binary: a group that took no part is an empty secret.
        (None, _) => &[],
    }
}

fn without_newlines(text: &[u8], range: Range<usize>) -> Range<usize> {
    let matched = &text[range.clone()];
    let before = matched.iter().take_while(|byte| **byte == b'\n').count();
    let after = matched[before..].iter().rev().take_while(|byte| **byte == b'\n').count();
    range.start + before..range.end - after
}

fn line_around<'t>(text: &'t [u8], range: &Range<usize>) -> &'t [u8] {
    let start = text[..range.start].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let end = text[range.end..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |length| range.end + length);
    &text[start..end]
}

/// Line and column of a position, from 1.
fn position(text: &[u8], at: usize) -> (u64, u64) {
    let before = &text[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count();
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count();
    (line as u64 + 1, column as u64 + 1)
}

/// Drops what was found twice, and a generic rule's finding where a precise rule has found the same.
fn give_way(rules: &Compiled, hits: Vec<Hit>) -> Vec<Hit> {
    let is_generic = |hit: &Hit| rules.rules[hit.rule].generic;
    let holds = |other: &Hit, hit: &Hit| {
        let (long, short) = (other.secret.value(), hit.secret.value());
        short.is_empty() || long.windows(short.len()).any(|window| window == short)
    };
    let gives_way = |hit: &Hit| {
        is_generic(hit) && hits.iter().any(|other| other.line == hit.line && !is_generic(other) && holds(other, hit))
    };
    let mut kept: Vec<Hit> = hits.iter().filter(|hit| !gives_way(hit)).cloned().collect();
    kept.sort_by(|a, b| (a.line, a.rule, &a.secret, a.column).cmp(&(b.line, b.rule, &b.secret, b.column)));
    kept.dedup_by(|a, b| (a.line, a.rule) == (b.line, b.rule) && a.secret == b.secret);
    kept
}
