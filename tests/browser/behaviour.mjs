// What a person does in the panel with a pointer, with keys, and without scripts, over the demonstration's data.
// PANEL_URL is where it listens, PANEL_PASSWORD what lets one in.

import { faults, main, visitor, watched } from "./lib.mjs";
import { signIn } from "./door.mjs";
import { PAGES, user } from "./pages.mjs";

const base = process.env.PANEL_URL;
const names = (page) => page.locator(".people th.who .name").allTextContents();
const count = (page) => page.locator(".people tbody tr").count();
/// Until something holds, or the time for it is over.
const until = (page, holds, value) => page.waitForFunction(holds, value);

async function inside(browser, options, permissions = []) {
  const context = await visitor(browser, options);
  await context.grantPermissions(permissions);
  const page = await watched(context, [404, 422, 501]);
  await signIn(page, base);
  return page;
}

/// Each form and link does its work where no script runs.
async function withoutScripts(browser, expect) {
  const page = await inside(browser, { script: false, phone: true });
  for (const [, path] of PAGES) {
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
  await page.locator("button[name=lang]").click();

  // Each of the other forms once: where it is, what is typed, what is pressed, and what then is there.
  const save = "main form .actions button";
  const own = `/users/without-scripts`;
  const forms = [
    [`${own}/edit`, { "#note": "typed" }, save, ".notice.ok"],
    [`${own}/package`, { "#size": "2 GiB" }, save, ".notice.ok"],
    [`${own}/reset`, {}, save, ".notice.ok"],
    [`${own}/connect`, {}, "form[action$='/connect'] summary", "form[action$='/connect'] button.danger"],
    [null, {}, "form[action$='/connect'] button.danger", ".notice.ok"],
    [`${own}/delete`, {}, save, ".notice.ok"],
    ["/add-policy", { "#name": "without", "#quota": "5 GiB" }, save, ".notice.ok"],
    ["/policies/without", { "#quota": "6 GiB" }, save, ".notice.ok"],
    ["/policies/without/delete", {}, save, ".notice.ok"],
    ["/settings/links", { "#update_hours": "6" }, save, ".notice.ok"],
    ["/settings/notify", {}, "form[action$='/settings/notify'] button", ".notice"],
    ["/settings", { "#current": "not this", "#new": "long enough it is", "#again": "long enough it is" },
      "form[action$='/settings/password'] button", "#current-error"],
    ["/settings", { "form[action$='/settings/tokens'] input[name=name]": "without" },
      "form[action$='/settings/tokens'] button", "#token"],
    ["/settings", {}, "form[action$='/settings/tokens/delete'] button", ".notice.ok"],
    // The demonstration has no second factor, and says so on a page.
    ["/settings/totp", {}, save, "h1"],
    ["/events", { "#user": "without-scripts" }, "form.filter button", "#list tbody tr"],
    ["/", {}, "form[action$='/sign-out'] button", "input[type=password]"],
  ];
  for (const [path, fields, button, then] of forms) {
    if (path) await page.goto(base + path);
    for (const [field, text] of Object.entries(fields)) await page.locator(field).fill(text);
    await page.locator(button).first().click();
    const there = await page.locator(then).first().waitFor().then(() => true, () => false);
    expect(`${path ?? page.url()}: ${button} leads to ${then}`, there);
    expect(`${path}: ${(await faults(page, { axe: false })).join()}`, page.complaints.length === 0);
  }
  await page.context().close();
}

/// Whether who uses keys sees where they are: the element that has the focus has a mark around it, and is in sight.
const seen = () => {
  const it = document.activeElement;
  const [style, box] = [getComputedStyle(it), it.getBoundingClientRect()];
  // Within a field of a date the browser marks its parts by itself.
  if (window.last === it) return true;
  window.last = it;
  const marked = (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== "none";
  return marked && box.bottom > 0 && box.top < innerHeight;
};

/// From adding a user to the code to disabling it, with Tab, Enter and what is typed.
async function keysOnly(browser, expect) {
  const page = await inside(browser, {});
  const to = async (selector) => {
    for (let presses = 0; presses < 120; presses += 1) {
      await page.keyboard.press("Tab");
      const visible = await page.evaluate(seen);
      const name = await page.evaluate(() => document.activeElement.outerHTML.slice(0, 120));
      expect(`the focus is seen: ${name}`, visible);
      if (await page.evaluate((selector) => document.activeElement.matches(selector), selector)) return;
    }
    throw new Error(`no way to ${selector} with the Tab key`);
  };
  const enter = () => Promise.all([page.waitForEvent("load"), page.keyboard.press("Enter")]);
  await page.goto(base + "/");
  await to("a[href$='/users']");
  await enter();
  await to("a[href$='/add-user']");
  await enter();
  await to("#name");
  await page.keyboard.type("by-keys");
  await to("main form .actions button");
  await enter();
  expect("a code is shown", await page.locator(".qr svg").first().isVisible());
  await to("a[role=button][href$='/users/by-keys']");
  await enter();
  await to("button[name=disable]");
  await enter();
  expect("it is disabled", (await page.locator(".pill[data-state=disabled]").count()) > 0);
  // Back over the answer to the form: what was handed over, without asking for it anew.
  await page.goBack();
  await page.goBack();
  expect(`back is the way in: ${page.url()}`, page.url().endsWith("/users/by-keys/connect"));
  await page.context().close();
}

/// However a list is changed, one stream is open, and none while nobody looks.
async function oneStream(browser, expect) {
  const context = await visitor(browser, {});
  await context.addInitScript(() => {
    window.streams = [];
    window.EventSource = class extends EventSource {
      constructor(...words) {
        super(...words);
        window.streams.push(this);
      }
    };
  });
  const page = await watched(context);
  await signIn(page, base);
  const open = () => page.evaluate(() => window.streams.filter((it) => it.readyState !== EventSource.CLOSED).length);
  const hide = (hidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  await page.goto(`${base}/users`);
  await until(page, () => window.streams.length === 1);
  await page.locator("select[name=state]").selectOption("limited");
  await until(page, () => location.search.includes("state=limited") && window.streams.length === 2);
  expect("one after a filter", (await open()) === 1);
  await page.locator("a.sort[href*='sort=total']").click();
  await until(page, () => document.querySelector("#sort").value === "total");
  await page.locator("#q").fill("nobody has this name");
  await until(page, () => document.querySelectorAll(".people tbody tr").length === 0);
  expect("one after an empty search", (await open()) <= 1);
  await page.locator("#q").fill("");
  await until(page, () => document.querySelectorAll(".people tbody tr").length > 1);
  expect("one after sorting and searching", (await open()) === 1);
  for (let times = 0; times < 3; times += 1) {
    await hide(true);
    expect("none while nobody looks", (await open()) === 0);
    await hide(false);
    expect("one for who looks again", (await open()) === 1);
  }
  await page.goto(`${base}/users/${user}`);
  await until(page, () => window.streams.length === 1);
  await page.locator(".choice a[href$='by=hour']").click();
  await page.locator("[data-chart=hour] canvas").waitFor();
  expect("one after another chart", (await open()) === 1);
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

/// Until so many points of a canvas have a colour: it is drawn a moment after it is there.
const drawn = (page, selector, least) => page.waitForFunction(([selector, least]) => {
  const canvas = document.querySelector(`${selector} canvas`);
  if (!canvas?.width) return false;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let points = 0;
  for (let at = 3; at < data.length; at += 4) if (data[at] > 40) points += 1;
  return points > least;
}, [selector, least]).then(() => true, () => false);

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
  expect("the throughput is drawn", await drawn(page, "[data-chart=live]", 2_000));
  const after = await cards();
  expect(`cards that count users stay what they are: ${before} ${after}`, before[0] === after[0]);
  await page.goto(`${base}/users/alice`);
  for (const by of ["day", "hour", "period"]) {
    await page.locator(`.choice a[href$="by=${by}"]`).click();
    await page.locator(`[data-chart=${by}] canvas`).waitFor();
    expect(`usage by ${by} is drawn`, await drawn(page, `[data-chart=${by}]`, 1_000));
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
  for (const [name, part] of Object.entries({ withoutScripts, lists, keys, keysOnly, oneStream, moving, choices })) {
    const expect = (what, holds) => holds || report(name, [what]);
    try {
      await part(browser, expect);
    } catch (error) {
      report(name, [error.stack]);
    }
  }
});
