# Builds what is to be had as source only, the code of strangers, and compiles all that is in /opt/mcp, so that servers
# start quickly. This container has no network and nothing of the site. What is said here is for people; nobody takes it
# for a fact.
set -eu
umask 022
cd /tmp
export HOME=/tmp UV_OFFLINE=1 UV_NO_CONFIG=1 UV_NO_INDEX=1 UV_PYTHON_DOWNLOADS=never
for source in /opt/mcp/.build/*; do
    [ -d "$source" ] || continue
    echo "building ${source##*/}" >&2
    # What a build starts by its name are the tools that were fetched for it.
    PATH=$source/tools/bin:$PATH uv build --wheel --no-build-isolation --python "$source/tools/bin/python" \
        --out-dir "$source/wheel" "$source"/source/* >&2
    uv pip install --quiet --python /opt/mcp/bin/python --no-deps --link-mode copy --no-compile-bytecode \
        "$source"/wheel/*.whl >&2
done
# Some sources say only while they are built what they need; then it is not there, and no server would start.
if [ -d /opt/mcp/.build ] && ! uv pip check --python /opt/mcp/bin/python >/tmp/check 2>&1 && grep 'not installed' /tmp/check >&2; then
    echo "it was built from source, and its source did not say so before: choose another version (--package NAME@VERSION), or run an image that has the server" >&2
    exit 1
fi
rm -rf /opt/mcp/.build /opt/mcp/.lock
# Nothing of it is run by this: the system's Python, without site and without the environment, only reads it. Without a
# look at the source's time stamp, as the files never change.
/usr/bin/python3 -I -S -m compileall -qq -j 2 --invalidation-mode unchecked-hash /opt/mcp/lib >&2 ||
    echo "some modules could not be compiled ahead of time" >&2
