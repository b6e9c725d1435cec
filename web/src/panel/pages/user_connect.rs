//! `/users/{name}/connect`: what a client needs: the subscription and a link for each inbound, both
//! as QR codes. Rotating the secret makes a new address; the old one is dead at once.

use askama::Template;
use axum::extract::{Path, State};
use http::{HeaderMap, header};

use super::{
    Pages, Shared, Visit,
    flash::Flash,
    frame::{Answer, Frame, render},
    view::{segment, shown},
};
use crate::{
    api::sharing::{SharedServer, UserCredentials},
    share::qr,
};

#[derive(Template)]
#[template(path = "user_connect.html")]
struct Page {
    f: Frame,
    name: String,
    address: String,
    connect: Connect,
}

/// What is handed over.
pub struct Connect {
    /// The user's own page and subscription.
    pub url: String,
    pub qr: String,
    pub servers: Vec<Way>,
    /// Why something is missing, in English.
    pub notes: Vec<String>,
}

/// One inbound.
pub struct Way {
    pub id: String,
    pub label: String,
    pub kind: String,
    pub place: String,
    pub link: String,
    pub qr: String,
    /// The fields of the entry, for who types them in: id, name, value.
    pub fields: Vec<(String, String, String)>,
}

pub async fn show(
    State(pages): State<Shared>,
    visit: Visit,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let credentials = visit.backend().credentials(&name).await?;
    let title = visit.lang.text("panel.connect.title").to_owned();
    let f = Frame::load(&pages, &visit, "users", title).await;
    let address = format!("{}/users/{}", f.base, segment(&name));
    let connect = Connect::of(&pages, &headers, &credentials);
    render(&Page { f, name: shown(&name), address, connect })
}

pub async fn rotate(State(pages): State<Shared>, visit: Visit, Path(name): Path<String>) -> Answer {
    visit.backend().rotate_subscription(visit.envelope(), &name).await?;
    let path = format!("/users/{}/connect", segment(&name));
    Ok(Flash::done("panel.done.rotated", &[("name", &shown(&name))]).to(&pages, &path))
}

impl Connect {
    pub fn of(pages: &Pages, headers: &HeaderMap, credentials: &UserCredentials) -> Self {
        let url = credentials.url.clone().unwrap_or_else(|| here(pages, headers, &credentials.path));
        Connect {
            qr: qr::svg(&url).unwrap_or_default(),
            url,
            servers: credentials.servers.iter().enumerate().map(|(at, it)| way(at, it)).collect(),
            notes: credentials.notes.iter().map(|it| shown(it)).collect(),
        }
    }
}

impl Connect {
    /// Where the single values stand elsewhere on the page.
    pub fn without_fields(mut self) -> Self {
        for server in &mut self.servers {
            server.fields.clear();
        }
        self
    }
}

/// The address by which the panel was reached, where the configuration says no public one.
fn here(pages: &Pages, headers: &HeaderMap, path: &str) -> String {
    let host = headers.get(header::HOST).and_then(|it| it.to_str().ok()).unwrap_or("localhost");
    let scheme = if pages.guard.options.secure() { "https" } else { "http" };
    format!("{scheme}://{}{}{path}", shown(host), pages.base)
}

fn way(number: usize, shared: &SharedServer) -> Way {
    let server = &shared.server;
    let host =
        if server.address.contains(':') { format!("[{}]", server.address) } else { server.address.clone() };
    let fields = server.entry.iter().enumerate();
    let link = shared.link.clone().unwrap_or_default();
    Way {
        id: format!("link-{number}"),
        label: shown(&server.inbound),
        kind: shown(&server.kind),
        place: shown(&format!("{host}:{}", server.port)),
        qr: qr::svg(&link).filter(|_| !link.is_empty()).unwrap_or_default(),
        link,
        fields: fields
            .map(|(at, (name, value))| (format!("secret-{number}-{at}"), shown(name), shown(value)))
            .collect(),
    }
}
