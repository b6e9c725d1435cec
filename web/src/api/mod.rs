//! `/api/v1`: what crosses the socket, who may ask, and both ends of the wire.

pub mod client;
pub mod error;
pub mod live;
pub mod openapi;
pub mod params;
pub mod query;
pub mod routes;
pub mod serve;
pub mod sse;
pub mod status;
#[cfg(test)]
mod tests;
pub mod time;
pub mod types;

/// Where every route but the public ones begins.
pub const PREFIX: &str = "/api/v1";
