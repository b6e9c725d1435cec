//! What each route asks of its caller. A route that is not here is refused.

use http::Method;

use crate::api::{PREFIX, routes::Access};

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// At least this.
    Level(Access),
    /// Who answers for visitors: the panel itself, or root.
    Panel,
}

/// The rule of a route, by its pattern below the prefix of the API.
pub fn need(method: &Method, pattern: &str) -> Option<Need> {
    let pattern = pattern.strip_prefix(PREFIX).unwrap_or(pattern);
    let level = match (method.as_str(), pattern) {
        ("POST", "/session") | ("GET", "/subscriptions/{token}") => return Some(Need::Panel),
        (
            "GET" | "HEAD",
            "/status"
            | "/users"
            | "/users/{name}"
            | "/usage"
            | "/flows"
            | "/events"
            | "/audit"
            | "/stats"
            | "/metrics"
            | "/openapi.json"
            | "/stream"
            | "/users/{name}/packages"
            | "/policies"
            | "/policies/{name}"
            | "/who",
        )
        | ("DELETE", "/session") => Access::Read,
        ("POST", "/users")
        | ("PATCH" | "DELETE", "/users/{name}")
        | ("POST", "/users/{name}/reset" | "/users/{name}/enable" | "/users/{name}/disable")
        | ("POST", "/users/{name}/packages" | "/users/{name}/subscription/rotate")
        | ("GET" | "HEAD", "/users/{name}/credentials") => Access::Users,
        ("POST", "/policies" | "/import" | "/notify/test" | "/password" | "/totp" | "/tokens")
        | ("PATCH" | "DELETE", "/policies/{name}")
        | ("GET" | "HEAD" | "PATCH", "/settings/sharing")
        | ("GET" | "HEAD", "/sessions" | "/tokens" | "/notify")
        | ("DELETE", "/sessions" | "/sessions/{id}" | "/tokens/{id}" | "/totp")
        | ("PUT", "/totp") => Access::Admin,
        _ => return None,
    };
    Some(Need::Level(level))
}
