# Fetches the package that requirements.in names, with all that it needs, and unpacks the wheels into /opt/mcp. This
# container has the network and the site's credentials, so that no code of a package may run in it: what has no wheel is
# only put aside, in /opt/mcp/.build, with what building it takes, and no Python is started in an environment once
# something is in it (a .pth file of a package would run then). Results go to stdout, everything else to stderr.
#   uv-fetch.sh resolve|install PACKAGE SECONDS
set -eu
umask 022
cd /srv/build
. ./env
unset UV_NO_CACHE UV_NO_CONFIG
# The cache lies on the volume: what is unpacked there is linked into place, not copied.
export HOME=/tmp UV_CACHE_DIR=/opt/mcp/.cache UV_OFFLINE=0 UV_NO_SYNC=0 UV_PYTHON_DOWNLOADS=never
if [ -s ca.pem ]; then export SSL_CERT_FILE=/srv/build/ca.pem; fi
settle() { /usr/bin/python3 -I -S settle.py "$@"; }
if [ "$1" = resolve ]; then
    settle version
    exit 0
fi
if [ -f requirements.txt ]; then
    # A copy would be as read-only as the file.
    cat requirements.txt >/tmp/requirements.txt
    settle again
else
    echo "settling versions" >&2
    settle new
fi
export UV_NO_CONFIG=1
# unpack ENVIRONMENT REQUIREMENTS OPTION…: wheels alone, into an environment that is made for them.
unpack() {
    uv venv --quiet --allow-existing --python /usr/bin/python3 "$1" >&2
    [ -s "$2" ] || return 0
    at=$1 what=$2
    shift 2
    uv pip install --python "$at/bin/python" --no-build "$@" --requirement "$what" --link-mode hardlink \
        --no-compile-bytecode >&2
}
echo "fetching and installing" >&2
unpack /opt/mcp /tmp/wheels.txt --no-deps --require-hashes
for source in /opt/mcp/.build/*; do
    [ ! -d "$source" ] || unpack "$source/tools" "$source/tools.txt" --no-deps --quiet
done
rm -rf /opt/mcp/.cache /opt/mcp/.lock /opt/mcp/.gitignore /opt/mcp/CACHEDIR.TAG
/usr/bin/python3 -I -S report.py "$2"
# The volume is there as long as a container that runs has it.
exec env -i /usr/bin/sleep "$3"
