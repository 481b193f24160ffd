#!/bin/bash
# images.sh TAG: the node image and what it is made of. Its tag holds a hash of the scripts that make it.
set -e; . "$(dirname "$0")/env.sh"; use_own
[ -f "$K/state/done/kind-base-$KIND_V" ] || "$D/node-root.sh"
tar -C "$K/baseroot" -c . | docker import - local/kindbase:raw
docker build -q -t local/kindbase:1 - <<'END'
FROM local/kindbase:raw
ENV container=docker
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]
END
"$D/component-images.sh"
"$D/node-image.sh" "$1"
