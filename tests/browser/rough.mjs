// Every page of a panel in which all texts mean harm and every part is in trouble: no text runs, breaks the policy,
// hides what stands there or makes a page wider than a phone.

import { faults, main, visitor, watched } from "./lib.mjs";
import { signIn } from "./door.mjs";

const base = process.env.PANEL_URL;
const names = JSON.parse(process.env.NAMES);
const pages = process.env.PUBLIC.split(" ");
const PAGES = ["/", "/users", "/users?sort=rate", "/add-user", "/events", "/policies", "/settings", "/settings/links"];
const OF_A_USER = ["", "/connect", "/flows", "/edit", "/package", "/reset", "/delete"];

/// Every form, by the page that it is on.
const FORMS = [
  ["/add-user", "main form"],
  ["/add-policy", "main form"],
  ["/settings/links", "main form"],
  ["/settings", "form[action$='/settings/tokens']"],
  ["/settings", "form[action$='/settings/password']"],
  ["/sign-in", "form:has(input[type=password])"],
  ["/users", "form.filter"],
  ["/events", "form.filter"],
];
const FORMS_OF_A_USER = ["/edit", "/package"];

/// Sends a form with a text in every field that takes one, past what the browser itself would refuse.
async function filled(page, [path, form], text) {
  await page.goto(base + path);
  const sent = page.waitForEvent("load");
  const count = await page.locator(form).first().evaluate((form, text) => {
    const fields = form.querySelectorAll("textarea, " +
      ["text", "email", "url", "search", "password"].map((kind) => `input[type=${kind}]`).join());
    for (const field of fields) {
      field.removeAttribute("maxlength");
      field.value = text;
    }
    form.noValidate = true;
    form.requestSubmit();
    return fields.length;
  }, text);
  await sent;
  return count;
}

await main(async (browser, report) => {
  for (const [lang, phone] of [["en", false], ["zh-CN", true]]) {
    const context = await visitor(browser, { lang, phone });
    await context.addInitScript(() => (window.hit = () => window.__broken.push("a text was run")));
    const page = await watched(context, [403, 404, 412, 422]);
    const look = async (what, axe) => report(`${what} ${lang}`, await faults(page, { phone, axe }));
    await signIn(page, base);
    for (const path of PAGES) {
      await page.goto(base + path);
      await look(path, true);
    }
    const banners = await page.locator(".notice.warn[role=status]").allTextContents();
    if (banners.length !== 12) report(`banners ${lang}`, [`${banners.length} of 12`]);
    const chinese = banners.filter((it) => /[\u4e00-\u9fff]/.test(it)).length;
    if (lang === "zh-CN" && chinese !== 12) report("banners", [`${chinese} of 12 in Chinese`]);
    for (const [number, name] of names.entries()) {
      for (const part of OF_A_USER) {
        await page.goto(`${base}/users/${encodeURIComponent(name)}${part}`);
        // Each page once; what the names do to it is alike.
        await look(`${part} of user ${number}`, number === 0);
      }
      for (const path of [`/users?q=${encodeURIComponent(name)}`, `/events?user=${encodeURIComponent(name)}`]) {
        await page.goto(base + path);
        await look(`${path}`, false);
      }
      // As it is typed, by somebody who is in.
      await page.goto(`${base}/add-policy`);
      await page.locator("#name").fill(`p${number} ${name}`);
      await page.locator("main form .actions button").first().click();
      await look(`policy ${number}`, false);
      await page.goto(`${base}/add-user`);
      await page.locator("#name").fill(name);
      await page.locator("#note").fill(name);
      await page.locator("#quota").fill(name);
      await page.locator("main form .actions button").first().click();
      await look(`typed ${number}`, false);
      await page.goto(`${base}/settings`);
      await page.locator("form[action$='/settings/tokens'] input[name=name]").fill(name);
      await page.locator("form[action$='/settings/tokens'] button").click();
      await look(`token ${number}`, false);
      // What is kept, beside a value that is taken.
      const kept = [["/users/plain/package", { size: "1 GiB", note: name }], ["/settings/links", { title: name }]];
      for (const [path, fields] of kept) {
        await page.goto(base + path);
        for (const [field, text] of Object.entries(fields)) await page.locator(`#${field}`).fill(text);
        await page.locator("main form .actions button").first().click();
        await page.locator(".notice.ok").waitFor();
        await look(`kept ${path} ${number}`, false);
      }
      await page.goto(base + pages[number]);
      await look(`own page ${number}`, number === 0);
      if (phone || number > 2) continue;
      const own = `/users/${encodeURIComponent(name)}`;
      for (const form of [...FORMS, ...FORMS_OF_A_USER.map((it) => [own + it, "main form"])]) {
        if ((await filled(page, form, name)) === 0) report(form.join(), ["no field takes a text"]);
        await look(`filled ${form}`, false);
      }
    }
    await page.goto(`${base}/policies`);
    await look("policies with names", true);
    await page.goto(`${base}/settings`);
    await look("tokens with names", true);
    await context.close();
  }
});
