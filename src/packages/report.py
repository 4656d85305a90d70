# What was fetched, as one line of JSON on stdout: by uv's own lock, and by which programs uv made. Runs without site and
# outside the environment, so that no code of a package runs.
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
name = plain(sys.argv[1].split("[")[0])
pins = {plain(n): v for n, v in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", lock, re.MULTILINE)}
found = metadata.distributions(name=name, path=glob("/opt/mcp/lib/python3*/site-packages"))
own = next(iter(found))
made = {e.name for e in own.entry_points if e.group == "console_scripts" and os.path.basename(e.name) == e.name}
bins = sorted(b for b in made if os.path.isfile(f"/opt/mcp/bin/{b}"))
tree = sorted(f"{n}@{v}" for n, v in pins.items())
print(json.dumps({"version": pins[name], "bins": bins, "tree": tree, "scripts": [], "lock": lock}))
