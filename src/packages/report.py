# What was fetched, as one line of JSON on stdout: by uv's own lock, by which programs uv made, and by what the files of
# a source that is yet to be built say. Runs without site and outside the environment, so that no code of a package runs.
import json
import os
import re
import sys
from glob import glob
from importlib import metadata


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


with open("/tmp/requirements.txt") as file:
    lock = file.read()
with open("/tmp/sources.json") as file:
    sources = json.load(file)
name = plain(sys.argv[1].split("[")[0])
pins = {plain(n): v for n, v in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", lock, re.MULTILINE)}
if name in sources:
    bins = sources[name]["programs"]
else:
    found = metadata.distributions(name=name, path=glob("/opt/mcp/lib/python3*/site-packages"))
    own = next(iter(found))
    made = {e.name for e in own.entry_points if e.group == "console_scripts" and os.path.basename(e.name) == e.name}
    bins = sorted(b for b in made if os.path.isfile(f"/opt/mcp/bin/{b}"))
tree = sorted(f"{n}@{v}" for n, v in pins.items())
built = sorted(f"{n}@{s['version']}" for n, s in sources.items())
print(json.dumps({"version": pins[name], "bins": bins, "tree": tree, "scripts": built, "lock": lock}))
