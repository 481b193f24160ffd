#!/bin/bash
# Starts dockerd in namespaces of its own. Killing the `unshare` process ends all that ever ran in them.
set -e; . "$(dirname "$0")/env.sh"; use_own
rm -f "$K/state/docker.pid"
# The kubelet and the node's systemd set these for the whole machine; down.sh puts them back.
[ -f "$K/state/sysctl.before" ] || {
  for s in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
    kernel/keys/root_maxbytes fs/file-max fs/nr_open; do echo "$s $(cat /proc/sys/$s)"; done \
    > "$K/state/sysctl.new"
  mv "$K/state/sysctl.new" "$K/state/sysctl.before"
}
# without descriptor 9: the engine outlives the command that holds the lock
nohup setsid unshare --net --mount --pid --mount-proc --fork --kill-child=SIGKILL "$D/engine-init.sh" "$K" \
  > "$K/state/log/unshare.log" 2>&1 < /dev/null 9>&- &
for _ in $(seq 300); do
  docker version >/dev/null 2>&1 && break
  kill -0 $! 2>/dev/null || { tail -n 20 "$K/state/log/dockerd.log"; die "the engine ended"; }
  sleep 0.1
done
docker info --format 'dockerd {{.ServerVersion}}, {{.Driver}}, cgroup {{.CgroupVersion}}'
