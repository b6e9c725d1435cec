//! What the made-up server says of one user adds up, in every view of it.

use std::collections::BTreeSet;

use super::*;
use crate::api::query::{By, Page};

impl Life {
    fn told_of(&self, user: &User, to: Timestamp) -> u64 {
        self.told.get(&id_of(user)).map_or(0, |it| it.sum(Timestamp::UNIX_EPOCH, to).iter().sum())
    }
}

fn now() -> Zoned {
    "2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap()
}

#[test]
fn every_state_is_there_and_figures_add_up() {
    let world = World::new(&now(), 1);
    let states: BTreeSet<&str> = world.state.users.iter().map(|it| it.state.as_str()).collect();
    assert_eq!(states, UserState::ALL.map(UserState::as_str).into());
    let online = world.state.users.iter().filter(|it| it.live.flows > 0).count();
    assert!((15..45).contains(&online), "{online} online");
    for user in &world.state.users {
        let hours = &world.life.hours[&id_of(user)];
        let [up, down] = hours.sum(Timestamp::UNIX_EPOCH, now().timestamp());
        let told = world.life.told_of(user, now().timestamp());
        assert_eq!(up + down + told, user.total.used_bytes, "{}", user.name);
        assert!(user.period.used_bytes <= user.total.used_bytes, "{}", user.name);
        assert_eq!(user.traffic.total(Meter::Payload) + told, user.total.used_bytes, "{}", user.name);
    }
    let again = World::new(&now(), 1);
    let figures = |it: &World| it.state.users.iter().map(|it| it.total.used_bytes).collect::<Vec<_>>();
    assert_eq!(figures(&world), figures(&again));
    assert_ne!(figures(&world), figures(&World::new(&now(), 2)));
}

#[test]
fn seconds_add_bytes_and_reach_limits() {
    let World { mut state, mut life, .. } = World::new(&now(), 1);
    let plain = |it: &User| it.live.flows > 0 && it.packages.remaining_bytes == 0;
    let near = state.users.iter().position(plain).unwrap();
    let name = state.users[near].name.clone();
    let before = state.users[near].total.used_bytes;
    let quota = state.users[near].period.used_bytes + 1;
    state.users[near].overrides = Overrides { quota_bytes: Some(Some(quota)), ..Overrides::default() };
    let mut moment = now();
    for _ in 0..60 {
        moment = moment.checked_add(1.second()).unwrap();
        life.tick(&moment, &mut state);
    }
    let user = &state.users[near];
    assert!(user.total.used_bytes > before);
    assert_eq!(user.state, UserState::Limited);
    assert_eq!(user.live.flows, 0, "who is cut has no connections");
    let told = state.events.iter().rfind(|it| it.user.as_ref() == Some(&name)).unwrap();
    assert_eq!(told.kind, "user_limited");
    let [up, down] = life.hours[&id_of(user)].sum(Timestamp::UNIX_EPOCH, moment.timestamp());
    assert_eq!(up + down + life.told_of(user, moment.timestamp()), user.total.used_bytes);
}

#[test]
fn who_is_on_three_services_has_a_share_in_each() {
    let World { mut state, mut life, .. } = World::new(&now(), 1);
    let mut moment = now();
    for _ in 0..300 {
        moment = moment.checked_add(1.second()).unwrap();
        life.tick(&moment, &mut state);
    }
    let user = state.users[ON_ALL].clone();
    let names: Vec<&str> = user.services.iter().map(|it| it.service.as_str()).collect();
    assert_eq!(names, ["sing-box", "v2ray", "web"]);
    let counted = user.services.iter().fold(Traffic::default(), |sum, it| sum.plus(&it.traffic));
    assert_eq!(counted, user.traffic, "also after it has gone on");
    let told = life.told_of(&user, moment.timestamp());
    let web = &user.services[2];
    assert_eq!(web.reported_upload_bytes.unwrap() + web.reported_download_bytes.unwrap(), told);
    for by in [None, Some(By::Hour), Some(By::Day), Some(By::Period)] {
        let page = Page { after: None, limit: 10_000 };
        let query = UsageQuery { user: Some(user.name.clone()), by, page, ..UsageQuery::default() };
        let usage = life.usage(&moment, &state.users, &query);
        let sum: u64 = usage.rows.iter().map(|row| row.by(Meter::Payload)).map(|(up, down)| up + down).sum();
        assert_eq!(sum, user.total.used_bytes, "{by:?}");
    }
    let totals = life.snapshot(&moment, &state.users).totals;
    let period: u64 = state.users.iter().map(|it| it.period.used_bytes).sum();
    assert!(totals.month_bytes >= period && told > 0);
}
