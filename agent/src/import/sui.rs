//! Clients of S-UI: a table of its own, with a login per type of inbound. Its inbounds are sing-box's.

use std::collections::BTreeMap;

use boxmeter_web::api::terms::{PERIOD_DAYS_MAX, PeriodKind};
use serde_json::{Map, Value};

use super::{
    Findings, ForeignInbound, ImportedCredentials, ImportedUser, UsedIn,
    panel::{self, Client, Row, Rows, text, truth, whole},
    quoted,
};
use crate::singbox::config::{carries_users, name_key};

const SECOND_MS: i64 = 1_000;

type Object = Map<String, Value>;

/// An inbound, and what is looked up in a client for it.
struct Listener {
    inbound: ForeignInbound,
    login: String,
}

pub fn read(rows: &Rows, now_ms: i64, findings: &mut Findings) -> (Vec<ImportedUser>, Vec<ForeignInbound>) {
    let mut listeners: BTreeMap<i64, Listener> = BTreeMap::new();
    for row in &rows.inbounds {
        let (Ok(id), tag) = (whole(row.get("id")), row.text("tag")) else { continue };
        listeners.insert(id, listener(row, tag, &rows.tls, findings));
    }
    let mut users: BTreeMap<String, (ImportedUser, usize)> = BTreeMap::new();
    for (order, row) in rows.people.iter().enumerate() {
        let name = row.text("name");
        if name.is_empty() {
            findings.add(format!("client {} has no name and was left out", order + 1));
        } else if users.contains_key(name) {
            findings.add(format!("{}: the name is there twice; the first one was taken", quoted(name)));
        } else if let Some(user) = client(row, name, &listeners, now_ms, findings) {
            users.insert(name.to_owned(), (user, order));
        }
    }
    let mut users: Vec<(ImportedUser, usize)> = users.into_values().collect();
    users.sort_by_key(|(_, order)| *order);
    let users: Vec<ImportedUser> = users.into_iter().map(|(user, _)| user).collect();
    let taken = |inbound: &ForeignInbound| users.iter().any(|user| user.inbounds.contains(&inbound.tag));
    let inbounds = listeners.into_values().map(|listener| listener.inbound).filter(taken).collect();
    (users, inbounds)
}

fn listener(row: &Row, tag: &str, tls: &[Row], findings: &mut Findings) -> Listener {
    let kind = row.text("type").to_ascii_lowercase();
    let Some(Value::Object(options)) = row.json("options") else {
        findings.add(format!("inbound {}: its options are no JSON object", quoted(tag)));
        return Listener { inbound: panel::no_inbound(tag, &kind, "its options are no JSON"), login: kind };
    };
    let method = options.get("method").and_then(Value::as_str).unwrap_or_default();
    // The panel keeps two keys of different lengths for shadowsocks.
    let login = match method {
        "2022-blake3-aes-128-gcm" if kind == "shadowsocks" => "shadowsocks16".to_owned(),
        _ => kind.clone(),
    };
    if !carries_users(&kind) {
        let why = "sing-box has no such inbound with users";
        return Listener { inbound: panel::no_inbound(tag, &kind, why), login };
    }
    if row.get("node_id").is_some() {
        let why = "it is on another machine of the panel";
        return Listener { inbound: panel::no_inbound(tag, &kind, why), login };
    }
    let port = panel::port(options.get("listen_port"));
    let snippet = snippet(row, (tag, &kind), options, tls);
    if snippet.is_none() {
        findings.add(format!("inbound {}: its TLS settings cannot be read", quoted(tag)));
    }
    let inbound = ForeignInbound { tag: tag.to_owned(), kind, port, snippet, why_not: None };
    Listener { inbound, login }
}

fn snippet(row: &Row, (tag, kind): (&str, &str), options: Object, tls: &[Row]) -> Option<Value> {
    let mut inbound = Object::new();
    inbound.insert("type".to_owned(), kind.into());
    inbound.insert("tag".to_owned(), tag.into());
    inbound.extend(options.into_iter().filter(|(key, _)| key != "type" && key != "tag"));
    let tls_id = whole(row.get("tls_id")).unwrap_or_default();
    if tls_id > 0 {
        let row = tls.iter().find(|row| whole(row.get("id")).is_ok_and(|id| id == tls_id))?;
        let Some(Value::Object(server)) = row.json("server") else { return None };
        inbound.insert("tls".to_owned(), Value::Object(server));
    }
    Some(panel::with_nobody(inbound))
}

fn client(
    row: &Row,
    name: &str,
    listeners: &BTreeMap<i64, Listener>,
    now_ms: i64,
    findings: &mut Findings,
) -> Option<ImportedUser> {
    let mut it = Client::new(name.to_owned(), findings);
    let volume = it.number("volume", row.get("volume"))?;
    let expiry_s = it.number("expiry", row.get("expiry"))?;
    let reset_days = it.number("reset_days", row.get("reset_days"))?;
    let next_s = it.number("next_reset", row.get("next_reset"))?;
    let ids = match row.json("inbounds") {
        Some(Value::Array(ids)) => ids,
        _ => {
            it.tell("its inbounds are no list; the client was left out");
            return None;
        }
    };
    let Some(Value::Object(config)) = row.json("config") else {
        it.tell("its logins are no JSON object; the client was left out");
        return None;
    };
    let quota = it.limit("the volume", volume);
    it.user.note = text(row.get("desc")).or_else(|| text(row.get("remark")));
    it.user.created_ms = seconds(whole(row.get("created_at")).unwrap_or_default());
    it.user.expires_ms = seconds(expiry_s);
    let used = it.used(UsedIn::Now, [row.get("up"), row.get("down")]);
    let waits = truth(row.get("delay_start")) == Some(true) && used == 0;
    let days = u16::try_from(reset_days).ok().filter(|days| (1..=PERIOD_DAYS_MAX).contains(days));
    match days.filter(|_| truth(row.get("auto_reset")) == Some(true)) {
        Some(days) => {
            it.user.period = Some(PeriodKind::Days(days));
            it.used(UsedIn::Earlier, [row.get("total_up"), row.get("total_down")]);
            if let Some(next_ms) = seconds(next_s).filter(|_| !waits) {
                it.user.created_ms = Some(panel::counted_from(next_ms, days, now_ms));
            }
            (it.user.quota_bytes, it.user.total_quota_bytes) = (Some(quota), Some(None));
        }
        None => {
            if waits && reset_days > 0 {
                it.user.expires_ms = None;
                it.valid(reset_days);
            }
            (it.user.quota_bytes, it.user.total_quota_bytes) = (Some(None), Some(quota));
        }
    }
    it.judge(truth(row.get("enable")) == Some(true), quota, used, now_ms);
    for id in &ids {
        match whole(Some(id)).ok().and_then(|id| listeners.get(&id)) {
            Some(listener) => on(&mut it, listener, &config),
            None => it.tell("one of its inbounds is not in the file"),
        }
    }
    if it.user.inbounds.is_empty() {
        it.tell("on no inbound; the client was left out");
        return None;
    }
    Some(it.user)
}

fn seconds(at: i64) -> Option<i64> {
    (at > 0).then(|| at.saturating_mul(SECOND_MS))
}

/// Notes the login of one inbound.
fn on(it: &mut Client<'_>, listener: &Listener, config: &Object) {
    let inbound = &listener.inbound;
    if it.user.inbounds.contains(&inbound.tag) {
        return;
    }
    let own = config.get(&listener.login);
    let word = |key: &str| text(own.and_then(|own| own.get(key)));
    let password = ["password", "auth_str", "userkey"].iter().find_map(|key| word(key));
    let found = ImportedCredentials { password, uuid: word("uuid"), flow: word("flow") };
    let login = match panel::login(&inbound.kind, found) {
        Ok(login) => login,
        Err(_) if inbound.why_not.is_some() => ImportedCredentials::default(),
        Err(what) => {
            return it.tell(format!(
                "the client has {what} on the inbound {}; left out there",
                quoted(&inbound.tag)
            ));
        }
    };
    if let Some(other) = word("username").filter(|other| {
        name_key(&inbound.kind) == "username" && inbound.why_not.is_none() && *other != it.user.name
    }) {
        it.tell(format!(
            "on the inbound {} the client logs in as {}; here everybody logs in by the user's name",
            quoted(&inbound.tag),
            quoted(&other)
        ));
    }
    it.user.credentials.password = it.user.credentials.password.take().or_else(|| login.password.clone());
    it.user.credentials.uuid = it.user.credentials.uuid.take().or_else(|| login.uuid.clone());
    it.user.inbounds.push(inbound.tag.clone());
    it.user.logins.insert(inbound.tag.clone(), login);
}
