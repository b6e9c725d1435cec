// From signing in to a user who is cut and comes back, on a phone, with the real agent and a real sing-box behind
// the panel. The test outside moves the traffic: a step is told by a line, and goes on with a line.

import { createInterface } from "node:readline";
import { faults, main, visitor, watched } from "./lib.mjs";
import { signIn } from "./door.mjs";

const base = process.env.PANEL_URL;
const name = process.env.PANEL_USER;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
// Traffic, a reload of sing-box, a tick of the agent: each takes seconds on a busy machine.
const LONG = { timeout: 60_000 };

async function step(what) {
  console.log(`step ${what}`);
  const { value, done } = await lines.next();
  if (done || value !== "go") throw new Error(`after ${what}: ${value}`);
}

await main(async (browser, report) => {
  const context = await visitor(browser, { phone: true });
  const page = await watched(context);
  const clean = async (what) => report(what, await faults(page, { phone: true }));
  await signIn(page, base);
  await clean("overview");

  await page.goto(`${base}/add-user`);
  await page.locator("#name").fill(name);
  await page.locator("#quota").fill("3MiB");
  await page.locator("form:has(#name) .actions button").click();
  await page.locator("dd.copy code").first().waitFor(LONG);
  await clean("added");
  await step("added");

  await page.goto(`${base}/users/${name}`);
  const used = page.locator("[data-live$=':used']").first();
  const before = await used.textContent();
  const rises = page.waitForFunction(
    (before) => document.querySelector("[data-live$=':used']").textContent !== before, before, LONG);
  await step("watching");
  await rises;
  await clean("watching");

  const limited = page.waitForFunction(
    () => document.querySelector("[data-live$=':state']").dataset.state === "limited", null, LONG);
  await step("cut");
  await limited;
  await page.reload();
  const why = await page.locator(".notice.bad").first().textContent();
  if (!/limited at .* of 3\.00 MiB used/.test(why)) report("cut", [`the page says: ${why}`]);
  await clean("cut");

  await page.goto(`${base}/users/${name}/package`);
  await page.locator("#size").fill("20MiB");
  await page.locator("form:has(#size) .actions button").click();
  await page.waitForFunction(
    () => document.querySelector("[data-live$=':state']")?.dataset.state === "active", null, LONG);
  await clean("back");
  await step("back");
  await context.close();
});
process.stdin.unref();
