#!/bin/sh
# Line coverage with nothing but a shell: the tests run on copies of which every line says that it runs. The report is LCOV.
export SCRIPTS="$ORCH_COVERAGE_DIR/marked" HITS="$ORCH_COVERAGE_DIR/hits"
mkdir -p "$SCRIPTS"; : > "$HITS"
# Blank lines, comments, and words that only hold commands together are no commands.
counts='$1 !~ /^(#.*|then|else|elif|fi|do|done|esac|.*[)]|;;|[{}])?$/'
for script in *.sh; do
  case $script in tests.sh | cover.sh) continue ;; esac
  awk -v name="$script" "$counts"' { printf "echo %s:%d >> \"$HITS\"; ", name, NR } { print }' "$script" > "$SCRIPTS/$script"
done
sh tests.sh; ended=$?
for script in "$SCRIPTS"/*.sh; do
  script=${script##*/}; echo "SF:$script"
  awk -v name="$script" 'FILENAME != name { ran[$0] = 1; next }
    '"$counts"' { print "DA:" FNR "," ((name ":" FNR) in ran) }' "$HITS" "$script"
  echo end_of_record
done > "$ORCH_COVERAGE_REPORT"
exit "$ended"
