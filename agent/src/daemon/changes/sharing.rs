//! Ways in: links, subscriptions, and the settings of both. Credentials are read from sing-box's files
//! each time, and kept nowhere else; what is parked of a user who is cut counts as in the file.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use boxmeter_web::{
    api::{
        notes::Note,
        order::Envelope,
        query::{By, UsageQuery},
        sharing::{
            Basis, Day, Profile, Server, ServerTls, Sharing, SharingChange, SharingShow, Subscription,
            UserCredentials,
        },
        types::{Meter, Schema, Time, User},
    },
    backend::ApiError,
    locale::Lang,
    share::{self, reach::Reach},
};
use jiff::{ToSpan, Zoned, tz::TimeZone};
use rand::RngExt as _;

use super::{asked, refused, signed};
use crate::{
    clock,
    daemon::{answers, answers::unsigned, backend::Answerer},
    ledger::{SharingRecord, Used, UserRecord},
    singbox::servers::Found,
};

/// Random bytes of a subscription's secret.
const SECRET_BYTES: usize = 32;

/// Days that a user's page shows.
const DAYS: i64 = 30;

/// Any public address does: only the route to it is asked for, nothing is sent.
const SOMEWHERE: [(&str, &str); 2] = [("0.0.0.0:0", "1.1.1.1:53"), ("[::]:0", "[2606:4700:4700::1111]:53")];

fn secret() -> String {
    let bytes: [u8; SECRET_BYTES] = rand::rng().random();
    URL_SAFE_NO_PAD.encode(bytes)
}

fn settings(record: &SharingRecord) -> Result<Sharing, ApiError> {
    match &record.settings {
        None => Ok(Sharing::default()),
        Some(kept) => serde_json::from_value(kept.clone()).map_err(ApiError::internal),
    }
}

/// Where clients find the machine if nobody says it: by the panel's public address, or by the machine's
/// own, if that is one of the public network.
fn found_address(public_url: &str) -> Option<String> {
    public_host(public_url).or_else(own_address)
}

fn public_host(public_url: &str) -> Option<String> {
    let uri: http::Uri = public_url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    // A name of the own network was chosen by somebody; an address of it may be anything's.
    let least = if host.parse::<IpAddr>().is_ok() { Reach::Everywhere } else { Reach::Network };
    (Reach::of_host(host) >= least).then(|| host.to_owned())
}

fn own_address() -> Option<String> {
    SOMEWHERE.iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to.parse::<SocketAddr>().ok()?).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (Reach::of_address(address) == Reach::Everywhere).then(|| address.to_string())
    })
}

/// The servers as clients are told of them, and why some are missing.
fn told(found: Vec<Found>, sharing: &Sharing, address: Option<&str>) -> (Vec<Server>, Vec<Note>) {
    let (mut servers, mut notes) = (Vec::new(), Vec::new());
    for Found { mut server, local } in found {
        let tag = server.inbound.clone();
        let said = sharing.inbounds.get(&tag).cloned().unwrap_or_default();
        if said.hidden {
            continue;
        }
        let Some(address) = said.address.as_deref().or(sharing.address.as_deref()).or(address) else {
            notes.push(Note::new("no_address", []));
            break;
        };
        let loops = address == "localhost" || address.parse().is_ok_and(|it: IpAddr| it.is_loopback());
        if local && said.port.is_none() && !loops {
            notes.push(Note::new("inbound_on_loopback", [("inbound", &*tag)]));
            continue;
        }
        server.address = address.to_owned();
        server.port = said.port.unwrap_or(server.port);
        if server.port == 0 {
            notes.push(Note::new("inbound_no_port", [("inbound", &*tag)]));
            continue;
        }
        match said.tls {
            Some(true) => drop(server.tls.get_or_insert_with(ServerTls::default)),
            Some(false) => server.tls = None,
            None => {}
        }
        if let Some(tls) = &mut server.tls {
            tls.server_name = said.server_name.or(tls.server_name.take());
            tls.insecure = said.insecure.unwrap_or(tls.insecure);
        }
        servers.push(server);
    }
    (servers, notes)
}

/// Upload and download of what quotas are measured on.
fn directions(used: &Used, meter: Meter) -> (u64, u64) {
    let (upload, download) = answers::traffic(used.counted).by(meter);
    let [more_upload, more_download] = used.reported;
    (upload.saturating_add(more_upload), download.saturating_add(more_download))
}

/// How much there is in all: what packages still hold comes on top of the quota, or of what was used if
/// that is more.
fn whole(user: &User, used: u64) -> Option<u64> {
    let quota = user.period.quota_bytes?;
    Some(match user.packages.remaining_bytes {
        0 => quota,
        left => quota.max(used).saturating_add(left),
    })
}

impl Answerer {
    pub(in crate::daemon) async fn ways_in(&self, name: &str) -> Result<UserCredentials, ApiError> {
        let record = self.living(name).await?;
        let token = self.ledger.subscription_token(record.id, secret(), clock::wall_ms());
        let token = token.await.map_err(refused)?;
        let kept = self.read(|reader| reader.sharing()).await?;
        let found = self.hands.servers(name).await?;
        let (servers, notices) = told(found, &settings(&kept)?, found_address(&self.public_url).as_deref());
        Ok(UserCredentials {
            schema: Schema,
            user: name.to_owned(),
            path: format!("/s/{token}"),
            url: self.subscription_url(&token),
            token,
            servers: share::with_links(&servers),
            notes: notices.iter().filter_map(|it| it.sentence(Lang::En)).collect(),
            notices,
            rev: self.rev(),
        })
    }

    fn subscription_url(&self, token: &str) -> Option<String> {
        (!self.public_url.is_empty()).then(|| format!("{}/s/{token}", self.public_url))
    }

    pub(in crate::daemon) async fn new_secret(
        &self,
        envelope: Envelope,
        name: &str,
    ) -> Result<UserCredentials, ApiError> {
        // The answer is made anew for a repeated key: secrets are in no stored answer.
        if self.answered::<bool>(&envelope).await?.is_none() {
            let record = self.unchanged(&envelope, name).await?;
            let done = self.ledger.rotate_subscription(record.id, secret(), asked(&envelope));
            done.await.map_err(refused)?;
            self.remember(&envelope, &true).await;
        }
        self.ways_in(name).await
    }

    pub(in crate::daemon) async fn show_sharing(&self) -> Result<SharingShow, ApiError> {
        let kept = self.read(|reader| reader.sharing()).await?;
        self.shown_sharing(&kept)
    }

    fn shown_sharing(&self, kept: &SharingRecord) -> Result<SharingShow, ApiError> {
        Ok(SharingShow {
            schema: Schema,
            sharing: settings(kept)?,
            found_address: found_address(&self.public_url),
            public_url: (!self.public_url.is_empty()).then(|| self.public_url.clone()),
            rev: unsigned(kept.rev),
        })
    }

    pub(in crate::daemon) async fn alter_sharing(
        &self,
        envelope: Envelope,
        change: SharingChange,
    ) -> Result<SharingShow, ApiError> {
        if let Some(answer) = self.answered(&envelope).await? {
            return Ok(answer);
        }
        let kept = self.read(|reader| reader.sharing()).await?;
        let before = settings(&kept)?;
        envelope.check_rev(unsigned(kept.rev), &before)?;
        let new = serde_json::to_value(before.changed(&change)?).map_err(ApiError::internal)?;
        let if_rev = envelope.if_rev.map(signed);
        let kept = self.ledger.change_sharing(new, if_rev, asked(&envelope)).await.map_err(refused)?;
        let answer = self.shown_sharing(&kept)?;
        self.remember(&envelope, &answer).await;
        Ok(answer)
    }

    pub(in crate::daemon) async fn subscription_of(&self, token: &str) -> Result<Subscription, ApiError> {
        let wanted = token.to_owned();
        let found = self.read(move |reader| reader.subscriber(&wanted)).await?;
        let id = found.ok_or_else(ApiError::no_such_subscription)?;
        self.flush().await?;
        let picture = self.picture();
        let record = picture.directory.users.get(&id).filter(|user| user.tombstoned_ms.is_none());
        let record = record.ok_or_else(ApiError::no_such_subscription)?;
        let user = self.user_of(record, &picture).await?;
        let standing = self.ledger.standing(id, self.epoch).await.map_err(refused)?;
        let standing = standing.ok_or_else(ApiError::no_such_subscription)?;
        let by_total = user.period.quota_bytes.is_none() && user.total.quota_bytes.is_some();
        let (basis, used) =
            if by_total { (Basis::Total, &standing.total) } else { (Basis::Period, &standing.used) };
        let (upload_bytes, download_bytes) = directions(used, self.meter);
        let total_bytes = match basis {
            Basis::Total => user.total.quota_bytes,
            Basis::Period => whole(&user, upload_bytes.saturating_add(download_bytes)),
        };
        let kept = self.read(|reader| reader.sharing()).await?;
        let sharing = settings(&kept)?;
        let found = self.hands.servers(&record.name).await?;
        let (servers, _) = told(found, &sharing, found_address(&self.public_url).as_deref());
        let speed = user.speed_now();
        Ok(Subscription {
            schema: Schema,
            state: user.state,
            reason: user.reason.clone(),
            cause: user.cause.clone(),
            meter: self.meter,
            basis,
            upload_bytes,
            download_bytes,
            total_bytes,
            expires_at: user.expires_at,
            last_seen_at: user.last_seen_at,
            days: self.days_of(record, user.time_zone.as_deref()).await?,
            profile: Profile {
                title: sharing.title.clone().unwrap_or_else(|| user.name.clone()),
                update_hours: sharing.update_hours,
                support_url: sharing.support_url.clone(),
                url: self.subscription_url(token),
            },
            servers,
            as_of: Time::from_ms(clock::wall_ms(), &self.zone),
            user: user.name,
            period: user.period,
            total: user.total,
            packages: user.packages,
            speed,
            time_zone: user.time_zone,
        })
    }

    /// The last days, those without traffic too, in the user's zone.
    async fn days_of(&self, record: &UserRecord, zone: Option<&str>) -> Result<Vec<Day>, ApiError> {
        let zone = zone.and_then(|name| TimeZone::get(name).ok()).unwrap_or_else(|| self.zone.clone());
        let now_ms = clock::wall_ms();
        let today = answers::zoned(now_ms, &zone).start_of_day().map_err(ApiError::internal)?;
        let start = |ago: i64| today.checked_sub(ago.days()).and_then(|day: Zoned| day.start_of_day());
        let from = start(DAYS - 1).map_err(ApiError::internal)?;
        let query = UsageQuery {
            user: Some(record.name.to_string()),
            from: Some(from.timestamp()),
            by: Some(By::Day),
            ..UsageQuery::default()
        };
        let query = answers::ledger_query(&query, &zone, now_ms)?;
        let answer = self.read(move |reader| answers::every_page(reader, query)).await?;
        let usage = answers::usage(answer, self.meter, &zone, now_ms);
        let day = |ago: i64| {
            let start = Time::from(&start(ago).map_err(ApiError::internal)?);
            let rows = usage.rows.iter().filter(|row| row.start == start);
            let (upload_bytes, download_bytes) = rows.fold((0_u64, 0_u64), |(up, down), row| {
                let (more_up, more_down) = row.by(self.meter);
                (up.saturating_add(more_up), down.saturating_add(more_down))
            });
            Ok(Day { start, upload_bytes, download_bytes })
        };
        (0..DAYS).rev().map(day).collect()
    }
}

#[cfg(test)]
mod tests {
    use boxmeter_web::api::sharing::InboundSharing;

    use super::*;

    #[test]
    fn only_addresses_of_the_public_network_are_taken() {
        for (url, host) in [
            ("https://vpn.example.org/panel", Some("vpn.example.org")),
            ("https://vpn.example.org:8443", Some("vpn.example.org")),
            ("http://203.0.113.7:8790", Some("203.0.113.7")),
            ("https://[2001:db8::7]/", Some("2001:db8::7")),
            ("http://127.0.0.1:8790", None),
            ("http://192.168.1.1", None),
            ("http://[::1]:8790", None),
            ("http://localhost:8790", None),
            ("", None),
        ] {
            assert_eq!(public_host(url).as_deref(), host, "{url}");
        }
    }

    fn found(tag: &str, port: u16, local: bool) -> Found {
        let json = serde_json::json!({"inbound": tag, "type": "trojan", "address": "", "port": port,
            "entry": {"password": "x"}, "tls": {"server_name": "inner.example", "insecure": false}});
        Found { server: serde_json::from_value(json).unwrap(), local }
    }

    #[test]
    fn what_is_said_of_an_inbound_comes_before_its_configuration() {
        let mut sharing = Sharing { address: Some("a.example".to_owned()), ..Sharing::default() };
        let said = InboundSharing {
            port: Some(8443),
            server_name: Some("b.example".to_owned()),
            insecure: Some(true),
            ..InboundSharing::default()
        };
        sharing.inbounds.insert("behind".to_owned(), said);
        sharing.inbounds.insert("secret".to_owned(), InboundSharing { hidden: true, ..Default::default() });
        let all = || {
            vec![
                found("plain", 443, false),
                found("behind", 80, true),
                found("secret", 1, false),
                found("loop", 2, true),
            ]
        };
        let (servers, notes) = told(all(), &sharing, None);
        let [plain, behind] = servers.as_slice() else { panic!("{notes:?}") };
        assert_eq!((plain.address.as_str(), plain.port), ("a.example", 443));
        assert_eq!(plain.tls.as_ref().unwrap().server_name.as_deref(), Some("inner.example"));
        let tls = behind.tls.as_ref().unwrap();
        assert_eq!((behind.port, tls.server_name.as_deref(), tls.insecure), (8443, Some("b.example"), true));
        assert!(
            matches!(notes.as_slice(), [note] if note.code == "inbound_on_loopback" && note.values["inbound"] == "loop"),
            "{notes:?}"
        );
        let (servers, notes) = told(all(), &Sharing::default(), None);
        assert_eq!((servers.len(), notes.len()), (0, 1), "without an address there are no links");
    }
}
