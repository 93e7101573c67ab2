# Takes an agent's work out of its workspace. Runs inside the agent's own confinement: whatever the workspace makes git
# do, it does with the agent's rights. Arguments are data, never part of the script.
#   $1 base commit   $2 task branch   $3 message for leftovers   $4 folder for the bundle   $5 cap in 512-byte blocks
# Says facts on standard output, one `name value` per line. Exit: 0 told all, 3 no repository left, 4 no bundle made,
# 5 no git that could look.
set -u
base=$1 branch=$2 message=$3 out=$4 cap=$5
ulimit -c 0 2>/dev/null
ulimit -f "$cap" || exit 5
# A file over the cap is an error to be told, not a death that leaves locks behind.
trap '' XFSZ
tab=$(printf '\t')

git --version >/dev/null || exit 5
git rev-parse --git-dir >/dev/null || exit 3
head=$(git rev-parse --verify 'HEAD^{commit}') || exit 3
dir=$(git rev-parse --absolute-git-dir) || exit 3
# Whoever held it is gone: the job's processes had ended before this one was started.
rm -f "$dir/index.lock" "$dir/HEAD.lock"

# Names some of the lines of a file: `$1 how-many`, `$1.N line`.
name_some() {
    [ -s "$2" ] || return 0
    echo "$1 $(wc -l <"$2" | tr -d ' ')"
    n=0
    head -n 5 "$2" | while IFS= read -r line; do
        n=$((n + 1))
        printf '%s.%d %s\n' "$1" "$n" "$line"
    done
}

# Repositories inside the tree, without their closing slash; git shows them as folders. No commit can hold their files.
find_nested() {
    git ls-files --others --exclude-standard -z | tr '\n\000' '\001\n' | sed -n 's|/$||p' >"$out/nested"
    name_some nested "$out/nested"
    # As what is not to be added, behind what is.
    { printf '.\n' && sed 's|^|:(exclude,literal)|' "$out/nested"; } | tr '\n\001' '\000\n' >"$out/add"
}

# 0 committed, 2 nothing to commit, 6 committed without what git refused, else nothing committed.
take_leftovers() {
    whole=0
    # Goes on past what cannot be added: files over the cap, or without the right to read them.
    git add -A --ignore-errors --pathspec-from-file="$out/add" --pathspec-file-nul >&2 || whole=6
    if [ "$whole" = 6 ]; then
        # Git gives up at an object that cannot be written; one by one, only that file is left out.
        rm -f "$dir/index.lock"
        git ls-files -z --others --modified --deleted --exclude-standard | tr '\n\000' '\001\n' | grep -v '/$' |
            tr '\n\001' '\000\n' | GIT_LITERAL_PATHSPECS=1 xargs -0 -n 1 git add -A --ignore-errors -- >&2
        git ls-files --others --modified --deleted --exclude-standard | grep -v '/"\{0,1\}$' >"$out/refused"
        name_some refused "$out/refused"
    fi
    # One that the agent has added itself is a link to a commit that nobody has.
    git diff --cached --raw --no-renames --no-ext-diff --diff-filter=AT HEAD -- >"$out/raw" || return 1
    grep '^:[0-7]* 160000 ' "$out/raw" | cut -f2- -d"$tab" >"$out/linked"
    if [ -s "$out/linked" ]; then
        GIT_LITERAL_PATHSPECS=1 git reset --quiet --pathspec-from-file="$out/linked" || return 1
        name_some linked "$out/linked"
    fi
    git diff --cached --quiet --no-ext-diff HEAD -- && [ "$whole" = 0 ] && return 2
    git diff --cached --quiet --no-ext-diff HEAD -- && return 1
    git commit --quiet --no-verify --no-gpg-sign --no-status -m "$message" >&2 || return 1
    return "$whole"
}

leftovers=none
find_nested
git diff --name-only --diff-filter=U --no-ext-diff >"$out/unmerged"
if [ -s "$out/unmerged" ] || [ -n "$(git ls-files --unmerged | head -n 1)" ]; then
    leftovers=unmerged
    name_some unmerged "$out/unmerged"
else
    take_leftovers
    case $? in
    0) leftovers=committed ;;
    2) leftovers=none ;;
    6) leftovers=partly ;;
    *)
        leftovers=failed
        rm -f "$dir/index.lock"
        git reset --quiet >&2
        ;;
    esac
fi
rm -f "$out/raw" "$out/nested" "$out/linked" "$out/refused" "$out/unmerged" "$out/add"

# Looked at last: a commit of leftovers ends a merge whose conflicts were resolved.
operation=none
[ -e "$dir/MERGE_HEAD" ] && operation=merge
[ -e "$dir/sequencer/todo" ] && operation=cherry-pick
[ -e "$dir/CHERRY_PICK_HEAD" ] && operation=cherry-pick
[ -e "$dir/REVERT_HEAD" ] && operation=revert
{ [ -d "$dir/rebase-merge" ] || [ -d "$dir/rebase-apply" ]; } && operation=rebase

head=$(git rev-parse --verify 'HEAD^{commit}') || exit 3
on=$(git symbolic-ref --quiet --short HEAD) || on='(detached)'
task=$(git rev-parse --verify --quiet "refs/heads/$branch^{commit}") || task=none
# The task's branch is handed over, unless what is checked out goes on from it.
give=HEAD
if [ "$task" != none ] && [ "$task" != "$head" ]; then
    git merge-base --is-ancestor "$task" "$head" || give="refs/heads/$branch"
fi
if [ "$give" != HEAD ]; then
    # Not what main has, nor what the branch has as another commit: of that nothing is missing.
    git log --format=%s --cherry-pick --right-only "$task...$head" --not --remotes=origin -- >"$out/beside" || exit 4
    name_some beside "$out/beside"
    rm -f "$out/beside"
    head=$task
fi
echo "head $head"
echo "on $on"
echo "task $task"
echo "operation $operation"
echo "leftovers $leftovers"
commits=$(git rev-list --count "$base..$head" --) || exit 4
echo "commits $commits"
if [ "$commits" != 0 ]; then
    rm -f "$out/work.bundle" "$out/work.bundle.new"
    git bundle create --quiet "$out/work.bundle.new" "$base..$give" >&2 || exit 4
    mv "$out/work.bundle.new" "$out/work.bundle" || exit 4
fi
echo 'end capture'
