"""load.py SAVED NODE…: what `docker save` wrote goes into kind's nodes, without what they have.

`kind load` sends every layer again, through a pipe: 19 s for all images of Headrace, where a new
code layer is 2 MB. So an OCI archive is made that leaves out the layers a node holds, put into the
node's /var, which is a folder out here, and imported from there. Layers in `docker save` are not
compressed, so their digests are the ones that the image's config lists.
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OCI = "application/vnd.oci.image."


def run(*command):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


class Image:
    def __init__(self, saved, entry):
        config = saved.extractfile(entry["Config"]).read()
        self.blobs = {self.digest(config): config}
        self.layers = {}
        layers = []
        ids = json.loads(config)["rootfs"]["diff_ids"]
        for digest, name in zip(ids, entry["Layers"], strict=True):
            member = saved.getmember(name)
            while member.issym():  # the same layer under a second name
                name = str(Path(name).parent.parent / Path(member.linkname.removeprefix("../")))
                member = saved.getmember(name)
            self.layers[digest] = member
            layers.append(self.descriptor("layer.v1.tar", digest, member.size))
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI + "manifest.v1+json",
                "config": self.descriptor("config.v1+json", self.digest(config), len(config)),
                "layers": layers,
            }
        ).encode()
        self.blobs[self.digest(manifest)] = manifest
        self.entries = [
            self.descriptor("manifest.v1+json", self.digest(manifest), len(manifest))
            | {"annotations": {"io.containerd.image.name": f"docker.io/{tag}"}}
            for tag in entry["RepoTags"]
        ]

    @staticmethod
    def digest(data):
        return "sha256:" + hashlib.sha256(data).hexdigest()

    @staticmethod
    def descriptor(kind, digest, size):
        return {"mediaType": OCI + kind, "digest": digest, "size": size}


def write(saved, archive, present):
    """The archive without the layers that are present; how many it holds, of how many."""
    layers, entries = {}, []
    with tarfile.open(archive, "w") as out:

        def add(name, data):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))

        for entry in json.load(saved.extractfile("manifest.json")):
            image = Image(saved, entry)
            entries += image.entries
            layers |= image.layers
            for digest, data in image.blobs.items():
                add("blobs/" + digest.replace(":", "/"), data)
        for digest in layers.keys() - present:
            member = tarfile.TarInfo("blobs/" + digest.replace(":", "/"))
            member.size = layers[digest].size
            out.addfile(member, saved.extractfile(layers[digest]))
        add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        add("index.json", json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
    return len(layers.keys() - present), len(layers)


def load(path, node):
    ctr = ("docker", "exec", node, "ctr", "-n", "k8s.io")
    mounts = json.loads(run("docker", "inspect", "-f", "{{json .Mounts}}", node))
    folder = next(mount["Source"] for mount in mounts if mount["Destination"] == "/var")
    archive = Path(folder, "headrace-images.tar")
    try:
        # the second time with all layers, should the node have dropped one in between
        for present in (set(run(*ctr, "content", "ls", "-q").split()), set()):
            with tarfile.open(path) as saved:
                new, of = write(saved, archive, present)
            try:
                run(*ctr, "images", "import", "/var/" + archive.name)
                break
            except subprocess.CalledProcessError:
                if not present:
                    raise
    finally:
        archive.unlink(missing_ok=True)
    print(f"{node}: {new} of {of} layers")


with ThreadPoolExecutor() as pool:
    for done in [pool.submit(load, sys.argv[1], node) for node in sys.argv[2:]]:
        done.result()
