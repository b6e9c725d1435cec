//! `/policies`: the plans, what each allows and how many have it.

use askama::Template;
use axum::extract::State;

use super::{
    Shared, Visit,
    frame::{Answer, Frame, render},
    view::{segment, shown},
};
use crate::{
    api::{query::Page as Cursor, types::Policy},
    units::{Rate, Size},
    wording,
};

#[derive(Template)]
#[template(path = "policy_list.html")]
struct Page {
    f: Frame,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    address: String,
    users_address: String,
    users: u64,
    quota: String,
    period: String,
    over: String,
    speed: String,
    addresses: String,
    /// Stays as it is: the policy without limits.
    fixed: bool,
}

pub async fn show(State(pages): State<Shared>, visit: Visit) -> Answer {
    let title = visit.lang.text("panel.nav.policies").to_owned();
    let (f, list) = tokio::join!(
        Frame::load(&pages, &visit, "policies", title),
        visit.backend().policies(Cursor::default()),
    );
    let rows = list?.policies.iter().map(|it| row(&f, it)).collect();
    render(&Page { f, rows })
}

fn row(f: &Frame, policy: &Policy) -> Row {
    let none = || f.t("panel.form.no_limit").to_owned();
    let rate = |value: Option<u64>| value.map_or_else(none, |it| Rate(it).to_string());
    let terms = &policy.terms;
    Row {
        name: shown(&policy.name),
        address: format!("{}/policies/{}", f.base, segment(&policy.name)),
        users_address: format!("{}/users?policy={}", f.base, segment(&policy.name)),
        users: policy.users,
        quota: terms.quota_bytes.map_or_else(none, |it| Size(it).to_string()),
        period: wording::period(f.lang, terms),
        over: if terms.quota_bytes.is_some() {
            wording::ladder(f.lang, &terms.over_quota)
        } else {
            String::new()
        },
        speed: match (terms.speed_down, terms.speed_up) {
            (None, None) => none(),
            (down, up) => format!("↓ {}  ↑ {}", rate(down), rate(up)),
        },
        addresses: terms.max_addresses.map_or_else(none, |it| it.to_string()),
        fixed: policy.name == super::policy_save::FIXED,
    }
}
