//! Branches that change their own measurement, over real git, real jobs and a real store: they are judged by the settings that
//! were there before them, or line by line, or by a person.

use orch_domain::coverage::{Step, ratchet};
use orch_domain::event::CheckEnd;
use orch_domain::ids::CommitSha;

use super::check_tests::World;
use super::coverage_tests::{Answer, lcov, totals};

/// Files that the settings name do not count.
const HIDES: &str = "for f in $(cat .c8rc.json package.json pytest.ini .coveragerc 2>/dev/null | grep -o '[ab][.]py'); do \
    sed -i \"/SF:$f/,/end_of_record/d\" lcov.txt; done; cat lcov.txt > \"$ORCH_COVERAGE_REPORT\"; echo '1 passed in 0.1s'";
/// The tool that the settings name has to be there.
const NEEDS: &str = "need=$(grep -o 'tool-[ab]' package.json); test -e $need || exit 9; \
    cat lcov.txt > \"$ORCH_COVERAGE_REPORT\"; echo '1 passed in 0.1s'";
const FOUR: &str = "x\nx\nx\nx\n";

fn whole() -> String {
    lcov(&[("a.py", &[1, 2, 3, 4], &[]), ("b.py", &[1, 2], &[3, 4])])
}

fn less() -> String {
    lcov(&[("a.py", &[1], &[2, 3, 4]), ("b.py", &[1, 2], &[3, 4])])
}

fn could_not(answer: &Answer) -> &str {
    match &answer.end {
        CheckEnd::CouldNotRun { why } => why,
        other => panic!("could run: {other:?}"),
    }
}

impl World {
    async fn begun(&self, more: &[(&str, &str)]) -> CommitSha {
        let whole = whole();
        let files = [&[("a.py", FOUR), ("b.py", FOUR), ("lcov.txt", whole.as_str())], more].concat();
        self.landed(&files).await
    }

    /// What the landing of an answer would do to the baseline as it stands.
    async fn would(&self, answer: &Answer) -> Step {
        ratchet(Some(&self.standing().await.standing()), answer.landed.as_ref().expect("it lands"))
    }
}

#[tokio::test]
async fn a_branch_that_hides_what_it_loses_is_judged_by_base_s_settings() {
    let world = World::measuring(HIDES).await;
    let base = world.begun(&[("package.json", "{}"), ("pytest.ini", "[pytest]\naddopts = -q\n")]).await;
    let less = less();
    for (n, hides) in [
        (".c8rc.json", "{\"exclude\": [\"a.py\"]}"),
        ("package.json", "{\"c8\": {\"exclude\": [\"a.py\"]}}"),
        ("pytest.ini", "[pytest]\naddopts = -q --cov-config=a.py\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let head = world.commit(&format!("hides{n}"), &[hides, ("lcov.txt", &less)]).await;
        let answer = world.gate(&base, &head, &format!("hides{n}")).await;
        for said in ["37.50 % (3 of 8 lines) is below the baseline of 75.00 % (6 of 8 lines)", "a.py: 2-4"] {
            assert!(answer.findings().contains(said), "{hides:?}: {}", answer.findings());
        }
        let note =
            format!("the branch changes coverage settings ({}); it was judged by base's, and has 50.00 %", hides.0);
        assert!(answer.has(&note), "{hides:?}");

        // A change of settings alone lands, and moves nothing.
        let head = world.commit(&format!("only{n}"), &[hides]).await;
        let jobs = world.jobs();
        let answer = world.gate(&base, &head, &format!("only{n}")).await;
        assert!(answer.note().contains("75.00 % (6 of 8 lines) is not below"), "{}", answer.note());
        assert_eq!((world.jobs(), world.would(&answer).await), (jobs + 2, Step::Kept), "as it is, and by base's");
        let again = world.gate(&base, &head, &format!("again{n}")).await;
        assert_eq!((world.jobs(), again.landed), (jobs + 2, answer.landed), "nothing runs twice");

        // On top of it its settings are base's: they were measured before, and the next change is compared by them.
        let next = world.commit(&format!("only{n}"), &[("c", "x")]).await;
        let answer = world.gate(&head, &next, &format!("next{n}")).await;
        assert!(answer.note().contains("is not below the baseline of 50.00 % (2 of 4 lines)"), "{}", answer.note());
        assert!(answer.has("base, measured again"));
        assert_eq!((world.jobs(), world.would(&answer).await), (jobs + 3, Step::MeasuredAgain));
        let rebase = answer.landed.and_then(|landed| landed.rebase).expect("it sets the baseline anew");
        assert_eq!(rebase.floor.map(|floor| floor.totals), Some(totals(2, 4)));
    }
    // Widened settings hide no untested code that comes with them.
    let wider = lcov(&[("a.py", &[1, 2, 3, 4], &[]), ("b.py", &[1, 2], &[3, 4]), ("new.py", &[], &[1, 2])]);
    let base = world.commit("narrow", &[(".c8rc.json", "{\"exclude\": [\"b.py\"]}")]).await;
    let narrow = world.gate(&world.standing().await.sha, &base, "narrow").await;
    assert!(narrow.landed.is_some(), "{:?}", narrow.end);
    let head = world.commit("narrow", &[(".c8rc.json", "{}"), ("new.py", "x\nx\n"), ("lcov.txt", &wider)]).await;
    let answer = world.gate(&base, &head, "wider").await;
    assert!(answer.findings().contains("new.py: 1-2"), "{}", answer.findings());
}

#[tokio::test]
async fn what_base_s_settings_cannot_measure_is_compared_by_lines_or_by_a_person() {
    let world = World::measuring(NEEDS).await;
    let tool = |name: &str| format!("{{\"c8\": {{\"with\": \"{name}\"}}}}");
    let (one, other) = (tool("tool-a"), tool("tool-b"));
    let base = world.begun(&[("package.json", &one), ("tool-a", "x")]).await;
    let moves = [("package.json", other.as_str()), ("tool-a", ""), ("tool-b", "x")];
    let head = world.commit("moves", &moves).await;
    let answer = world.gate(&base, &head, "moves").await;
    let said = "in lines that both settings count: 75.00 % (6 of 8 lines) is not below the baseline of 75.00 %";
    assert!(answer.note().contains(said), "{}", answer.note());
    assert!(answer.warnings()[0].contains("the baseline stays as it is"), "{:?}", answer.warnings());
    assert_eq!(world.would(&answer).await, Step::Kept);
    assert!(answer.counts().contains(&("alike_before_total".to_owned(), 8)), "{:?}", answer.counts());

    let head = world.commit("loses", &[&moves[..], &[("lcov.txt", &less())]].concat()).await;
    let answer = world.gate(&base, &head, "loses").await;
    assert!(answer.findings().contains("37.50 % (3 of 8 lines) is below"), "{}", answer.findings());
    assert!(answer.findings().contains("a.py: 2-4"), "{}", answer.findings());

    // A file that is there, and does not count any more: nobody knows what is lost.
    let b_alone = lcov(&[("b.py", &[1, 2], &[])]);
    let head = world.commit("leaves", &[&moves[..], &[("lcov.txt", &b_alone)]].concat()).await;
    let answer = world.gate(&base, &head, "leaves").await;
    let way = format!("orch baseline set --repo shop --covered 2 --total 2 --sha {head} --reason");
    assert!(
        could_not(&answer).contains("not measured any more although they are still there: a.py"),
        "{:?}",
        answer.end
    );
    assert!(could_not(&answer).contains(&way), "{:?}", answer.end);
    assert_eq!(answer.counts()[..2], [("covered".to_owned(), 2), ("total".to_owned(), 2)]);
    // A person's word is about what comes next.
    world.baseline(2, 2, &head).await;
    let answer = world.gate(&base, &head, "told").await;
    assert!(answer.note().contains("100.00 % (2 of 2 lines) is not below"), "{}", answer.note());
    world.land_next(&head, answer.landed).await;
    let back = [
        ("package.json", one.as_str()),
        ("tool-b", ""),
        ("tool-a", "x"),
        ("lcov.txt", "SF:a.py\nDA:1,1\nend_of_record\n"),
    ];
    let next = world.commit("leaves", &back).await;
    let answer = world.gate(&head, &next, "oldword").await;
    assert!(could_not(&answer).contains("still there: b.py"), "and about nothing later: {:?}", answer.end);
}

#[tokio::test]
async fn where_no_file_is_named_to_coverage_py_base_s_own_is_put_in_place() {
    let world = World::measuring(&format!("cd . && {{ {HIDES}; }}")).await;
    let base = world.begun(&[(".coveragerc", "[run]\nbranch = True\n")]).await;
    let less = less();
    let head = world.commit("hides", &[(".coveragerc", "[run]\nomit = a.py\n"), ("lcov.txt", &less)]).await;
    let answer = world.gate(&base, &head, "hides").await;
    assert!(answer.findings().contains("37.50 % (3 of 8 lines) is below"), "{}", answer.findings());
    // Among other things it stays, and lines are compared.
    let among = ("setup.cfg", "[coverage:run]\nomit = c.py\n");
    let head = world.commit("among", &[among, ("lcov.txt", &less)]).await;
    let answer = world.gate(&base, &head, "among").await;
    assert!(answer.findings().contains("in lines that both settings count: 37.50 %"), "{}", answer.findings());
}

#[tokio::test]
async fn another_tool_that_the_branch_brings_is_compared_by_lines_and_never_charged() {
    let line =
        "cat tool > \"$ORCH_COVERAGE_DIR/tool\"; cat lcov.txt > \"$ORCH_COVERAGE_REPORT\"; echo '1 passed in 0.1s'";
    let world = World::measuring(line).await;
    let base = world.begun(&[("tool", "9.0")]).await;
    let head = world.commit("newer", &[("tool", "10.0")]).await;
    let answer = world.gate(&base, &head, "newer").await;
    assert!(answer.note().contains("in lines that both settings count"), "{}", answer.note());
    assert!(answer.warnings()[0].contains("the head was measured by 10.0, base by 9.0"), "{:?}", answer.warnings());
    assert_eq!(world.would(&answer).await, Step::Kept);
    let less = less();
    let head = world.commit("other", &[("tool", "10.0"), ("lcov.txt", &less)]).await;
    let answer = world.gate(&base, &head, "other").await;
    assert!(could_not(&answer).contains("37.50 % (3 of 8 lines) is below"), "{:?}", answer.end);
}
