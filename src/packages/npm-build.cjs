// Runs the install scripts of what was fetched into /srv/build/mcp, the code of strangers, as `npm install` does once it
// has fetched: this container has no network and nothing of the site. What is said here is for people; nobody takes it
// for a fact.
const fs = require('node:fs')
const { createRequire } = require('node:module')
const npm = createRequire('/opt/mcp/node_modules/npm/package.json')

process.umask(0o022)
process.chdir('/srv/build/mcp')
Object.assign(process.env, {
  HOME: '/tmp',
  NPM_CONFIG_CACHE: '/tmp/npm',
  NPM_CONFIG_OFFLINE: 'true',
  NPM_CONFIG_FUND: 'false',
  NPM_CONFIG_AUDIT: 'false',
  NPM_CONFIG_UPDATE_NOTIFIER: 'false',
})

// `npm rebuild` ends where the script of an optional dependency fails. While it installs, npm drops such a dependency,
// with what nobody else needs: the same here. These names are npm's own; the image pins its version.
const Arborist = npm('@npmcli/arborist')
const [failed, trash] = ['handleOptionalFailure', 'trashList'].map(Symbol.for)
const { rebuild } = Arborist.prototype
const handle = Arborist.prototype[failed]
Arborist.prototype[failed] = function (node, ended) {
  const told = ended.catch((e) => {
    if (node.optional) {
      const words = String(e.stderr || e.message || e).trim().split('\n')
      const first = words.find((w) => /error|ERR!/i.test(w)) ?? words[0]
      const status = e.code ? `status ${e.code}` : `signal ${e.signal}`
      console.error(`${node.packageName}@${node.version} is optional and left out: its install script failed (${status}): ${first}`)
    }
    throw e
  })
  return handle.call(this, node, told)
}
Arborist.prototype.rebuild = async function (options) {
  await rebuild.call(this, { ...options, handleOptionalFailure: true })
  for (const path of this[trash]) {
    fs.rmSync(path, { recursive: true, force: true })
  }
}
process.on('exit', () => fs.rmSync('node_modules/.package-lock.json', { force: true }))
process.argv.splice(1, Infinity, '/opt/mcp/node_modules/npm/bin/npm-cli.js', 'rebuild', '--dangerously-allow-all-scripts')
npm('/opt/mcp/node_modules/npm/bin/npm-cli.js')
