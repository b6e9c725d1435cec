//! Made-up ways in: servers that do not exist, so that links and pages can be tried. The secrets of
//! subscriptions follow from the users, so that a link to the demonstration stays right.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{ToSpan, Zoned};
use sha2::{Digest, Sha256};

use super::data::MIB;
use crate::{
    api::{
        error::ApiError,
        notes::Note,
        sharing::{
            Basis, Day, Profile, Server, ServerTls, Sharing, SharingChange, SharingShow, Subscription,
            UserCredentials,
        },
        types::{Meter, Schema, Time, User},
    },
    locale::Lang,
    share,
};

fn demonstration() -> Note {
    Note::new("demonstration", [])
}

/// Days that the page shows.
const DAYS: i64 = 30;

/// Tag and type.
pub(super) type Inbound = (String, String);

/// What a user has in an inbound of a type; it follows from the user, so that it is the same each time.
pub(super) fn entry(user: &User, kind: &str) -> BTreeMap<String, String> {
    let id = user.id.as_deref().unwrap_or(&user.name);
    let seed = Sha256::digest(format!("password {id}"));
    let name = ("name".to_owned(), user.name.clone());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&seed[..16]);
    let secret = match kind {
        "vless" => ("uuid".to_owned(), uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()),
        _ => ("password".to_owned(), URL_SAFE_NO_PAD.encode(&seed[..18])),
    };
    [name, secret].into()
}

/// Settings, and how often each user's secret was changed.
#[derive(Default)]
pub(super) struct Shared {
    pub sharing: Sharing,
    turns: BTreeMap<String, u32>,
}

impl Shared {
    fn token(&self, user: &User) -> String {
        let id = user.id.as_deref().unwrap_or(&user.name);
        let turn = self.turns.get(id).copied().unwrap_or_default();
        URL_SAFE_NO_PAD.encode(Sha256::digest(format!("demonstration {id} {turn}")))
    }

    pub fn rotate(&mut self, user: &User) {
        let id = user.id.clone().unwrap_or_else(|| user.name.clone());
        *self.turns.entry(id).or_default() += 1;
    }

    pub fn credentials(&self, user: &User, inbounds: &[Inbound], rev: u64) -> UserCredentials {
        let token = self.token(user);
        UserCredentials {
            schema: Schema,
            user: user.name.clone(),
            path: format!("/s/{token}"),
            token,
            url: None,
            servers: share::with_links(&self.servers(user, inbounds)),
            notes: demonstration().sentence(Lang::En).into_iter().collect(),
            notices: vec![demonstration()],
            rev,
        }
    }

    pub fn show(&self, rev: u64) -> SharingShow {
        SharingShow {
            schema: Schema,
            sharing: self.sharing.clone(),
            found_address: Some("demo.invalid".to_owned()),
            public_url: None,
            rev,
        }
    }

    pub fn change(&mut self, change: &SharingChange) -> Result<(), ApiError> {
        self.sharing = self.sharing.changed(change)?;
        Ok(())
    }

    fn servers(&self, user: &User, inbounds: &[Inbound]) -> Vec<Server> {
        let server = |inbound: &String| {
            let said = self.sharing.inbounds.get(inbound).cloned().unwrap_or_default();
            let address = said.address.or(self.sharing.address.clone());
            let kind = inbounds.iter().find(|(tag, _)| tag == inbound).map_or("trojan", |(_, kind)| kind);
            let server = Server {
                inbound: inbound.clone(),
                kind: kind.to_owned(),
                address: address.unwrap_or_else(|| "demo.invalid".to_owned()),
                port: said.port.unwrap_or(443),
                entry: entry(user, kind),
                method: None,
                server_key: None,
                tls: Some(ServerTls {
                    server_name: said.server_name.or_else(|| Some("demo.invalid".to_owned())),
                    insecure: said.insecure.unwrap_or_default(),
                    ..ServerTls::default()
                }),
                transport: None,
                network: None,
                obfs: None,
                up_mbps: None,
                down_mbps: None,
                inner: None,
            };
            (!said.hidden).then_some(server)
        };
        user.inbounds.iter().filter_map(server).collect()
    }

    pub fn subscription(
        &self,
        now: &Zoned,
        users: &[User],
        inbounds: &[Inbound],
        token: &str,
    ) -> Result<Subscription, ApiError> {
        let found = users.iter().find(|user| self.token(user) == token);
        let user = found.ok_or_else(ApiError::no_such_subscription)?;
        let (upload, download) = user.traffic.by(Meter::Payload);
        let all = upload.saturating_add(download).max(1);
        let part = |bytes: u64| u128::from(user.period.used_bytes) * u128::from(bytes) / u128::from(all);
        let upload_bytes = u64::try_from(part(upload)).unwrap_or(u64::MAX);
        Ok(Subscription {
            schema: Schema,
            user: user.name.clone(),
            state: user.state,
            reason: user.reason.clone(),
            cause: user.cause.clone(),
            meter: Meter::Payload,
            basis: Basis::Period,
            upload_bytes,
            download_bytes: user.period.used_bytes - upload_bytes,
            total_bytes: user.period.quota_bytes.map(|quota| quota + user.packages.remaining_bytes),
            period: user.period.clone(),
            total: user.total,
            packages: user.packages,
            speed: user.speed_now(),
            expires_at: user.expires_at,
            last_seen_at: user.last_seen_at,
            time_zone: user.time_zone.clone(),
            days: days(now, user),
            profile: Profile {
                title: self.sharing.title.clone().unwrap_or_else(|| user.name.clone()),
                update_hours: self.sharing.update_hours,
                support_url: self.sharing.support_url.clone(),
                url: None,
            },
            servers: self.servers(user, inbounds),
            as_of: Time::from(now),
        })
    }
}

/// Weeks with their ups and downs, in proportion to what the user used.
fn days(now: &Zoned, user: &User) -> Vec<Day> {
    let unit = user.period.used_bytes.max(MIB) / 60;
    let day = |ago: i64| {
        let start = now.start_of_day().ok()?.checked_sub(ago.days()).ok()?;
        let height = [3, 5, 4, 8, 2, 1, 6][usize::try_from(ago.rem_euclid(7)).unwrap_or(0)];
        Some(Day {
            start: Time::from(&start),
            upload_bytes: unit * height / 8,
            download_bytes: unit * height,
        })
    };
    (0..DAYS).rev().filter_map(day).collect()
}
