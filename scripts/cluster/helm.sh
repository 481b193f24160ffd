#!/bin/bash
# helm, from the module proxy. `go install` does not know the version that it installs, so it is set here.
set -e; . "$(dirname "$0")/env.sh"
done=$K/state/done/helm-$HELM_V
[ -x "$K/bin/helm" ] && [ -f "$done" ] && exit 0
command -v go >/dev/null || { echo "helm is built with Go, which is not here: install Go 1.24 or newer" >&2; exit 1; }
echo "building helm $HELM_V (a minute or two the first time)"
major=${HELM_V%%.*}
GOBIN=$K/bin gobuild install -ldflags "-s -w -X helm.sh/helm/$major/internal/version.version=$HELM_V" \
  "helm.sh/helm/$major/cmd/helm@$HELM_V"
mkdir -p "${done%/*}"; touch "$done"
