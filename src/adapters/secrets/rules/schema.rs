//! The file `.gitleaks.toml`, read strictly.
//!
//! Owns the shape of the file: every key that the rules may have, nothing else. Refuses keys that it does not know (the
//! scanner itself ignores them without a word, so a misspelt allowlist allows nothing and a misspelt rule finds nothing),
//! and `extend.path` and `extend.url`, since they name another file that nobody has checked. Letter case of keys does not
//! matter, as it does not for the scanner.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::RuleError;

/// Most bytes of a rules file.
pub(super) const MAX_FILE: usize = 1 << 20;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(rename = "minversion", skip_serializing_if = "Option::is_none")]
    pub(crate) min_version: Option<String>,
    pub(crate) extend: Extend,
    /// The older, single form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allowlist: Option<Allowlist>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allowlists: Vec<Allowlist>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<Rule>,
}

/// What the file builds on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Extend {
    #[serde(rename = "usedefault")]
    pub(crate) use_default: bool,
    #[serde(rename = "disabledrules", skip_serializing_if = "Vec::is_empty")]
    pub(crate) disabled_rules: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rule {
    pub(crate) id: String,
    pub(crate) description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) regex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    #[serde(rename = "secretgroup")]
    pub(crate) secret_group: usize,
    pub(crate) entropy: f64,
    pub(crate) keywords: Vec<String>,
    pub(crate) tags: Vec<String>,
    #[serde(rename = "skipreport")]
    pub(crate) skip_report: bool,
    /// The older, single form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allowlist: Option<Allowlist>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allowlists: Vec<Allowlist>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) required: Vec<Required>,
}

/// Another rule that must have found something near.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Required {
    pub(crate) id: String,
    #[serde(rename = "withinlines", skip_serializing_if = "Option::is_none")]
    pub(crate) within_lines: Option<u64>,
    #[serde(rename = "withincolumns", skip_serializing_if = "Option::is_none")]
    pub(crate) within_columns: Option<u64>,
}

/// What is no finding after all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Allowlist {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    /// Global lists only: the rules that it is for.
    #[serde(rename = "targetrules", skip_serializing_if = "Vec::is_empty")]
    pub(crate) target_rules: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) condition: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) commits: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) paths: Vec<String>,
    #[serde(rename = "regextarget", skip_serializing_if = "String::is_empty")]
    pub(crate) regex_target: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) regexes: Vec<String>,
    #[serde(rename = "stopwords", skip_serializing_if = "Vec::is_empty")]
    pub(crate) stop_words: Vec<String>,
}

impl Allowlist {
    /// Whether every part has to hold.
    pub(crate) fn is_and(&self) -> bool {
        matches!(self.condition.to_uppercase().as_str(), "AND" | "&&")
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.paths.is_empty() && self.regexes.is_empty() && self.stop_words.is_empty()
    }
}

/// Reads a rules file.
pub(crate) fn read(bytes: &[u8]) -> Result<File, RuleError> {
    if bytes.len() > MAX_FILE {
        return Err(RuleError::TooLong { bytes: bytes.len(), max: MAX_FILE });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| RuleError::Syntax(format!("it is not UTF-8: {error}")))?;
    let table: Table = toml::from_str(text).map_err(|error| RuleError::Syntax(words(&error)))?;
    let file: File = Value::Table(lowered(table, "")?).try_into().map_err(|error| RuleError::Syntax(words(&error)))?;
    check(&file)?;
    let rules = file.rules.into_iter().map(modern_rule).collect();
    let mut allowlists = file.allowlists;
    allowlists.extend(file.allowlist);
    Ok(File { rules, allowlists, allowlist: None, ..file })
}

fn words(error: &toml::de::Error) -> String {
    error.to_string().trim().replace('\n', " ")
}

/// The same with keys in lower case; two keys that become one are an error.
fn lowered(table: Table, at: &str) -> Result<Table, RuleError> {
    let mut out = Table::new();
    for (key, value) in table {
        let low = key.to_lowercase();
        let here = if at.is_empty() { low.clone() } else { format!("{at}.{low}") };
        let value = match value {
            Value::Table(inner) => Value::Table(lowered(inner, &here)?),
            Value::Array(all) => Value::Array(
                all.into_iter()
                    .map(|one| match one {
                        Value::Table(inner) => Ok(Value::Table(lowered(inner, &here)?)),
                        other => Ok(other),
                    })
                    .collect::<Result<_, RuleError>>()?,
            ),
            other => other,
        };
        if out.insert(low, value).is_some() {
            return Err(RuleError::Syntax(format!("the key `{here}` stands there twice, in different letter case")));
        }
    }
    Ok(out)
}

fn modern_rule(rule: Rule) -> Rule {
    let mut allowlists = rule.allowlists;
    allowlists.extend(rule.allowlist);
    Rule { allowlists, allowlist: None, ..rule }
}

/// What the scanner would refuse too, plus what it would accept without doing it.
fn check(file: &File) -> Result<(), RuleError> {
    if let Some(path) = &file.extend.path {
        return Err(RuleError::ExtendsElsewhere { key: "extend.path", value: path.clone() });
    }
    if let Some(url) = &file.extend.url {
        return Err(RuleError::ExtendsElsewhere { key: "extend.url", value: url.clone() });
    }
    if file.allowlist.is_some() && !file.allowlists.is_empty() {
        return Err(RuleError::Syntax("`[allowlist]` and `[[allowlists]]` cannot stand in one file".to_owned()));
    }
    for list in file.allowlists.iter().chain(&file.allowlist) {
        check_allowlist(list, "[[allowlists]]")?;
    }
    for (at, rule) in file.rules.iter().enumerate() {
        if rule.id.trim().is_empty() {
            return Err(RuleError::Syntax(format!("rule number {} has no `id`", at + 1)));
        }
        let is = |what: &str| format!("rule `{}`: {what}", rule.id);
        if file.rules[..at].iter().any(|other| other.id == rule.id) {
            return Err(RuleError::Syntax(is("the id is used twice")));
        }
        if rule.allowlist.is_some() && !rule.allowlists.is_empty() {
            return Err(RuleError::Syntax(is("`allowlist` and `allowlists` cannot stand in one rule")));
        }
        if !rule.entropy.is_finite() || rule.entropy < 0.0 {
            return Err(RuleError::Syntax(is("`entropy` is no number of bits")));
        }
        for list in rule.allowlists.iter().chain(&rule.allowlist) {
            check_allowlist(list, &is("an allowlist"))?;
            if !list.target_rules.is_empty() {
                return Err(RuleError::Syntax(is("`targetRules` is for global allowlists only")));
            }
        }
        if rule.required.iter().any(|required| required.id.is_empty()) {
            return Err(RuleError::Syntax(is("a `required` rule has no id")));
        }
    }
    Ok(())
}

fn check_allowlist(list: &Allowlist, of: &str) -> Result<(), RuleError> {
    if list.is_empty() {
        let what = format!("{of} allows nothing: it needs `commits`, `paths`, `regexes` or `stopwords`");
        return Err(RuleError::Syntax(what));
    }
    if !matches!(list.condition.to_uppercase().as_str(), "" | "AND" | "&&" | "OR" | "||") {
        let what = format!("{of}: the condition `{}` is neither `AND` nor `OR`", list.condition);
        return Err(RuleError::Syntax(what));
    }
    if !matches!(list.regex_target.as_str(), "" | "secret" | "match" | "line") {
        let what = format!("{of}: the target `{}` is none of `secret`, `match`, `line`", list.regex_target);
        return Err(RuleError::Syntax(what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        read(text.as_bytes()).expect_err("refused").to_string()
    }

    #[test]
    fn misspelt_keys_are_errors_that_name_the_key() {
        assert!(error("[[allowlistz]]\npaths = ['a']\n").contains("allowlistz"));
        assert!(error("[[rules]]\nid = 'x'\nregex = 'a'\nkeyword = ['a']\n").contains("keyword"));
        assert!(error("[extend]\nuseDefaults = true\n").contains("usedefaults"));
        assert!(error("[[rules]]\nid = 'x'\nregex = 'a'\n[[rules.allowlists]]\npath = ['a']\n").contains("path"));
    }

    #[test]
    fn letter_case_of_keys_does_not_matter_but_a_key_counts_once() {
        let file = read(b"[extend]\nUseDefault = true\ndisabledRules = ['a']\n").expect("read");
        assert!(file.extend.use_default);
        assert_eq!(file.extend.disabled_rules, ["a"]);
        assert!(error("[extend]\nuseDefault = true\nusedefault = false\n").contains("twice"));
    }

    #[test]
    fn the_older_forms_are_read_as_the_newer_ones() {
        let old = read(b"[allowlist]\nstopwords = ['a']\n[[rules]]\nid = 'x'\nregex = 'a'\nentropy = 3\n[rules.allowlist]\npaths = ['b']\n")
            .expect("read");
        assert_eq!((old.allowlists.len(), old.rules[0].allowlists.len()), (1, 1));
        assert!((old.rules[0].entropy - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_its_value() {
        for (text, says) in [
            ("[extend]\npath = 'other.toml'\n", "other.toml"),
            ("[extend]\nurl = 'https://x/'\n", "extend.url"),
            ("[[rules]]\nregex = 'a'\n", "number 1"),
            ("[[rules]]\nid='x'\nregex='a'\n[[rules]]\nid='x'\nregex='b'\n", "twice"),
            ("[[allowlists]]\ndescription = 'empty'\n", "allows nothing"),
            ("[[allowlists]]\ncondition = 'xor'\npaths = ['a']\n", "`xor`"),
            ("[[allowlists]]\nregexTarget = 'file'\npaths = ['a']\n", "`file`"),
            ("[allowlist]\npaths=['a']\n[[allowlists]]\npaths=['a']\n", "cannot stand"),
            ("title = \n", "TOML"),
        ] {
            assert!(error(text).contains(says), "{text}: {}", error(text));
        }
        assert!(read(&vec![b'#'; MAX_FILE + 1]).is_err());
        assert!(read(b"\xff").is_err());
    }
}
