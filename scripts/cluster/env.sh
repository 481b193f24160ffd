# Sourced by the scripts here: where everything lies, and what several of them use.
D=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$D/../.." && pwd)
V=v1.34.4   # what k8s/go.mod holds
KIND_V=${KIND_V:-v0.33.0} HELM_V=${HELM_V:-v3.22.0} ETCD_TAG=3.6.5-0 COREDNS_TAG=v1.12.1
K=${HEADRACE_CLUSTER_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/headrace/kind-$V}
NAME=headrace NODES="headrace-control-plane headrace-worker"
PYTHON=${PYTHON:-python3}
mkdir -p "$K"/{debs,root,bin,state/done,state/log,var,images,apps}
K=$(cd "$K" && pwd)
CGROUP=headrace-$(cksum <<<"$K" | cut -d' ' -f1)   # one for each folder, so that nobody removes another's

# Which cluster: `given` is the user's, `docker` is plain kind on the user's Docker, `own` is all the rest.
MODE=$(cat "$K/state/mode" 2>/dev/null || true)
[ -z "${HEADRACE_KUBECONFIG:-}" ] || MODE=given

export KUBECONFIG=${HEADRACE_KUBECONFIG:-$K/kubeconfig} KUBECACHEDIR=$K/state/kubecache
export HELM_CACHE_HOME=$K/state/helm/cache HELM_CONFIG_HOME=$K/state/helm/config
export HELM_DATA_HOME=$K/state/helm/data
export PATH=$PATH:$K/bin
export DOCKER_BUILDKIT=0   # the builder that needs no helper image from a registry
use_own() {
  MODE=own
  export DOCKER_HOST=unix://$K/state/docker.sock
  export PATH=$K/root/usr/sbin:$K/root/usr/bin:$K/bin:${PATH%":$K/bin"}
  LIBS=$K/root/usr/lib/x86_64-linux-gnu:$K/root/lib/x86_64-linux-gnu   # for dockerd and iptables only
}
[ "$MODE" != own ] || use_own

die() { echo "cluster: $*" >&2; exit 1; }

# The engine is found by its command line: a file with its number could name a stranger after a reboot.
engine_pid() { grep -lsaP "^unshare\x00.*engine-init\.sh\x00\Q$K\E\x00" /proc/[0-9]*/cmdline | cut -d/ -f3; }
engine_init_pid() {
  local outer; outer=$(engine_pid); [ -n "$outer" ] || return 1
  awk '{print $1; exit}' "/proc/$outer/task/$outer/children" 2>/dev/null
}
# The API's port, node, pod and Service addresses exist only in the engine's network namespace.
ns() {
  [ "$MODE" = own ] || { "$@"; return; }
  local pid; pid=$(engine_init_pid) || die "not up: make cluster-up"
  nsenter -t "$pid" -n "$@"
}

# One set of flags for all of it, so that each package is compiled once. No cgo: nothing to link against.
gobuild() {
  command -v go >/dev/null || die "Go is missing and there is no Docker that can pull kindest/node:$V." \
    "Put go on the PATH (https://go.dev/dl), or start Docker, or name a cluster of yours in HEADRACE_KUBECONFIG"
  CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -gcflags=all=-dwarf=false" go "$@"
}

closure() { # folder, files...: copies files out of $ROOTFS, and the shared libraries that they need
  local to=$1 file lib; shift
  for file in "$@"; do
    mkdir -p "$to$(dirname "$file")"; cp -L "$ROOTFS$file" "$to$file"
    for lib in $(chroot "$ROOTFS" ldd "$file" 2>/dev/null | grep -oE '/[^ ]+'); do
      [ -e "$to$lib" ] || { mkdir -p "$to$(dirname "$lib")"; cp -L "$ROOTFS$lib" "$to$lib"; }
    done
  done
}
img() { # tag, folder, Dockerfile lines...: an image FROM scratch that holds the folder
  local tag=$1 folder=$2; shift 2
  { printf 'FROM scratch\nCOPY . /\n'
    printf 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n'
    printf '%s\n' "$@"; } > "$folder.Dockerfile"
  docker build -q -t "$tag" -f "$folder.Dockerfile" "$folder"
}
