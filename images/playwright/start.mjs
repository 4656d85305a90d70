// Starts the official Playwright MCP server on the container's own Chromium and display. A type file sets what differs,
// in the server's environment:
//   SCREEN    width x height of the display, which the window fills        1280x800
//   DEVICE    a device of Playwright's list to emulate, such as "Pixel 7"   none
//   LOCALE    such as de-DE, for pages, numbers and dates                  the browser's own
//   TIMEZONE  such as Europe/Berlin                                       UTC
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { SCREEN = "1280x800", DEVICE, LOCALE, TIMEZONE } = process.env;
const [width, height] = SCREEN.split("x").map(Number);
if (!(width > 0 && height > 0)) throw new Error(`SCREEN=${SCREEN}: write WIDTHxHEIGHT`);

// The engine of pages sizes its heaps by the machine's memory and leaves garbage lying until they fill. It is told what
// this container has, so that it clears up in time.
const limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
const memory = Math.min(...limits.map((file) => { try { return Number(readFileSync(file, "utf8")) || Infinity; } catch { return Infinity; } }), 2 ** 31);
const heap = Math.round(memory / 2 ** 20 / 4);

const { devices } = require("playwright-core");
const { defaultBrowserType, ...device } = DEVICE ? devices[DEVICE] ?? {} : {};
if (DEVICE && !defaultBrowserType) throw new Error(`DEVICE=${DEVICE}: Playwright knows no such device`);

const config = {
  browser: {
    browserName: "chromium",
    // The profile is in memory, and goes with the browser.
    isolated: true,
    launchOptions: {
      executablePath: "/usr/lib/chromium/chromium",
      headless: false,
      chromiumSandbox: true,
      // The container's /dev/shm is large enough.
      ignoreDefaultArgs: ["--disable-dev-shm-usage"],
      args: [
        `--window-size=${width},${height}`,
        "--window-position=0,0",
        `--js-flags=--max-old-space-size=${heap} --max-semi-space-size=8 --optimize-for-size`,
        "--no-first-run",
        "--no-default-browser-check",
        // There is no graphics hardware: drawing without a GPU process's detour is faster and takes less memory.
        "--disable-gpu",
      ],
    },
    contextOptions: {
      // The page is as large as the window, unless a device says otherwise.
      viewport: null,
      ...device,
      ...(LOCALE && { locale: LOCALE }),
      ...(TIMEZONE && { timezoneId: TIMEZONE }),
    },
  },
  // Downloads and files that tools write: the instance's volume.
  outputDir: "/data",
};
const file = "/tmp/playwright-mcp.json";
writeFileSync(file, JSON.stringify(config));
process.argv.push("--config", file);
process.chdir("/data");
await import(new URL("node_modules/@playwright/mcp/cli.js", import.meta.url));
