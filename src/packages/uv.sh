# Installs the package that /srv/build/requirements.in names into /opt/mcp, in a container of its own. Only wheels: no
# code of a package runs. Results go to stdout, everything else to stderr.
set -eu
umask 022
cd /srv/build
. ./env
export HOME=/srv/build/home UV_OFFLINE=0 UV_NO_SYNC=0 UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1
if [ -s ca.pem ]; then export SSL_CERT_FILE=/srv/build/ca.pem; fi
mkdir -p home
if [ "$1" = resolve ]; then
    uv pip compile --quiet --no-header --no-annotate --no-deps --no-build requirements.in
    exit 0
fi
if [ ! -f requirements.txt ]; then
    echo "settling versions" >&2
    uv pip compile --quiet --no-header --no-annotate --generate-hashes --no-build --python /usr/bin/python3 \
        --output-file requirements.txt requirements.in >&2
fi
echo "fetching and installing" >&2
uv venv --quiet --allow-existing --python /usr/bin/python3 /opt/mcp >&2
# Compiled ahead of time, and without a look at the source's time stamp: the files never change.
PYC_INVALIDATION_MODE=UNCHECKED_HASH PYTHONDONTWRITEBYTECODE= uv pip install --python /opt/mcp/bin/python --no-build \
    --no-deps --require-hashes --requirement requirements.txt --link-mode copy --compile-bytecode >&2
rm -f /opt/mcp/.lock /opt/mcp/.gitignore /opt/mcp/CACHEDIR.TAG env
/opt/mcp/bin/python -I report.py "$2"
