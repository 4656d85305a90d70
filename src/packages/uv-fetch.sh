# Fetches the package that requirements.in names, with all that it needs, and unpacks it into /opt/mcp. This container
# has the network and the site's credentials, so that no code of a package may run in it: only wheels are taken, and no
# Python is started in the environment once something is in it (a .pth file of a package would run then). Results go to
# stdout, everything else to stderr.
#   uv-fetch.sh resolve|install PACKAGE SECONDS
set -eu
umask 022
cd /srv/build
. ./env
unset UV_NO_CACHE
# The cache lies on the volume: what is unpacked there is linked into place, not copied.
export HOME=/tmp UV_CACHE_DIR=/opt/mcp/.cache UV_OFFLINE=0 UV_NO_SYNC=0 UV_NO_CONFIG=1 UV_PYTHON_DOWNLOADS=never
if [ -s ca.pem ]; then export SSL_CERT_FILE=/srv/build/ca.pem; fi
if [ "$1" = resolve ]; then
    uv pip compile --quiet --no-header --no-annotate --no-deps --no-build --python /usr/bin/python3 requirements.in
    exit 0
fi
if [ -f requirements.txt ]; then
    cp requirements.txt /tmp/
else
    echo "settling versions" >&2
    uv pip compile --quiet --no-header --no-annotate --generate-hashes --no-build --python /usr/bin/python3 \
        --output-file /tmp/requirements.txt requirements.in >&2
fi
echo "fetching and installing" >&2
uv venv --quiet --allow-existing --python /usr/bin/python3 /opt/mcp >&2
uv pip install --python /opt/mcp/bin/python --no-build --no-deps --require-hashes \
    --requirement /tmp/requirements.txt --link-mode hardlink --no-compile-bytecode >&2
rm -rf /opt/mcp/.cache /opt/mcp/.lock /opt/mcp/.gitignore /opt/mcp/CACHEDIR.TAG
/usr/bin/python3 -I -S report.py "$2"
# The volume is there as long as a container that runs has it.
exec env -i /usr/bin/sleep "$3"
