#!/bin/bash
# Debian packages, unpacked into $K/root (nothing is installed on the machine), and the node's root.
set -e; . "$(dirname "$0")/env.sh"; use_own
unpack() {
  rm -rf "$K/root"; mkdir -p "$K/root"
  apt-get update -qq || true   # a stale list is good enough, and so is a part of it
  (cd "$K/debs"; apt-get download -qq docker.io containerd runc containernetworking-plugins debootstrap \
    iptables libip4tc2 libip6tc2 libxtables12 libnftnl11 libnfnetlink0 libnetfilter-conntrack3 libmnl0 \
    libdevmapper1.02.1 libseccomp2)
  local deb name
  for deb in "$K"/debs/*.deb; do dpkg -x "$deb" "$K/root"; done
  for name in ip{,6}tables{,-save,-restore}; do ln -sf xtables-legacy-multi "$K/root/usr/sbin/$name"; done
  touch "$K/state/done/packages"
}
node_root() {
  # in namespaces of its own: an interrupted debootstrap would leave its /proc mounted
  rm -rf "$K/baseroot" "$K"/state/done/kind-base-*
  local with=systemd,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,bash
  with=$with,ca-certificates,curl,jq,procps,python3   # python3: for the images of the applications
  DEBOOTSTRAP_DIR=$K/root/usr/share/debootstrap unshare --mount --pid --fork --kill-child --mount-proc \
    debootstrap --variant=minbase --include=$with bookworm "$K/baseroot"
  touch "$K/state/done/node-root"
}
[ -f "$K/state/done/packages" ] || unpack
[ -f "$K/state/done/node-root" ] || node_root
