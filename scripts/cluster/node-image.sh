#!/bin/bash
# node-image.sh TAG: base image, binaries and image tar become the node image, the way `kind build node-image`
# does it: run, copy, import, commit. That command itself insists on pulling images.
set -e; . "$(dirname "$0")/env.sh"; use_own
N=headrace-node-image
docker rm -f -v $N >/dev/null 2>&1 || true   # of an interrupted run
docker run -d --entrypoint sleep --name $N --security-opt seccomp=unconfined local/kindbase:1 infinity
trap 'docker rm -f -v $N >/dev/null' EXIT
for b in kubeadm kubelet kubectl; do
  docker cp "$K/bin/$b" $N:/usr/bin/$b; docker exec $N chown root:root /usr/bin/$b
done
docker exec -i $N sh -c 'cat > /kind/version' <<<"$V"
docker exec $N mkdir -p /kind/manifests /etc/cni/net.d
docker cp "$D/cni/static-cni.sh" $N:/kind/bin/
docker cp "$D/cni/static-cni.service" $N:/etc/systemd/system/
docker exec $N systemctl enable static-cni.service
docker exec -d $N sh -c 'containerd > /dev/null 2>&1'
docker exec $N bash -c 'for i in {1..100}; do ctr version >/dev/null 2>&1 && break; sleep 0.1; done'
docker exec -i $N ctr -n k8s.io images import --all-platforms --no-unpack --digests - < "$K/images/k8s.tar"
docker exec $N ctr -n k8s.io images ls -q
docker exec $N pkill containerd || true
for _ in $(seq 50); do docker exec $N pgrep -x containerd >/dev/null || break; sleep 0.1; done
docker commit --change 'ENTRYPOINT [ "/usr/local/bin/entrypoint", "/sbin/init" ]' $N "$1"
