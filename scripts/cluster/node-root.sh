#!/bin/bash
# Turns the debootstrap root into kind's base image, following kind's images/base/Dockerfile.
set -e; . "$(dirname "$0")/env.sh"; use_own
R=$K/baseroot P=$K/root
chmod -R u+w "$R/kind" 2>/dev/null || true
cp -r --no-preserve=mode "$(go env GOMODCACHE)/sigs.k8s.io/kind@$KIND_V/images/base/files/." "$R/"
chmod 755 "$R"/usr/local/bin/* "$R/kind" "$R/kind/bin" "$R"/kind/bin/*
rm -f "$R"/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service \
  "$R"/lib/systemd/system/{multi-user,local-fs,basic}.target.wants/* "$R"/etc/systemd/system/*.wants/* \
  "$R"/lib/systemd/system/sockets.target.wants/*{udev,initctl}*
grep -q ReadKMsg=no "$R/etc/systemd/journald.conf" || echo ReadKMsg=no >> "$R/etc/systemd/journald.conf"
ln -sf /usr/lib/systemd/systemd "$R/sbin/init"
rm -f "$R"/usr/lib/sysctl.d/*{protect-links,pid-max}.conf   # they would be set for the whole machine
mkdir -p "$R"/usr/local/sbin "$R"/opt/cni/bin "$R"/etc/kubernetes/manifests "$R"/etc/cni/net.d
cp "$P"/usr/bin/{containerd,containerd-shim-runc-v2,ctr} "$K/bin/crictl" "$R/usr/local/bin/"
cp "$P/usr/sbin/runc" "$R/usr/local/sbin/runc"
cp "$P"/usr/lib/cni/{host-local,loopback,ptp,portmap,bridge} "$R/opt/cni/bin/"
# without CAP_SYS_RESOURCE an oom_score_adj can never be lowered
sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$R/etc/containerd/config.toml"
chroot "$R" systemctl enable kubelet.service containerd.service undo-mount-hacks.service
chroot "$R" systemctl mask systemd-binfmt.service
hook='{"path": "/kind/bin/mount-product-files.sh"}'
chroot "$R" /usr/local/bin/ctr oci spec | chroot "$R" jq "del(.process.rlimits)
  | .hooks.createContainer[.hooks.createContainer | length] |= . + $hook" > "$R/etc/containerd/cri-base.json"
rm -rf "$R"/var/cache/apt/archives/*.deb "$R"/var/lib/apt/lists/* "$R"/usr/share/{doc,man,locale}/*
touch "$K/state/done/kind-base-$KIND_V"
