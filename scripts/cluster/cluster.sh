#!/bin/bash
# cluster.sh NODE_IMAGE: creates the cluster, or starts its nodes again after the engine went down.
set -e; . "$(dirname "$0")/env.sh"; use_own
mark=$K/state/cluster.done   # the control-plane's container: half a cluster is not taken for one
container() { docker inspect -f '{{.Id}}' $NAME-control-plane 2>/dev/null; }
healthy() { # seconds. Each kubelet is asked: after a restart of a node its last Ready counts for a while
  local end=$((SECONDS + $1)) node
  for node in $NODES; do
    until ns kubectl get --raw "/api/v1/nodes/$node/proxy/healthz" >/dev/null 2>&1; do
      [ $SECONDS -lt $end ] || return 1; sleep 0.2
    done
  done
}
again() {
  [ -f "$mark" ] && [ "$(container)" = "$(cat "$mark")" ] || return 1
  docker start $NODES >/dev/null && ns kind export kubeconfig --name $NAME && healthy 60
}
create() {
  rm -f "$mark"
  kind delete cluster --name $NAME
  ns kind create cluster --config "$D/kind.yaml" --image "$1" --name $NAME --wait 120s
  healthy 60
  # tests want pods on both nodes
  ns kubectl taint nodes --all node-role.kubernetes.io/control-plane- || true
}
again || create "$1"
ns kubectl wait --for=condition=Ready nodes --all --timeout=90s
ns kubectl -n kube-system rollout status deploy/coredns --timeout=120s
# Service and pod addresses, for what runs in the engine's namespace. A restart may deal the nodes' anew.
for node in $NODES; do
  ip=$(docker inspect -f '{{.NetworkSettings.Networks.kind.IPAddress}}' $node)
  ns ip route replace "10.244.${ip##*.}.0/24" via "$ip"
  [ $node != $NAME-control-plane ] || ns ip route replace 10.96.0.0/16 via "$ip"
done
container > "$mark"
