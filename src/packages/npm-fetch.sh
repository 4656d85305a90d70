# Fetches the package that package.json names, with all that it needs, into /srv/build/mcp. This container has the
# network and the site's credentials, so that no code of a package may run in it. Results go to stdout, everything else
# to stderr.
#   npm-fetch.sh resolve|install PACKAGE SECONDS
set -eu
umask 022
cd /srv/build
. ./env
tree=/srv/build/mcp
export HOME=/tmp NPM_CONFIG_USERCONFIG=/srv/build/npmrc NPM_CONFIG_CACHE=$tree/.cache
# By the environment, which no file of a package outranks. A dependency from git would run scripts of its own and may
# bring a configuration; files and folders would be this container's.
export NPM_CONFIG_IGNORE_SCRIPTS=true NPM_CONFIG_ALLOW_GIT=none NPM_CONFIG_ALLOW_FILE=none \
    NPM_CONFIG_ALLOW_DIRECTORY=none
if [ -s ca.pem ]; then export NODE_EXTRA_CA_CERTS=/srv/build/ca.pem; fi
npm() { node /opt/mcp/node_modules/npm/bin/npm-cli.js "$@"; }
if [ "$1" = resolve ]; then
    npm view "$2" version --json
    exit 0
fi
cp package.json "$tree/"
cd "$tree"
if [ -f ../package-lock.json ]; then
    cp ../package-lock.json .
    echo "fetching what the lock pins" >&2
    npm ci --omit=dev >&2
else
    echo "fetching the package and what it needs" >&2
    npm install --omit=dev >&2
fi
rm -rf .cache node_modules/.package-lock.json
node ../report.mjs "$2"
# The volume is there as long as a container that runs has it.
exec env -i /usr/bin/sleep "$3"
