//! The panel in a real browser: Debian's Chromium, driven by the scripts of this folder. A script prints what
//! is wrong, line by line; here is what it needs around it.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

mod browser;
mod full;
mod panel;
mod public;
#[allow(dead_code, reason = "pages with several codes are read elsewhere")]
#[path = "../../web/src/share/qr_reader.rs"]
mod qr_reader;
#[allow(dead_code, reason = "the tests of subscriptions ask more of it")]
#[path = "../share/rig.rs"]
mod rig;
mod rough;
