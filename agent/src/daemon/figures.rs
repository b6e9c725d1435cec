//! The figures of a report: what the ledger has of its period, and how everything stands now.

use std::{path::PathBuf, sync::Arc};

use super::{answers, care::Statuses, shared::Picture, shared::PictureReceiver};
use crate::{
    core::{
        event::{Counters, UserId},
        policy::State,
    },
    ledger::{By, QueryError, Reader, UsageQuery},
    notify::report::{Cut, Figures, Health, Near, Period, Span, Used},
};

/// Users of one list; the rest is a number.
const LISTED_MAX: usize = 50;
/// Users in one page of the ledger's answer.
const PAGE: usize = 10_000;

/// Where the figures come from.
pub struct Source {
    pub pictures: PictureReceiver,
    pub ledger: PathBuf,
    /// Quotas are measured on what is on the wire.
    pub wire: bool,
    /// From which share of the quota on somebody is near it.
    pub near_percent: u16,
    pub top: usize,
    pub backups: Statuses,
}

/// Gathers them. Blocks.
///
/// # Errors
/// When the ledger cannot be read.
pub fn gather(source: &Source, span: Span, period: &Period) -> Result<Figures, String> {
    let picture = Arc::clone(&source.pictures.borrow());
    if !is_ready(&picture) {
        return Err("the agent has not decided about everybody yet; it waits".to_owned());
    }
    let reader = Reader::open(&source.ledger).map_err(|error| error.to_string())?;
    let mut figures = Figures {
        span: span.name().to_owned(),
        period: period.key.clone(),
        time_zone: period.from.time_zone().iana_name().unwrap_or("UTC").to_owned(),
        meter: if source.wire { "wire" } else { "payload" }.to_owned(),
        users: count(picture.directory.users.values().filter(|it| it.tombstoned_ms.is_none()).count()),
        health: health(source, &picture, &reader),
        ..Figures::default()
    };
    usage(source, period, &reader, &mut figures).map_err(|error| error.to_string())?;
    standing(source, &picture, &mut figures);
    Ok(figures)
}

/// Was everybody looked at since the agent started?
fn is_ready(picture: &Picture) -> bool {
    let directory = &picture.directory;
    let mut living = directory.users.values().filter(|user| user.tombstoned_ms.is_none());
    directory.committed_ms.is_some() && living.all(|user| directory.gate.contains_key(&user.id))
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn of(source: &Source, counters: Counters) -> [u64; 2] {
    if source.wire { counters.wire } else { counters.payload }
}

fn usage(source: &Source, period: &Period, reader: &Reader, figures: &mut Figures) -> Result<(), QueryError> {
    let query = UsageQuery {
        user: None,
        from_ms: Some(period.from.timestamp().as_millisecond()),
        to_ms: Some(period.to.timestamp().as_millisecond()),
        by: By::Range,
        zone: period.from.time_zone().clone(),
        now_ms: crate::clock::wall_ms(),
        after: None,
        users_max: PAGE,
    };
    let answer = answers::every_page(reader, query)?;
    let mut used: Vec<Used> = (answer.rows.iter())
        .map(|row| {
            let [up, down] = of(source, row.usage);
            Used {
                user: row.name.to_string(),
                upload_bytes: up.saturating_add(row.reported[0]),
                download_bytes: down.saturating_add(row.reported[1]),
            }
        })
        .filter(|used| used.upload_bytes > 0 || used.download_bytes > 0)
        .collect();
    for row in &used {
        figures.upload_bytes = figures.upload_bytes.saturating_add(row.upload_bytes);
        figures.download_bytes = figures.download_bytes.saturating_add(row.download_bytes);
    }
    let [up, down] = of(source, answer.unattributed);
    figures.unattributed_bytes = up.saturating_add(down);
    figures.active_users = count(used.len());
    used.sort_by_key(|it| std::cmp::Reverse(it.upload_bytes.saturating_add(it.download_bytes)));
    used.truncate(source.top);
    figures.top = used;
    Ok(())
}

/// Who is cut or slow, and who is near that.
fn standing(source: &Source, picture: &Picture, figures: &mut Figures) {
    let name = |id: &UserId| {
        let user = picture.directory.users.get(id)?;
        user.tombstoned_ms.is_none().then(|| user.name.to_string())
    };
    for (id, row) in picture.directory.gate.iter() {
        let Some(user) = name(id) else { continue };
        match row.state {
            State::Limited | State::Throttled | State::Expired | State::Suspended => figures.cut.push(Cut {
                user,
                state: answers::state(row.state).as_str().to_owned(),
                cause: row.reason.clone(),
                time_zone: row.zone.iana_name().map(str::to_owned),
            }),
            State::Active | State::Pending => {
                let Some(quota) = row.terms.quota_bytes.filter(|quota| *quota > 0) else { continue };
                let counted = of(source, picture.snapshot.user(*id).activity.totals);
                let used = row.bases.used(counted[0].saturating_add(counted[1])).period;
                let percent = u128::from(used) * 100 / u128::from(quota);
                let percent = u64::try_from(percent).unwrap_or(u64::MAX);
                if percent >= u64::from(source.near_percent) {
                    figures.near.push(Near { user, used_bytes: used, quota_bytes: quota, percent });
                }
            }
            State::Disabled => {}
        }
    }
    figures.cut.sort_by(|a, b| a.user.cmp(&b.user));
    figures.near.sort_by(|a, b| b.percent.cmp(&a.percent).then_with(|| a.user.cmp(&b.user)));
    figures.more_cut = count(figures.cut.len().saturating_sub(LISTED_MAX));
    figures.more_near = count(figures.near.len().saturating_sub(LISTED_MAX));
    figures.cut.truncate(LISTED_MAX);
    figures.near.truncate(LISTED_MAX);
}

fn health(source: &Source, picture: &Picture, reader: &Reader) -> Health {
    let counts = reader.delivery_counts().map(|(counts, _)| counts).unwrap_or_default();
    Health {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        singbox: picture.directory.singbox.version.clone(),
        degraded: (picture.snapshot.degraded.iter())
            .map(|it| [it.part.to_owned(), it.reason.clone()])
            .collect(),
        last_backup_ms: source.backups.borrow().last_ms,
        waiting: counts.iter().map(|counts| counts.waiting).sum(),
    }
}
