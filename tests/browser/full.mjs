// From signing in to a user who is cut and comes back, on a phone, with the real agent and a real sing-box behind
// the panel. The test outside moves the traffic: a step is told by a line, and goes on with a line.

import { createHmac } from "node:crypto";
import { createInterface } from "node:readline";
import { faults, main, visitor, watched } from "./lib.mjs";
import { signIn } from "./door.mjs";

const base = process.env.PANEL_URL;
const name = process.env.PANEL_USER;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
// Traffic, a reload of sing-box, a tick of the agent: each takes seconds on a busy machine.
const LONG = { timeout: 60_000 };
const BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

async function step(what, said = "") {
  console.log(`step ${what} ${said}`.trimEnd());
  const { value, done } = await lines.next();
  if (done || value !== "go") throw new Error(`after ${what}: ${value}`);
}

// RFC 6238 with the parameters of every authenticator: SHA-1, 30 s, 6 digits.
function code(secret, step) {
  const bits = [...secret].map((letter) => BASE32.indexOf(letter).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(step));
  const mac = createHmac("sha1", key).update(counter).digest();
  const at = mac[19] & 15;
  return String((mac.readUInt32BE(at) & 0x7fffffff) % 1_000_000).padStart(6, "0");
}

// Of the step before, of now and of the next one, which are all taken. Waits for enough time in a step.
async function threeCodes(secret) {
  while (Date.now() % 30_000 > 15_000) await new Promise((ready) => setTimeout(ready, 500));
  const now = Math.floor(Date.now() / 30_000);
  return [now - 1, now, now + 1].map((step) => code(secret, step));
}

await main(async (browser, report) => {
  const context = await visitor(browser, { phone: true });
  const page = await watched(context, [503]);
  const clean = async (what) => report(what, await faults(page, { phone: true }));
  await signIn(page, base);
  await clean("overview");

  await page.goto(`${base}/add-user`);
  await page.locator("#name").fill(name);
  await page.locator("#quota").fill("5MiB");
  await page.locator("form:has(#name) .actions button").click();
  await page.locator(".qr svg").first().waitFor(LONG);
  await clean("added");
  // What stands on the page is all that is handed over: the code, the link, and what the panel's own process
  // gives a client at the address.
  const url = await page.locator("#subscription").textContent();
  const answer = await page.request.get(url, { headers: { "user-agent": "sing-box" } });
  const given = {
    qr: await page.locator(".qr svg").first().evaluate((it) => it.outerHTML),
    link: await page.locator("#link-0").textContent(),
    status: answer.status(),
    subscription: await answer.text(),
  };
  await step("added", JSON.stringify(given));

  await page.goto(`${base}/users/${name}`);
  const used = page.locator("[data-live$=':used']").first();
  const before = await used.textContent();
  const rises = page.waitForFunction(
    (before) => document.querySelector("[data-live$=':used']").textContent !== before, before, LONG);
  await step("watching");
  await rises;
  await clean("watching");
  // The overview and the list rise by themselves as well.
  for (const [path, key] of [["/", "[data-live=today]"], ["/users", "[data-live$=':used']"]]) {
    await page.goto(base + path);
    const shown = () => page.locator(key).allTextContents().then((all) => all.join());
    const before = await shown();
    const moves = page.waitForFunction(
      ([key, before]) => [...document.querySelectorAll(key)].map((it) => it.textContent).join() !== before,
      [key, before], LONG);
    await step("moving");
    await moves;
  }
  await page.goto(`${base}/users/${name}`);

  const limited = page.waitForFunction(
    () => document.querySelector("[data-live$=':state']").dataset.state === "limited", null, LONG);
  await step("cut");
  await limited;
  // Without loading the page again.
  await page.locator(".notice.bad").first().waitFor(LONG);
  const why = await page.locator(".notice.bad").first().textContent();
  if (!/limited at .* of 5\.00 MiB used/.test(why)) report("cut", [`the page says: ${why}`]);
  await clean("cut");

  await page.goto(`${base}/users/${name}/package`);
  await page.locator("#size").fill("20MiB");
  await page.locator("form:has(#size) .actions button").click();
  await page.waitForFunction(
    () => document.querySelector("[data-live$=':state']")?.dataset.state === "active", null, LONG);
  await page.locator(".notice.bad").waitFor({ state: "detached", ...LONG });
  await clean("back");
  await step("back");

  // Without the agent there is a page that says so, and the one that stayed open goes on where it was afterwards.
  const other = await watched(context, [503]);
  await step("stop");
  const refused = await other.goto(`${base}/users`);
  if (refused.status() !== 503) report("stopped", [`status ${refused.status()}`]);
  report("stopped", await faults(other, { phone: true }));
  await other.close();
  const last = await used.textContent();
  await step("restart");
  const goesOn = page.waitForFunction(
    (last) => document.querySelector("[data-live$=':used']").textContent !== last, last, LONG);
  await step("moving");
  await goesOn;

  // What is not well is told to a page that is open, and so is that it is over.
  const well = (well) => page.waitForFunction((well) => {
    const [banner, pill] = ["#banners .notice", "#health-card .head .pill"].map((it) => document.querySelector(it));
    return (banner === null) === well && (pill?.dataset.state === "active") === well;
  }, well, LONG);
  await page.goto(`${base}/`);
  await well(true);
  await step("away");
  await well(false);
  await clean("without sing-box");
  await step("there");
  await well(true);

  // The second factor: offered, proven by a code, asked for at the next way in, and off again.
  await page.goto(`${base}/settings`);
  await page.locator("form[action$='/settings/totp'] button").click();
  await page.locator(".qr svg").waitFor(LONG);
  const secret = await page.locator("#totp-secret").textContent();
  await clean("offered");
  const codes = await threeCodes(secret);
  await page.locator("#code").fill(codes[0]);
  await page.locator("form:has(#code) .actions button").click();
  await page.locator(".notice.ok").waitFor(LONG);
  await clean("turned on");
  await page.locator("form[action$='/sign-out'] button").click();
  await signIn(page, base, undefined, codes[1]);
  await page.goto(`${base}/settings/totp`);
  await page.locator("#code").fill("000000");
  await page.locator("form:has(#code) .actions button").click();
  await page.locator(".notice.bad").waitFor(LONG);
  await page.locator("#code").fill(codes[2]);
  await page.locator("form:has(#code) .actions button").click();
  await page.locator(".notice.ok").waitFor(LONG);
  await context.close();
});
process.stdin.unref();
