# Runs the install scripts of what was fetched into /srv/build/mcp, the code of strangers: this container has no network
# and nothing of the site. What is said here is for people; nobody takes it for a fact.
set -eu
umask 022
cd /srv/build/mcp
export HOME=/tmp NPM_CONFIG_CACHE=/tmp/npm NPM_CONFIG_OFFLINE=true NPM_CONFIG_FUND=false \
    NPM_CONFIG_AUDIT=false NPM_CONFIG_UPDATE_NOTIFIER=false
node /opt/mcp/node_modules/npm/bin/npm-cli.js rebuild --dangerously-allow-all-scripts >&2
rm -f node_modules/.package-lock.json
