#!/bin/bash
# Process 1 of the engine's namespaces: dockerd lives and dies with it. engine_pid looks for the argument.
export HEADRACE_CLUSTER_DIR=$1
. "$(dirname "$0")/env.sh"; use_own
ip link set lo up
# What docker, containerd and iptables write beside their own folders stays in this mount namespace and $K.
mount -t tmpfs tmpfs /run
for d in etc opt usr/lib; do
  mkdir -p "$K/var/over/$d"/{upper,work}
  mount -t overlay -o "lowerdir=/$d,upperdir=$K/var/over/$d/upper,workdir=$K/var/over/$d/work" overlay "/$d"
done
LD_LIBRARY_PATH=$LIBS XTABLES_LIBDIR=$K/root/usr/lib/x86_64-linux-gnu/xtables \
  dockerd -H "$DOCKER_HOST" --data-root "$K/var/docker" --exec-root "$K/state/docker" \
  --pidfile "$K/state/docker.pid" --cgroup-parent "/$CGROUP" --storage-driver overlay2 \
  --add-runtime wrap="$K/bin/runcwrap" --default-runtime wrap --iptables=true --ip6tables=false \
  > "$K/state/log/dockerd.log" 2>&1 &
dockerd=$!
trap 'kill $dockerd' TERM INT
while kill -0 $dockerd 2>/dev/null; do wait $dockerd; done
