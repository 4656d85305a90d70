// Runs the official conformance suite against a server and prints a line for each of its checks. Called by `run`.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { forward } from './forward.mjs';

const USAGE = `usage: tests/conformance/run URL --requirements 2025-11-25|2026-07-28 [--token T] [--ca FILE] [--scenario NAME]
  prints: scenario, check, what the check looked at, SUCCESS | FAILURE | WARNING | SKIPPED | INFO; separated by tabs
  environment: BERTH_TOKEN and NODE_EXTRA_CA_CERTS stand for --token and --ca`;

function options() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        requirements: { type: 'string' },
        scenario: { type: 'string' },
        token: { type: 'string', default: process.env.BERTH_TOKEN },
        ca: { type: 'string', default: process.env.NODE_EXTRA_CA_CERTS },
      },
    });
    if (positionals.length !== 1 || !values.requirements) throw new Error('one URL and --requirements are needed');
    return { url: positionals[0], ...values };
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`);
    process.exit(2);
  }
}

function suite(url, { requirements, scenario }, results) {
  const program = fileURLToPath(new URL('node_modules/@modelcontextprotocol/conformance/dist/index.js', import.meta.url));
  const what = scenario ? ['--scenario', scenario, '--spec-version', requirements] : ['--requirements', requirements];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, 'server', '--url', url, ...what, '--output-dir', results], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let words = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (words += chunk));
    child.on('error', reject);
    // It fails when a check fails, which is for the caller to judge: only a run without results is an error.
    child.on('close', () => resolve(words));
  });
}

// Notes on the traffic, as many as there happened to be messages; every other INFO is a check that did not apply.
const TRAFFIC = ['outgoing-request', 'incoming-response', 'incoming-sse-event', 'stream-closed'];

/** A line for each check, in an order that does not depend on the run. */
function checks(results) {
  const lines = [];
  for (const run of readdirSync(results)) {
    const scenario = run.replace(/^server-/, '').replace(/-\d{4}-\d\d-\d\dT[\d-]+Z$/, '');
    if (!existsSync(join(results, run, 'checks.json'))) {
      lines.push({ key: `${scenario}\tnone\tScenarioEnded`, status: 'FAILURE', errorMessage: 'it ended without results' });
      continue;
    }
    const times = new Map();
    for (const { id, name, status, errorMessage, details } of JSON.parse(readFileSync(join(results, run, 'checks.json')))) {
      if (TRAFFIC.includes(id)) continue;
      const nth = (times.get(`${id} ${name}`) ?? 0) + 1;
      times.set(`${id} ${name}`, nth);
      const key = [scenario, id, nth > 1 ? `${name} ${nth}` : name].join('\t');
      lines.push({ key, status, errorMessage: errorMessage ?? details?.message });
    }
  }
  return lines.sort((a, b) => (a.key < b.key ? -1 : 1));
}

const asked = options();
const ca = asked.ca ? readFileSync(asked.ca) : undefined;
const between = asked.token || asked.url.startsWith('https:') ? await forward(asked.url, { token: asked.token, ca }) : undefined;
const results = mkdtempSync(join(tmpdir(), 'conformance-'));
try {
  const words = await suite(between?.url ?? asked.url, asked, results);
  const lines = checks(results);
  if (lines.length === 0) {
    console.error(`the suite gave no results:\n${words.slice(-2000)}`);
    process.exitCode = 1;
  }
  for (const { key, status, errorMessage } of lines) {
    console.log(`${key}\t${status}`);
    if (status === 'FAILURE' || status === 'WARNING' || status === 'INFO') console.error(`${key}\t${status}: ${errorMessage}`);
  }
} finally {
  between?.close();
  rmSync(results, { recursive: true, force: true });
}
