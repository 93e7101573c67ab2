//! A supervisor that is root gives each job of an agent or gate a user of its own, and the whole works as without.

use orch_adapters::jobs::UserRange;
use orch_domain::task::Status;

use crate::world::Setup;

/// Commits, leaves work uncommitted, is sent back once: agents, captures and checks take turns on the same folders.
const SCRIPT: &str = "attempts:\n\
    - - run: {cmd: 'id -u > who; echo one > good.txt; echo more > red; git config --get-all remote.origin.url; git status'}\n  \
      - commit: {message: Do half of it}\n\
    - - run: {cmd: 'test -e red && git rm -q red && mkdir -m 700 deep && echo x > deep/file && git add -A && git commit -q -m Mend'}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_task_lands_with_a_user_for_each_of_its_jobs() {
    // Above what any system gives to people and services, and another range for each program that tests.
    let first = 3_920_000_000 + std::process::id() * 10;
    let range = UserRange { first, last: first + 9 };
    let world = Setup::default()
        .agent("good", SCRIPT)
        .repo(|r| r.commands.check = Some("test ! -e red || { echo it is red; exit 1; }".into()))
        .config(move |c| c.containment.uids = Some(range))
        .open()
        .await;
    let task = world.submit("Be somebody").await;
    world.expect_status(&task, Status::Done).await;
    let who: u32 = world.git(&["show", "main:who"]).trim().parse().expect("a user id");
    let jobs = world.running().handle().context().store.jobs_of(&task.id).await.expect("jobs");
    let walled: Vec<_> = jobs.iter().filter(|job| job.record.kind.is_walled()).collect();
    assert!(walled.len() >= 6, "agents, captures and checks: {}", walled.len());
    let users: Vec<Option<u32>> = walled.iter().map(|job| job.record.identity.enforced.user).collect();
    if nix::unistd::geteuid().is_root() {
        let own = |user: &Option<u32>| user.is_some_and(|user| (range.first..=range.last).contains(&user));
        assert!(users.iter().all(own), "{users:?}");
        assert!((range.first..=range.last).contains(&who), "{who}");
    } else {
        assert!(users.iter().all(Option::is_none), "{users:?}");
        assert_eq!(who, nix::unistd::geteuid().as_raw());
    }
    world.close().await;
}
