//! A world for job tests: a placement with folders of its own, short ways to describe jobs, level-triggered waits.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use orch_adapters::jobs::{
    FinishedJob, LocalPlacement, LocalPlacementConfig, Means, Runner, UnrecordedLedger, become_subreaper,
};
use orch_adapters::ports::{Confinement, JobLimits, JobSpec, Placement};
use orch_domain::ids::Epoch;
use orch_domain::job::{Containment, JobIdentity, JobKind, OnLoss};
use orch_domain::time::Millis;
use orch_shim::procs;
use orch_shim::protocol::{Reply, Request};

/// No wait in these tests takes longer, however loaded the machine is.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) root: tempfile::TempDir,
    means: Means,
    pub(crate) placement: Arc<LocalPlacement>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Means::default())
    }

    /// A world that uses some of the host's means only.
    pub(crate) fn with(means: Means) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let placement = Arc::new(placement_in(root.path(), means));
        Self { root, means, placement }
    }

    /// A world for each way to hold jobs that this host offers, with what its jobs' records then say. What is not
    /// offered has to be said.
    pub(crate) fn at_each_level() -> Vec<(Self, Containment)> {
        let said = Self::new().placement.capabilities().join("\n");
        let lacks = |what: &str| said.contains(&format!("{what}: not available"));
        let mut worlds = Vec::new();
        for (namespaces, groups) in [(false, false), (false, true), (true, false), (true, true)] {
            if (namespaces && lacks("pid namespace")) || (groups && lacks("cgroup")) {
                continue;
            }
            let level = Containment::of(namespaces, groups && orch_shim::landlock_abi() > 0);
            worlds.push((Self::with(Means { namespaces, groups, users: None }), level));
        }
        worlds
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn runner(&self) -> Runner {
        let placement: Arc<dyn Placement> = self.placement.clone();
        Runner::new(placement, Arc::new(UnrecordedLedger))
    }

    /// A second supervisor on the same folders; the first one's connections are closed.
    pub(crate) fn succeed(self) -> Self {
        let Self { root, means, placement } = self;
        assert_eq!(Arc::strong_count(&placement), 1, "somebody still holds the first supervisor");
        drop(placement);
        let placement = Arc::new(placement_in(root.path(), means));
        Self { root, means, placement }
    }

    pub(crate) async fn run(&self, spec: JobSpec) -> FinishedJob {
        bounded(self.runner().run(spec)).await.expect("a job that ran")
    }

    /// A shell script that may write a folder of its own, where it begins, and sees nothing else of the world.
    pub(crate) fn walled(&self, script: &str) -> JobSpec {
        let mut spec = self.sh(script);
        spec.cwd = self.path("space").join(spec.id.as_str());
        fs::create_dir_all(&spec.cwd).expect("made");
        let (write, deny) = (vec![spec.cwd.clone()], vec![self.root.path().to_owned()]);
        spec.confinement = Confinement { enforced: true, write, deny, ..Confinement::default() };
        spec
    }

    /// A shell script.
    pub(crate) fn sh(&self, script: &str) -> JobSpec {
        self.job(&["sh", "-c", script])
    }

    pub(crate) fn job(&self, argv: &[&str]) -> JobSpec {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = "/usr/local/bin:/usr/bin:/bin";
        JobSpec {
            id: format!("job{:05}x{number:04}", std::process::id()).parse().expect("an id"),
            kind: JobKind::Gate,
            task: None,
            run: None,
            epoch: Epoch(1),
            label: argv.join(" "),
            argv: argv.iter().map(|&part| part.to_owned()).collect(),
            cwd: self.root.path().to_owned(),
            env: BTreeMap::from([("PATH".to_owned(), path.to_owned())]),
            stdin: Vec::new(),
            limits: JobLimits { wall: Millis::from_secs(50), grace: Millis::from_secs(20), ..JobLimits::default() },
            confinement: Confinement::default(),
            on_loss: OnLoss::End,
        }
    }
}

pub(crate) fn placement_in(root: &Path, means: Means) -> LocalPlacement {
    become_subreaper().expect("a subreaper");
    let (shim_program, shim_args) = orch_shim::self_exec::command();
    let config = LocalPlacementConfig {
        shim_program,
        shim_args,
        means,
        ..LocalPlacementConfig::new(root.join("jobs"), root.join("run"))
    };
    LocalPlacement::new(config).expect("a placement")
}

pub(crate) async fn bounded<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, what).await.expect("within the bound")
}

/// Looks until `look` finds something.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let search = async {
        loop {
            ticks.tick().await;
            if let Some(found) = look() {
                return found;
            }
        }
    };
    tokio::time::timeout(BOUND, search).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// A number that a job has written into a file.
pub(crate) async fn number_in(path: &Path) -> i32 {
    until(&format!("a number in {}", path.display()), || {
        let text = fs::read_to_string(path).ok()?;
        text.ends_with('\n').then(|| text.trim().parse().ok())?
    })
    .await
}

/// A process of a job that has written its own number into a file, as it is seen from here: a job in namespaces of its
/// own counts anew.
pub(crate) async fn animal_in(path: &Path, spec_id: &str) -> i32 {
    let own = number_in(path).await;
    until(&format!("process {own} of {spec_id}"), || {
        marked(spec_id).into_iter().find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            numbers.split_whitespace().next_back() == Some(&own.to_string())
        })
    })
    .await
}

/// Whether a process runs code: a zombie does not.
pub(crate) fn runs(pid: i32) -> bool {
    procs::stat(pid).is_some_and(|stat| stat.is_alive())
}

/// Living processes that carry a job's mark.
pub(crate) fn marked(spec_id: &str) -> Vec<i32> {
    let mark = format!("ORCH_JOB={spec_id}");
    let carries = |pid: i32| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|env| env.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()))
    };
    procs::all().into_iter().filter(|stat| stat.is_alive() && carries(stat.pid)).map(|stat| stat.pid).collect()
}

/// Speaks the shim's protocol by hand.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub(crate) fn connect(identity: &JobIdentity) -> Self {
        let stream = UnixStream::connect(&identity.socket).expect("connected");
        stream.set_read_timeout(Some(BOUND)).expect("set");
        let mut client = Self { stream: BufReader::new(stream) };
        let secret = identity.secret.clone();
        let hello = client.ask(&Request::Hello { versions: vec![1], secret, supervise: false });
        assert_eq!(hello, Reply::Hello { version: 1 });
        client
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Reply {
        let mut line = serde_json::to_string(request).expect("serialises");
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).expect("sent");
        line.clear();
        self.stream.read_line(&mut line).expect("answered");
        serde_json::from_str(&line).expect("a reply")
    }
}
