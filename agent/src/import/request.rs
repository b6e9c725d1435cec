//! What a file said, as the API takes it.

use boxmeter_web::api::{
    terms::Overrides,
    time::Time,
    types::{ImportLogin, ImportUsage, ImportUser},
};
use jiff::tz::TimeZone;

use super::{ImportedCredentials, ImportedStatus, ImportedUser, UsedIn};

/// One user of a request; times are shown in `zone`.
pub fn to_request(user: ImportedUser, zone: &TimeZone) -> ImportUser {
    let ImportedUser {
        name,
        credentials,
        policy,
        email,
        note,
        status,
        used,
        package_bytes,
        inbounds,
        logins,
        ..
    } = user;
    let time = |ms: i64| Time::from_ms(ms, zone);
    ImportUser {
        name,
        policy,
        terms: Overrides {
            quota_bytes: user.quota_bytes,
            total_quota_bytes: user.total_quota_bytes,
            period: user.period,
            reset_day: user.reset_day,
            max_addresses: user.max_addresses,
            valid_days: user.valid_days.map(Some),
            ..Overrides::default()
        },
        email,
        note,
        expires_at: user.expires_ms.map(time),
        inbounds: (!inbounds.is_empty()).then_some(inbounds),
        enabled: match status {
            ImportedStatus::Disabled => Some(false),
            // The quota that comes over decides about those who were over theirs.
            ImportedStatus::Active | ImportedStatus::OverQuota | ImportedStatus::Expired => None,
        },
        password: credentials.password,
        uuid: credentials.uuid,
        flow: credentials.flow,
        logins: logins.into_iter().map(|(inbound, login)| (inbound, to_login(login))).collect(),
        created_at: user.created_ms.map(time),
        used: used
            .into_iter()
            .map(|it| ImportUsage {
                month: match it.when {
                    UsedIn::Now => None,
                    UsedIn::Month(year, month) => Some(format!("{year:04}-{month:02}")),
                    UsedIn::Earlier => Some(ImportUsage::EARLIER.to_owned()),
                },
                upload_bytes: it.upload_bytes,
                download_bytes: it.download_bytes,
            })
            .collect(),
        package_bytes,
    }
}

fn to_login(login: ImportedCredentials) -> ImportLogin {
    ImportLogin { password: login.password, uuid: login.uuid, flow: login.flow }
}
