//! boxmeter's HTTP contract: its types, its routes over a [`backend::Backend`], and the client.
//!
//! Knows neither the kernel nor the ledger: whoever answers stands behind the trait, so that the
//! agent, the panel (over [`api::client::Client`]) and tests share every line here.

pub mod access;
pub mod api;
pub mod backend;
pub mod demo;
pub mod letter;
pub mod locale;
pub mod panel;
pub mod share;
pub mod units;
pub mod wording;
