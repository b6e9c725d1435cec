// Every page of the panel over the demonstration's data: languages, themes, sizes. PANEL_URL is where it
// listens, PANEL_PASSWORD what lets one in.

import { faults, landmarks, main, visitor, watched } from "./lib.mjs";
import { signIn } from "./door.mjs";

const base = process.env.PANEL_URL;
const user = "alice";
const limited = encodeURIComponent("韩梅梅");

/// Name and address of every page.
const PAGES = [
  ["overview", "/"],
  ["users", "/users"],
  ["users-found", "/users?search=a&sort=used"],
  ["user-new", "/add-user"],
  ["user", `/users/${user}`],
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
];

/// One visitor sees every page.
async function visitAll(browser, report, { lang, theme, phone }) {
  const context = await visitor(browser, { lang, theme, phone });
  const page = await watched(context);
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
  if (Math.max(...rows) > 120) report(`users ${lang}`, [`a row of ${Math.max(...rows)} px on a phone`]);
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
