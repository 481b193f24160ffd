#!/bin/bash
# The images of Kubernetes' own components, a static binary each, saved as one tar for the node image.
set -e; . "$(dirname "$0")/env.sh"; use_own
W=$(mktemp -d -p "$K"); trap 'rm -rf "$W"' EXIT
ROOTFS=$K/baseroot
component() { # tag, binary, path in the image
  local d=$W/$2
  mkdir -p "$d$(dirname "$3")" "$d/tmp" "$d/etc"
  cp "$K/bin/$2" "$d$3"
  echo 'root:x:0:0:root:/root:/bin/sh' > "$d/etc/passwd"
  img "$1" "$d" "ENTRYPOINT [\"$3\"]"
}
# kube-proxy needs iptables and friends: legacy, the mode that docker and kind's entrypoint choose here
d=$W/kube-proxy
closure "$d" /usr/sbin/{xtables-legacy-multi,xtables-nft-multi,nft,conntrack} /bin/sh /usr/bin/kmod \
  $(cd "$ROOTFS"; printf '/%s ' usr/lib/x86_64-linux-gnu/xtables/*.so)
for name in ip{,6}tables{,-save,-restore}; do ln -s xtables-legacy-multi "$d/usr/sbin/$name"; done
mkdir -p "$d/run"
R=registry.k8s.io
for c in kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
  component $R/$c:$V $c /usr/local/bin/$c
done
component $R/etcd:$ETCD_TAG etcd /usr/local/bin/etcd
component $R/coredns/coredns:$COREDNS_TAG coredns /coredns
component $R/pause:3.10 pause /pause
docker tag $R/pause:3.10 local/pause:1   # for tests that need any pod: 0.7 MB, always in the nodes
docker save -o "$K/images/k8s.tar" $R/{kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy}:$V \
  $R/etcd:$ETCD_TAG $R/coredns/coredns:$COREDNS_TAG $R/pause:3.10 local/pause:1
