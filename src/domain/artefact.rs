//! Artefacts of agents: reading the front matter of the notes that a stage must leave behind.
//!
//! Owns the names of the artefacts and the strict reading of their front matter: the first line is exactly `---`, the
//! block ends at the first following line that is exactly `---`, it is at most [`MAX_FRONT_MATTER`] bytes, and no key
//! may appear twice. Refuses to guess: a value that is not one of the known words is an error that names file, line,
//! value and way out. Keys that nobody asked for are left alone, since agents like to add a title. What a status says is
//! still an agent's claim.

use serde_yaml::{Mapping, Value};

use crate::ids::CommitSha;
use crate::pipeline::Role;

/// The analyst's note.
pub const ANALYSIS_FILE: &str = "01-analysis.md";
/// The architect's note.
pub const ARCHITECTURE_FILE: &str = "02-architecture.md";
/// The reviewer's note.
pub const REVIEW_FILE: &str = "12-review.md";
/// Most bytes of a front matter block that are looked at.
pub const MAX_FRONT_MATTER: usize = 64 * 1024;

/// What an analysis or architecture note says about going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The next stage can begin.
    Ready,
    /// A person has to decide something first.
    Blocked,
}

/// What a review says about the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviewStatus {
    /// Good as it is.
    Approved,
    /// To be changed, by the findings in the note.
    ChangesRequested,
}

/// The keys that the supervisor reads from an artefact; `None` means that the key is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontMatter {
    /// `analysis_status`.
    pub analysis_status: Option<Readiness>,
    /// `architecture_status`.
    pub architecture_status: Option<Readiness>,
    /// `review_status`.
    pub review_status: Option<ReviewStatus>,
    /// `reviewed_head`: the commit that a review is about.
    pub reviewed_head: Option<CommitSha>,
}

/// Why an artefact's front matter cannot be used. All of them go back to the agent as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtefactError {
    /// There is no front matter block.
    #[error("{file}, line {line}: {what}; {advice}")]
    NoBlock {
        /// The artefact.
        file: String,
        /// Line, counted from 1.
        line: usize,
        /// What was found instead.
        what: String,
        /// The way out.
        advice: &'static str,
    },
    /// The block goes on beyond the limit.
    #[error("{file}: the front matter is longer than {max} bytes; put the text below the closing `---`")]
    TooLong {
        /// The artefact.
        file: String,
        /// The limit in bytes.
        max: usize,
    },
    /// The block is not a YAML mapping, or a key appears twice.
    #[error("{file}, line {line}: the front matter is not valid YAML: {detail}; write one `key: value` a line")]
    NotYaml {
        /// The artefact.
        file: String,
        /// Line, counted from 1.
        line: usize,
        /// The YAML reader's words.
        detail: String,
    },
    /// A key that we read has a value that we do not know.
    #[error("{file}, line {line}: `{key}` is `{value}`; write {expected}")]
    BadValue {
        /// The artefact.
        file: String,
        /// Line, counted from 1.
        line: usize,
        /// The key.
        key: &'static str,
        /// Its value, shortened.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A key that the role must write is not there.
    #[error("{file}: the front matter lacks `{key}`; write {expected}")]
    Missing {
        /// The artefact.
        file: String,
        /// The key.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
    },
}

const READINESS: &str = "`ready` or `blocked`";
const REVIEW: &str = "`approved` or `changes_requested`";
const HEAD: &str = "the full id of the reviewed commit, 40 or 64 lower-case hex digits";
const OPENING: &str = "the first line must be exactly `---`, then `key: value` lines, then a line `---`";

impl FrontMatter {
    /// Checks that the keys which `role` must write are there. A developer writes none.
    pub fn require(&self, role: Role, file: &str) -> Result<(), ArtefactError> {
        let missing = |key, expected| Err(ArtefactError::Missing { file: file.to_owned(), key, expected });
        match role {
            Role::Analyst if self.analysis_status.is_none() => missing("analysis_status", READINESS),
            Role::Architect if self.architecture_status.is_none() => missing("architecture_status", READINESS),
            Role::Reviewer if self.review_status.is_none() => missing("review_status", REVIEW),
            Role::Reviewer if self.reviewed_head.is_none() => missing("reviewed_head", HEAD),
            Role::Analyst | Role::Architect | Role::Reviewer | Role::Developer => Ok(()),
        }
    }
}

/// Reads the front matter at the start of `text`; `file` is used in errors only, `max` bounds the block in bytes.
pub fn parse_front_matter(file: &str, text: &str, max: usize) -> Result<FrontMatter, ArtefactError> {
    let block = block(file, text, max)?;
    let mapping = mapping(file, block)?;
    let readiness = |key| {
        pick(file, block, &mapping, key, READINESS, |word| match word {
            "ready" => Some(Readiness::Ready),
            "blocked" => Some(Readiness::Blocked),
            _ => None,
        })
    };
    Ok(FrontMatter {
        analysis_status: readiness("analysis_status")?,
        architecture_status: readiness("architecture_status")?,
        review_status: pick(file, block, &mapping, "review_status", REVIEW, |word| match word {
            "approved" => Some(ReviewStatus::Approved),
            "changes_requested" => Some(ReviewStatus::ChangesRequested),
            _ => None,
        })?,
        reviewed_head: pick(file, block, &mapping, "reviewed_head", HEAD, |word| word.parse().ok())?,
    })
}

/// The text between the two `---` lines, without them.
fn block<'t>(file: &str, text: &'t str, max: usize) -> Result<&'t str, ArtefactError> {
    let no_block = |line, what: String, advice| ArtefactError::NoBlock { file: file.to_owned(), line, what, advice };
    let Some(rest) = text.strip_prefix("---\n").or_else(|| text.strip_prefix("---\r\n")) else {
        let first: String = text.lines().next().unwrap_or_default().chars().take(60).collect();
        return Err(no_block(1, format!("found `{}` where the front matter must open", first.escape_debug()), OPENING));
    };
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end_matches(['\n', '\r']) == "---" {
            return Ok(&rest[..end]);
        }
        end += line.len();
        if end > max {
            return Err(ArtefactError::TooLong { file: file.to_owned(), max });
        }
    }
    let lines = text.lines().count();
    Err(no_block(lines, "the front matter is never closed".to_owned(), "end it with a line that is exactly `---`"))
}

fn mapping(file: &str, block: &str) -> Result<Mapping, ArtefactError> {
    let not_yaml = |line, detail| ArtefactError::NotYaml { file: file.to_owned(), line, detail };
    match serde_yaml::from_str::<Value>(block) {
        Ok(Value::Mapping(mapping)) => Ok(mapping),
        Ok(Value::Null) => Ok(Mapping::new()),
        Ok(_) => Err(not_yaml(2, "it is no list of keys and values".to_owned())),
        Err(err) => {
            // The block begins on the file's second line.
            let line = err.location().map_or(2, |at| at.line() + 1);
            Err(not_yaml(line, err.to_string()))
        }
    }
}

/// Reads one key's value with `read`; a value that is no text or unknown to `read` is an error on the key's line.
fn pick<T>(
    file: &str,
    block: &str,
    mapping: &Mapping,
    key: &'static str,
    expected: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, ArtefactError> {
    let Some(value) = mapping.get(key) else { return Ok(None) };
    if let Some(found) = value.as_str().and_then(read) {
        return Ok(Some(found));
    }
    let shown = match value {
        Value::String(text) => text.clone(),
        other => serde_yaml::to_string(other).unwrap_or_default().trim().to_owned(),
    };
    Err(ArtefactError::BadValue {
        file: file.to_owned(),
        line: key_line(block, key),
        key,
        value: shown.escape_debug().to_string().chars().take(80).collect(),
        expected,
    })
}

/// The file's line on which a top-level key stands, as far as its plain spelling is found; else the block's first.
fn key_line(block: &str, key: &str) -> usize {
    let at =
        block.lines().position(|line| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':')));
    at.unwrap_or(0) + 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<FrontMatter, ArtefactError> {
        parse_front_matter("12-review.md", text, MAX_FRONT_MATTER)
    }

    #[test]
    fn reads_the_keys_of_each_role_and_leaves_others_alone() {
        let head = "a".repeat(40);
        let text = format!("---\ntitle: x\nreview_status: approved\nreviewed_head: {head}\n---\n# Review\n---\nrule\n");
        let found = parse(&text).expect("valid");
        assert_eq!(found.review_status, Some(ReviewStatus::Approved));
        assert_eq!(found.reviewed_head.map(String::from), Some(head));
        let found = parse("---\nanalysis_status: ready\narchitecture_status: blocked\n---\n").expect("valid");
        assert_eq!(found.analysis_status, Some(Readiness::Ready));
        assert_eq!(found.architecture_status, Some(Readiness::Blocked));
    }

    #[test]
    fn windows_line_ends_and_a_missing_last_newline_are_fine() {
        let found = parse("---\r\nreview_status: changes_requested\r\n---").expect("valid");
        assert_eq!(found.review_status, Some(ReviewStatus::ChangesRequested));
    }

    #[test]
    fn the_opening_line_must_be_the_first_and_exact() {
        for text in [
            "",
            "\n---\na: b\n---\n",
            " ---\na: b\n---\n",
            "----\na: b\n---\n",
            "--- \na: b\n---\n",
            "\u{feff}---\n---\n",
        ] {
            let err = parse(text).expect_err("refused").to_string();
            assert!(err.contains("12-review.md, line 1") && err.contains("exactly `---`"), "{text:?}: {err}");
        }
    }

    #[test]
    fn the_first_closing_line_ends_the_block() {
        let found = parse("---\nreview_status: approved\n---\nreview_status: changes_requested\n---\n").expect("valid");
        assert_eq!(found.review_status, Some(ReviewStatus::Approved));
        let err = parse("---\nreview_status: approved\n").expect_err("refused").to_string();
        assert!(err.contains("never closed") && err.contains("end it with a line"), "{err}");
    }

    #[test]
    fn duplicate_keys_are_refused_whichever_they_are() {
        for text in ["---\nreview_status: approved\nreview_status: approved\n---\n", "---\nx: 1\nx: 2\n---\n"] {
            let err = parse(text).expect_err("refused");
            assert!(matches!(&err, ArtefactError::NotYaml { detail, .. } if detail.contains("duplicate")), "{err}");
        }
    }

    #[test]
    fn a_wrong_value_names_file_line_value_and_way_out() {
        let err = parse("---\ntitle: x\nreview_status: LGTM\n---\n").expect_err("refused").to_string();
        assert_eq!(err, "12-review.md, line 3: `review_status` is `LGTM`; write `approved` or `changes_requested`");
        let err = parse("---\nreviewed_head: 123\n---\n").expect_err("refused").to_string();
        assert!(err.contains("line 2: `reviewed_head` is `123`"), "{err}");
        for value in ["[ready]", "{a: b}", "true", "~", "Ready", "\"ready \""] {
            assert!(parse(&format!("---\nanalysis_status: {value}\n---\n")).is_err(), "{value}");
        }
    }

    #[test]
    fn broken_yaml_names_the_line() {
        let err = parse("---\na: b\n: : :\n\t- x\n---\n").expect_err("refused").to_string();
        assert!(err.starts_with("12-review.md, line "), "{err}");
        assert!(parse("---\n- a\n- b\n---\n").is_err());
        assert_eq!(parse("---\n---\n").expect("empty is allowed"), FrontMatter::default());
    }

    #[test]
    fn an_endless_block_is_refused_at_the_limit() {
        let text = format!("---\ntitle: {}\n---\n", "x".repeat(MAX_FRONT_MATTER));
        assert!(matches!(parse(&text), Err(ArtefactError::TooLong { .. })));
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g]\n";
        assert!(parse(&format!("---\n{bomb}---\n")).is_err(), "aliases must not multiply without end");
    }

    #[test]
    fn each_role_must_write_its_own_keys() {
        let none = FrontMatter::default();
        assert!(none.require(Role::Developer, "x").is_ok());
        let err = none.require(Role::Analyst, ANALYSIS_FILE).expect_err("missing").to_string();
        assert_eq!(err, "01-analysis.md: the front matter lacks `analysis_status`; write `ready` or `blocked`");
        assert!(none.require(Role::Architect, ARCHITECTURE_FILE).is_err());
        let half = FrontMatter { review_status: Some(ReviewStatus::Approved), ..none };
        let err = half.require(Role::Reviewer, REVIEW_FILE).expect_err("missing").to_string();
        assert!(err.contains("reviewed_head"), "a review must name what it read: {err}");
    }

    #[test]
    fn the_names_agree_with_the_roles() {
        let names = [Role::Analyst, Role::Architect, Role::Reviewer].map(|role| role.artefact().map(|(file, _)| file));
        assert_eq!(names, [Some(ANALYSIS_FILE), Some(ARCHITECTURE_FILE), Some(REVIEW_FILE)]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", body in "[-a-z_: \\n\\[\\]{}&*!|>'\"#%@`,?0-9]{0,200}") {
            let _ = parse(&text);
            let _ = parse(&format!("---\n{body}\n---\n"));
        }
    }
}
