//! Rules made ready to run.
//!
//! Owns the compiled form: patterns, lists, and one automaton over all keywords that says which patterns are worth
//! running on a text. A rule without keywords runs always; a rule with keywords never runs without one of them.

use std::collections::BTreeMap;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use regex::bytes::Regex;

use super::allow::{Allow, pattern_of};
use super::schema::{File, Rule};
use super::{OwnRules, RuleError, canary};
use crate::secrets::Place;

/// A rule's side that looks at places.
#[derive(Debug)]
pub(crate) struct PlaceRule {
    /// Where it applies.
    pub(crate) path: Option<Regex>,
    /// Whether the path is all it looks at.
    pub(crate) path_only: bool,
    /// What people call it.
    pub(crate) description: String,
    /// What it leaves out.
    pub(crate) lists: Vec<Allow>,
}

impl PlaceRule {
    fn new(rule: &Rule) -> Result<Self, RuleError> {
        let of = format!("rule `{}`", rule.id);
        Ok(Self {
            path: rule.path.as_deref().map(|path| pattern_of(path, &of)).transpose()?,
            path_only: rule.path.is_some() && rule.regex.is_none(),
            description: rule.description.clone(),
            lists: rule.allowlists.iter().map(|list| Allow::new(list, &of)).collect::<Result<_, _>>()?,
        })
    }

    /// Whether the rule looks at texts that stand there.
    pub(crate) fn applies_at(&self, place: &Place) -> bool {
        let Some(path) = &self.path else { return !self.lists.iter().any(|list| list.allows_place(place)) };
        place.path().is_some_and(|at| path.is_match(at)) && !self.lists.iter().any(|list| list.allows_place(place))
    }
}

/// A rule, compiled.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) id: String,
    pub(crate) place: PlaceRule,
    pub(crate) regex: Option<Regex>,
    pub(crate) secret_group: usize,
    pub(crate) entropy: f64,
    pub(crate) skip_report: bool,
    pub(crate) required: Vec<Required>,
    /// Of several findings on a line, one of a generic rule gives way.
    pub(crate) generic: bool,
}

/// Another rule that must have found something near.
#[derive(Debug)]
pub(crate) struct Required {
    /// Which, by its place in the list.
    pub(crate) rule: usize,
    pub(crate) within_lines: Option<u64>,
    pub(crate) within_columns: Option<u64>,
}

/// All rules, compiled.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) rules: Vec<CompiledRule>,
    pub(crate) lists: Vec<Allow>,
    keywords: Option<AhoCorasick>,
    /// Per keyword, the rules that it wakes.
    wakes: Vec<Vec<usize>>,
    always: Vec<usize>,
}

impl Compiled {
    /// Compiles a merged file; the rule that proves the scanner is added.
    pub(super) fn new(file: &File) -> Result<Self, RuleError> {
        let canary = canary::rule();
        let all: Vec<&Rule> = file.rules.iter().chain([&canary]).collect();
        let mut rules = Vec::with_capacity(all.len());
        let mut words: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut always = Vec::new();
        for (at, rule) in all.iter().enumerate() {
            for keyword in rule.keywords.iter().filter(|keyword| !keyword.is_empty()) {
                words.entry(keyword.to_lowercase()).or_default().push(at);
            }
            if rule.keywords.iter().all(String::is_empty) && rule.regex.is_some() {
                always.push(at);
            }
            rules.push(CompiledRule::new(rule, &all)?);
        }
        let lists = file.allowlists.iter().map(|list| Allow::new(list, "[[allowlists]]")).collect::<Result<_, _>>()?;
        let (keys, wakes): (Vec<String>, Vec<Vec<usize>>) = words.into_iter().unzip();
        let failed = |error: aho_corasick::BuildError| RuleError::Syntax(format!("the keywords: {error}"));
        let builder =
            || AhoCorasick::builder().ascii_case_insensitive(true).kind(Some(AhoCorasickKind::DFA)).build(&keys);
        let keywords = if keys.is_empty() { None } else { Some(builder().map_err(failed)?) };
        Ok(Self { rules, lists, keywords, wakes, always })
    }

    /// The rules that are worth running on a text, in order.
    pub(crate) fn awake(&self, text: &[u8]) -> Vec<usize> {
        let mut awake = vec![false; self.rules.len()];
        for at in &self.always {
            awake[*at] = true;
        }
        if let Some(keywords) = &self.keywords {
            let mut seen = vec![false; self.wakes.len()];
            let mut left = seen.len();
            for found in keywords.find_overlapping_iter(text) {
                let word = found.pattern().as_usize();
                if !std::mem::replace(&mut seen[word], true) {
                    self.wakes[word].iter().for_each(|at| awake[*at] = true);
                    left -= 1;
                    if left == 0 {
                        break;
                    }
                }
            }
        }
        (0..awake.len()).filter(|at| awake[*at]).collect()
    }
}

impl CompiledRule {
    fn new(rule: &Rule, all: &[&Rule]) -> Result<Self, RuleError> {
        let wrong = |why: String| RuleError::Rule { rule: rule.id.clone(), why };
        let regex = rule.regex.as_deref().map(|regex| pattern_of(regex, &format!("rule `{}`", rule.id))).transpose()?;
        if regex.is_none() && rule.path.is_none() {
            return Err(wrong("it has neither `regex` nor `path`, so it would find nothing".to_owned()));
        }
        let groups = regex.as_ref().map_or(0, |regex| regex.captures_len() - 1);
        if regex.is_some() && rule.secret_group > groups {
            return Err(wrong(format!("`secretGroup` is {}, but the pattern has {groups} groups", rule.secret_group)));
        }
        let required = rule.required.iter().map(|required| {
            let found = all.iter().position(|other| other.id == required.id);
            let at = found.ok_or_else(|| wrong(format!("it requires rule `{}`, which there is not", required.id)))?;
            Ok(Required { rule: at, within_lines: required.within_lines, within_columns: required.within_columns })
        });
        Ok(Self {
            id: rule.id.clone(),
            place: PlaceRule::new(rule)?,
            regex,
            secret_group: rule.secret_group,
            entropy: rule.entropy,
            skip_report: rule.skip_report,
            required: required.collect::<Result<_, RuleError>>()?,
            generic: rule.id.to_lowercase().contains("generic"),
        })
    }
}

impl OwnRules {
    pub(super) fn compile(file: &File) -> Result<Self, RuleError> {
        let mut rules = Vec::new();
        for rule in &file.rules {
            rules.push((rule.id.clone(), PlaceRule::new(rule)?));
        }
        let (targeted, global): (Vec<_>, Vec<_>) =
            file.allowlists.iter().partition(|list| !list.target_rules.is_empty());
        for list in targeted {
            for id in &list.target_rules {
                let allow = Allow::new(list, "[[allowlists]]")?;
                match rules.iter_mut().find(|(known, _)| known == id) {
                    Some((_, rule)) => rule.lists.push(allow),
                    None => rules.push((
                        id.clone(),
                        PlaceRule { path: None, path_only: false, description: String::new(), lists: vec![allow] },
                    )),
                }
            }
        }
        let lists = global.iter().map(|list| Allow::new(list, "[[allowlists]]")).collect::<Result<_, _>>()?;
        Ok(Self { lists, rules })
    }

    /// Where a finding of the binary stands after all, by the file's own word on places.
    pub(crate) fn stands_at(&self, id: &str, place: &Place, seen: super::Seen<'_>) -> bool {
        let rule = self.rules.iter().find(|(known, _)| known == id).map(|(_, rule)| rule);
        let left_out = |lists: &[Allow]| lists.iter().any(|list| list.allows(place, seen));
        !left_out(&self.lists) && rule.is_none_or(|rule| rule.applies_at(place) && !left_out(&rule.lists))
    }

    /// Whether nothing that stands there is looked at.
    pub(crate) fn leaves_out(&self, place: &Place) -> bool {
        self.lists.iter().any(|list| list.allows_place(place))
    }
}
