# What was installed, as one line of JSON on stdout.
import importlib.metadata as metadata
import json
import os
import sys

name = sys.argv[1].split("[")[0]
own = metadata.distribution(name)
bins = [e.name for e in own.entry_points if e.group == "console_scripts" and os.path.exists(f"/opt/mcp/bin/{e.name}")]
tree = sorted({f"{d.metadata['Name']}@{d.version}" for d in metadata.distributions(path=[p for p in sys.path if p.startswith("/opt/mcp")])})
with open("/srv/build/requirements.txt") as file:
    lock = file.read()
print(json.dumps({"version": own.version, "bins": sorted(bins), "tree": tree, "lock": lock}))
