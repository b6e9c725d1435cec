//! Care of the data on the real thing: backups while bytes are counted, a backup in the ledger's place beside living
//! kernel counters, exports, and what Prometheus makes of the metrics.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

mod backups;
mod exports;
mod restore;
mod rig;
mod unit;
