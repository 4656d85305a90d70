# Compiles what was unpacked into /opt/mcp, so that servers start quickly. Nothing of it is run: the system's Python,
# without site and without the environment, only reads it. Without a look at the source's time stamp, as the files never
# change. This container has no network and nothing of the site.
set -eu
umask 022
/usr/bin/python3 -I -S -m compileall -qq -j 2 --invalidation-mode unchecked-hash /opt/mcp/lib >&2 ||
    echo "some modules could not be compiled ahead of time" >&2
