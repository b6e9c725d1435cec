// The browser and what every visit is asked: does it load without errors, without a break of the content
// security policy, without faults of accessibility, and does it fit the screen.

import { createRequire } from "node:module";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const tools = process.env.BOXMETER_TOOLS;
const require = createRequire(join(tools, "browser", "index.js"));
const { chromium } = require("playwright-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/// What a page may take to be there.
const LIMIT_MS = 20_000;

export const PHONE = { width: 390, height: 844 };
export const DESKTOP = { width: 1280, height: 900 };

export async function launch() {
  const executablePath = process.env.BOXMETER_CHROMIUM || "/usr/bin/chromium";
  // Chromium's sandbox does not start as root; the pages are our own.
  const args = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"];
  return chromium.launch({ executablePath, args, headless: true });
}

/// A visitor with a language, a theme and a screen.
export async function visitor(browser, { lang = "en", theme = "light", phone = false, storageState, script = true } = {}) {
  const context = await browser.newContext({
    locale: lang === "zh-CN" ? "zh-CN" : "en-US",
    colorScheme: theme,
    viewport: phone ? PHONE : DESKTOP,
    isMobile: phone,
    hasTouch: phone,
    reducedMotion: "reduce",
    timezoneId: "Asia/Shanghai",
    javaScriptEnabled: script,
    storageState,
  });
  context.setDefaultTimeout(LIMIT_MS);
  await context.addInitScript(() => {
    window.__broken = [];
    document.addEventListener("securitypolicyviolation", (event) =>
      window.__broken.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
  });
  return context;
}

/// A page that notes what the browser complains about; `allowed` are statuses that the test provokes.
export async function watched(context, allowed = []) {
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => {
    const provoked = allowed.some((status) => message.text().includes(`status of ${status}`));
    if (["error", "warning"].includes(message.type()) && !provoked) complaints.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`script: ${error.message}`));
  page.on("response", (response) => {
    if (response.status() >= 400 && !allowed.includes(response.status())) {
      complaints.push(`${response.status()} ${response.url()}`);
    }
  });
  page.complaints = complaints;
  return page;
}

/// Everything that is wrong with the page as it is now.
export async function faults(page, { axe = true, phone = false } = {}) {
  const found = [...page.complaints.splice(0)];
  found.push(...(await page.evaluate(() => window.__broken)).map((it) => `policy: ${it}`));
  const wide = await page.evaluate(() => {
    const root = document.documentElement;
    if (root.scrollWidth <= root.clientWidth) return null;
    const over = [...document.querySelectorAll("body *")].filter((it) => {
      const box = it.getBoundingClientRect();
      return box.right > root.clientWidth + 1 && !it.closest(".scroll, [role=region], .overflow-auto");
    });
    const name = (it) => `${it.tagName.toLowerCase()}.${[...it.classList].join(".")}`;
    return `${root.scrollWidth} of ${root.clientWidth}: ${over.slice(0, 5).map(name).join(", ")}`;
  });
  if (wide && phone) found.push(`wider than the phone: ${wide}`);
  if (axe) {
    await page.evaluate(`${AXE};undefined`);
    const result = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    for (const violation of result.violations) {
      const nodes = violation.nodes.slice(0, 3).map((node) => `${node.target.join(" ")}: ${node.any[0]?.message ?? ""}`);
      found.push(`axe ${violation.id} (${violation.impact}): ${nodes.join(" | ")}`);
    }
  }
  return found;
}

/// What a page is built of: landmarks, headings, forms, and what stands over columns and beside values. What they
/// hold, and where it depends on the data whether there is a table at all, changes from day to day.
const ROLES = [
  "banner", "navigation", "main", "contentinfo", "region", "complementary", "search", "form", "dialog", "alert",
  "heading", "group", "textbox", "searchbox", "spinbutton", "combobox", "checkbox",
  "radio", "button", "link", "list",
];
const CLOSED = ["listitem", "option", "cell", "gridcell", "rowheader", "definition"];
/// Seen through: a row's name is everything in it.
const OPEN = ["table", "rowgroup", "row"];

function steady(snapshot, columns) {
  const kept = [];
  // Deeper lines than this belong to something that is left out.
  let closed = Infinity;
  const [roles, without] = columns ? [[...ROLES, "columnheader", "term"], CLOSED] : [ROLES, [...CLOSED, ...OPEN, "term"]];
  for (const line of snapshot.split("\n")) {
    const [, blanks, role] = /^( *)- '?"?([a-z]+)/.exec(line) ?? [];
    if (role === undefined) continue;
    if (blanks.length > closed) continue;
    // How many others are signed in depends on which visitor is faster.
    if (/button "(End|End all others|结束|结束其他全部会话)"/.test(line) || line.includes("visitor-")) continue;
    closed = without.includes(role) ? blanks.length : Infinity;
    if (roles.includes(role)) kept.push(role === "columnheader" ? line.replace(/:$/, "") : line);
  }
  return kept.join("\n").replace(/\d+([.,:-]\d+)*/g, "#").replaceAll(/(January|February|March|April|May|June|July|August|September|October|November|December)/g, "Month");
}

/// Compares the page's landmarks with those that are stored; with BOXMETER_UPDATE they are stored anew.
/// `columns`: with the heads of its tables, which are there whatever the data are. On a phone a page is the same as on
/// a desktop, unless it has a snapshot of its own.
export async function landmarks(page, name, { columns = false, phone = false } = {}) {
  const folder = join(import.meta.dirname, "snapshots");
  const [wide, narrow] = [join(folder, `${name}.yml`), join(folder, `${name}.phone.yml`)];
  const now = steady(await page.locator("body").ariaSnapshot(), columns) + "\n";
  const same = () => existsSync(wide) && readFileSync(wide, "utf8") === now;
  const own = phone && (process.env.BOXMETER_UPDATE ? !same() : existsSync(narrow));
  const file = own ? narrow : wide;
  if (process.env.BOXMETER_UPDATE || !existsSync(file)) {
    mkdirSync(folder, { recursive: true });
    writeFileSync(file, now);
    return process.env.BOXMETER_UPDATE ? [] : [`${name}.yml was not there: stored now, commit it`];
  }
  const before = readFileSync(file, "utf8");
  if (before === now) return [];
  const [old, fresh] = [before.split("\n"), now.split("\n")];
  const at = fresh.findIndex((line, index) => line !== old[index]);
  return [`landmarks of ${name} changed at line ${at + 1}: ${JSON.stringify(old[at])} is ${JSON.stringify(fresh[at])}`];
}

/// Runs the checks and ends the process: each line of output is a fault.
export async function main(run) {
  const browser = await launch();
  const failures = [];
  try {
    await run(browser, (name, found) => found.forEach((fault) => failures.push(`${name}: ${fault}`)));
  } catch (error) {
    failures.push(error.stack);
  } finally {
    await browser.close();
  }
  failures.forEach((failure) => console.log(failure));
  process.exit(failures.length ? 1 : 0);
}
