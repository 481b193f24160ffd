#!/bin/bash
# Loads the images of Headrace into those nodes that have not got them yet.
set -e; . "$(dirname "$0")/env.sh"
tags=$(cat "$K/state/app-images")
wanted=$(docker image inspect -f '{{.Id}} {{index .RepoTags 0}}' $tags | sort)
missing() { # node. An id alone is not enough: the tag may still name the image before
  docker exec "$1" crictl images -o json | "$PYTHON" -c '
import json, sys
for image in json.load(sys.stdin)["images"]:
    for tag in image["repoTags"]:
        print(image["id"], tag.removeprefix("docker.io/"))' | sort | comm -13 - <(echo "$wanted")
}
behind=$(for node in $NODES; do { [ -z "$(missing "$node")" ] || echo "$node"; } & done; wait)
[ -n "$behind" ] || exit 0
if [ "$MODE" = own ]; then
  "$PYTHON" "$D/load.py" "$K/images/apps.tar" $behind
else
  kind load docker-image $tags --name $NAME
fi
