//! V2Ray's and Xray's HandlerService: users let in and taken out while the proxy runs, which drops nobody's
//! connection (the kernel ends those of whoever is cut). It changes no file: those are edited first, and a
//! proxy that restarts reads them.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint as GrpcEndpoint},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::editor::Editor;
use crate::{
    service::{Kind, Service},
    singbox::{
        ProxyConfig,
        config::Inbound,
        files::{ConfigError, FileText},
        tree::{self, Node},
    },
    source::connect,
};

/// Generated from `proto/v2ray.proto`.
mod proto {
    #![allow(missing_docs, clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("v2ray");
}

/// No answer in this time is a failure.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error(
        "the API at {addr} cannot be reached ({error}); is {program} running, and is this its configuration?"
    )]
    Connect { program: &'static str, addr: SocketAddr, error: io::Error },
    #[error("the API of {program} does not have HandlerService; add it to `api.services` and restart it")]
    Missing { program: &'static str },
    #[error("its users of type {0:?} cannot be changed while it runs")]
    Unsupported(String),
    #[error("its inbound has no tag, so that its users cannot be changed while it runs; give it one")]
    Untagged,
    #[error("the API of {program} refuses: {error}")]
    Refused { program: &'static str, error: String },
    #[error("{program} does not run")]
    NotRunning { program: &'static str },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("telling a proxy its users has failed: {0}")]
    Failed(String),
}

impl LiveError {
    /// Will it ever do it, as it runs now?
    pub fn is_final(&self) -> bool {
        matches!(self, LiveError::Missing { .. })
    }

    /// Must it be restarted for this one change?
    pub fn wants_restart(&self) -> bool {
        matches!(self, LiveError::Unsupported(_) | LiveError::Untagged)
    }
}

/// A kind of inbound whose users can be changed while it runs.
#[derive(Clone, Copy)]
enum Manager {
    Vmess,
    Vless,
    Trojan,
}

impl Manager {
    fn of(kind: &str) -> Result<Self, LiveError> {
        match kind {
            "vmess" => Ok(Manager::Vmess),
            "vless" => Ok(Manager::Vless),
            "trojan" => Ok(Manager::Trojan),
            other => Err(LiveError::Unsupported(other.to_owned())),
        }
    }
}

/// The running proxy's own list of users.
pub struct Live {
    kind: Kind,
    addr: SocketAddr,
    grpc: Grpc<Channel>,
}

impl Live {
    /// Connects, in the network namespace if one is given.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(kind: Kind, addr: SocketAddr, netns: Option<PathBuf>) -> Result<Live, LiveError> {
        let addr = SocketAddr::new(connect::reachable(addr.ip()), addr.port());
        let failed = |error| LiveError::Connect { program: kind.title(), addr, error };
        let stream = connect::connect(addr, netns).await.map_err(failed)?;
        let mut stream = Some(TokioIo::new(stream));
        // The name is of no account: the connection is made already.
        let endpoint = GrpcEndpoint::from_static("http://localhost").timeout(CALL_TIMEOUT);
        let channel = endpoint
            .connect_with_connector(service_fn(move |_| {
                let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
                async move { stream }
            }))
            .await;
        let channel = channel.map_err(|error| failed(io::Error::other(error)))?;
        Ok(Live { kind, addr, grpc: Grpc::new(channel) })
    }

    /// Takes a user out; one who is not in is out.
    ///
    /// # Errors
    /// See [`LiveError`].
    pub async fn remove(&mut self, tag: &str, user: &str) -> Result<(), LiveError> {
        let operation = proto::RemoveUserOperation { email: user.to_owned() };
        let operation = self.typed("app.proxyman.command.RemoveUserOperation", &operation);
        match self.alter(tag, operation).await {
            Err(LiveError::Refused { error, .. })
                if error.contains("not found") && error.contains("User") =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// Lets a user in with the entry that the file has; somebody of that name who is in is taken out first,
    /// since the entry may be another one.
    ///
    /// # Errors
    /// See [`LiveError`].
    async fn add(&mut self, tag: &str, manager: Manager, user: &str, entry: &str) -> Result<(), LiveError> {
        let account = self.account(manager, entry);
        self.remove(tag, user).await?;
        let level = number(entry, "level");
        let user = proto::User { level, email: user.to_owned(), account: Some(account) };
        let operation = proto::AddUserOperation { user: Some(user) };
        let operation = self.typed("app.proxyman.command.AddUserOperation", &operation);
        self.alter(tag, operation).await
    }

    /// Tells one user of one inbound what the files say; whether he is in.
    ///
    /// # Errors
    /// See [`LiveError`].
    async fn tell(
        &mut self,
        (service, config, files): (&Service, &ProxyConfig, &[FileText]),
        (tag, name): &(String, String),
    ) -> Result<bool, LiveError> {
        let written = service.written(tag).unwrap_or_default();
        let inbound = config.inbounds.iter().find(|inbound| *inbound.tag == **tag);
        if inbound.is_some_and(|inbound| !inbound.tagged) {
            return Err(LiveError::Untagged);
        }
        // A handler that knows no users has nobody to take out either.
        let manager = inbound.map(|inbound| Manager::of(&inbound.kind)).transpose()?;
        let user = |inbound: &Inbound| inbound.users.iter().find(|user| *user.name == **name).cloned();
        let Some((manager, user)) = manager.zip(inbound.and_then(user)) else {
            self.remove(written, name).await?;
            return Ok(false);
        };
        let file = files.iter().find(|file| *file.path == user.file);
        let entry = file.and_then(|file| file.text.get(user.range.clone())).unwrap_or_default();
        self.add(written, manager, name, entry).await?;
        Ok(true)
    }

    fn account(&self, manager: Manager, entry: &str) -> proto::TypedMessage {
        let value = |key| text(entry, key);
        match manager {
            Manager::Vmess => {
                let account = proto::VmessAccount { id: value("id"), alter_id: number(entry, "alterid") };
                self.typed("proxy.vmess.Account", &account)
            }
            Manager::Vless => {
                let encryption = "none".to_owned();
                let account = proto::VlessAccount { id: value("id"), flow: value("flow"), encryption };
                self.typed("proxy.vless.Account", &account)
            }
            Manager::Trojan => {
                let account = proto::TrojanAccount { password: value("password"), flow: value("flow") };
                self.typed("proxy.trojan.Account", &account)
            }
        }
    }

    fn package(&self) -> &'static str {
        match self.kind {
            Kind::Xray => "xray",
            Kind::Singbox | Kind::V2ray => "v2ray.core",
        }
    }

    fn typed(&self, name: &str, message: &impl Message) -> proto::TypedMessage {
        proto::TypedMessage { r#type: format!("{}.{name}", self.package()), value: message.encode_to_vec() }
    }

    async fn alter(&mut self, tag: &str, operation: proto::TypedMessage) -> Result<(), LiveError> {
        let program = self.kind.title();
        let addr = self.addr;
        let refused = |status: Status| match status.code() {
            Code::Unimplemented => LiveError::Missing { program },
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                LiveError::Connect { program, addr, error: io::Error::other(status.message().to_owned()) }
            }
            _ => LiveError::Refused { program, error: status.message().to_owned() },
        };
        let path = format!("/{}.app.proxyman.command.HandlerService/AlterInbound", self.package());
        let path: PathAndQuery = path.parse().map_err(|_| LiveError::Missing { program })?;
        let closed = |error| LiveError::Connect { program, addr, error: io::Error::other(error) };
        self.grpc.ready().await.map_err(closed)?;
        let request = proto::AlterInboundRequest { tag: tag.to_owned(), operation: Some(operation) };
        let codec: ProstCodec<proto::AlterInboundRequest, proto::AlterInboundResponse> =
            ProstCodec::default();
        self.grpc.unary(Request::new(request), path, codec).await.map(drop).map_err(refused)
    }
}

/// Where the running proxy is told its users; `None`: nowhere.
///
/// # Errors
/// Its configuration cannot be read.
pub fn api_of(editor: &Editor) -> Result<Option<SocketAddr>, ConfigError> {
    if editor.service.is_singbox() {
        return Ok(None);
    }
    let config = editor.service.parse(&editor.service.read(&editor.config)?)?;
    Ok(config.grpc_api.filter(|api| api.handler).map(|api| api.addr))
}

/// Has a running proxy follow its files for these inbounds and users: whoever is in them is let in as they say,
/// everybody else is out. `told` hears of each whether he is in.
///
/// # Errors
/// Nobody was told: it does not run or has no such API, or its files cannot be read.
pub async fn tell_all(
    editor: &Editor,
    keys: &[(String, String)],
    mut told: impl FnMut(&(String, String), Result<bool, LiveError>),
) -> Result<(), LiveError> {
    let (service, paths) = (editor.service.clone(), editor.config.clone());
    let read = tokio::task::spawn_blocking(move || {
        let files = service.read(&paths)?;
        let config = service.parse(&files)?;
        Ok::<_, ConfigError>((files, config))
    });
    let (files, config) = read.await.map_err(|error| LiveError::Failed(error.to_string()))??;
    let program = editor.service.kind.title();
    let api = config.grpc_api.as_ref().filter(|api| api.handler);
    let api = api.ok_or(LiveError::Missing { program })?;
    let process = editor.process.as_ref().ok_or(LiveError::NotRunning { program })?;
    let mut live = Live::connect(editor.service.kind, api.addr, process.netns_path()).await?;
    for key in keys {
        let answer = live.tell((&editor.service, &config, &files), key).await;
        // One that hangs would hang for each of them, and everybody else's edits wait meanwhile.
        let away = matches!(answer, Err(LiveError::Connect { .. }));
        told(key, answer);
        if away {
            break;
        }
    }
    Ok(())
}

fn entry_node(entry: &str) -> Option<Node> {
    tree::parse(&std::sync::Arc::new(PathBuf::new()), entry).ok().map(|(node, _)| node)
}

fn text(entry: &str, key: &str) -> String {
    entry_node(entry).and_then(|node| Some(node.get(key)?.str()?.to_owned())).unwrap_or_default()
}

fn number(entry: &str, key: &str) -> u32 {
    entry_node(entry).and_then(|node| node.get(key)?.port()).map_or(0, u32::from)
}
