#!/bin/bash
# Brings the cluster up with all that the tests need. What is done already is skipped.
set -e; . "$(dirname "$0")/env.sh"; . "$D/jobs.sh"
if [ "$MODE" = given ]; then
  echo "using $HEADRACE_KUBECONFIG as it is: nothing is built or loaded"; exit
fi
lock "make cluster-up"

users_docker() { # kind as everybody knows it, if there is a Docker that reaches a registry
  local image=kindest/node:$V
  command -v docker && timeout 20 docker info || return 1
  docker image inspect "$image" || timeout 30 docker manifest inspect "$image" || return 1
}
plain_kind() {
  command -v kind || GOBIN=$K/bin gobuild install "sigs.k8s.io/kind@$KIND_V"
  kind get clusters | grep -qx $NAME || sed '/^# Our/d; /^networking:/,/CNI:/d' "$D/kind.yaml" |
    kind create cluster --config - --image "kindest/node:$V" --name $NAME --wait 120s
  kind export kubeconfig --name $NAME
  command -v kubectl || docker cp $NAME-control-plane:/usr/bin/kubectl "$K/bin/"
  kubectl taint nodes --all node-role.kubernetes.io/control-plane- || true
}
need() {
  [ "$(uname -sm)" = "Linux x86_64" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
    die "needs a Docker that can pull kindest/node:$V, or root on a 64-bit Debian 12"
  local tool missing=
  for tool in gcc wget perl ip gpgv nsenter unshare setpriv; do
    command -v $tool >/dev/null || missing="$missing $tool"
  done
  [ -z "$missing" ] || die "missing:$missing" \
    "(apt-get install gcc libc6-dev wget perl iproute2 gpgv util-linux)"
}
prepare() { # Debian's packages are fetched while Go compiles
  set +m
  [ -f "$K/state/done/node-root" ] || part "Debian packages" "$D/packages.sh" & packages=$!
  [ -f "$K/state/done/binaries-$KIND_V" ] || part "Kubernetes from source" "$D/binaries.sh" || return 1
  [ -f "$K/state/done/helm-$HELM_V" ] || part "helm" "$D/helm.sh" || return 1
  wait $packages
}

if [ -z "$MODE" ]; then
  if users_docker >/dev/null 2>&1; then MODE=docker; else need; use_own; fi
  echo "$MODE" > "$K/state/mode"
fi
if [ "$MODE" = docker ]; then
  step "kind on your Docker" plain_kind
  command -v helm >/dev/null || step "helm" "$D/helm.sh"
else
  ls "$K"/state/done/{node-root,"binaries-$KIND_V","helm-$HELM_V"} >/dev/null 2>&1 || {
    gobuild version >/dev/null   # a clear message now, not after the download of the packages
    guard prepare || exit "${stopped:-1}"
  }
  timeout 10 docker version >/dev/null 2>&1 || step "engine" "$D/engine.sh"
  hash=$(cd "$D"; cat cni/* node-*.sh component-images.sh images.sh pause.c k8s/go.mod | sha256sum)
  image=local/node:$V-${hash:0:8}
  docker image inspect "$image" >/dev/null 2>&1 || {
    step "node image" "$D/images.sh" "$image"
    docker images local/node --format '{{.Repository}}:{{.Tag}}' | grep -vxF "$image" |
      xargs -r docker rmi >/dev/null 2>&1 || true   # those before it, if no node runs on them
  }
  step "cluster" "$D/cluster.sh" "$image"
fi
step "images of Headrace" "$D/app-images.sh"
step "images into the nodes" "$D/load.sh"
[ -n "${HEADRACE_CLUSTER_QUIET:-}" ] || cat <<END
The cluster is up: scripts/cluster/ns runs a command where it can be reached, with KUBECONFIG and PATH set:
    scripts/cluster/ns kubectl get pods -A
    scripts/cluster/ns bash
END
