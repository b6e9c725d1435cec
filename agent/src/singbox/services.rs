//! The APIs that proxies offer, as their configuration says. Pure.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    config::{Secret, Wrong, listen, listen_port, wrong},
    tree::{Node, Value},
};

/// The first service of type `api` (sing-box 1.14).
#[derive(Clone, Debug)]
pub struct ApiService {
    pub listen: IpAddr,
    pub listen_port: u16,
    pub secret: Secret,
    pub tls: bool,
}

#[derive(Clone, Debug)]
pub struct ClashApi {
    /// As written: `127.0.0.1:9090`, `:9090`, `localhost:9090`.
    pub external_controller: String,
    pub secret: Secret,
}

/// Where V2Ray or Xray answers gRPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcApi {
    pub addr: SocketAddr,
    /// Users can be let in and taken out while it runs.
    pub handler: bool,
    /// It tells what users moved.
    pub stats: bool,
}

/// A service of type `ssm-api` (since sing-box 1.12). It asks for no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerService {
    pub listen: IpAddr,
    pub listen_port: u16,
    pub tls: bool,
    /// Where each inbound's users are: the path before `/server/v1`, without a slash at its end, and the
    /// inbound's tag.
    pub servers: Vec<(String, Arc<str>)>,
}

pub(super) fn api(node: &Node) -> Result<ApiService, Wrong> {
    let secret = node.get("secret").and_then(Node::str).unwrap_or_default();
    Ok(ApiService {
        listen: listen(node)?,
        listen_port: listen_port(node)?
            .ok_or_else(|| wrong(node, "the API service has no `listen_port`; give it one"))?,
        secret: Secret(secret.to_owned()),
        tls: node.get("tls").and_then(|t| t.get("enabled")).and_then(Node::bool).unwrap_or(false),
    })
}

pub(super) fn clash(node: &Node) -> Option<ClashApi> {
    let text = |key| node.get(key).and_then(Node::str).unwrap_or_default().to_owned();
    let external_controller = text("external_controller");
    let secret = Secret(text("secret"));
    (!external_controller.is_empty()).then_some(ClashApi { external_controller, secret })
}

pub(super) fn manager(node: &Node) -> Result<ManagerService, Wrong> {
    let mut servers = Vec::new();
    if let Some(Value::Object(entries)) = node.get("servers").map(|servers| &servers.value) {
        for (key, inbound) in entries {
            let path = inbound.key.as_deref().unwrap_or(key).trim_matches('/');
            let path = if path.is_empty() { String::new() } else { format!("/{path}") };
            servers.extend(inbound.str().map(|tag| (path, Arc::from(tag))));
        }
    }
    Ok(ManagerService {
        listen: listen(node)?,
        listen_port: listen_port(node)?
            .ok_or_else(|| wrong(node, "the ssm-api service has no `listen_port`; give it one"))?,
        tls: node.get("tls").and_then(|t| t.get("enabled")).and_then(Node::bool).unwrap_or(false),
        servers,
    })
}
