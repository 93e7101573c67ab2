//! The engine in this process.
//!
//! Owns the spreading of texts over threads, and the rules that look at a path alone. Follows the same file as the binary;
//! where the file extends the default rules, our own stand in for them. Invariants: every text is looked at whole, or the scan
//! has failed; memory holds one text per thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::rules::Compiled;
use super::{Bounds, Found, Item, Material, Place, Ruleset, Scan, ScanError, Secret, SecretScanner, expand, text};

/// The engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Builtin;

/// Its name in settings and reports.
const NAME: &str = "builtin";

#[async_trait]
impl SecretScanner for Builtin {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn version(&self) -> Result<String, ScanError> {
        Ok(env!("CARGO_PKG_VERSION").to_owned())
    }

    async fn scan(
        &self,
        rules: &Arc<Ruleset>,
        material: &Arc<dyn Material>,
        bounds: &Bounds,
    ) -> Result<Scan, ScanError> {
        let (rules, material, bounds) = (rules.clone(), material.clone(), bounds.clone());
        let done = tokio::task::spawn_blocking(move || {
            let compiled = rules.compiled()?;
            scan_all(&compiled, material.as_ref(), &bounds)
        });
        done.await.unwrap_or_else(|error| Err(ScanError::Tool { tool: NAME.to_owned(), why: error.to_string() }))
    }
}

/// Scans on several threads, here and now.
pub(crate) fn scan_all(rules: &Compiled, material: &dyn Material, bounds: &Bounds) -> Result<Scan, ScanError> {
    let items = material.items();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Scan, ScanError> {
        let mut reader = material.reader()?;
        let mut scan = Scan::default();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return Ok(scan) };
            bounds.check()?;
            let bytes = reader.read(at)?;
            look_at(rules, at, item, &bytes, bounds, &mut scan)?;
        }
    };
    let threads = bounds.threads.clamp(1, items.len().max(1));
    let parts: Vec<Result<Scan, ScanError>> = match threads {
        1 => vec![work()],
        _ => std::thread::scope(|scope| {
            let started: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let panicked = || ScanError::Tool { tool: NAME.to_owned(), why: "it panicked".to_owned() };
            started.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked()))).collect()
        }),
    };
    let mut whole = Scan::default();
    for part in parts {
        let part = part?;
        whole.found.extend(part.found);
        whole.unopened.extend(part.unopened);
        whole.refused.extend(part.refused);
    }
    whole.found.sort_by(|a, b| (a.item, a.line, &a.rule, &a.secret).cmp(&(b.item, b.line, &b.rule, &b.secret)));
    whole.unopened.sort();
    whole.refused.sort();
    Ok(whole)
}

fn look_at(
    rules: &Compiled,
    at: usize,
    item: &Item,
    bytes: &[u8],
    bounds: &Bounds,
    scan: &mut Scan,
) -> Result<(), ScanError> {
    scan.found.extend(by_path_alone(rules, at, item, bytes));
    let found = &mut scan.found;
    let shut = expand::expand(bytes, bounds.expand, &mut |part| {
        bounds.check()?;
        let places: Vec<Place> = item.places.iter().map(|place| place.inside(&part.member)).collect();
        found.extend(text::scan(rules, &part.bytes, &places).into_iter().map(|hit| Found {
            item: at,
            places: hit.places,
            rule: rules.rules[hit.rule].id.clone(),
            description: rules.rules[hit.rule].place.description.clone(),
            line: hit.line,
            secret: hit.secret,
            wrapped: wrapped(part.wrapped, &hit.wrapped),
        }));
        Ok::<(), ScanError>(())
    })?;
    // A file in two-byte characters is looked at as it is, too; what both saw is one finding.
    found.dedup_by(|a, b| {
        a.item == b.item && a.rule == b.rule && a.secret == b.secret && a.places == b.places && a.line == b.line
    });
    let name = item.places.first().map(super::shown).unwrap_or_default();
    scan.unopened.extend(shut.unopened.iter().map(|line| format!("{name}: {line}")));
    scan.refused.extend(shut.refused.iter().map(|line| format!("{name}: {line}")));
    Ok(())
}

fn wrapped(outer: &str, inner: &str) -> String {
    match (outer.is_empty(), inner.is_empty()) {
        (true, _) => inner.to_owned(),
        (false, true) => outer.to_owned(),
        (false, false) => format!("{outer}, {inner}"),
    }
}

/// Findings of rules that look at nothing but the path. What stands for the secret is the content's hash.
pub(crate) fn by_path_alone(rules: &Compiled, at: usize, item: &Item, bytes: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    for rule in rules.rules.iter().filter(|rule| rule.place.path_only && !rule.skip_report) {
        let here = |place: &&Place| rule.place.applies_at(place) && !rules.lists.iter().any(|l| l.allows_place(place));
        let places: Vec<Place> = item.places.iter().filter(here).cloned().collect();
        if !places.is_empty() {
            found.push(path_finding(at, &rule.id, &rule.place.description, places, bytes));
        }
    }
    found
}

pub(crate) fn path_finding(at: usize, id: &str, description: &str, places: Vec<Place>, bytes: &[u8]) -> Found {
    Found {
        item: at,
        places,
        rule: id.to_owned(),
        description: description.to_owned(),
        line: 0,
        secret: Secret::new(hex::encode(Sha256::digest(bytes))),
        wrapped: String::new(),
    }
}
