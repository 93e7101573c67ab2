//! Patterns in the dialect of the scanner's language, Go, made readable for our engine.
//!
//! Both engines take the same family of patterns (no look-around, no back-reference), but not the same letters: Go takes
//! a lone `{` for itself, has `\Q..\E`, and means nothing by `[` or `&&` inside a class. Owns exactly these differences.
//! Refuses what Go refuses and ours would take for something else (`\1`). Bytes are matched, not characters, and
//! `\w`, `\d`, `\s`, `\b` know ASCII only, as in Go.

use regex::bytes::{Regex, RegexBuilder};

/// Compiles a pattern. `Err` is the reason in words.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let ours = translate(pattern)?;
    let built = builder(&ours).unicode(false).build();
    built.or_else(|bytewise| {
        // Classes of characters beyond ASCII exist only with characters.
        let built = builder(&with_ascii_classes(&ours)).unicode(true).build();
        built.map_err(|_| bytewise.to_string().lines().last().unwrap_or_default().trim().to_owned())
    })
}

fn builder(pattern: &str) -> RegexBuilder {
    let mut builder = RegexBuilder::new(pattern);
    // Octal escapes are Go's. The caches are per pattern and thread, and there are hundreds of patterns.
    builder.octal(true).size_limit(32 << 20).dfa_size_limit(1 << 20);
    builder
}

/// The pattern in our engine's letters.
pub(crate) fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            '\\' => escape(after, &mut out)?,
            '[' => class(after, &mut out)?,
            '{' if !is_quantifier(after) => {
                out.push_str("\\{");
                after
            }
            other => {
                out.push(other);
                after
            }
        };
    }
    Ok(out)
}

/// Whether what follows a `{` makes it a repetition: `3}`, `3,}` or `3,5}`.
fn is_quantifier(after: &str) -> bool {
    let Some(end) = after.find('}') else { return false };
    let (low, high) = after[..end].split_once(',').unwrap_or((&after[..end], ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

/// Copies one escape; `after` begins behind the backslash. Gives what follows it.
fn escape<'p>(after: &'p str, out: &mut String) -> Result<&'p str, String> {
    let Some(c) = after.chars().next() else { return Err("it ends with a backslash".to_owned()) };
    let rest = &after[c.len_utf8()..];
    match c {
        'Q' => {
            let (quoted, rest) = rest.split_once("\\E").unwrap_or((rest, ""));
            out.push_str(&regex::escape(quoted));
            return Ok(rest);
        }
        // Word boundaries for us, plain characters for Go.
        '<' | '>' => out.push(c),
        '1'..='7' if !rest.starts_with(|d: char| ('0'..='7').contains(&d)) => {
            return Err(format!("back-references (`\\{c}`) are not supported"));
        }
        '1'..='7' | '0' => {
            let digits = rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
            let octal = format!("{c}{}", &rest[..digits]);
            let value = u32::from_str_radix(&octal, 8).unwrap_or_default();
            out.push_str(&format!("\\x{{{value:x}}}"));
            return Ok(&rest[digits..]);
        }
        // A code or a class of characters keeps its braces.
        'x' | 'p' | 'P' if rest.starts_with('{') => {
            let Some(end) = rest.find('}') else { return Err(format!("`\\{c}{{` is not closed")) };
            out.push('\\');
            out.push(c);
            out.push_str(&rest[..=end]);
            return Ok(&rest[end + 1..]);
        }
        'C' => return Err("`\\C` is not supported".to_owned()),
        // Go takes the backslash away from every punctuation; ours only from those that mean something.
        other if other.is_ascii_punctuation() => out.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        other => {
            out.push('\\');
            out.push(other);
        }
    }
    Ok(rest)
}

/// Copies a class up to its closing bracket; `after` begins behind the opening one.
fn class<'p>(after: &'p str, out: &mut String) -> Result<&'p str, String> {
    out.push('[');
    let mut rest = after;
    if let Some(behind) = rest.strip_prefix('^') {
        out.push('^');
        rest = behind;
    }
    let mut before = Before::Nothing;
    // A closing bracket in the first place is a member.
    if let Some(behind) = rest.strip_prefix(']') {
        out.push_str("\\]");
        (rest, before) = (behind, Before::Sign);
    }
    loop {
        let Some(c) = rest.chars().next() else { return Err("a class `[` is not closed".to_owned()) };
        let behind = &rest[c.len_utf8()..];
        let sign = if before == Before::Dash { Before::Nothing } else { Before::Sign };
        (rest, before) = match c {
            ']' => {
                out.push(']');
                return Ok(behind);
            }
            '\\' if behind.starts_with('Q') => return Err("`\\Q` inside a class is not supported".to_owned()),
            '\\' => {
                let named = behind.starts_with(|c: char| "wdsWDSpP".contains(c));
                (class_escape(behind, out)?, if named { Before::Nothing } else { sign })
            }
            '[' => match behind.strip_prefix(':').and_then(|named| named.find(":]")) {
                Some(end) => {
                    out.push_str(&rest[..end + 4]);
                    (&rest[end + 4..], Before::Nothing)
                }
                None => {
                    out.push_str("\\[");
                    (behind, sign)
                }
            },
            '-' if before == Before::Sign && !behind.starts_with(']') => {
                out.push('-');
                (behind, Before::Dash)
            }
            // Doubled, these are set operations for us.
            '&' | '~' | '-' => {
                out.push('\\');
                out.push(c);
                (behind, sign)
            }
            other => {
                out.push(other);
                (behind, sign)
            }
        };
    }
}

/// What stands before a place in a class, as far as a dash there is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing that a range could begin with.
    Nothing,
    /// One sign.
    Sign,
    /// The dash of a range.
    Dash,
}

/// Copies one escape inside a class, where nothing but the bracket's own letters need one.
fn class_escape<'p>(after: &'p str, out: &mut String) -> Result<&'p str, String> {
    match after.chars().next() {
        Some(c) if c.is_ascii_punctuation() => {
            out.push('\\');
            // `<` and `>` would be word boundaries.
            if matches!(c, '<' | '>') {
                out.pop();
            }
            out.push(c);
            Ok(&after[1..])
        }
        _ => escape(after, out),
    }
}

/// The named classes spelled out in ASCII, for patterns that have to be matched by character.
fn with_ascii_classes(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let (mut chars, mut inside) = (pattern.chars().peekable(), false);
    while let Some(c) = chars.next() {
        match (c, inside) {
            ('\\', _) => {
                let next = chars.next().unwrap_or('\\');
                let (bare, outside) = match next {
                    'w' => ("0-9A-Za-z_", "[0-9A-Za-z_]"),
                    'd' => ("0-9", "[0-9]"),
                    's' => ("\\t\\n\\x0C\\r ", "[\\t\\n\\x0C\\r ]"),
                    'b' if !inside => ("", "(?-u:\\b)"),
                    _ => ("", ""),
                };
                match (outside.is_empty(), inside) {
                    (true, _) => out.extend(['\\', next]),
                    (false, true) => out.push_str(bare),
                    (false, false) => out.push_str(outside),
                }
            }
            ('[', false) => {
                inside = true;
                out.push('[');
            }
            (']', true) => {
                inside = false;
                out.push(']');
            }
            (other, _) => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of a pattern, a text, and whether it is found there.
    #[track_caller]
    fn table(rows: &[(&str, &str, bool)]) {
        for (pattern, text, found) in rows {
            let regex = compile(pattern).unwrap_or_else(|why| panic!("{pattern}: {why}"));
            assert_eq!(regex.is_match(text.as_bytes()), *found, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_brace_that_repeats_nothing_is_itself() {
        table(&[
            (r"^\$(?:\d+|{\d+})$", "${12}", true),
            (r"^\{\{[ \t]*[\w ().|]+[ \t]*}}$", "{{ a.b }}", true),
            (r"^a{,3}$", "a{,3}", true),
            (r"^a{2,3}$", "aaa", true),
            (r"^a{2,3}$", "aaaa", false),
            (r"^{$", "{", true),
            (r"x{y}", "x{y}", true),
        ]);
    }

    #[test]
    fn classes_mean_what_they_mean_in_go() {
        table(&[
            (r"^[[]$", "[", true),
            (r"^[a[b]$", "[", true),
            (r"^[]a]+$", "]a", true),
            (r"^[^]a]+$", "bc", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[a~~b]+$", "~", true),
            (r"^[[:alpha:]_]+$", "ab_", true),
            (r"^[\w .-/]+$", "a ./b", true),
            (r"^[+--]+$", "+,-", true),
            (r"^[--/]+$", "-./", true),
            (r"^[\w-.]+$", "a-.", true),
            (r"^[a-]+$", "a-", true),
            (r"^[\]\[\-\^]+$", "[]-^", true),
            (r#"^[\<\>\"\']+$"#, "<>\"'", true),
        ]);
    }

    #[test]
    fn escapes_mean_what_they_mean_in_go() {
        table(&[
            (r"^\Qa.b{\E$", "a.b{", true),
            (r"^\Qa.b\E$", "axb", false),
            (r"^\<a\>$", "<a>", true),
            (r"^\x60\x{41}\101$", "`AA", true),
            (r"^\/\-\_\@\%\ $", "/-_@% ", true),
            (r"(?i)^KEY$", "key", true),
            (r"^\pL$", "a", true),
        ]);
        for (pattern, says) in [(r"(a)\1", "back-reference"), (r"[a", "not closed"), ("\\", "backslash"), (r"\C", "C")]
        {
            let why = compile(pattern).expect_err("refused");
            assert!(why.contains(says), "{pattern}: {why}");
        }
        assert!(compile("(?=a)").is_err(), "neither engine looks around");
    }

    #[test]
    fn named_classes_are_ascii_also_where_characters_are_matched() {
        table(&[
            (r"^\w$", "ä", false),
            (r"^\p{Greek}\w$", "αa", true),
            (r"^\p{Greek}\w$", "αα", false),
            (r"^[\w\p{Greek}]+$", "aα", true),
            (r"(?-i:[a-z])(?i:é)", "aé", true),
        ]);
    }

    #[test]
    fn the_end_is_the_end() {
        table(&[("a$", "a\n", false), ("(?m)a$", "a\n", true), (r"a\z", "a", true)]);
    }
}
