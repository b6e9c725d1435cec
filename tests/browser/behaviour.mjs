// What a person does in the panel with a pointer, with keys, and without scripts, over the demonstration's data.
// PANEL_URL is where it listens, PANEL_PASSWORD what lets one in.

import { faults, main, visitor, watched } from "./lib.mjs";
import { signIn } from "./door.mjs";

const base = process.env.PANEL_URL;
const names = (page) => page.locator(".people th.who .name").allTextContents();
const count = (page) => page.locator(".people tbody tr").count();
/// Until something holds, or the time for it is over.
const until = (page, holds, value) => page.waitForFunction(holds, value);

async function inside(browser, options, permissions = []) {
  const context = await visitor(browser, options);
  await context.grantPermissions(permissions);
  const page = await watched(context, [404]);
  await signIn(page, base);
  return page;
}

/// Each form and link does its work where no script runs.
async function withoutScripts(browser, expect) {
  const page = await inside(browser, { script: false, phone: true });
  for (const path of ["/", "/users", "/add-user", "/users/alice", "/users/alice/connect", "/events", "/settings"]) {
    const response = await page.goto(base + path);
    expect(`${path} without scripts`, response.status() === 200);
    const dead = await page.locator("button.needjs, [data-plot]").locator("visible=true").count();
    expect(`${path} shows nothing that needs a script`, dead === 0);
  }
  await page.goto(`${base}/users`);
  await page.locator("#q").fill("alice");
  await page.locator("form.filter button").click();
  expect("the search finds one", (await count(page)) === 1);
  const card = page.locator(".people tbody tr").first();
  await card.locator("button[name=disable]").click();
  expect("the row says disabled", (await page.locator(".pill[data-state=disabled]").count()) > 0);
  expect("the filter is kept", page.url().includes("q=alice"));
  await page.locator("button[name=enable]").first().click();
  await page.goto(`${base}/users`);
  await page.locator("input[name=user]").nth(1).check();
  await page.locator("button.quiet[value=more]").click();
  await page.locator("#size").fill("1 GiB");
  await page.locator("button[value=package]").click();
  expect("a package was added", (await page.locator(".notice.ok").count()) === 1);
  await page.goto(`${base}/add-user`);
  await page.locator("#name").fill("without-scripts");
  await page.locator("form:has(#name) .actions button").click();
  expect("a code is shown", await page.locator(".qr svg").first().isVisible());
  await page.locator("button[name=lang]").click();
  expect("another language", (await page.locator("html").getAttribute("lang")) === "zh-CN");
  await page.context().close();
}

/// Searching, filtering and sorting change the list and the address, and nothing else.
async function lists(browser, expect) {
  const page = await inside(browser, {});
  await page.goto(`${base}/users`);
  await page.evaluate(() => (window.stays = true));
  const whole = await count(page);
  await page.locator("#q").pressSequentially("ali", { delay: 30 });
  await until(page, (whole) => document.querySelectorAll(".people tbody tr").length < whole, whole);
  expect("the search narrows the list", (await names(page)).includes("alice"));
  await until(page, () => location.search.includes("q=ali"));
  await page.locator("#q").fill("");
  await until(page, (whole) => document.querySelectorAll(".people tbody tr").length === whole, whole);
  await page.locator("select[name=state]").selectOption("limited");
  await until(page, () => location.search.includes("state=limited"));
  await until(page, () => document.querySelectorAll(".people .pill:not([data-state=limited])").length === 0);
  await page.locator("a.sort[href*='sort=total']").click();
  await until(page, () => document.querySelector("#sort").value === "total");
  const first = await page.locator("th[aria-sort]").textContent();
  expect(`the head says the order: ${first}`, first.includes("Total"));
  expect("the page was never loaded anew", await page.evaluate(() => window.stays === true));
  // The language is another, the list is the same.
  await page.locator("button[name=lang]").click();
  await page.waitForLoadState();
  expect(`the filter is kept: ${page.url()}`, /state=limited/.test(page.url()) && /sort=total/.test(page.url()));
  expect("in Chinese", (await page.locator("html").getAttribute("lang")) === "zh-CN");
  await page.locator("button[name=lang]").click();
  await page.waitForLoadState();

  await page.goto(`${base}/events`);
  await page.evaluate(() => (window.stays = true));
  const before = await page.locator("#list tbody tr").count();
  await page.locator("#user").pressSequentially("ali", { delay: 30 });
  await until(page, () => document.querySelector("#names option[value=alice]") !== null);
  expect("a half name filters nothing", (await page.locator("#list tbody tr").count()) === before);
  await page.locator("#user").fill("alice");
  await page.locator("#user").blur();
  await until(page, () => location.search.includes("user=alice"));
  await until(page, () => [...document.querySelectorAll("#list .of a")].every((it) => it.textContent === "alice"));
  expect("events without loading", await page.evaluate(() => window.stays === true));
  await page.context().close();
}

/// Marked users, keys, the clipboard.
async function keys(browser, expect) {
  const page = await inside(browser, {}, ["clipboard-read", "clipboard-write"]);
  await page.goto(`${base}/users`);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  expect("the first key leads to the content", (await page.evaluate(() => document.activeElement.id)) === "main");
  await page.keyboard.press("/");
  expect("the slash leads to the search", (await page.evaluate(() => document.activeElement.id)) === "q");
  const out = () => page.locator(".people .pill[data-state=disabled]").count();
  const before = await out();
  const box = page.locator("input[name=user]").nth(2);
  await box.check();
  await Promise.all([page.waitForEvent("load"), box.press("Enter")]);
  expect("Enter on a marked user only asks", (await page.locator("button[value=package]").count()) === 1);
  await page.goto(`${base}/users`);
  expect("nobody was changed by it", (await out()) === before);

  await page.goto(`${base}/users/alice/connect`);
  const link = await page.locator("#link-0").textContent();
  await page.locator("[data-copy=link-0]").click();
  await until(page, () => document.querySelector("[data-copy=link-0]").dataset.done !== undefined);
  expect("the link is in the clipboard", (await page.evaluate(() => navigator.clipboard.readText())) === link);
  // Where there is no such clipboard, as by plain http from a phone.
  await page.evaluate(() => navigator.clipboard.writeText("something else"));
  await page.evaluate(() => Object.defineProperty(navigator.clipboard, "writeText", { value: () => Promise.reject() }));
  await page.locator("[data-copy=subscription]").click();
  await until(page, () => document.querySelector("[data-copy=subscription]").dataset.done !== undefined);
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  expect("the older way copies as well", copied === (await page.locator("#subscription").textContent()));
  await page.context().close();
}

/// Points of a canvas that have a colour.
const drawn = (page, selector) =>
  page.locator(`${selector} canvas`).evaluate((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let points = 0;
    for (let at = 3; at < data.length; at += 4) if (data[at] > 40) points += 1;
    return points;
  });

/// Charts have something in them, and numbers move by themselves.
async function moving(browser, expect) {
  const page = await inside(browser, {});
  await page.goto(`${base}/`);
  await page.locator("[data-chart=live] canvas").waitFor();
  const cards = () => page.locator("dl.cards dd").allTextContents();
  const before = await cards();
  await until(page, (before) => document.querySelector("[data-live=down]").textContent !== before,
    await page.locator("[data-live=down]").textContent());
  await page.waitForTimeout(2_500);
  expect("the throughput is drawn", (await drawn(page, "[data-chart=live]")) > 2_000);
  const after = await cards();
  expect(`cards that count users stay what they are: ${before} ${after}`, before[0] === after[0]);
  await page.goto(`${base}/users/alice`);
  for (const by of ["day", "hour", "period"]) {
    await page.locator(`.choice a[href$="by=${by}"]`).click();
    await page.locator(`[data-chart=${by}] canvas`).waitFor();
    expect(`usage by ${by} is drawn`, (await drawn(page, `[data-chart=${by}]`)) > 1_000);
  }
  // A list moves too, and rests while nobody sees it.
  await page.goto(`${base}/users?sort=rate`);
  const rates = () => page.locator(".people .rate").allTextContents().then((all) => all.join());
  const shown = await rates();
  await until(page, (shown) => [...document.querySelectorAll(".people .rate")].map((it) => it.textContent).join() !== shown, shown);
  const hide = (hidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  await hide(true);
  const hidden = await rates();
  await page.waitForTimeout(3_000);
  expect("a hidden page rests", (await rates()) === hidden);
  await hide(false);
  await until(page, (shown) => [...document.querySelectorAll(".people .rate")].map((it) => it.textContent).join() !== shown, hidden);
  // Connections are looked at again while they go on.
  const busy = encodeURIComponent((await names(page))[0]);
  await page.goto(`${base}/users/${busy}/flows`);
  const flows = await page.locator("#flows-list").textContent();
  await until(page, (flows) => document.querySelector("#flows-list").textContent !== flows, flows);
  await page.context().close();
}

/// Colours and language that are chosen stay.
async function choices(browser, expect) {
  const page = await inside(browser, { theme: "light" });
  await page.goto(`${base}/users`);
  const back = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const light = await back();
  for (const theme of ["light", "dark"]) {
    await Promise.all([page.waitForEvent("load"), page.locator("button[name=theme]").click()]);
    expect(`chosen: ${theme}`, (await page.locator("html").getAttribute("data-theme")) === theme);
  }
  const dark = await back();
  expect(`dark is dark: ${dark}`, dark !== light && Number(/\d+/.exec(dark)[0]) < 60);
  await page.goto(`${base}/events`);
  expect("on the next page too", (await back()) === dark);
  expect("chosen colours", (await faults(page)).length === 0);
  await page.context().close();
}

await main(async (browser, report) => {
  for (const [name, part] of Object.entries({ withoutScripts, lists, keys, moving, choices })) {
    const expect = (what, holds) => holds || report(name, [what]);
    try {
      await part(browser, expect);
    } catch (error) {
      report(name, [error.stack]);
    }
  }
});
