# Sourced after env.sh by up.sh, down.sh and test.sh: the lock, steps with their seconds, signals.
child='' stopped='' holding=''

signalled() { # number, name. Passed on to the whole group of what runs now.
  [ -z "$holding" ] || { echo "cluster: still cleaning up" >&2; return; }
  stopped=$((128 + $1))
  [ -z "$child" ] || kill "-$2" -- "-$child" 2>/dev/null || true
}
trap 'signalled 2 INT' INT
trap 'signalled 15 TERM' TERM HUP

guard() { # runs a command in a process group of its own, so that a signal to us ends all that it started
  local code pid tries=0
  [ -z "$stopped" ] || [ -n "$holding" ] || return "$stopped"
  set -m; "$@" < /dev/null & pid=$!; set +m   # no stdin: a terminal would stop the group
  child=$pid
  [ -z "$stopped" ] || [ -n "$holding" ] || kill -TERM -- "-$pid" 2>/dev/null
  while :; do
    code=0; wait "$pid" || code=$?
    { [ "$code" -gt 128 ] && kill -0 "$pid" 2>/dev/null; } || break
    [ -n "$holding" ] && continue
    # `wait` was interrupted by a signal of ours: give the command time to end, then end it
    while kill -0 "$pid" 2>/dev/null; do
      sleep 0.1; tries=$((tries + 1))
      [ "$tries" -ne "${GRACE:-100}" ] || kill -KILL -- "-$pid" 2>/dev/null
    done
  done
  [ "$code" = 0 ] && [ -z "$stopped" ] || kill -KILL -- "-$pid" 2>/dev/null || true   # what it left behind
  child=''
  return "$code"
}

part() { # name, command...: prints one line with its seconds; what it wrote is shown only when it fails
  set +m   # all of it stays in the group that `guard` made
  trap 'exit 130' INT TERM   # an interrupted step has not failed: no log
  local name=$1 start=$SECONDS log=$K/state/log/${1// /-}.log; shift
  "$@" > "$log" 2>&1 || {
    tail -n 25 "$log" >&2
    echo "cluster: $name failed after $((SECONDS - start)) s; all of its output: $log" >&2
    return 1
  }
  printf '%4d s  %s\n' $((SECONDS - start)) "$name"
}
step() { guard part "$@" || exit "${stopped:-1}"; }

lock() { # what: waits until nobody else works on the folder. The kernel drops it with the last process.
  [ -z "${HEADRACE_CLUSTER_LOCKED:-}" ] || return 0
  command -v flock >/dev/null || die "flock is missing (Debian: util-linux)"
  exec 9>> "$K/lock"
  flock -n 9 || {
    echo "cluster: $K is in use by $(cat "$K/lock.holder" 2>/dev/null); waiting (Ctrl-C to leave)" >&2
    until flock -n 9; do sleep 0.3; [ -z "$stopped" ] || exit "$stopped"; done
  }
  echo "$1 (pid $$, since $(date +%H:%M:%S))" > "$K/lock.holder"
  export HEADRACE_CLUSTER_LOCKED=$$
}
