//! `/api/v1`: what crosses the socket, who may ask, and both ends of the wire.

pub mod access_routes;
pub mod change;
pub mod change_routes;
#[cfg(test)]
mod change_tests;
pub mod client;
#[cfg(test)]
mod document_tests;
pub mod error;
pub mod fields;
pub mod live;
pub mod metrics;
pub mod names;
pub mod notes;
pub mod notify;
pub mod notify_routes;
pub mod openapi;
pub mod order;
pub mod pages;
pub mod params;
pub mod policies;
pub mod query;
pub mod reason;
pub mod routes;
pub mod serve;
pub mod sharing;
pub mod sharing_routes;
pub mod sse;
pub mod status;
pub mod terms;
#[cfg(test)]
mod tests;
pub mod time;
pub mod told;
pub mod types;

/// Where every route but the public ones begins.
pub const PREFIX: &str = "/api/v1";
