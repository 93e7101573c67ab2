//! Did coverage fall? The one rule of the gate.
//!
//! Owns [`judge`]: totals of the head, of what it is compared with, and the operator's policy in; reasons and a verdict
//! out. Invariants: integers only, by cross-multiplication in 128 bits; with the same lines to count, more covered ones
//! never make it worse; whatever passes or fails is named with its numbers.

use serde::{Deserialize, Serialize};

use super::model::Totals;
use super::show::{percent, percent_apart, percent_pair, points};

/// Which rules hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoverageMode {
    /// At least a fixed share.
    Absolute,
    /// Not below the baseline.
    #[default]
    Baseline,
    /// Both.
    Both,
}

impl CoverageMode {
    /// All, as the settings name them.
    pub const ALL: [Self; 3] = [Self::Absolute, Self::Baseline, Self::Both];

    /// The word in settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Absolute => "absolute",
            Self::Baseline => "baseline",
            Self::Both => "both",
        }
    }
}

/// The operator's settings for one repository. Shares are basis points: 10,000 are all lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoveragePolicy {
    /// Which rules hold.
    pub mode: CoverageMode,
    /// The least share, for the absolute rule.
    pub min_bp: u32,
    /// How far below the baseline is let pass.
    pub epsilon_bp: u32,
    /// Whether a change that leaves fewer lines and no more uncovered ones passes, although the share falls.
    pub removal: bool,
    /// Whether a coverage tool that could not start keeps the change from main.
    pub fail_closed: bool,
}

impl Default for CoveragePolicy {
    fn default() -> Self {
        Self { mode: CoverageMode::Baseline, min_bp: 0, epsilon_bp: 10, removal: false, fail_closed: false }
    }
}

/// All lines, in basis points.
const ALL_BP: u128 = 10_000;
/// A drop beyond epsilon by no more than this is worth a second run: tests that are not quite repeatable.
const CLOSE_BP: u32 = 50;

/// One thing that was found, with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No line counts, and nothing says that there should be any.
    NothingToMeasure,
    /// No line counts, although the baseline has some.
    NothingLeft {
        /// What it is compared with.
        baseline: Totals,
    },
    /// No line counts, although a share of them is demanded.
    NothingForMinimum {
        /// The least share.
        min_bp: u32,
    },
    /// The absolute rule holds.
    AtLeast {
        /// The head.
        head: Totals,
        /// The least share.
        min_bp: u32,
    },
    /// The absolute rule is broken.
    BelowMinimum {
        /// The head.
        head: Totals,
        /// The least share.
        min_bp: u32,
    },
    /// There is no baseline yet; the landing makes one.
    NoBaseline,
    /// The branch's own settings count nothing, although something is there to count.
    NothingByOwn {
        /// What the head has by base's settings.
        held: Totals,
    },
    /// Of a head and a baseline that were measured by different settings or tools: what is found in the lines that both
    /// count.
    Alike(Box<Reason>),
    /// Not below the baseline.
    NotBelow {
        /// The head.
        head: Totals,
        /// What it is compared with.
        baseline: Totals,
    },
    /// Below the baseline, within epsilon.
    WithinEpsilon {
        /// The head.
        head: Totals,
        /// What it is compared with.
        baseline: Totals,
        /// What is let pass.
        epsilon_bp: u32,
    },
    /// Below the baseline beyond epsilon, with fewer lines and no more uncovered ones: let pass by the removal rule.
    Removal {
        /// The head.
        head: Totals,
        /// What it is compared with.
        baseline: Totals,
    },
    /// Below the baseline beyond epsilon.
    BelowBaseline {
        /// The head.
        head: Totals,
        /// What it is compared with.
        baseline: Totals,
        /// What is let pass.
        epsilon_bp: u32,
    },
}

impl Reason {
    /// Whether it fails the gate.
    #[must_use]
    pub fn fails(&self) -> bool {
        match self {
            Self::NothingLeft { .. }
            | Self::NothingForMinimum { .. }
            | Self::NothingByOwn { .. }
            | Self::BelowMinimum { .. }
            | Self::BelowBaseline { .. } => true,
            Self::Alike(inner) => inner.fails(),
            _ => false,
        }
    }

    /// Head and baseline as its sentence writes them, where it compares them.
    fn shares(&self) -> Option<(String, String)> {
        match self {
            Self::WithinEpsilon { head, baseline, epsilon_bp } | Self::BelowBaseline { head, baseline, epsilon_bp } => {
                Some(percent_apart(*head, *baseline, *epsilon_bp))
            }
            Self::NotBelow { head, baseline } | Self::Removal { head, baseline } => {
                Some(percent_pair(*head, *baseline))
            }
            Self::Alike(inner) => inner.shares(),
            _ => None,
        }
    }

    /// One sentence with the numbers; shares are rounded down.
    #[must_use]
    pub fn text(&self) -> String {
        let (now, before) = self.shares().unwrap_or_default();
        match self {
            Self::NothingToMeasure => "nothing to measure: the report holds no line that counts".to_owned(),
            Self::NothingLeft { baseline } => {
                format!("the report holds no line that counts, and the baseline has {}", baseline.total())
            }
            Self::NothingForMinimum { min_bp } => {
                format!("the report holds no line that counts, and the minimum is {} %", points(*min_bp))
            }
            Self::AtLeast { head, min_bp } => {
                format!("{} ({head}) is at least the minimum of {} %", percent(*head), points(*min_bp))
            }
            Self::BelowMinimum { head, min_bp } => {
                format!("{} ({head}) is below the minimum of {} %", percent(*head), points(*min_bp))
            }
            Self::NoBaseline => "there is no baseline yet".to_owned(),
            Self::NothingByOwn { held } => {
                format!("the branch's own settings count nothing, and by base's there are {}", held.total())
            }
            Self::Alike(inner) => format!("in lines that both settings count: {}", inner.text()),
            Self::NotBelow { head, baseline } => {
                format!("{now} ({head}) is not below the baseline of {before} ({baseline})")
            }
            Self::WithinEpsilon { head, baseline, epsilon_bp } => {
                let epsilon = points(*epsilon_bp);
                format!("{now} ({head}) is below the baseline of {before} ({baseline}) by at most {epsilon} points")
            }
            Self::Removal { head, baseline } => {
                format!(
                    "{now} ({head}) is below the baseline of {before} ({baseline}), but fewer lines are left and no more are uncovered (removal rule)"
                )
            }
            Self::BelowBaseline { head, baseline, epsilon_bp } => {
                let epsilon = points(*epsilon_bp);
                format!("{now} ({head}) is below the baseline of {before} ({baseline}) by more than {epsilon} points")
            }
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Everything that was found, in the order of the rules.
    pub reasons: Vec<Reason>,
    /// Whether it fails by a hair only, so that one more run may tell.
    pub close: bool,
}

impl Judgement {
    /// Whether the gate lets it pass.
    #[must_use]
    pub fn passes(&self) -> bool {
        !self.reasons.iter().any(Reason::fails)
    }

    /// The same for a branch that changes its own measurement: by its own settings it must count something, and must not
    /// lose what both settings count, nor bring what is not covered. `held`: what it has by base's settings, by which it was
    /// judged; `own`: by its own; `alike`: the baseline, and the head by its own settings, in what both count.
    #[must_use]
    pub fn and_by_its_own(
        mut self,
        policy: &CoveragePolicy,
        held: Totals,
        own: Totals,
        alike: Option<(Totals, Totals)>,
    ) -> Self {
        if own.total() == 0 && held.total() > 0 {
            self.reasons.push(Reason::NothingByOwn { held });
        }
        let alike = alike.filter(|(before, after)| before.total() > 0 && after.total() > 0);
        let reason = alike.map(|(before, after)| against(policy, after, before));
        if let Some(reason) = reason.filter(|reason| reason.fails() && policy.mode != CoverageMode::Absolute) {
            self.reasons.push(Reason::Alike(Box::new(reason)));
        }
        self.close &= self.reasons.iter().filter(|reason| reason.fails()).count() <= 1;
        self
    }

    /// Whether it passes by the removal rule, so that its landing sets the baseline anew.
    #[must_use]
    pub fn by_removal(&self) -> bool {
        self.passes() && self.reasons.iter().any(|reason| matches!(reason, Reason::Removal { .. }))
    }

    /// Head and what it was compared with, as the sentences write them: for whoever writes them again beside.
    #[must_use]
    pub fn shares(&self, head: Totals, baseline: Totals) -> (String, String) {
        self.reasons.iter().find_map(Reason::shares).unwrap_or_else(|| percent_pair(head, baseline))
    }

    /// The sentences, failing ones first.
    #[must_use]
    pub fn text(&self) -> String {
        let (failing, others): (Vec<_>, Vec<_>) = self.reasons.iter().partition(|reason| reason.fails());
        failing.into_iter().chain(others).map(Reason::text).collect::<Vec<_>>().join("; ")
    }
}

/// Judges the head. Without a baseline only the absolute rule holds, in every mode; a baseline of no lines is none. Where
/// no line counts there is no share, so no minimum above zero is reached.
#[must_use]
pub fn judge(policy: &CoveragePolicy, head: Totals, baseline: Option<Totals>) -> Judgement {
    let compared = policy.mode != CoverageMode::Absolute;
    let mut reasons = Vec::new();
    let mut close = false;
    let baseline = baseline.filter(|baseline| baseline.total() > 0);
    let minimum = policy.mode != CoverageMode::Baseline || baseline.is_none();
    if head.total() == 0 {
        reasons.extend(baseline.filter(|_| compared).map(|baseline| Reason::NothingLeft { baseline }));
        if minimum && policy.min_bp > 0 {
            reasons.push(Reason::NothingForMinimum { min_bp: policy.min_bp });
        }
        if reasons.is_empty() {
            reasons.push(Reason::NothingToMeasure);
        }
        return Judgement { reasons, close };
    }
    if minimum {
        reasons.push(absolute(policy, head));
    }
    match baseline.filter(|_| compared) {
        Some(baseline) => {
            let reason = against(policy, head, baseline);
            let wider = CoveragePolicy { epsilon_bp: policy.epsilon_bp.saturating_add(CLOSE_BP), ..*policy };
            close = reason.fails() && !reasons.iter().any(Reason::fails) && !against(&wider, head, baseline).fails();
            reasons.push(reason);
        }
        None if compared => reasons.push(Reason::NoBaseline),
        None => {}
    }
    Judgement { reasons, close }
}

/// Judges a head that cannot be measured by the settings of what it is compared with: in the lines that both count.
/// `before` is not empty.
#[must_use]
pub fn judge_alike(policy: &CoveragePolicy, head: Totals, before: Totals, after: Totals) -> Judgement {
    let mut reasons = Vec::new();
    if policy.mode == CoverageMode::Both {
        reasons.push(absolute(policy, head));
    }
    let reason = match after.total() {
        0 => Reason::NothingLeft { baseline: before },
        _ => against(policy, after, before),
    };
    reasons.push(Reason::Alike(Box::new(reason)));
    Judgement { reasons, close: false }
}

fn absolute(policy: &CoveragePolicy, head: Totals) -> Reason {
    let min_bp = policy.min_bp;
    let holds = u128::from(head.covered()) * ALL_BP >= u128::from(min_bp) * u128::from(head.total());
    if holds { Reason::AtLeast { head, min_bp } } else { Reason::BelowMinimum { head, min_bp } }
}

fn against(policy: &CoveragePolicy, head: Totals, baseline: Totals) -> Reason {
    let epsilon_bp = policy.epsilon_bp;
    let (covered, total) = (u128::from(head.covered()), u128::from(head.total()));
    let (covered_before, total_before) = (u128::from(baseline.covered()), u128::from(baseline.total()));
    let (now, before) = (covered * total_before, covered_before * total);
    if now >= before {
        return Reason::NotBelow { head, baseline };
    }
    let let_pass = u128::from(epsilon_bp) * total_before * total;
    if now * ALL_BP + let_pass >= before * ALL_BP {
        return Reason::WithinEpsilon { head, baseline, epsilon_bp };
    }
    let removed = head.total() < baseline.total() && head.uncovered() <= baseline.uncovered();
    match policy.removal && removed {
        true => Reason::Removal { head, baseline },
        false => Reason::BelowBaseline { head, baseline, epsilon_bp },
    }
}
