#!/bin/bash
# Removes the cluster and the engine with every process, mount, cgroup and sysctl. What was built stays.
. "$(dirname "$0")/env.sh"; . "$D/jobs.sh"
[ "$MODE" != given ] || { echo "$HEADRACE_KUBECONFIG is yours: nothing is removed"; exit 0; }
lock "make cluster-down"
holding=yes   # half of it would be worse than a few seconds more

remove_docker() { kind delete cluster --name $NAME; }
remove_own() {
  local outer inner i h
  outer=$(engine_pid)
  if [ -n "$outer" ]; then
    inner=$(engine_init_pid)
    if timeout 10 docker version >/dev/null; then
      timeout 60 kind delete cluster --name $NAME
      timeout 20 docker ps -aq | xargs -r timeout 60 docker rm -f -v
    fi
    [ -z "$inner" ] || kill -TERM "$inner"
    for i in $(seq 100); do kill -0 "$outer" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$outer" 2>/dev/null   # --kill-child: takes the whole process namespace along
    for i in $(seq 100); do kill -0 "$outer" 2>/dev/null || break; sleep 0.1; done
  fi
  for h in /sys/fs/cgroup/*/"$CGROUP" /sys/fs/cgroup/"$CGROUP"; do
    for i in $(seq 50); do   # the last processes of a container may still be dying
      [ -d "$h" ] || break
      find "$h" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    done
  done
  if [ -f "$K/state/sysctl.before" ]; then
    while read -r s v; do echo "$v" > "/proc/sys/$s"; done < "$K/state/sysctl.before"
    rm -f "$K/state/sysctl.before"
  fi
  rm -rf "$K"/tmp.*
  [ -z "$(engine_pid)" ] && ! ls -d /sys/fs/cgroup/{*/,}"$CGROUP" 2>/dev/null
}
case $MODE in
  docker) step "cluster removed" remove_docker ;;
  *) use_own; step "cluster and engine removed" remove_own ;;
esac
rm -f "$K"/state/{mode,cluster.done} "$K/kubeconfig"
