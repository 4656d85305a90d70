// A person's browser for tests: headless Chromium, driven by JSON lines on stdin, answers as JSON lines on stdout.
// Runs in the image of the type `playwright`, without a network: the edge's port, which the command line names, is
// reached through the socket that is mounted at /edge.sock.
import { connect, createServer } from "node:net";
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const require = createRequire("/opt/mcp/start.mjs");
const { chromium } = require("playwright-core");
const edge = createServer((inside) => {
  const outside = connect("/edge.sock");
  inside.pipe(outside).pipe(inside);
  for (const end of [inside, outside]) end.on("error", () => [inside, outside].forEach((s) => s.destroy()));
});
await new Promise((ready) => edge.listen(Number(process.argv[2]), "127.0.0.1", ready));
const browser = await chromium.launch({
  executablePath: "/usr/lib/chromium/chromium",
  headless: true,
  chromiumSandbox: true,
  args: ["--disable-gpu"],
});
const pages = new Map();
const sessions = new Map();

/** Where a point of the remote screen stands in the page. */
const place = (page, { x, y }) =>
  page.evaluate(
    ([x, y]) => {
      const canvas = document.querySelector("#screen canvas");
      const box = canvas.getBoundingClientRect();
      return [box.x + (x * box.width) / canvas.width, box.y + (y * box.height) / canvas.height];
    },
    [x, y],
  );

const does = {
  async open({ name, url, like, options }) {
    // `like`: in the same browser session as another page, with its cookies.
    const context = like ? sessions.get(like) : await browser.newContext({ ignoreHTTPSErrors: true, ...options });
    sessions.set(name, context);
    const page = await context.newPage();
    page.errors = [];
    page.on("pageerror", (e) => page.errors.push(String(e)));
    page.on("console", (m) => m.type() === "error" && page.errors.push(m.text()));
    pages.set(name, page);
    const response = await page.goto(url);
    return { status: response?.status() };
  },
  async wait({ page, js, timeout }) {
    // Not waitForFunction, which the page's policy refuses, rightly.
    const end = Date.now() + (timeout ?? 60000);
    let value;
    while (!(value = await page.evaluate(js).catch(() => false))) {
      if (Date.now() > end) throw new Error(`waited for: ${js}`);
      await new Promise((again) => setTimeout(again, 40));
    }
    return { value };
  },
  eval: async ({ page, js }) => ({ value: await page.evaluate(js) }),
  click: async ({ page, selector }) => (await page.click(selector), {}),
  fill: async ({ page, selector, text }) => (await page.fill(selector, text), {}),
  async colour({ page, x, y }) {
    const value = await page.evaluate(
      ([x, y]) => {
        const canvas = document.querySelector("#screen canvas");
        return canvas && [...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3);
      },
      [x, y],
    );
    return { value };
  },
  async mouse({ page, ...at }) {
    const [x, y] = await place(page, at);
    await page.mouse.click(x, y);
    return {};
  },
  type: async ({ page, text }) => (await page.keyboard.type(text, { delay: 15 }), {}),
  press: async ({ page, key }) => (await page.keyboard.press(key), {}),
  // The same page on another screen, and for somebody who likes it dark.
  async emulate({ page, width, height, dark }) {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: dark ? "dark" : "light" });
    return {};
  },
  go: async ({ page, url }) => ({ status: (await page.goto(url))?.status() }),
  picture: async ({ page }) => ({ value: (await page.screenshot({ fullPage: true })).toString("base64") }),
  shot: async ({ page, file }) => (await page.screenshot({ path: file }), {}),
  errors: async ({ page }) => ({ value: page.errors }),
  offline: async ({ name, on }) => (await sessions.get(name).setOffline(on), {}),
  close: async ({ page, name }) => (await page.close(), pages.delete(name), {}),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: what, ...rest } = JSON.parse(line);
  let answer;
  try {
    answer = await does[what]({ ...rest, page: pages.get(rest.name) });
  } catch (e) {
    answer = { error: String(e.stack ?? e) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
await browser.close();
process.exit(0);
