//! `/api/v1`: what crosses the socket, who may ask, and both ends of the wire.

pub mod change;
pub mod change_routes;
pub mod client;
pub mod error;
pub mod fields;
pub mod live;
pub mod names;
pub mod openapi;
pub mod order;
pub mod params;
pub mod policies;
pub mod query;
pub mod reason;
pub mod routes;
pub mod serve;
pub mod sse;
pub mod status;
#[cfg(test)]
mod tests;
pub mod terms;
pub mod time;
pub mod types;

/// Where every route but the public ones begins.
pub const PREFIX: &str = "/api/v1";
