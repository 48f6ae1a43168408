// Opens capwarden's page as a browser does: node page.mjs MODULES BROWSER ADDRESS SESSION.
// Says what the session's card had, then stops it by its button.
import { createRequire } from "node:module";

const [modules, executablePath, address, session] = process.argv.slice(2);
const { chromium } = createRequire(modules + "/")("playwright-core");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage();
page.setDefaultTimeout(20_000);
const problems = [];
page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
page.on("pageerror", (error) => problems.push(String(error)));
page.on("request", (request) => {
  const url = new URL(request.url());
  if (url.origin !== new URL(address).origin || url.search) problems.push("asked for " + url);
});
page.on("dialog", (dialog) => dialog.accept());
await page.goto(address);
const card = page.locator(`[data-session="${session}"]`);
await card.waitFor();
// Two moments and the beginning.
await page.waitForFunction(
  (session) => {
    const line = document.querySelector(`[data-session="${session}"] polyline`);
    return line && line.getAttribute("points").split(" ").length >= 3;
  },
  session,
);
const seen = {
  counts: await card.locator(".counts").textContent(),
  by: await card.locator(".by").textContent(),
  cap: await card.locator(".plot text").textContent(),
  protocols: await card.locator(".protocols").evaluate((all) =>
    [...all.children].map((row) => row.dataset.protocol + " " + row.querySelector(".number").textContent).join(", "),
  ),
  address: page.url(),
};
await card.getByRole("button", { name: "Stop" }).click();
await page.waitForFunction(() => document.querySelector("#told").textContent.includes("ended"));
seen.told = await page.locator("#told").textContent();
await card.waitFor({ state: "detached" });
seen.problems = problems;
console.log(JSON.stringify(seen));
await browser.close();
