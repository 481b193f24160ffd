"""requirements.py PYPROJECT EXTRA…: what Headrace with these extras needs, one a line.

For a layer of its own in the images. An extra that names Headrace again (headrace[cli]) is left
out: name that one too. "none" stands for what it always needs.
"""

import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
for extra in sys.argv[2:]:
    needs = project["dependencies"]
    if extra != "none":
        needs = project["optional-dependencies"][extra]
    print(*(need for need in needs if not need.startswith("headrace[")), sep="\n")
