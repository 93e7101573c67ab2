//! The security gate over real git and both engines: every way known to us to get a secret past a scanner, and every way in
//! which a scanner can fail.

mod attacks;
mod broken_tools;
mod dependencies;
mod history;

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command as Program, Stdio};

use orch_adapters::reports::{Expect, ReadReport, read_report};
use orch_adapters::secrets::EngineKind;
use orch_domain::event::CheckEnd;
use orch_domain::gate::GateName;
use orch_domain::ids::{CommitSha, Epoch};
use orch_test_support::tools;

use super::check_tests::{World, bounded};
use super::security;
use super::{GateAnswer, GateSubject};
use crate::context::{Commands, Context};

/// Both engines.
const ENGINES: [EngineKind; 2] = [EngineKind::Builtin, EngineKind::Gitleaks];

/// A token in a well-known format, another one for each number. Put together here: nothing in this repository looks like one.
fn token(number: u64) -> String {
    let mut seed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let alphabet: Vec<char> = "bcdfghjkmnpqrstvwxyzBCDFGHJKMNPQRSTVWXYZ23456789".chars().collect();
    let mut signs = alphabet.clone();
    for at in (1..signs.len()).rev() {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        signs.swap(at, (seed >> 11) as usize % (at + 1));
    }
    format!("ghp_{}", signs[..36].iter().collect::<String>())
}

/// A private key of the look that all have.
fn private_key() -> (String, String) {
    let dashes = "-".repeat(5);
    let line = token(90)[4..].repeat(2);
    (
        format!("{dashes}BEGIN RSA PRIVATE KEY{dashes}\n{line}\n{line}\n"),
        format!("{line}\n{line}\n{dashes}END RSA PRIVATE KEY{dashes}\n"),
    )
}

/// A repository under attack.
struct Scene {
    world: World,
}

impl Scene {
    /// With one commit on main.
    async fn new() -> Self {
        let scene = Self { world: World::new(Commands::default()).await };
        scene.write("README.md", "# shop\n");
        scene.git(&["checkout", "--quiet", "-B", "main"]);
        scene.commit("Begin");
        scene
    }

    fn author(&self) -> &PathBuf {
        &self.world.author
    }

    fn git(&self, args: &[&str]) -> String {
        self.world.author_git(args, Some(self.author()))
    }

    /// Git with something on its standard input.
    fn git_with(&self, args: &[&str], input: &[u8]) -> String {
        let mut child = Program::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@example.org"])
            .args(args)
            .current_dir(self.author())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("git runs");
        child.stdin.take().expect("piped").write_all(input).expect("read");
        let out = child.wait_with_output().expect("ended");
        assert!(out.status.success(), "git {args:?}");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.author().join(path);
        fs::create_dir_all(path.parent().expect("has one")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    fn commit(&self, message: &str) -> CommitSha {
        self.git(&["add", "--all", "--force"]);
        self.git_with(&["commit", "--quiet", "--allow-empty", "--cleanup=verbatim", "-F", "-"], message.as_bytes());
        self.head()
    }

    fn head(&self) -> CommitSha {
        self.git(&["rev-parse", "HEAD"]).parse().expect("a sha")
    }

    /// From here on commits are the branch's. What main is now is base.
    fn branch(&self) -> CommitSha {
        let base = self.head();
        self.git(&["checkout", "--quiet", "-B", "work"]);
        base
    }

    /// Brings everything into our repositories and asks the gate.
    async fn judge(&self, base: &CommitSha, engine: EngineKind) -> GateAnswer {
        self.judge_with(base, engine, |_| {}).await
    }

    async fn judge_with(&self, base: &CommitSha, engine: EngineKind, change: impl FnOnce(&mut Context)) -> GateAnswer {
        let head = self.publish().await;
        let mut ctx = self.world.context();
        ctx.security.engine = engine;
        ctx.security.gitleaks = tools::gitleaks().to_string_lossy().into_owned();
        change(&mut ctx);
        let answer = bounded(security::run(&ctx, &self.subject(base, &head), &[])).await;
        assert!(self.world.nothing_left(), "the folder of the scan is gone afterwards");
        answer
    }

    async fn publish(&self) -> CommitSha {
        self.git(&["push", "--quiet", "--force", "origin", "HEAD:refs/heads/work"]);
        self.world.git.fetch_branch(&"work".parse().expect("a name")).await.expect("fetched")
    }

    fn subject(&self, base: &CommitSha, head: &CommitSha) -> GateSubject {
        let task = &self.world.task;
        GateSubject {
            task: task.id.clone(),
            key: task.key.clone(),
            generation: task.generation,
            run: "run1".parse().expect("an id"),
            epoch: Epoch(1),
            repo: self.world.settings.name.clone(),
            base: Some(base.clone()),
            head: head.clone(),
        }
    }

    fn report(answer: &GateAnswer) -> ReadReport {
        let report = answer.report.as_ref().expect("a report");
        let expect = Expect {
            gate: GateName::Security,
            head: report.head.clone(),
            base: report.base.clone(),
            run: None,
            sha256: Some(report.sha256.clone()),
        };
        read_report(&report.path, &expect).expect("it stands")
    }
}

fn findings(answer: &GateAnswer) -> &str {
    match &answer.end {
        CheckEnd::Failed { findings } => findings,
        other => panic!("did not fail: {other:?}"),
    }
}

fn passed(answer: &GateAnswer) -> &[String] {
    match &answer.end {
        CheckEnd::Passed { warnings, .. } => warnings,
        other => panic!("did not pass: {other:?}"),
    }
}

fn why(answer: &GateAnswer) -> &str {
    match &answer.end {
        CheckEnd::CouldNotRun { why } => why,
        other => panic!("could run: {other:?}"),
    }
}

/// What an answer may say of a secret: that it is there, never what it is.
fn assert_silent(answer: &GateAnswer, secret: &str) {
    let report = fs::read_to_string(&answer.report.as_ref().expect("a report").path).expect("readable");
    let told = format!("{:?}", answer.end);
    for text in [&report, &told] {
        assert!(!text.contains(secret), "the secret is told: {text}");
        assert!(!text.contains(&secret[4..24]), "half of the secret is told: {text}");
    }
}
