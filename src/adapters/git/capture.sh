# Takes an agent's work out of its workspace. Runs inside the agent's own confinement: whatever the workspace makes git
# do, it does with the agent's rights. Arguments are data, never part of the script.
#   $1 base commit   $2 task branch   $3 message for leftovers   $4 folder for the bundle   $5 cap in 512-byte blocks
# Says facts on standard output, one `name value` per line. Exit: 0 told all, 3 no repository left, 4 no bundle made.
set -u
base=$1 branch=$2 message=$3 out=$4 cap=$5
ulimit -c 0 2>/dev/null
ulimit -f "$cap" || exit 5
# A file over the cap is an error to be told, not a death that leaves locks behind.
trap '' XFSZ
tab=$(printf '\t')

git rev-parse --git-dir >/dev/null || exit 3
head=$(git rev-parse --verify --quiet 'HEAD^{commit}') || exit 3
dir=$(git rev-parse --absolute-git-dir) || exit 3
# Whoever held it is gone: the job's processes had ended before this one was started.
rm -f "$dir/index.lock" "$dir/HEAD.lock"

operation=none
[ -e "$dir/MERGE_HEAD" ] && operation=merge
[ -e "$dir/CHERRY_PICK_HEAD" ] && operation=cherry-pick
[ -e "$dir/REVERT_HEAD" ] && operation=revert
{ [ -d "$dir/rebase-merge" ] || [ -d "$dir/rebase-apply" ]; } && operation=rebase

# 0 committed, 2 nothing to commit, 6 committed without what git refused, else nothing committed.
take_leftovers() {
    whole=0
    # Goes on past what cannot be added: files over the cap, a repository inside the tree that has no commit.
    git add -A --ignore-errors -- . >&2 || whole=6
    if [ "$whole" = 6 ]; then
        # Git gives up at an object that cannot be written; one by one, only that file is left out.
        rm -f "$dir/index.lock"
        git ls-files -z --others --modified --deleted --exclude-standard |
            GIT_LITERAL_PATHSPECS=1 xargs -0 -n 1 git add -A --ignore-errors -- >&2
    fi
    # A repository inside the tree would be added as a link to a commit that nobody has.
    git diff --cached --raw --no-renames --no-ext-diff --diff-filter=AT HEAD -- >"$out/raw" || return 1
    grep '^:[0-7]* 160000 ' "$out/raw" | cut -f2- -d"$tab" >"$out/nested"
    if [ -s "$out/nested" ]; then
        GIT_LITERAL_PATHSPECS=1 git reset --quiet --pathspec-from-file="$out/nested" || return 1
        echo "nested $(wc -l <"$out/nested" | tr -d ' ')"
    fi
    git diff --cached --quiet --no-ext-diff HEAD -- && [ "$whole" = 0 ] && return 2
    git diff --cached --quiet --no-ext-diff HEAD -- && return 1
    git commit --quiet --no-verify --no-gpg-sign --no-status -m "$message" >&2 || return 1
    return "$whole"
}

leftovers=none
if [ -n "$(git ls-files --unmerged | head -n 1)" ]; then
    leftovers=unmerged
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
rm -f "$out/raw" "$out/nested"

head=$(git rev-parse --verify 'HEAD^{commit}') || exit 3
on=$(git symbolic-ref --quiet --short HEAD) || on='(detached)'
echo "head $head"
echo "on $on"
echo "task $(git rev-parse --verify --quiet "refs/heads/$branch^{commit}" || echo none)"
echo "operation $operation"
echo "leftovers $leftovers"
commits=$(git rev-list --count "$base..HEAD" --) || exit 4
echo "commits $commits"
if [ "$commits" != 0 ]; then
    rm -f "$out/work.bundle" "$out/work.bundle.new"
    git bundle create --quiet "$out/work.bundle.new" "$base..HEAD" >&2 || exit 4
    mv "$out/work.bundle.new" "$out/work.bundle" || exit 4
fi
echo 'end capture'
