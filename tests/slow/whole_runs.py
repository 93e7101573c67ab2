"""Whole runs: `orch run` with a real agent program, on a repository that this project did not make, confined as by default.

The repository is made of a source distribution from the package registry, with the tests that came with it. A file that
lies outside of everything that a job may read must stay unread, else nothing here says anything about confinement.
"""

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import time

from common import BOUND, HOME, KEY, KEY_VALUE, Model, STREAMS, alive, expect, until

SOURCE = ("cachetools", "5.5.2", "1a661caa9175d26759571b2e19580f9d6393969e5dfca11fdb1f947a23e640d4")
TESTS = "PYTHONPATH=src python3 -m unittest discover -s tests -t ."
MODULE = "src/cachetools/__init__.py"
TITLE = "Say more about caches"
COMMIT = "git add -A && git -c user.email=a@b.c -c user.name=agent commit -qm"
BROKEN = "the-first-change-broke-it"
# Half done, with a process that has left the tool's session: what a kill must not leave behind.
HANG = f"echo half >> {MODULE}.half; touch started; setsid sleep 3210 & sleep 3220"
# A tool call that goes on when it is given a sign, and takes the signs away.
WAIT = "touch started; until [ -e go ]; do sleep 0.1; done; rm go started"


def fetch_source():
    """Gets the source distribution once; it is used only with the checksum above."""
    name, version, digest = SOURCE
    file = HOME / "sources" / f"{name}-{version}.tar.gz"
    if not file.exists():
        print("fetching", file.name, flush=True)
        call = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        call += ["--no-binary", ":all:", "-d", str(file.parent), f"{name}=={version}"]
        subprocess.run(call, check=True)
    seen = hashlib.sha256(file.read_bytes()).hexdigest()
    if seen != digest:
        sys.exit(f"{file} has the checksum {seen} instead of {digest}; remove it")


class Whole:
    """A repository, settings, and `orch run` on them."""

    def __init__(self, kind, folder, grace="10m"):
        self.kind, self.folder = kind, folder
        self.repo, self.settings, self.secret = folder / "theirs.git", folder / "orch.yaml", folder / "secret"
        self.secret.write_text("not for jobs\n")
        self.grace, self.before = grace, set(alive())
        name, version, _ = SOURCE
        with tarfile.open(HOME / "sources" / f"{name}-{version}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
        tree = folder / f"{name}-{version}"
        self.git(tree, "init", "-q", "-b", "main")
        self.git(tree, "add", "-A")
        self.git(tree, "-c", "user.name=t", "-c", "user.email=t@t.t", "commit", "-q", "-m", "As released")
        self.git(folder, "clone", "-q", "--bare", str(tree), str(self.repo))
        self.start = self.main()

    def git(self, place, *args):
        env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
        done = subprocess.run(["git", *args], cwd=place, env=env, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def main(self):
        return self.git(self.repo, "rev-parse", "main")

    def work(self, words):
        """A shell line for the agent: a change and a commit, and the attempt to read what is none of its business."""
        steal = f"if cat {self.secret}; then echo read > leaked.txt; fi"
        return f"{steal}; echo '# {words}' >> {MODULE} && {COMMIT} '{words}'"

    def begin(self, model, name, *more):
        """Starts `orch run`; what it prints goes to a file."""
        agent = {"model": "fake-model", "endpoint": model.base(self.kind), "key_env": KEY}
        # For programs that report no money; one that does is believed.
        agent["rates"] = {"*": {"input": 1.25, "output": 10}}
        settings = {"data_dir": str(self.folder / "data"), "agents": {self.kind: agent}}
        settings["limits"] = {"agent_orphan_grace": self.grace, "stop_grace": "2s"}
        self.settings.write_text(json.dumps(settings))
        (self.folder / "run").mkdir(mode=0o700, exist_ok=True)
        self.out = self.folder / f"{name}.out"
        call = [os.environ["ORCH"], "--config", str(self.settings), "run", "--repo", str(self.repo), "--agent", self.kind]
        call += ["--title", TITLE, "--test-cmd", TESTS, "--keep", *more]
        with open(self.out, "wb") as out:
            return subprocess.Popen(call, env=self.env(), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)

    def env(self):
        return {
            "PATH": f"{HOME / 'node_modules/.bin'}:{os.environ['PATH']}",
            "HOME": os.environ["HOME"], "XDG_RUNTIME_DIR": str(self.folder / "run"), KEY: KEY_VALUE,
        }

    def verb(self, *words):
        """A client's verb at the running `orch run`; its answer."""
        [data] = self.folder.glob("data/repos/*")
        call = [os.environ["ORCH"], "--config", str(self.settings), "--data", str(data), "--json", *words]
        done = subprocess.run(call, env=self.env(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        expect(done.returncode == 0, f"orch {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def said(self, model):
        return f"\n{self.out.read_text(errors='replace')}\nrequests: {model.requests()}"

    def ask(self, sql):
        [file] = self.folder.glob("data/repos/*/orch.db")
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
            return db.execute(sql).fetchall()

    def started(self):
        """Whether the tool of a running agent has begun."""
        return any(self.folder.glob("data/repos/*/workspaces/*/tree/started"))

    def release(self):
        """Gives the tool that waits its sign."""
        [tree] = self.folder.glob("data/repos/*/workspaces/*/tree")
        (tree / "go").touch()

    def journal(self, kind):
        """The entries of one kind."""
        return self.ask(f"SELECT text FROM journal WHERE kind = '{kind}'")

    def receipt(self):
        """How each step of the STOP came out."""
        return dict(self.ask("SELECT step, json_extract(line, '$.result') FROM receipt_lines"))

    def others(self):
        """What runs now and did not before this act, besides the given processes."""
        return {key: line for key, line in alive().items() if key not in self.before}

    def landed(self, code, model, commits):
        """All that must hold when a task has landed; returns what it cost, in the words of the summary."""
        said = self.said(model)
        expect(code == 0, f"exit code {code}{said}")
        done = re.search(r"^done     \S+: ([0-9a-f]{40}) landed$", self.out.read_text(), re.M)
        expect(done and done[1] == self.main(), f"the commit of the summary is not main{said}")
        path = self.git(self.repo, "rev-list", "--first-parent", "--parents", f"{self.start}..main").splitlines()
        expect(path and path[-1].endswith(self.start), f"main was not moved forward from where it was: {path}{said}")
        expect(all(len(line.split()) == 2 for line in path), f"a merge instead of a fast-forward: {path}{said}")
        subjects = self.git(self.repo, "log", "--reverse", "--format=%s", f"{self.start}..main").splitlines()
        expect([s for s in subjects if s in commits] == commits, f"the agent's commits are {subjects}{said}")
        files = self.git(self.repo, "ls-tree", "-r", "--name-only", "main").splitlines()
        expect("leaked.txt" not in files, "a job could read a file outside of its folders; has this kernel landlock?")
        spent = re.search(r"^spent    (\d+ tokens in, \d+ out, \$[0-9.]+)$", self.out.read_text(), re.M)
        expect(spent, f"tokens and money are not in the summary{said}")
        unknown = [request for request in model.requests() if request.get("unknown") or request.get("expected") is False]
        expect(not unknown, f"requests that were not as expected{said}")
        expect(self.git(self.repo, "for-each-ref", "--format=%(refname)") == "refs/heads/main", "branches are left")
        expect(not list(self.folder.glob("data/repos/*/workspaces/*")), "a workspace is left")
        return spent[1]

    def nobody_left(self, model):
        mine = lambda: {key: line for key, line in self.others().items() if key[0] != model.server.pid}
        until("nothing runs any more", lambda: not mine(), 20)

    def streams(self, name):
        """What the agent printed, job by job, read once more by our own parser."""
        reports = []
        order = "SELECT id, exit FROM jobs WHERE kind = 'agent' ORDER BY prepared_at"
        for number, (job, end) in enumerate(self.ask(order), 1):
            [log] = self.folder.glob(f"data/repos/*/jobs/{job}/stdout.log")
            stream = log.read_bytes()
            (STREAMS / f"{self.kind}-{name}-{number}.jsonl").write_bytes(stream)
            call = [os.environ["AGENT_TOOL"], "parse", self.kind, "fake-model", "0"]
            done = subprocess.run(call, input=stream, check=True, capture_output=True)
            reports.append((json.loads(done.stdout), json.loads(end) if end else None))
        for report, _ in reports:
            expect(report["unknown_lines"] == 0, f"lines that the parser does not know: {report}")
        return reports


def run_lands(kind, folder):
    """One task, from its title to main."""
    stage = Whole(kind, folder)
    with Model(folder, [stage.work("made")], [TITLE]) as model:
        begun = time.monotonic()
        code = stage.begin(model, "lands").wait(BOUND)
        took = time.monotonic() - begun
        spent = stage.landed(code, model, ["made"])
        stage.nobody_left(model)
    [(report, end)] = stage.streams("lands")
    expect(report["claim"] == {"kind": "success"} and report["session"] and report["tool_calls"] == 1, f"{report}")
    expect(end["proven_gone"], f"{end}")
    return f"{stage.main()[:10]} landed, exit 0 in {took:.1f} s, spent {spent}, session {report['session'][:12]}"


def run_is_sent_back(kind, folder):
    """The first change breaks the tests; the second prompt brings the failure, and the second change lands."""
    stage = Whole(kind, folder)
    broken = f"echo 'raise RuntimeError(\"{BROKEN}\")' >> {MODULE} && {COMMIT} broken"
    mended = f"sed -i '/{BROKEN}/d' {MODULE} && {stage.work('mended')}"
    with Model(folder, [broken, mended], [TITLE, f"RuntimeError: {BROKEN}"]) as model:
        begun = time.monotonic()
        code = stage.begin(model, "sent-back").wait(BOUND)
        took = time.monotonic() - begun
        spent = stage.landed(code, model, ["broken", "mended"])
        expect(", 1 sent back" in stage.out.read_text(), f"not sent back once{stage.said(model)}")
        stage.nobody_left(model)
    expect(len(stage.streams("sent-back")) == 2, "not two runs of the agent")
    return f"{stage.main()[:10]} landed at the second attempt, exit 0 in {took:.1f} s, spent {spent}"


def run_is_killed(kind, folder):
    """`kill -9` of orch while a tool runs: the agent works on, and the next `orch run` on the same folder goes on with it."""
    stage = Whole(kind, folder)
    with Model(folder, [f"{WAIT} && {stage.work('finished')}"], [TITLE]) as model:
        first = stage.begin(model, "first", "--key", "KILL-1")
        until("the tool runs", lambda: stage.started() or first.poll() is not None)
        expect(first.poll() is None, f"it ended too early{stage.said(model)}")
        first.kill()
        first.wait()
        # The tool's own short naps come and go.
        left = {key for key, line in stage.others().items() if key[0] != model.server.pid and line != "sleep 0.1"}
        begun = time.monotonic()
        second = stage.begin(model, "second", "--key", "KILL-1")
        taken = until("the run is gone on with", lambda: stage.journal("run-attached") or second.poll() is not None)
        expect(second.poll() is None, f"it ended too early{stage.said(model)}")
        missing = left - set(alive())
        expect(not missing, f"of what was at work {missing} did not outlive the supervisor")
        stage.release()
        code = second.wait(BOUND)
        took = time.monotonic() - begun
        spent = stage.landed(code, model, ["finished"])
        stage.nobody_left(model)
        expect(not stage.journal("run-interrupted"), "a run was interrupted")
        conversations = max(request.get("conversation", 0) for request in model.requests())
        expect(conversations == 1, f"the agent had to begin anew: {conversations} conversations")
    [(report, end)] = stage.streams("killed")
    expect(report["claim"] == {"kind": "success"} and report["tool_calls"] == 1, f"{report}")
    expect(end["proven_gone"], f"{end}")
    return (f"{len(left)} processes outlived it and were gone on with {taken:.1f} s after the next start; "
            f"{stage.main()[:10]} landed in one run, exit 0 in {took:.1f} s, spent {spent}")


def run_is_stopped(kind, folder):
    """`orch task stop` while a tool runs: all of it is gone, each step proven, and what was half done is kept."""
    stage = Whole(kind, folder)
    with Model(folder, [HANG], [TITLE]) as model:
        run = stage.begin(model, "stopped", "--key", "STOP-1")
        until("the tool runs", lambda: stage.started() or run.poll() is not None)
        expect(run.poll() is None, f"it ended too early{stage.said(model)}")
        left = {key: line for key, line in stage.others().items() if key[0] not in (model.server.pid, run.pid)}
        expect(any("sleep 3210" in line for line in left.values()), "the tool is not there to be left")
        begun = time.monotonic()
        asked = stage.verb("task", "stop", "STOP-1")
        until("the agent and its tools are gone", lambda: not set(left) & set(alive()), 60)
        gone = time.monotonic() - begun
        code = run.wait(BOUND)
        expect(asked["first"], f"{asked}")
        expect(code == 1, f"exit code {code}{stage.said(model)}")
        stage.nobody_left(model)
        [(outcome,)] = stage.ask("SELECT status FROM tasks")
        lines = stage.receipt()
        expect(outcome == "cancelled", f"{outcome}{stage.said(model)}")
        expect(len(lines) == 10 and all(result in ("done", "nothing") for result in lines.values()), f"{lines}")
        expect(stage.main() == stage.start, "main was moved")
        expect(not list(stage.folder.glob("data/repos/*/workspaces/*")), "a workspace is left")
        [vault] = stage.folder.glob("data/repos/*/repos/*/vault.git")
        kept = stage.git(vault, "for-each-ref", "--format=%(refname)", "refs/orch/salvage").splitlines()
        files = [line for ref in kept for line in stage.git(vault, "ls-tree", "-r", "--name-only", ref).splitlines()]
        expect(any(name.endswith(f"{MODULE}.half") for name in files), f"the half of its work is not kept: {files}")
    [(report, end)] = stage.streams("stopped")
    expect(report["claim"] is None, f"a claim after TERM: {report}")
    expect(end["proven_gone"] and end["end"]["kind"] == "cancelled", f"{end}")
    return f"{len(left)} processes, gone {gone:.2f} s after the STOP; 10 steps proven; {end}"


def run_is_left_alone(kind, folder):
    """`kill -9` of orch while a tool runs, and nobody comes: the agent's guard ends all of it after its grace."""
    stage = Whole(kind, folder, grace="3s")
    with Model(folder, [HANG, stage.work("finished")], [TITLE, "was interrupted"]) as model:
        first = stage.begin(model, "first", "--key", "KILL-2")
        until("the tool runs", lambda: stage.started() or first.poll() is not None)
        expect(first.poll() is None, f"it ended too early{stage.said(model)}")
        first.kill()
        first.wait()
        left = {key for key in stage.others() if key[0] != model.server.pid}
        gone = until("the grace is over and everything gone", lambda: not left & set(alive()), 60)
        expect(gone > 2.5, f"gone after {gone:.1f} s, before the grace of 3 s was over")
        stage.nobody_left(model)
        code = stage.begin(model, "second", "--key", "KILL-2").wait(BOUND)
        spent = stage.landed(code, model, ["finished"])
        stage.nobody_left(model)
    (_, end), _ = stage.streams("left-alone")
    return f"{len(left)} processes were left, gone by themselves after {gone:.1f} s ({end}); then landed, spent {spent}"


ACTS = [run_lands, run_is_sent_back, run_is_killed, run_is_stopped, run_is_left_alone]
