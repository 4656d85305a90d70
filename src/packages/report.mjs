// What was installed, as one line of JSON on stdout.
import fs from 'node:fs'

const name = process.argv[2]
const lock = fs.readFileSync('package-lock.json', 'utf8')
const meta = JSON.parse(fs.readFileSync(`node_modules/${name}/package.json`, 'utf8'))
const short = name.split('/').pop()
const bin = typeof meta.bin === 'string' ? { [short]: meta.bin } : (meta.bin ?? {})
const bins = Object.keys(bin).filter((b) => fs.existsSync(`node_modules/.bin/${b}`))
const tree = Object.entries(JSON.parse(lock).packages)
  .filter(([path, p]) => path && p.version && fs.existsSync(path))
  .map(([path, p]) => `${path.replace(/^.*node_modules\//, '')}@${p.version}`)
console.log(JSON.stringify({ version: meta.version, bins, tree: [...new Set(tree)].sort(), lock }))
