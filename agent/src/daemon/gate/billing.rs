//! What quotas are measured on, and how the ledger's figures are read for that: the one place from which
//! the gate, the answers to people and the end of accounts take it.

use boxmeter_common::user::METER_WIRE;
use jiff::tz::TimeZone;

use crate::{
    core::{event::Counters, policy, terms::Terms, wallet::Wallet},
    ledger::{Used, WalletEntry},
};

/// Both directions of the meter that quotas are measured on.
pub type OfMeter = fn(&Counters) -> u64;

/// Both directions of a meter (`METER_*`).
pub fn of_meter(meter: u32) -> OfMeter {
    match meter {
        METER_WIRE => |counters: &Counters| counters.wire[0].saturating_add(counters.wire[1]),
        _ => |counters: &Counters| counters.payload[0].saturating_add(counters.payload[1]),
    }
}

/// What quotas are compared with: what the kernel counted, and what the proxy told beside it.
pub fn billed(used: &Used, of_meter: OfMeter) -> u64 {
    used.reported.iter().fold(of_meter(&used.counted), |sum, &bytes| sum.saturating_add(bytes))
}

/// The zone of a user's periods. One that this machine does not know (any more) must cut nobody: the
/// zone of billing holds then.
pub fn zone_of(terms: &Terms, billing: &TimeZone) -> TimeZone {
    let named = terms.time_zone.as_deref().and_then(|name| TimeZone::get(name).ok());
    named.unwrap_or_else(|| billing.clone())
}

pub fn wallet_of(entries: &[WalletEntry]) -> Wallet {
    let mut wallet = Wallet::default();
    for entry in entries {
        wallet.add(&entry.entry());
    }
    wallet
}

/// What a user's period and total begin from: used = base + what the kernel counted in its epoch. The
/// bases stay while counts move from the kernel to the ledger, so that it does not matter when they
/// were read.
#[derive(Clone, Copy, Debug)]
pub struct Bases {
    period: i128,
    total: i128,
}

impl Bases {
    /// `taken_over`: what of the kernel's counters is in the ledger's figures.
    pub fn new(period: &Used, total: &Used, taken_over: &Counters, of_meter: OfMeter) -> Self {
        let base = |used| i128::from(billed(used, of_meter)) - i128::from(of_meter(taken_over));
        Bases { period: base(period), total: base(total) }
    }

    /// `counted`: of the billed meter, by the kernel in its epoch.
    pub fn used(self, counted: u64) -> policy::Used {
        let used = |base: i128| u64::try_from(base + i128::from(counted)).unwrap_or(0);
        policy::Used { period: used(self.period), total: used(self.total) }
    }
}
