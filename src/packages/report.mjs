// What was fetched, as one line of JSON on stdout: by npm's own lock, and by which programs npm linked. Runs where no
// code of a package has run yet.
import fs from 'node:fs'
import path from 'node:path'

const name = process.argv[2]
const lock = fs.readFileSync('package-lock.json', 'utf8')
const packages = JSON.parse(lock).packages
const own = packages[`node_modules/${name}`]
const short = name.split('/').pop()
const bin = typeof own.bin === 'string' ? { [short]: own.bin } : (own.bin ?? {})
const home = fs.realpathSync(`node_modules/${name}`) + path.sep
const linked = (b) => {
  const at = `node_modules/.bin/${b}`
  return path.basename(b) === b && fs.existsSync(at) && fs.realpathSync(at).startsWith(home)
}
const there = Object.entries(packages).filter(([at, p]) => at && p.version && fs.existsSync(at))
const named = ([at, p]) => `${at.replace(/^.*node_modules\//, '')}@${p.version}`

// Whether npm would run something of it: what the registry says, or the package itself.
const scripts = ([at, p]) => {
  if (p.hasInstallScript || fs.existsSync(`${at}/binding.gyp`)) return true
  try {
    const s = JSON.parse(fs.readFileSync(`${at}/package.json`, 'utf8')).scripts
    return ['preinstall', 'install', 'postinstall'].some((event) => s?.[event])
  } catch {
    return false
  }
}
const unique = (all) => [...new Set(all)].sort()
console.log(
  JSON.stringify({
    version: own.version,
    bins: Object.keys(bin).filter(linked),
    tree: unique(there.map(named)),
    scripts: unique(there.filter(scripts).map(named)),
    lock,
  }),
)
