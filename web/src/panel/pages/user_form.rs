//! What adding and editing a user have in common: the fields beside the terms, and the choices.

use jiff::Zoned;

use super::{
    Visit,
    form::{Fields, Form},
    frame::Frame,
    terms_form,
    terms_values::{expiry, moment_field},
    user_list::policy_names,
    view::{Choice, short},
};
use crate::{
    api::types::{Overrides, Policy, Time, User},
    backend::ApiError,
    locale::Lang,
};

/// The fields beside [`terms_form::FIELDS`].
pub const FIELDS: &[&str] = &["name", "policy", "email", "note", "expires", "once", "rev", "before"];

pub fn all_fields() -> Vec<&'static str> {
    FIELDS.iter().chain(terms_form::FIELDS).copied().collect()
}

/// What was typed.
pub struct Typed {
    pub policy: Option<String>,
    pub terms: Overrides,
    pub email: Option<String>,
    pub note: Option<String>,
    pub expires_at: Option<Time>,
    pub inbounds: Vec<String>,
}

/// Reads what both forms have; mistakes go to their fields. An expiry that was there and stays may
/// lie in the past.
pub fn read(lang: Lang, form: &Form, before: Option<&User>, now: &Zoned, fields: &mut Fields) -> Typed {
    let own = before.map(|it| it.overrides.clone()).unwrap_or_default();
    let terms = terms_form::read(lang, form, &own, fields);
    let old = before.and_then(|it| it.expires_at.as_ref());
    let kept = !form.get("expires").is_empty() && form.get("expires") == moment_field(old, now);
    let expires_at = if kept { old.copied() } else { expiry(lang, form.get("expires"), now, fields) };
    let text = |name: &str| form.some(name).map(|it| it.replace("\r\n", "\n"));
    let inbounds = form.all("inbound").into_iter().map(str::to_owned).collect();
    Typed { policy: text("policy"), terms, email: text("email"), note: text("note"), expires_at, inbounds }
}

/// IANA names that are often wanted.
pub const ZONES: &[&str] = &[
    "Asia/Shanghai",
    "Asia/Hong_Kong",
    "Asia/Singapore",
    "Asia/Tokyo",
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Los_Angeles",
    "UTC",
];

/// What the forms offer to choose from.
pub struct Choices {
    pub policies: Vec<Choice>,
    pub inbounds: Vec<Choice>,
    pub zones: Vec<&'static str>,
}

/// `chosen` are the inbounds that are marked; `None` marks those with users, as the agent would. Without a
/// policy, the agent's default stands first.
pub async fn choices(visit: &Visit, policy: &str, chosen: Option<&[String]>) -> Result<Choices, ApiError> {
    let (names, status) = tokio::join!(policy_names(visit), visit.backend().status());
    let (names, status) = (names?, status?);
    let mut policies: Vec<Choice> = names.iter().map(|it| Choice::new(it, short(it), it == policy)).collect();
    if policy.is_empty() {
        policies.insert(0, Choice::new("", visit.lang.text("panel.form.default_policy"), true));
    }
    let mut inbounds: Vec<Choice> = Vec::new();
    for it in &status.inbounds {
        // One inbound may listen on several ports.
        if inbounds.iter().any(|had| had.value == it.tag) {
            continue;
        }
        let marked = match chosen {
            Some(tags) => tags.contains(&it.tag),
            None => it.users > 0,
        };
        inbounds.push(Choice::new(&it.tag, format!("{} · {} {}", short(&it.tag), it.kind, it.port), marked));
    }
    Ok(Choices { policies, inbounds, zones: ZONES.to_vec() })
}

/// What a policy says, for the hints of empty fields.
pub fn policy_hint(f: &Frame, policy: &Policy) -> Fields {
    let mut hints = Fields::default();
    terms_form::fill(&mut hints, &terms_form::of_terms(&policy.terms));
    let none = f.t("panel.form.no_limit");
    for name in ["quota", "total_quota", "speed_up", "speed_down", "max_flows", "max_addresses", "valid_days"]
    {
        if hints.v(name).is_empty() {
            hints.set(name, none);
        }
    }
    hints
}
