#!/bin/bash
# What is written in Go, from the module proxy, static. One module (k8s/) for all that shares Kubernetes'
# libraries, so that each package is compiled once, and one `go build`, so that the big links overlap with
# compiling.
set -e; . "$(dirname "$0")/env.sh"; use_own
GOBIN=$K/bin gobuild install -ldflags "-s -w" "sigs.k8s.io/kind@$KIND_V"
(cd "$D/runcwrap"; gobuild build -ldflags "-s -w" -o "$K/bin/runcwrap" .)
ln -sf "$K/root/usr/sbin/runc" "$K/bin/runc.real"
gcc -O2 -static -s -o "$K/bin/pause" "$D/pause.c"
minor=${V#v1.}; minor=${minor%.*}
flags="-s -w"
for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  flags="$flags -X $p.gitVersion=$V -X $p.gitMajor=1 -X $p.gitMinor=$minor -X $p.gitTreeState=clean"
  flags="$flags -X $p.gitCommit=proxy -X $p.buildDate=2026-01-01T00:00:00Z"
done
cd "$D/k8s"
gobuild build -ldflags "$flags" -o "$K/bin/" \
  sigs.k8s.io/cri-tools/cmd/crictl go.etcd.io/etcd/server/v3 ./coredns \
  k8s.io/kubernetes/cmd/{kubeadm,kubectl,kubelet,kube-proxy} \
  k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler}
mv "$K/bin/server" "$K/bin/etcd"
touch "$K/state/done/binaries-$KIND_V"
