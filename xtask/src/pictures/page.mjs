// Takes a picture of a page as a browser shows it: node page.mjs MODULES BROWSER ADDRESS FILE WIDTH HEIGHT [SESSION...].
// With sessions, it says "open" once it shows them, and waits for a line; then until the first has used 80 % of its packets,
// a call waits, and something was denied.
import { createRequire } from "node:module";

const [modules, executablePath, address, path, width, height, ...sessions] = process.argv.slice(2);
const { chromium } = createRequire(modules + "/")("playwright-core");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const viewport = { width: Number(width), height: Number(height) };
const page = await browser.newPage({ viewport, colorScheme: "light", reducedMotion: "reduce" });
page.setDefaultTimeout(60_000);
await page.goto(address);
for (const session of sessions) await page.locator(`[data-session="${session}"] polyline`).waitFor();
if (sessions.length) {
  console.log("open");
  await new Promise((told) => process.stdin.once("data", told));
  await page.waitForFunction((session) => {
    const counts = document.querySelector(`[data-session="${session}"] .counts`)?.textContent ?? "";
    const [, seen, cap] = /(\d+) of (\d+) packets/.exec(counts.replaceAll(",", "")) ?? [];
    const waiting = document.querySelector("#waiting button");
    return seen >= 0.8 * cap && waiting && document.querySelector("#denials li");
  }, sessions[0]);
}
// The page as far as there is something on it, or its last whole section that there is room for.
const used = await page.evaluate((room) => {
  const bottom = document.body.getBoundingClientRect().bottom + 16;
  const heads = [...document.querySelectorAll("h2")].map((head) => head.getBoundingClientRect().top - 8);
  return Math.floor(bottom <= room ? bottom : Math.max(...heads.filter((top) => top <= room)));
}, viewport.height);
const clip = { x: 0, y: 0, width: viewport.width, height: used };
await page.screenshot({ path, clip, fullPage: true });
await browser.close();
process.exit(0);
