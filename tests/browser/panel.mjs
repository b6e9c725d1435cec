// Every page of the panel over the demonstration's data: languages, themes, sizes. PANEL_URL is where it
// listens, PANEL_PASSWORD what lets one in.

import { faults, landmarks, main, visitor, watched } from "./lib.mjs";
import { signIn } from "./door.mjs";
import { PAGES, user } from "./pages.mjs";

const base = process.env.PANEL_URL;
/// Pages whose tables are there on every day.
const COLUMNS = ["overview", "users", "users-found", "events", "policies", "settings"];

const FORM = "main form";
const SAVE = `${FORM} .actions button`;
const press = (page, selector) => Promise.all([page.waitForEvent("load"), page.locator(selector).first().click()]);

/// The forms for several users, of one who is marked.
async function several(page, ...more) {
  await page.goto(`${base}/users`);
  await page.locator("input[name=user]").nth(1).check();
  for (const box of more) await page.locator(`input[name=${box}]`).check();
  await press(page, "button.quiet[value=more]");
}

/// Presses a button of theirs as if the question before it had not been answered yet.
async function unsure(page, deed) {
  await page.locator("input[name=sure]").evaluateAll((all) => all.forEach((it) => it.remove()));
  await press(page, `button[value=${deed}]`);
}

/// Somebody else saves the same form first.
async function meanwhile(page, path, field, theirs, ours) {
  await page.goto(base + path);
  const other = await page.context().newPage();
  await other.goto(base + path);
  await other.locator(field).fill(theirs);
  await press(other, SAVE);
  await other.close();
  await page.locator(field).fill(ours);
  await press(page, SAVE);
}

/// Pages that are answers: what leads to each, and the status that it has. `mine` is a name that no other visitor
/// uses.
const ANSWERS = [
  ["user-added", 200, async (page, mine) => {
    await page.goto(`${base}/add-user`);
    await page.locator("#name").fill(mine);
    await press(page, SAVE);
  }],
  ["user-new-mistakes", 422, async (page) => {
    await page.goto(`${base}/add-user`);
    await page.locator("#name").fill("a[b");
    await page.locator("#quota").fill("ten");
    await press(page, SAVE);
  }],
  ["user-clash", 412, async (page, mine) => {
    await meanwhile(page, `/users/${mine}/edit`, "#note", "theirs", "ours");
  }],
  ["users-delete", 200, async (page) => {
    await page.goto(`${base}/users`);
    for (const row of [1, 2]) await page.locator("input[name=user]").nth(row).check();
    await press(page, "button[name=do][value=delete]");
  }],
  ["users-more", 200, async (page) => {
    await several(page, "everybody");
  }],
  ["users-more-mistakes", 422, async (page) => {
    await several(page);
    await page.locator("#days").fill("0");
    await press(page, "button[value=extend]");
  }],
  ["users-package", 200, async (page) => {
    await several(page);
    await page.locator("#size").fill("1 GiB");
    await unsure(page, "package");
  }],
  ["users-extend", 200, async (page) => {
    await several(page);
    await page.locator("#days").fill("30");
    await unsure(page, "extend");
  }],
  ["users-policy", 200, async (page) => {
    await several(page, "everybody");
    await unsure(page, "policy");
  }],
  ["package-mistakes", 422, async (page) => {
    await page.goto(`${base}/users/${user}/package`);
    await page.locator("#size").fill("5");
    await press(page, SAVE);
  }],
  ["password-mistakes", 422, async (page) => {
    await page.goto(`${base}/settings`);
    for (const [field, text] of [["current", "not this"], ["new", "short"], ["again", "other"]]) {
      await page.locator(`#${field}`).fill(text);
    }
    await press(page, "form[action$='/settings/password'] button");
  }],
  ["links-mistakes", 422, async (page) => {
    await page.goto(`${base}/settings/links`);
    await page.locator("#address").fill("two words");
    await press(page, SAVE);
  }],
  ["links-clash", 412, async (page) => {
    const hours = () => String(24 + Math.floor(Math.random() * 700));
    await meanwhile(page, "/settings/links", "#update_hours", hours(), hours());
  }],
  ["policy-clash", 412, async (page, mine) => {
    await page.goto(`${base}/add-policy`);
    await page.locator("#name").fill(mine);
    await press(page, SAVE);
    await meanwhile(page, `/policies/${mine}`, "#quota", "1 GiB", "2 GiB");
  }],
  ["own-page", 200, async (page) => {
    await page.goto(`${base}/users/${user}/connect`);
    await page.goto(base + (await page.locator("a[href*='/s/']").getAttribute("href")));
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
  const page = await watched(context, [403, 404, 412, 422]);
  const combination = `${lang} ${theme} ${phone ? "phone" : "desktop"}`;
  const stored = theme === "light";
  const look = async (name, columns) => {
    report(`${name} ${combination}`, await faults(page, { phone }));
    if (stored) report(`${name} ${combination}`, await landmarks(page, `${name}.${lang}`, { columns, phone }));
  };
  await page.goto(`${base}/sign-in`);
  await page.locator("input[type=password]").fill("not the password");
  await press(page, "form:has(input[type=password]) button");
  await look("sign-in-refused");
  await signIn(page, base, () => look("sign-in"));
  for (const [name, path] of PAGES) {
    const response = await page.goto(base + path);
    const there = new URL(page.url()).pathname;
    if (response.status() !== 200 || there !== path.split("?")[0]) {
      report(`${name} ${combination}`, [`status ${response.status()} at ${there}`]);
    }
    await look(name, COLUMNS.includes(name));
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
    await look(name);
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
