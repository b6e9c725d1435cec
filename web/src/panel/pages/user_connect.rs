//! `/users/{name}/connect`: what a client needs: the subscription and a link for each inbound, both
//! as QR codes. Rotating the secret makes a new address; the old one is dead at once.

use askama::Template;
use axum::extract::{Path, State};
use http::HeaderMap;

use super::{
    Pages, Shared, Visit,
    flash::Flash,
    frame::{Answer, Frame, render},
    view::{segment, shown},
};
use crate::{
    api::sharing::{SharedServer, UserCredentials},
    share::{
        qr,
        reach::{Reach, bracketed},
    },
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
    /// Of the page; empty where no phone could open it.
    pub qr: String,
    /// Whether a phone can open the page. If not, the links of the servers come first.
    pub reachable: bool,
    /// Why not, and what to do about it.
    pub why: Option<&'static str>,
    /// The same page by the way that the panel is open now.
    pub here: String,
    pub servers: Vec<Way>,
    /// Why something is missing, and whether it is said in English whatever the page's language is.
    pub notes: Vec<(String, bool)>,
    /// Whether the settings of links can help.
    pub settings: bool,
}

/// One inbound.
pub struct Way {
    pub id: String,
    /// Unfolded from the start.
    pub open: bool,
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
    let connect = Connect::of(&pages, &visit, &headers, &credentials).await;
    render(&Page { f, name: shown(&name), address, connect })
}

pub async fn rotate(State(pages): State<Shared>, visit: Visit, Path(name): Path<String>) -> Answer {
    visit.backend().rotate_subscription(visit.envelope(), &name).await?;
    let path = format!("/users/{}/connect", segment(&name));
    Ok(Flash::done("panel.done.rotated", &[("name", &shown(&name))]).to(&pages, &path))
}

/// Notes that the settings of links answer.
const SETTINGS_HELP: [&str; 2] = ["no_address", "inbound_on_loopback"];

impl Connect {
    pub async fn of(pages: &Pages, visit: &Visit, headers: &HeaderMap, it: &UserCredentials) -> Self {
        let options = &pages.guard.options;
        let (url, reach) = match &it.url {
            Some(url) => (url.clone(), Reach::of_url(url)),
            None => options.page_of(&it.path, headers, machine(visit).await.as_deref()),
        };
        let why = match reach {
            Reach::Machine if options.public_url.is_empty() => Some("panel.connect.only_here"),
            Reach::Machine => Some("panel.connect.public_url_is_here"),
            Reach::Network => Some("panel.connect.only_network"),
            Reach::Everywhere => None,
        };
        let reachable = reach > Reach::Machine;
        let first = usize::from(!reachable);
        Connect {
            qr: Some(&url).filter(|_| reachable).and_then(|url| qr::svg(url)).unwrap_or_default(),
            url: shown(&url),
            reachable,
            why,
            here: format!("{}{}", pages.base, it.path),
            servers: it.servers.iter().enumerate().map(|(at, it)| way(at, it, at < first)).collect(),
            notes: notes(visit, it),
            settings: it.notices.iter().any(|it| SETTINGS_HELP.contains(&&*it.code)),
        }
    }
}

/// Where clients find the machine.
async fn machine(visit: &Visit) -> Option<String> {
    let kept = visit.backend().sharing().await.ok()?;
    kept.sharing.address.or(kept.found_address)
}

/// What an agent that knows no codes says stays as it is.
fn notes(visit: &Visit, it: &UserCredentials) -> Vec<(String, bool)> {
    let told: Option<Vec<String>> = it.notices.iter().map(|note| note.sentence(visit.lang)).collect();
    match told {
        Some(told) if told.len() == it.notes.len() => told.into_iter().map(|it| (it, false)).collect(),
        _ => it.notes.iter().map(|it| (shown(it), true)).collect(),
    }
}

fn way(number: usize, shared: &SharedServer, open: bool) -> Way {
    let server = &shared.server;
    let host = bracketed(&server.address);
    let fields = server.entry.iter().enumerate();
    let link = shared.link.clone().unwrap_or_default();
    Way {
        id: format!("link-{number}"),
        open,
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
