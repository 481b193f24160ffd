#!/bin/bash
# test.sh COMMAND...: the cluster comes up, the command runs where it can reach it, the cluster goes. It goes
# also when the command fails or is interrupted, unless KEEP_CLUSTER is set or it had been up before.
. "$(dirname "$0")/env.sh"; . "$D/jobs.sh"
lock "make test-cluster"
export HEADRACE_CLUSTER_QUIET=yes
keep=${KEEP_CLUSTER:-}
was_up() { [ -f "$K/state/cluster.done" ] && [ -n "$(engine_pid)" ]; }
if [ "$MODE" = given ] || [ "$MODE" = docker ] || was_up; then
  keep=yes; echo "cluster: not brought up by this run, so not taken down either"
fi
code=0
guard "$D/up.sh" || code=$?
if [ "$code" = 0 ]; then
  GRACE=300   # tenths of a second for the tests' own cleaning up
  guard "$D/ns" "$@" || code=$?
fi
if [ -z "$keep" ]; then
  holding=yes
  guard "$D/down.sh" || { [ "$code" != 0 ] || code=1; }
fi
exit "${stopped:-$code}"
