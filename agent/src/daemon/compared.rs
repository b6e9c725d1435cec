//! What services that the kernel meters say of their users' bytes themselves, beside the kernel's figures. Shown in an
//! audit, and never counted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use boxmeter_web::api::types::{Audit, Reconciled};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    answers,
    backend::Answerer,
    counted::{Api, Counted, Way},
};
use crate::{
    core::{
        counters::{Reading, Tally, Whose},
        event::{Counters, InboundIndex, UserId},
    },
    kernel::AccountInfo,
};

/// It is looked at by people, now and then.
pub const EVERY: Duration = Duration::from_secs(30);

/// Both figures of a service, from one instant on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub service: Arc<str>,
    /// Unix milliseconds.
    pub since_ms: i64,
    pub kernel: Counters,
    pub reported: [u64; 2],
}

struct One {
    service: Arc<str>,
    api: watch::Sender<Api>,
    tally: Tally,
    /// When both began, and what the kernel had counted then.
    began: Option<(i64, Counters)>,
    now: Option<Compare>,
}

/// See the module.
#[derive(Default)]
pub struct Compared {
    all: Vec<One>,
}

/// What the kernel has counted for users of a service, by its accounts and their tags.
pub fn of_kernel(
    service: &str,
    accounts: impl IntoIterator<Item = AccountInfo>,
    tags: &BTreeMap<InboundIndex, Arc<str>>,
) -> Counters {
    let is_its = |tag: &Arc<str>| tag.strip_prefix(service).is_some_and(|rest| rest.starts_with('/'));
    let own = accounts.into_iter().filter(|account| account.user.is_some());
    let own = own.filter(|account| tags.get(&account.inbound).is_some_and(is_its));
    own.fold(Counters::default(), |sum, account| combine(&sum, &account.counters, u64::saturating_add))
}

fn combine(one: &Counters, other: &Counters, with: fn(u64, u64) -> u64) -> Counters {
    let each = |one: [u64; 2], other: [u64; 2]| [with(one[0], other[0]), with(one[1], other[1])];
    Counters { payload: each(one.payload, other.payload), wire: each(one.wire, other.wire) }
}

impl Compared {
    /// One more service, which is asked where it says its totals.
    pub fn add(&mut self, service: Arc<str>, counted: &mut Counted) {
        let (api, place) = watch::channel(None);
        counted.ask(Arc::clone(&service), Way::Stats(place), EVERY);
        self.all.push(One { service, api, tally: Tally::new(None), began: None, now: None });
    }

    pub fn has(&self, service: &str) -> bool {
        self.all.iter().any(|one| *one.service == *service)
    }

    /// Where a service says its totals, by its name; `None`: it says none.
    pub fn set_apis(&self, of: impl Fn(&str) -> Api) {
        for one in &self.all {
            let now = of(&one.service);
            one.api.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
        }
    }

    /// What a service said, and what the kernel has counted for it by then.
    pub fn take(&mut self, service: &str, reading: &Reading, kernel: Counters, now_ms: i64) {
        let Some(one) = self.all.iter_mut().find(|one| *one.service == *service) else { return };
        // Its names are of no account here: all that it says of users is compared.
        one.tally.take(reading, |_| Whose::User(UserId(Uuid::nil())));
        let (since_ms, before) = *one.began.get_or_insert((now_ms, kernel));
        one.now = Some(Compare {
            service: Arc::clone(&one.service),
            since_ms,
            kernel: combine(&kernel, &before, u64::saturating_sub),
            reported: one.tally.sum(),
        });
    }

    pub fn all(&self) -> Vec<Compare> {
        self.all.iter().filter_map(|one| one.now.clone()).collect()
    }
}

impl Answerer {
    pub(super) fn with_services(&self, audit: Audit) -> Audit {
        let one = |one: &Compare| Reconciled {
            service: one.service.to_string(),
            since: self.time(one.since_ms),
            traffic: answers::traffic(one.kernel),
            reported_upload_bytes: one.reported[0],
            reported_download_bytes: one.reported[1],
        };
        Audit { services: self.picture().directory.compared.iter().map(one).collect(), ..audit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{counters::Counter, event::Slot};

    #[test]
    fn both_figures_begin_together_and_a_restart_of_the_service_is_no_fall() {
        let (api, _) = watch::channel(None);
        let one = One { service: "v2ray".into(), api, tally: Tally::new(None), began: None, now: None };
        let mut compared = Compared { all: vec![one] };
        let reading = |bytes: u64| Reading {
            counters: vec![Counter { key: [1; 16], name: "alice".into(), bytes: [0, bytes] }],
            ..Reading::default()
        };
        let kernel = |bytes: u64| Counters { payload: [7, bytes], wire: [9, 2 * bytes] };
        compared.take("v2ray", &reading(1_000), kernel(5_000), 77);
        assert_eq!((compared.all()[0].reported, compared.all()[0].kernel), ([0, 0], Counters::default()));
        compared.take("v2ray", &reading(1_100), kernel(5_110), 88);
        compared.take("v2ray", &reading(20), kernel(5_132), 99);
        let expected = Compare {
            service: "v2ray".into(),
            since_ms: 77,
            kernel: Counters { payload: [0, 132], wire: [0, 264] },
            reported: [0, 120],
        };
        assert_eq!(compared.all(), [expected]);
    }

    #[test]
    fn the_kernels_figure_is_of_users_of_that_service() {
        let tags = BTreeMap::from([
            (InboundIndex(1), Arc::from("v2ray/in")),
            (InboundIndex(2), Arc::from("v2ray2/in")),
            (InboundIndex(3), Arc::from("in")),
        ]);
        let account = |slot: u32, inbound: u32, user: bool| AccountInfo {
            slot: Slot(slot),
            inbound: InboundIndex(inbound),
            user: user.then_some(UserId(Uuid::nil())),
            counters: Counters { payload: [1, 2], wire: [3, 4] },
        };
        let all = [
            account(1, 1, false),
            account(256, 1, true),
            account(257, 1, true),
            account(258, 2, true),
            account(259, 3, true),
        ];
        let sum = of_kernel("v2ray", all, &tags);
        assert_eq!(sum, Counters { payload: [2, 4], wire: [6, 8] });
    }
}
