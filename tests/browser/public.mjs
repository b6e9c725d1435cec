// The page of a subscription, in every language, theme and size; and what a stranger sees.

import { faults, landmarks, main, visitor, watched } from "./lib.mjs";

const [secret, strange] = [process.env.PAGE_SECRET, process.env.PAGE_STRANGE];

await main(async (browser, report) => {
  for (const lang of ["en", "zh-CN"]) {
    for (const theme of ["light", "dark"]) {
      for (const phone of [false, true]) {
        const context = await visitor(browser, { lang, theme, phone });
        const name = `public ${lang} ${theme} ${phone ? "phone" : "desktop"}`;
        const page = await watched(context, [404]);
        await page.goto(secret);
        for (const summary of await page.locator("summary").all()) await summary.click();
        report(name, await faults(page, { phone }));
        if (theme === "light") report(name, await landmarks(page, `public.${lang}`, { phone }));
        if ((await context.cookies()).length) report(name, ["a cookie was set"]);
        await page.goto(strange);
        report(`${name} of a stranger`, await faults(page, { phone }));
        await context.close();
      }
    }
  }
});
