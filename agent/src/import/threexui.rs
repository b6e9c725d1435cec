//! Clients of 3x-ui: they are in the JSON of each inbound's settings, their traffic in a table beside.

use std::collections::{BTreeMap, BTreeSet};

use boxmeter_web::api::terms::{PERIOD_DAYS_MAX, PeriodKind};
use serde_json::{Map, Value};

use super::{
    Findings, ForeignInbound, ImportedCredentials, ImportedUser, UsedIn,
    panel::{self, Client, DAY_MS, Row, Rows, text, truth, whole},
    quoted, xray,
};

type Object = Map<String, Value>;

/// Clients by e-mail, which is only a name there, with their place in the file.
type People = BTreeMap<String, (ImportedUser, usize)>;

pub fn read(rows: &Rows, now_ms: i64, findings: &mut Findings) -> (Vec<ImportedUser>, Vec<ForeignInbound>) {
    let mut traffics: BTreeMap<&str, &Row> = BTreeMap::new();
    for row in &rows.people {
        traffics.entry(row.text("email")).or_insert(row);
    }
    let mut linked = linked(rows);
    let (mut people, mut inbounds) = (People::new(), Vec::new());
    for row in &rows.inbounds {
        let linked = whole(row.get("id")).ok().and_then(|id| linked.remove(&id)).unwrap_or_default();
        let Some((inbound, clients)) = inbound(row, linked, findings) else { continue };
        let mut here = Reader { row, inbound: &inbound, traffics: &traffics, now_ms, people: &mut people };
        clients.iter().for_each(|client| here.client(client, findings));
        inbounds.push(inbound);
    }
    let strangers =
        traffics.keys().filter(|email| !email.is_empty() && !people.contains_key(**email)).count();
    if strangers > 0 {
        findings
            .add(format!("there is traffic of {strangers} clients who are on no inbound: it was left out"));
    }
    let mut users: Vec<(ImportedUser, usize)> = people.into_values().collect();
    users.sort_by_key(|(_, order)| *order);
    (users.into_iter().map(|(user, _)| user).collect(), inbounds)
}

/// Clients of the tables beside, by the number of the inbound, as the inbounds themselves have them.
fn linked(rows: &Rows) -> BTreeMap<i64, Vec<Value>> {
    const NAMES: [(&str, &str); 14] = [
        ("email", "email"),
        ("uuid", "id"),
        ("password", "password"),
        ("auth", "auth"),
        ("flow", "flow"),
        ("limit_ip", "limitIp"),
        ("total_gb", "totalGB"),
        ("expiry_time", "expiryTime"),
        ("enable", "enable"),
        ("reset", "reset"),
        ("reset_day", "resetDay"),
        ("reset_weekday", "resetWeekday"),
        ("reset_max", "resetMax"),
        ("comment", "comment"),
    ];
    let clients: BTreeMap<i64, &Row> =
        rows.clients.iter().filter_map(|row| Some((whole(row.get("id")).ok()?, row))).collect();
    let mut linked: BTreeMap<i64, Vec<Value>> = BTreeMap::new();
    for row in &rows.links {
        let (Ok(client), Ok(inbound)) = (whole(row.get("client_id")), whole(row.get("inbound_id"))) else {
            continue;
        };
        let Some(client) = clients.get(&client) else { continue };
        let value = |(column, key): &(&str, &str)| Some(((*key).to_owned(), client.get(column)?.clone()));
        linked.entry(inbound).or_default().push(Value::Object(NAMES.iter().filter_map(value).collect()));
    }
    linked
}

/// An inbound and its clients; `None` without clients. What the inbound itself has of a client is what its
/// proxy runs with.
fn inbound(row: &Row, linked: Vec<Value>, findings: &mut Findings) -> Option<(ForeignInbound, Vec<Value>)> {
    let port = panel::port(row.get("port"));
    let tag = match (row.text("tag"), port) {
        ("", port) => format!("inbound-{}", port.unwrap_or_default()),
        (tag, _) => tag.to_owned(),
    };
    let shown = quoted(&tag);
    let Some(Value::Object(mut settings)) = row.json("settings") else {
        findings.add(format!("inbound {shown}: its settings are no JSON object; its clients were left out"));
        return None;
    };
    let mut clients = match settings.remove("clients") {
        Some(Value::Array(clients)) => clients,
        None | Some(Value::Null) => Vec::new(),
        Some(_) => {
            findings.add(format!("inbound {shown}: its clients are no list; they were left out"));
            return None;
        }
    };
    let email = |client: &Value| text(client.get("email"));
    let known: BTreeSet<String> = clients.iter().filter_map(email).collect();
    clients.extend(linked.into_iter().filter(|client| email(client).is_some_and(|it| !known.contains(&it))));
    if clients.is_empty() {
        let logins = settings.get("accounts").and_then(Value::as_array).map_or(0, Vec::len);
        if logins > 0 {
            findings.add(format!(
                "inbound {shown}: {logins} logins that the panel does not count were left out; add them by hand"
            ));
        }
        return None;
    }
    if whole(row.get("total")).is_ok_and(|total| total > 0)
        || whole(row.get("expiry_time")).is_ok_and(|at| at > 0)
    {
        findings.add(format!("inbound {shown}: the limit of the inbound itself was not taken over"));
    }
    let protocol = row.text("protocol").to_ascii_lowercase();
    let stream = row.json("stream_settings");
    let kind = xray::kind(&protocol, &settings, stream.as_ref());
    let inbound = match kind {
        None => panel::no_inbound(&tag, &protocol, "sing-box has no such inbound with users"),
        Some(kind) if row.get("node_id").is_some() => {
            panel::no_inbound(&tag, kind, "it is on another machine of the panel")
        }
        Some(kind) if truth(row.get("enable")) == Some(false) => {
            panel::no_inbound(&tag, kind, "it is switched off")
        }
        Some(kind) => {
            let snippet = xray::snippet(kind, (&tag, row.text("listen"), port), &settings, stream.as_ref());
            if let Err(why) = &snippet {
                findings.add(format!("inbound {shown}: {why}"));
            }
            ForeignInbound { tag, kind: kind.to_owned(), port, snippet: snippet.ok(), why_not: None }
        }
    };
    Some((inbound, clients))
}

struct Reader<'a> {
    row: &'a Row,
    inbound: &'a ForeignInbound,
    traffics: &'a BTreeMap<&'a str, &'a Row>,
    now_ms: i64,
    people: &'a mut People,
}

impl Reader<'_> {
    fn client(&mut self, client: &Value, findings: &mut Findings) {
        let shown = quoted(&self.inbound.tag);
        let Value::Object(client) = client else {
            return findings.add(format!("inbound {shown}: a client that is no object was left out"));
        };
        let Some(email) = text(client.get("email")) else {
            return findings.add(format!("inbound {shown}: a client without an e-mail was left out"));
        };
        let word = |key| text(client.get(key));
        let found = ImportedCredentials {
            // One client may have a word for each kind of inbound, and Hysteria's is another than the password.
            password: match self.inbound.kind.starts_with("hysteria") {
                true => word("auth").or_else(|| word("password")),
                false => word("password"),
            },
            uuid: word("id"),
            flow: word("flow"),
        };
        let login = match panel::login(&self.inbound.kind, found) {
            Ok(login) => login,
            // Of an inbound that is not taken over nothing is needed.
            Err(_) if self.inbound.why_not.is_some() => ImportedCredentials::default(),
            Err(what) => {
                let name = quoted(&email);
                return findings
                    .add(format!("{name}: the client has {what} on the inbound {shown}; left out there"));
            }
        };
        let order = self.people.len();
        let Some(user) = self.user(&email, client, findings) else { return };
        let (known, _) = self.people.entry(email.clone()).or_insert((user.clone(), order));
        if known.inbounds.contains(&self.inbound.tag) {
            return findings.add(format!(
                "{}: the client is twice on the inbound {shown}; the first one was taken",
                quoted(&email)
            ));
        }
        let same = |a: &ImportedUser, b: &ImportedUser| {
            (a.quota_bytes, a.total_quota_bytes, a.expires_ms, a.valid_days, a.status)
                == (b.quota_bytes, b.total_quota_bytes, b.expires_ms, b.valid_days, b.status)
        };
        if !same(known, &user) {
            findings.add(format!(
                "{}: other limits on the inbound {shown} than on the one before; those were taken",
                quoted(&email)
            ));
        }
        known.credentials.password = known.credentials.password.take().or_else(|| login.password.clone());
        known.credentials.uuid = known.credentials.uuid.take().or_else(|| login.uuid.clone());
        known.inbounds.push(self.inbound.tag.clone());
        known.logins.insert(self.inbound.tag.clone(), login);
    }

    /// What a client may and has used; `None` is told.
    fn user(&self, email: &str, client: &Object, findings: &mut Findings) -> Option<ImportedUser> {
        let known = self.people.contains_key(email);
        // Told once, by the first inbound.
        let mut unheard = Findings::default();
        let mut it = Client::new(email.to_owned(), if known { &mut unheard } else { findings });
        let total = it.number("totalGB", client.get("totalGB"))?;
        let expiry_ms = it.number("expiryTime", client.get("expiryTime"))?;
        let addresses = it.number("limitIp", client.get("limitIp"))?;
        let renewal = Renewal {
            days: it.number("reset", client.get("reset"))?,
            day: it.number("resetDay", client.get("resetDay"))?,
            weekday: it.number("resetWeekday", client.get("resetWeekday"))?,
            times: it.number("resetMax", client.get("resetMax"))?,
        };
        // Bytes, whatever it is called.
        let quota = it.limit("the limit totalGB", total);
        it.user.max_addresses = Some(u32::try_from(addresses).ok().filter(|count| *count > 0));
        it.user.note = text(client.get("comment"));
        it.user.created_ms = whole(client.get("created_at")).ok().filter(|at| *at > 0);
        let traffic = self.traffics.get(email);
        let first_use_ms = traffic.and_then(|row| whole(row.get("expiry_time")).ok()).unwrap_or_default();
        // The table knows of the first use a moment before the settings.
        let expiry_ms = if expiry_ms < 0 && first_use_ms > 0 { first_use_ms } else { expiry_ms };
        self.period(&mut it, &renewal, expiry_ms);
        match it.user.period {
            Some(_) => (it.user.quota_bytes, it.user.total_quota_bytes) = (Some(quota), Some(None)),
            None => (it.user.quota_bytes, it.user.total_quota_bytes) = (Some(None), Some(quota)),
        }
        let used = traffic.map_or(0, |row| it.used(UsedIn::Now, [row.get("up"), row.get("down")]));
        let on = truth(client.get("enable")) != Some(false)
            && traffic.is_none_or(|row| truth(row.get("enable")) != Some(false));
        it.judge(on, quota, used, self.now_ms);
        Some(it.user)
    }

    /// When the panel sets the traffic back, and when it is over.
    fn period(&self, it: &mut Client<'_>, renewal: &Renewal, expiry_ms: i64) {
        let renews = renewal.kind();
        if let (Some((kind, reset_day)), true) = (renews, expiry_ms > 0) {
            it.user.period = Some(kind);
            it.user.reset_day = reset_day;
            if let PeriodKind::Days(days) = kind {
                it.user.created_ms = Some(panel::counted_from(expiry_ms, days, self.now_ms));
            }
            if renewal.times > 0 {
                it.user.expires_ms = Some(expiry_ms);
                it.tell(
                    "it was to be renewed a limited number of times; here it expires when it would be renewed next: \
                     `boxmeter users set --expires` says otherwise",
                );
            }
            return;
        }
        match expiry_ms {
            0 => {}
            1.. => it.user.expires_ms = Some(expiry_ms),
            // Up: a day that has begun is had.
            _ => it.valid(expiry_ms.saturating_neg().saturating_add(DAY_MS - 1) / DAY_MS),
        }
        if let Some((PeriodKind::Days(days), _)) = renews.filter(|_| expiry_ms < 0) {
            it.user.valid_days = None;
            it.user.period = Some(PeriodKind::Days(days));
            it.tell(format!(
                "its periods of {days} days were to begin with the first use; here they begin today"
            ));
            return;
        }
        match self.row.text("traffic_reset") {
            "daily" => it.user.period = Some(PeriodKind::Day),
            "weekly" => (it.user.period, it.user.reset_day) = (Some(PeriodKind::Week), Some(7)),
            "monthly" => (it.user.period, it.user.reset_day) = (Some(PeriodKind::Month), Some(1)),
            "hourly" => {
                it.tell("its traffic was set back every hour, which is not done here: it is a total quota")
            }
            _ => {}
        }
    }
}

/// How a client is renewed when its date comes.
struct Renewal {
    days: i64,
    day: i64,
    weekday: i64,
    times: i64,
}

impl Renewal {
    fn kind(&self) -> Option<(PeriodKind, Option<u8>)> {
        let within = |value: i64, max: u8| u8::try_from(value).ok().filter(|it| (1..=max).contains(it));
        if let Some(day) = within(self.day, 31) {
            return Some((PeriodKind::Month, Some(day)));
        }
        if let Some(weekday) = within(self.weekday, 7) {
            return Some((PeriodKind::Week, Some(weekday)));
        }
        let days = u16::try_from(self.days).ok().filter(|days| (1..=PERIOD_DAYS_MAX).contains(days))?;
        Some((PeriodKind::Days(days), None))
    }
}
