//! Random histories of a repository whose branches change tests, files, and what their settings count: through all of them
//! the baseline sinks by a person's word or by an honest measurement of base alone. Each rule that this rests on is broken
//! once, and some history shows it.

use super::*;

/// Lines of each file.
const LINES: u32 = 4;
const FILES: [&str; 4] = ["a", "b", "c", "d"];

/// A commit: per file which lines its tests run, and which files its settings leave out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tree {
    files: BTreeMap<&'static str, Vec<bool>>,
    left_out: BTreeSet<&'static str>,
}

impl Tree {
    /// What is measured of it by the settings of a commit.
    fn by(&self, settings: &Self) -> Coverage {
        let counted = self.files.iter().filter(|(name, _)| !settings.left_out.contains(*name));
        let lines = |ran: &Vec<bool>| {
            let mut lines = Lines::default();
            (1..).zip(ran).for_each(|(line, ran)| {
                lines.add(line, *ran);
            });
            lines
        };
        Coverage { files: counted.map(|(name, ran)| (path(name), lines(ran))).collect(), excluded: None }
    }

    fn label(&self) -> String {
        format!("{:?}", self.left_out)
    }

    /// What changed since an earlier commit: files come and go, their text stays.
    fn since(&self, before: &Self) -> (Changes, BTreeSet<RepoPath>) {
        let new = self.files.keys().filter(|name| !before.files.contains_key(*name));
        let changes = new.map(|name| (path(name), Change { old: None, hunks: None })).collect();
        (changes, before.files.keys().filter(|name| !self.files.contains_key(*name)).map(|name| path(name)).collect())
    }
}

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// What base's settings cannot measure passes by the minimum alone.
    MinimumAlone,
    /// A branch is judged by its own settings, with base measured by them.
    OwnSettings,
    /// By its own settings a branch may lose whatever it likes.
    OwnUnseen,
    /// Files that the branch leaves out are nobody's matter.
    LeftOut,
    /// What base's settings cannot measure sets the baseline anew.
    AnewUnmeasured,
    /// A person's word of old stands for settings that came later.
    OldWord,
    /// What base has by the settings of now is not looked at.
    BaseUnread,
}

/// How often things happened that the histories are about.
#[derive(Debug, Default)]
struct Seen {
    landed: u32,
    refused: u32,
    asked: u32,
    held: u32,
    by_lines: u32,
    again: u32,
    lower: u32,
}

struct Repository {
    broken: Broken,
    main: Tree,
    standing: Option<Standing>,
    /// What the baseline was measured on, and by whose settings.
    mark: Option<(Tree, Tree)>,
    fresh: bool,
    seen: Seen,
}

/// What the gate says: what would land, by whose settings.
struct Passed {
    landed: Landed,
    settings: Tree,
    held: bool,
    by_lines: bool,
}

impl Repository {
    fn lines_of(&self) -> (Tree, Coverage) {
        let (tree, settings) = self.mark.clone().unwrap_or_else(|| (self.main.clone(), self.main.clone()));
        (tree.clone(), tree.by(&settings))
    }

    fn alike(&self, head: &Tree) -> Alike {
        let (tree, before) = self.lines_of();
        let (changes, gone) = head.since(&tree);
        Alike::of(&before, &head.by(head), &changes, &gone)
    }

    /// The gate, by the rules of this package. `holds`: base's settings can measure the head.
    fn ask(&mut self, head: &Tree, holds: bool) -> Option<Passed> {
        let policy = CoveragePolicy { epsilon_bp: 0, ..CoveragePolicy::default() };
        let changes = head.left_out != self.main.left_out;
        let own = head.by(head);
        let mut holds = holds || !changes;
        let settings = if holds && self.broken != Broken::OwnSettings { &self.main } else { head };
        holds |= self.broken == Broken::OwnSettings;
        let measured = head.by(settings);
        let now = measured.totals();
        let fresh = self.fresh || self.broken == Broken::OldWord;
        let against = standard(policy.mode, self.standing.as_ref(), &settings.label(), holds, fresh);
        let (mut floor, mut by_lines) = (None, false);
        let mut judged = match against {
            Standard::Nothing => judge(&policy, now, None),
            Standard::Baseline => judge(&policy, now, self.standing.as_ref().map(|standing| standing.totals)),
            Standard::Base => {
                let base = self.main.by(settings).totals();
                floor = Some(Mark { totals: base, sha: sha('b'), measurement: "base".to_owned() });
                judge(&policy, now, Some(base).filter(|_| self.broken != Broken::BaseUnread))
            }
            Standard::Lines if self.broken == Broken::MinimumAlone => judge(&policy, now, None),
            Standard::Lines => {
                let alike = self.alike(head);
                let left_out = !alike.vanished.is_empty() && self.broken != Broken::LeftOut;
                if left_out || alike.before.total() == 0 {
                    self.seen.asked += 1;
                    return None;
                }
                by_lines = true;
                judge_alike(&policy, now, alike.before, alike.after)
            }
        };
        if changes && holds && self.broken != Broken::OwnSettings && self.broken != Broken::OwnUnseen {
            let alike = match against {
                // The lines of base, which was measured for this.
                Standard::Base => {
                    let (changes, gone) = head.since(&self.main);
                    Some(Alike::of(&self.main.by(&self.main), &own, &changes, &gone))
                }
                _ => self.mark.is_some().then(|| self.alike(head)),
            };
            let alike = alike.map(|alike| (alike.before, alike.after));
            judged = judged.and_by_its_own(&policy, now, own.totals(), alike);
        }
        if !judged.passes() {
            self.seen.refused += 1;
            return None;
        }
        let mut landed = landed(now, &settings.label(), rebase_of(self.standing.as_ref(), &judged, floor));
        if by_lines && self.broken == Broken::AnewUnmeasured {
            let revision = self.standing.as_ref().map_or(0, |standing| standing.revision);
            landed.rebase = Some(Rebase { because: Because::MeasuredAgain, revision, floor: None });
        }
        Some(Passed { landed, settings: settings.clone(), held: holds && changes, by_lines })
    }

    /// Lands it, and says what must not be.
    fn land(&mut self, head: Tree, passed: Passed) -> Result<(), String> {
        let Passed { landed, settings, held, by_lines } = passed;
        let share = |tree: &Tree, settings: &Tree| tree.by(settings).totals();
        let falls = |now: Totals, before: Totals| before.is_above(now);
        // By the settings that were there before the branch, nothing is lost.
        let known = self.standing.as_ref().and_then(|standing| standing.measured_by.clone());
        if let Some((tree, by)) = self.mark.as_ref().filter(|_| held && known == Some(self.main.label())) {
            let now = share(&head, &self.main);
            if falls(now, share(tree, by)) {
                return Err(format!("the branch lost: {now} by base's settings"));
            }
        }
        if landed.rebase.as_ref().is_some_and(|rebase| rebase.floor.is_some()) {
            let (now, base) = (share(&head, &settings), share(&self.main, &settings));
            if falls(now, base) {
                return Err(format!("it lands with {now}, and base has {base}"));
            }
        }
        if by_lines || (head.left_out != self.main.left_out && !held && self.standing.is_some() && !self.fresh) {
            let (tree, before) = self.lines_of();
            let gone = |name: &RepoPath| !head.files.contains_key(name.as_str());
            let out = before.files.keys().find(|name| !gone(name) && !head.by(&head).files.contains_key(*name));
            if let Some(out) = out {
                return Err(format!("{out} is not measured any more, and nobody was asked ({tree:?})"));
            }
        }
        let step = ratchet(self.standing.as_ref(), &landed);
        self.seen.landed += 1;
        self.seen.held += u32::from(held);
        self.seen.by_lines += u32::from(by_lines);
        if step != Step::Kept {
            let mark = landed.mark(step, &sha('a'));
            let on = if mark.sha == sha('b') { self.main.clone() } else { head.clone() };
            if let Some(before) = &self.standing {
                let lower = falls(mark.totals, before.totals);
                if lower && step != Step::MeasuredAgain {
                    return Err(format!("it sank by {step:?}: {} below {}", mark.totals, before.totals));
                }
                self.seen.lower += u32::from(lower);
            }
            if step == Step::MeasuredAgain {
                self.seen.again += 1;
                let base = share(&self.main, &settings);
                if falls(mark.totals, base) {
                    return Err(format!("base has {base} by the new settings, and the baseline is {}", mark.totals));
                }
                self.honest(&settings)?;
            }
            let revision = self.standing.as_ref().map_or(0, |standing| standing.revision) + 1;
            self.standing = Some(standing(revision, mark.totals, Some(&landed.measured_by)));
            self.mark = Some((on, settings));
        }
        (self.main, self.fresh) = (head, false);
        Ok(())
    }

    /// Where the baseline passes on to base by other settings, nothing was lost in what both settings count.
    fn honest(&self, settings: &Tree) -> Result<(), String> {
        let Some((tree, by)) = &self.mark else { return Ok(()) };
        let (before, now) = (tree.by(by), self.main.by(settings));
        let mut was: Vec<bool> = Vec::new();
        let mut is: Vec<bool> = Vec::new();
        let ran = |lines: &Lines| lines.iter().map(|(_, ran)| ran).collect::<Vec<_>>();
        for name in FILES {
            let (then, later) = (before.files.get(&path(name)), now.files.get(&path(name)));
            let (there_then, there_later) = (tree.files.contains_key(name), self.main.files.contains_key(name));
            if let Some(lines) = then.filter(|_| later.is_some() || !there_later) {
                was.extend(ran(lines));
            }
            if let Some(lines) = later.filter(|_| then.is_some() || !there_then) {
                is.extend(ran(lines));
            }
        }
        let of = |all: &[bool]| totals(all.iter().filter(|ran| **ran).count() as u64, all.len() as u64);
        let (was, is) = (of(&was), of(&is));
        match was.total() > 0 && is.total() > 0 && was.is_above(is) {
            true => Err(format!("the baseline passes on to base, which lost: {is} of what was {was}")),
            false => Ok(()),
        }
    }
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }

    fn lines(&mut self) -> Vec<bool> {
        (0..LINES).map(|_| self.below(3) > 0).collect()
    }

    /// A branch: some of tests, files and settings changed.
    fn branch(&mut self, main: &Tree) -> Tree {
        let mut head = main.clone();
        for name in FILES {
            match self.below(8) {
                0 => _ = head.files.insert(name, self.lines()),
                1 => _ = head.files.remove(name),
                2 => {
                    if let Some(ran) = head.files.get_mut(name) {
                        let at = self.below(u64::from(LINES)) as usize;
                        ran[at] = !ran[at];
                    }
                }
                _ => {}
            }
            if self.below(6) == 0 && !head.left_out.remove(name) {
                head.left_out.insert(name);
            }
        }
        head
    }
}

/// One history; what must not be, if it happened.
fn history(seed: u64, broken: Broken) -> Result<Seen, String> {
    let mut dice = Dice(seed);
    let files = FILES.iter().map(|name| (*name, dice.lines())).collect();
    let main = Tree { files, left_out: BTreeSet::new() };
    let mut all = Repository { broken, main, standing: None, mark: None, fresh: false, seen: Seen::default() };
    for _ in 0..12 {
        if dice.below(15) == 0 {
            // A person's word: any number.
            let total = 1 + dice.below(16);
            let totals = totals(dice.below(total + 1), total);
            let revision = all.standing.as_ref().map_or(0, |standing| standing.revision) + 1;
            all.standing = Some(standing(revision, totals, None));
            (all.mark, all.fresh) = (None, true);
            continue;
        }
        let (head, holds) = (dice.branch(&all.main), dice.below(3) > 0);
        if let Some(passed) = all.ask(&head, holds) {
            all.land(head, passed).map_err(|why| format!("seed {seed}: {why}"))?;
        }
    }
    Ok(all.seen)
}

#[test]
fn no_history_lowers_the_baseline_without_a_persons_word_or_an_honest_measurement_of_base() {
    let mut all = Seen::default();
    for seed in 0..20_000 {
        let seen = history(seed, Broken::Nothing).expect("the baseline stands");
        all.landed += seen.landed;
        all.refused += seen.refused;
        all.asked += seen.asked;
        all.held += seen.held;
        all.by_lines += seen.by_lines;
        all.again += seen.again;
        all.lower += seen.lower;
    }
    for (what, times) in [
        ("landed", all.landed),
        ("refused", all.refused),
        ("a person was asked", all.asked),
        ("judged by base's settings", all.held),
        ("compared by lines", all.by_lines),
        ("base was measured again", all.again),
        ("and it sank honestly", all.lower),
    ] {
        assert!(times > 200, "{what}: {times} times ({all:?})");
    }
}

#[test]
fn every_broken_rule_is_shown_by_some_history() {
    use Broken::{AnewUnmeasured, BaseUnread, LeftOut, MinimumAlone, OldWord, OwnSettings, OwnUnseen};
    for broken in [MinimumAlone, OwnSettings, OwnUnseen, LeftOut, AnewUnmeasured, OldWord, BaseUnread] {
        let shown = (0..20_000).find_map(|seed| history(seed, broken).err());
        println!("{broken:?}: {shown:?}");
        assert!(shown.is_some(), "{broken:?} is not seen by any history");
    }
}
