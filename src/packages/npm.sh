# Installs the package that /srv/build/mcp/package.json names, in a container of its own. Runs as nobody in particular;
# what it leaves in /srv/build/mcp becomes the image. Results go to stdout, everything else to stderr.
set -eu
umask 022
cd /srv/build
. ./env
export HOME=/srv/build/home NPM_CONFIG_USERCONFIG=/srv/build/npmrc NPM_CONFIG_CACHE=/srv/build/cache
if [ -s ca.pem ]; then export NODE_EXTRA_CA_CERTS=/srv/build/ca.pem; fi
npm() { node /opt/mcp/node_modules/npm/bin/npm-cli.js "$@" >&2; }
mkdir -p home
cd mcp
if [ "$1" = resolve ]; then
    node /opt/mcp/node_modules/npm/bin/npm-cli.js view "$2" version --json
    exit 0
fi
if [ -f package-lock.json ]; then
    echo "fetching what the lock pins" >&2
    npm ci --ignore-scripts --omit=dev
else
    echo "fetching the package and what it needs" >&2
    npm install --ignore-scripts --omit=dev
fi
# Nothing of the site is left when the packages' own scripts run.
rm -f ../npmrc
: >../npmrc
echo "running install scripts" >&2
npm rebuild
rm -f node_modules/.package-lock.json
node ../report.mjs "$2"
