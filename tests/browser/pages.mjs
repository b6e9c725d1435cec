// What there is to be seen in the panel over the demonstration's data.

export const user = "alice";
const limited = encodeURIComponent("韩梅梅");

/// Name and address of every page.
export const PAGES = [
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
  ["settings-totp", "/settings/totp"],
];
