#!/bin/sh
# The greeter's test suite: one check a file, counted as any test runner counts.
passed=0; failed=0
expect() {
  wanted=$1; script=$2; shift 2
  got=$(sh "${SCRIPTS:-.}/$script" "$@")
  if [ "$got" = "$wanted" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: expected '$wanted', got '$got'"; fi
}
for test in tests/test_*.sh; do . "./$test"; done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
