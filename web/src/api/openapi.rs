//! The OpenAPI document, kept by hand and checked against the router and the types by tests.

/// What `GET /api/v1/openapi.json` answers.
pub const DOCUMENT: &str = include_str!("openapi.json");
