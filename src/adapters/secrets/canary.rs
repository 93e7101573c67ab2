//! Tokens that are planted in every scan: the proof that silence means something.
//!
//! Owns the rule, the texts and the look whether they were found. One token is for a rule of ours that both engines are
//! given beside the repository's; another, in a well-known format, is for the default rules where they take part. Both
//! stand at the beginning and at the end of what is scanned. Made new for each scan, so that nothing can know them.

use std::sync::Arc;

use super::rules::schema;
use super::{Bounds, Item, ItemReader, Material, Place, Ruleset, Scan, ScanError, SecretScanner};

/// Id of the rule that finds the planted token.
pub(crate) const RULE: &str = "orch-canary";
const PREFIX: &str = "orch-canary-";
/// A default rule that both engines have.
const DEFAULT_RULE: &str = "github-pat";

/// The rule itself.
pub(crate) fn rule() -> schema::Rule {
    schema::Rule {
        id: RULE.to_owned(),
        description: "planted by orch to prove the scanner".to_owned(),
        regex: Some(format!("{PREFIX}[0-9a-f]{{32}}")),
        keywords: vec![PREFIX.to_owned()],
        ..schema::Rule::default()
    }
}

/// Random letters and digits without vowels, so that no list of plain words can hold one of them.
fn random(alphabet: &[u8], length: usize) -> Result<String, ScanError> {
    let failed = |error: getrandom::Error| ScanError::Read { what: "randomness".to_owned(), why: error.to_string() };
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).map_err(failed)?;
    Ok(bytes.iter().map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()])).collect())
}

/// What is planted in one scan.
struct Planted {
    own: String,
    /// For the default rules; `None` when they take no part.
    known: Option<String>,
}

impl Planted {
    fn new(rules: &Ruleset) -> Result<Self, ScanError> {
        let own = format!("{PREFIX}{}", random(b"0123456789abcdef", 32)?);
        let known = match rules.keeps_default(DEFAULT_RULE) {
            // Each sign once: as random as 36 signs can look.
            true => Some(format!("ghp_{}", shuffled(b"bcdfghjkmnpqrstvwxyzBCDFGHJKMNPQRSTVWXYZ2345678")?)),
            false => None,
        };
        Ok(Self { own, known })
    }

    fn text(&self) -> Vec<u8> {
        let known = self.known.as_deref().unwrap_or_default();
        format!("planted = \"{}\"\n\nother = \"{known}\"\n", self.own).into_bytes()
    }
}

/// 36 different signs in random order.
fn shuffled(alphabet: &[u8]) -> Result<String, ScanError> {
    let order = random(b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f", alphabet.len() * 4)?;
    let mut keyed: Vec<(&[u8], u8)> = order.as_bytes().chunks(4).zip(alphabet.iter().copied()).collect();
    keyed.sort();
    Ok(keyed.iter().take(36).map(|(_, sign)| char::from(*sign)).collect())
}

/// The material between two copies of the planted text.
struct Between {
    inner: Arc<dyn Material>,
    items: Vec<Item>,
    text: Vec<u8>,
}

impl Between {
    fn new(inner: Arc<dyn Material>, text: Vec<u8>) -> Self {
        let planted = Item { places: vec![Place::file(None, *b"planted")], bytes: text.len() as u64 };
        let mut items = vec![planted.clone()];
        items.extend_from_slice(inner.items());
        items.push(planted);
        Self { inner, items, text }
    }
}

impl Material for Between {
    fn items(&self) -> &[Item] {
        &self.items
    }

    fn reader(&self) -> Result<Box<dyn ItemReader + '_>, ScanError> {
        Ok(Box::new(BetweenReader { all: self, inner: self.inner.reader()? }))
    }
}

struct BetweenReader<'m> {
    all: &'m Between,
    inner: Box<dyn ItemReader + 'm>,
}

impl ItemReader for BetweenReader<'_> {
    fn read(&mut self, at: usize) -> Result<Vec<u8>, ScanError> {
        match at {
            at if at == 0 || at + 1 == self.all.items.len() => Ok(self.all.text.clone()),
            at => self.inner.read(at - 1),
        }
    }
}

/// Scans with planted tokens; an engine that does not find all of them has not scanned.
///
/// # Errors
/// [`ScanError::Deaf`], and whatever the scan itself says.
pub async fn prove(
    scanner: &dyn SecretScanner,
    rules: &Arc<Ruleset>,
    material: Arc<dyn Material>,
    bounds: &Bounds,
) -> Result<Scan, ScanError> {
    let planted = Planted::new(rules)?;
    let between: Arc<dyn Material> = Arc::new(Between::new(material, planted.text()));
    let last = between.items().len() - 1;
    let mut scan = scanner.scan(rules, &between, bounds).await?;
    for (which, at) in [("the first", 0), ("the last", last)] {
        let heard = |rule: &str, token: &str| {
            scan.found
                .iter()
                .any(|found| found.item == at && found.rule == rule && found.secret.value() == token.as_bytes())
        };
        let deaf = |rule: &str| ScanError::Deaf {
            tool: scanner.name().to_owned(),
            which: format!("{which} text, rule `{rule}`; an allowlist that allows everything does this, too"),
        };
        if !heard(RULE, &planted.own) {
            return Err(deaf(RULE));
        }
        if planted.known.as_deref().is_some_and(|token| !heard(DEFAULT_RULE, token)) {
            return Err(deaf(DEFAULT_RULE));
        }
    }
    scan.found.retain(|found| found.item != 0 && found.item != last && found.rule != RULE);
    scan.found.iter_mut().for_each(|found| found.item -= 1);
    Ok(scan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_token_is_new_each_time_and_looks_random() {
        let rules = Ruleset::read(None).expect("the default rules");
        let (one, other) = (Planted::new(&rules).expect("made"), Planted::new(&rules).expect("made"));
        assert_ne!(one.own, other.own);
        let known = one.known.expect("the default rules take part");
        assert_eq!(known.len(), 40);
        assert!(crate::secrets::entropy::shannon(known.as_bytes()) > 4.5);
        assert_ne!(Some(known), other.known);
    }
}
