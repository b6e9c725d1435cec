//! A server with users, the agent beside it, and the panel's public routes over the agent's socket.

use axum::Router;
use axum::body::Body;
use boxmeter_tests::agent::Agent;
use boxmeter_tests::cases::{Case, Tls};
use boxmeter_tests::process::Process;
use boxmeter_tests::singbox::{SERVER, SERVER_NAME, Site, binary};
use boxmeter_tests::socks::Proxy;
use boxmeter_tests::target::Target;
use boxmeter_web::api::client::Client;
use boxmeter_web::api::order::{Actor, Envelope, Origin};
use boxmeter_web::api::sharing::{InboundSharing, SharingChange, UserCredentials};
use boxmeter_web::backend::{ApiError, Backend};
use boxmeter_web::panel::public;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tower::ServiceExt;

/// The last is dropped last: processes need the site's folder.
pub struct Rig {
    pub agent: Agent,
    pub client: Client,
    pub target: Target,
    /// Every request is another visitor's: nobody here is one who guesses.
    visitors: AtomicU32,
    public: Router,
    runtime: tokio::runtime::Runtime,
    pub site: Site,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

fn envelope() -> Envelope {
    Envelope::of(Actor::uid(0, Origin::Api))
}

impl Rig {
    /// Clients are told the server's first address, and that its certificates are its own.
    pub fn new(version: &'static str, cases: &[Case]) -> Rig {
        let site = Site::new(version, cases);
        let target = site.public_target();
        let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
        agent.start();
        let client = Client::new(site.scratch.join("boxmeter.sock"));
        let public = public::router(Arc::new(client.clone()), public::Options::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let visitors = AtomicU32::new(u32::from(Ipv4Addr::new(198, 18, 0, 1)));
        let rig = Rig { agent, client, target, visitors, public, runtime, site };
        let server_name = Some(SERVER_NAME.to_owned());
        let own = InboundSharing { insecure: Some(true), server_name, ..InboundSharing::default() };
        let with_tls = cases.iter().filter(|case| case.tls != Tls::None || case.name == "shadowtls");
        let tag = |case: &Case| match case.name {
            "shadowtls" => "shadowtls-outer".to_owned(),
            name => format!("{name}-in"),
        };
        let inbounds = with_tls.map(|case| (tag(case), Some(own.clone()))).collect();
        let change =
            SharingChange { address: Some(Some(SERVER[0].to_owned())), inbounds, ..SharingChange::default() };
        rig.asked(rig.client.change_sharing(envelope(), change)).unwrap();
        rig
    }

    pub fn asked<T>(&self, question: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        self.runtime.block_on(question)
    }

    pub fn credentials(&self, user: &str) -> UserCredentials {
        self.asked(self.client.credentials(user)).unwrap()
    }

    pub fn rotate(&self, user: &str) -> UserCredentials {
        self.asked(self.client.rotate_subscription(envelope(), user)).unwrap()
    }

    /// The public route, as a program with this `User-Agent` asks it.
    pub fn get(&self, path: &str, agent: &str) -> Answer {
        let visitor = IpAddr::V4(self.visitors.fetch_add(1, Ordering::Relaxed).into());
        let request = Request::get(path).header("host", "panel.example").header("user-agent", agent);
        let request = request.extension(public::Visitor(visitor));
        self.runtime.block_on(async {
            let response = self.public.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            Answer { status: parts.status, headers: parts.headers, body }
        })
    }

    /// A user's subscription for sing-box, written to a file as it came.
    pub fn import(&self, user: &str, query: &str) -> PathBuf {
        let answer = self.get(&format!("{}{query}", self.credentials(user).path), "sing-box");
        assert_eq!(answer.status, StatusCode::OK, "{user}: {}", answer.body);
        let file = self.site.scratch.join(&format!("{user}{}.json", query.len()));
        std::fs::write(&file, answer.body).unwrap();
        file
    }

    /// # Errors
    /// What `sing-box check` said.
    pub fn check(&self, file: &Path) -> Result<(), String> {
        let mut command = Command::new(binary(self.site.version));
        command.arg("--disable-color").arg("check").arg("-c").arg(file);
        let output = self.site.outside.enter(&mut command).output().unwrap();
        // What is deprecated is said, and stops working with a later release.
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() && said.trim().is_empty() { Ok(()) } else { Err(said) }
    }

    /// A client that runs with the file.
    pub fn start(&self, file: &Path) -> (Process, Proxy) {
        self.site.start_imported(file)
    }
}
