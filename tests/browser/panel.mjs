// Every page of the panel over the demonstration's data: languages, themes, sizes. PANEL_URL is where it
// listens, PANEL_PASSWORD what lets one in.

import { faults, landmarks, main, visitor, watched } from "./lib.mjs";
import { signIn } from "./door.mjs";

const base = process.env.PANEL_URL;
const user = "alice";
const limited = encodeURIComponent("韩梅梅");

/// Pages whose tables are there on every day.
const COLUMNS = ["overview", "users", "users-found", "events", "policies", "settings"];

/// Name and address of every page.
const PAGES = [
  ["overview", "/"],
  ["users", "/users"],
  ["users-found", "/users?q=a&sort=used"],
  ["user-new", "/add-user"],
  ["user", `/users/${user}`],
  ["user-by-hour", `/users/${user}?by=hour`],
  ["user-by-period", `/users/${user}?by=period`],
  ["user-limited", `/users/${limited}`],
  ["user-connect", `/users/${user}/connect`],
  ["user-flows", `/users/${user}/flows`],
  ["user-edit", `/users/${user}/edit`],
  ["user-package", `/users/${user}/package`],
  ["user-reset", `/users/${user}/reset`],
  ["user-delete", `/users/${user}/delete`],
  ["policies", "/policies"],
  ["policy-new", "/add-policy"],
  ["policy", "/policies/basic"],
  ["policy-delete", "/policies/free/delete"],
  ["events", "/events"],
  ["settings", "/settings"],
  ["settings-links", "/settings/links"],
  ["settings-notify", "/settings/notify"],
];

const FORM = "main form";
const press = (page, selector) => Promise.all([page.waitForEvent("load"), page.locator(selector).first().click()]);

/// Pages that are answers: what leads to each, and the status that it has. `mine` is a name that no other visitor
/// uses.
const ANSWERS = [
  ["user-added", 200, async (page, mine) => {
    await page.goto(`${base}/add-user`);
    await page.locator("#name").fill(mine);
    await press(page, `${FORM} .actions button`);
  }],
  ["user-new-mistakes", 422, async (page) => {
    await page.goto(`${base}/add-user`);
    await page.locator("#name").fill("a[b");
    await page.locator("#quota").fill("ten");
    await press(page, `${FORM} .actions button`);
  }],
  ["user-clash", 412, async (page, mine) => {
    await page.goto(`${base}/users/${mine}/edit`);
    const other = await page.context().newPage();
    await other.goto(`${base}/users/${mine}/edit`);
    await other.locator("#note").fill("theirs");
    await press(other, `${FORM} .actions button`);
    await other.close();
    await page.locator("#note").fill("ours");
    await press(page, `${FORM} .actions button`);
  }],
  ["users-delete", 200, async (page) => {
    await page.goto(`${base}/users`);
    for (const row of [1, 2]) await page.locator("input[name=user]").nth(row).check();
    await press(page, "button[name=do][value=delete]");
  }],
  ["users-more", 200, async (page) => {
    await page.goto(`${base}/users`);
    await page.locator("input[name=user]").first().check();
    await page.locator("input[name=everybody]").check();
    await press(page, "button.quiet[value=more]");
  }],
  ["users-more-mistakes", 422, async (page) => {
    await page.goto(`${base}/users`);
    await page.locator("input[name=user]").first().check();
    await press(page, "button.quiet[value=more]");
    await page.locator("#days").fill("0");
    await press(page, "button[value=extend]");
  }],
  ["token-made", 200, async (page, mine) => {
    await page.goto(`${base}/settings`);
    await page.locator("form[action$='/settings/tokens'] input[name=name]").fill(mine);
    await press(page, "form[action$='/settings/tokens'] button");
  }],
  ["not-found", 404, async (page) => page.goto(`${base}/no-such-page`)],
  ["nobody", 404, async (page) => page.goto(`${base}/users/nobody-of-this-name`)],
];

/// One visitor sees every page.
async function visitAll(browser, report, { lang, theme, phone }) {
  const context = await visitor(browser, { lang, theme, phone });
  const page = await watched(context, [404, 412, 422]);
  const combination = `${lang} ${theme} ${phone ? "phone" : "desktop"}`;
  const stored = theme === "light" && !phone;
  await signIn(page, base, async () => {
    report(`sign-in ${combination}`, await faults(page, { phone }));
    if (stored) report("sign-in", await landmarks(page, `sign-in.${lang}`));
  });
  for (const [name, path] of PAGES) {
    const response = await page.goto(base + path);
    const there = new URL(page.url()).pathname;
    if (response.status() !== 200 || there !== path.split("?")[0]) {
      report(`${name} ${combination}`, [`status ${response.status()} at ${there}`]);
    }
    report(`${name} ${combination}`, await faults(page, { phone }));
    if (stored) report(name, await landmarks(page, `${name}.${lang}`, COLUMNS.includes(name)));
  }
  const mine = `visitor-${lang.toLowerCase()}-${theme}-${phone ? "phone" : "desktop"}`;
  for (const [name, status, go] of ANSWERS) {
    let seen = 0;
    const see = (response) => {
      if (response.frame() === page.mainFrame() && response.request().isNavigationRequest()) seen = response.status();
    };
    page.on("response", see);
    await go(page, mine);
    page.off("response", see);
    if (seen !== status) report(`${name} ${combination}`, [`status ${seen} at ${page.url()}`]);
    report(`${name} ${combination}`, await faults(page, { phone }));
    if (stored) report(name, await landmarks(page, `${name}.${lang}`));
  }
  await context.close();
}

/// Between a phone and a wide screen nothing lies off the screen or on something else, and what can be done
/// with marked users is in sight wherever one is marked.
async function measure(browser, report, lang) {
  const context = await visitor(browser, { lang });
  const page = await watched(context);
  await signIn(page, base);
  await page.goto(`${base}/users?sort=rate`);
  await page.locator("input[name=user]").nth(30).check();
  for (let width = 320; width <= 1440; width += 40) {
    await page.setViewportSize({ width, height: 844 });
    const wrong = await page.evaluate(() => {
      const root = document.documentElement;
      const box = (selector) => document.querySelector(selector).getBoundingClientRect();
      const [tab, tools, bar] = [box(".tabs a:last-child"), box(".tools"), box("[data-bulk]")];
      const found = [];
      if (root.scrollWidth > root.clientWidth) found.push(`${root.scrollWidth} wide`);
      if (tab.right > tools.left && tab.top < tools.bottom) found.push("the navigation lies under the tools");
      const seen = document.elementFromPoint(bar.left + bar.width / 2, bar.bottom - 4);
      if (!seen?.closest("[data-bulk]")) found.push("the bar for marked users is out of sight");
      return found;
    });
    report(`users ${lang} at ${width}`, wrong);
  }
  await page.setViewportSize({ width: 390, height: 844 });
  const rows = await page.locator(".people tbody tr").evaluateAll((all) => all.map((it) => it.offsetHeight));
  // Everything of a user and everything that can be done is there: two of them fit on the screen.
  if (Math.max(...rows) > 250) report(`users ${lang}`, [`a row of ${Math.max(...rows)} px on a phone`]);
  await context.close();
}

await main(async (browser, report) => {
  const visitors = [];
  for (const lang of ["en", "zh-CN"]) {
    for (const theme of ["light", "dark"]) {
      for (const phone of [false, true]) visitors.push({ lang, theme, phone });
    }
  }
  // Two at a time: as many as the smallest machine has processors.
  const work = async () => {
    for (let next = visitors.shift(); next; next = visitors.shift()) await visitAll(browser, report, next);
  };
  await Promise.all([work(), work()]);
  for (const lang of ["en", "zh-CN"]) await measure(browser, report, lang);
});
