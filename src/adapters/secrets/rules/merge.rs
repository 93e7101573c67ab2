//! From one file to the rules that hold: with the default ones, alone, or blind to places for the binary.
//!
//! Owns the meaning of `extend`: a rule of the same id is laid over the default one, lists and keywords are added, disabled
//! rules are left out. Invariant of the blind form: whatever the binary leaves out because of a path or a commit is left
//! out by us, never by it, so that a neutral name can neither hide a finding nor reveal one.

use super::schema::{Allowlist, File, Rule};
use super::{RuleError, canary};

/// A file laid over the default rules.
pub(super) fn extend(file: &File, defaults: &File) -> Result<File, RuleError> {
    let disabled = &file.extend.disabled_rules;
    let mut rules: Vec<Rule> = Vec::new();
    for base in defaults.rules.iter().filter(|rule| !disabled.contains(&rule.id)) {
        match file.rules.iter().find(|rule| rule.id == base.id) {
            Some(over) => rules.push(laid_over(base, over)),
            None => rules.push(base.clone()),
        }
    }
    let known: Vec<String> = rules.iter().map(|rule| rule.id.clone()).collect();
    // A rule without pattern and path extends a default rule of the binary; where we do not have that one, there is
    // nothing to extend, and nothing is found that the binary would have left out.
    let own = file.rules.iter().filter(|rule| !known.contains(&rule.id));
    rules.extend(own.filter(|rule| rule.regex.is_some() || rule.path.is_some()).cloned());
    let mut allowlists = file.allowlists.clone();
    allowlists.extend(defaults.allowlists.iter().cloned());
    targeted(File { rules, allowlists, ..file.clone() }, false)
}

/// A file that stands alone.
pub(super) fn alone(file: &File) -> Result<File, RuleError> {
    targeted(file.clone(), true)
}

fn laid_over(base: &Rule, over: &Rule) -> Rule {
    let joined = |one: &[String], other: &[String]| one.iter().chain(other).cloned().collect::<Vec<_>>();
    Rule {
        id: base.id.clone(),
        description: if over.description.is_empty() { base.description.clone() } else { over.description.clone() },
        regex: over.regex.clone().or_else(|| base.regex.clone()),
        path: over.path.clone().or_else(|| base.path.clone()),
        secret_group: if over.secret_group == 0 { base.secret_group } else { over.secret_group },
        entropy: if over.entropy == 0.0 { base.entropy } else { over.entropy },
        keywords: joined(&base.keywords, &over.keywords),
        tags: joined(&base.tags, &over.tags),
        skip_report: base.skip_report,
        allowlist: None,
        allowlists: base.allowlists.iter().chain(&over.allowlists).cloned().collect(),
        required: base.required.clone(),
    }
}

/// Hands global lists that name rules to those rules.
fn targeted(mut file: File, strict: bool) -> Result<File, RuleError> {
    let (for_rules, global): (Vec<Allowlist>, Vec<Allowlist>) =
        file.allowlists.into_iter().partition(|list| !list.target_rules.is_empty());
    for list in for_rules {
        let bare = Allowlist { target_rules: Vec::new(), ..list.clone() };
        for id in &list.target_rules {
            match file.rules.iter_mut().find(|rule| rule.id == *id) {
                Some(rule) => rule.allowlists.push(bare.clone()),
                // It may be one of the binary's default rules that we do not have.
                None if !strict => {}
                None => {
                    let why = "an allowlist is for it (`targetRules`), but there is no such rule".to_owned();
                    return Err(RuleError::Rule { rule: id.clone(), why });
                }
            }
        }
    }
    file.allowlists = global;
    Ok(file)
}

/// The file for the binary.
pub(super) fn blind(file: &File) -> File {
    let rules = file.rules.iter().filter(|rule| {
        // A rule that looks at the path alone is ours to apply.
        rule.regex.is_some() || rule.path.is_none()
    });
    let rules = rules.map(|rule| {
        // Any name will do: what the real one says is decided afterwards.
        let path = rule.path.as_ref().map(|_| ".*".to_owned());
        Rule { path, allowlists: rule.allowlists.iter().filter_map(blind_list).collect(), ..rule.clone() }
    });
    let mut rules: Vec<Rule> = rules.collect();
    rules.push(canary::rule());
    let allowlists = file.allowlists.iter().filter_map(blind_list).collect();
    File { rules, allowlists, ..file.clone() }
}

/// What is left of a list when paths and commits are not looked at: nothing of one where all parts must hold.
fn blind_list(list: &Allowlist) -> Option<Allowlist> {
    let looks_at_places = !list.commits.is_empty() || !list.paths.is_empty();
    if looks_at_places && list.is_and() {
        return None;
    }
    let left = Allowlist { commits: Vec::new(), paths: Vec::new(), ..list.clone() };
    (!left.is_empty()).then_some(left)
}
