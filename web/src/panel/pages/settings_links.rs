//! `/settings/links`: how clients reach the server, and how subscriptions look in them.

use askama::Template;
use axum::extract::State;
use http::StatusCode;

use super::{
    Shared, Visit,
    flash::Flash,
    form::{Fields, Form},
    frame::{Answer, Frame, render_as},
    view::shown,
};
use crate::{
    api::{
        order::Envelope,
        sharing::{InboundSharing, SharingChange, SharingShow},
        types::Status,
    },
    backend::ErrorKind,
};

const FIELDS: &[&str] = &["address", "title", "update_hours", "support_url", "rev"];

#[derive(Template)]
#[template(path = "settings_links.html")]
struct Page {
    f: Frame,
    form: Fields,
    /// What holds where no address is given.
    found: Option<String>,
    public_url: Option<String>,
    inbounds: Vec<Inbound>,
    /// What somebody else made of it meanwhile: label, now, typed here.
    clashes: Vec<(String, String, String)>,
}

/// What is said of one inbound; its fields carry its number.
struct Inbound {
    tag: String,
    shown: String,
    number: usize,
    address: String,
    port: String,
    server_name: String,
    insecure: &'static str,
    tls: bool,
    hidden: bool,
}

pub async fn show(State(pages): State<Shared>, visit: Visit) -> Answer {
    let sharing = visit.backend().sharing().await?;
    let form = fields_of(&sharing);
    page(&pages, &visit, &sharing, form, Vec::new(), StatusCode::OK).await
}

fn fields_of(sharing: &SharingShow) -> Fields {
    let mut form = Fields::default();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    form.set("address", text(&sharing.sharing.address));
    form.set("title", text(&sharing.sharing.title));
    form.set("update_hours", sharing.sharing.update_hours.to_string());
    form.set("support_url", text(&sharing.sharing.support_url));
    form.set("rev", sharing.rev.to_string());
    form
}

async fn page(
    pages: &Shared,
    visit: &Visit,
    sharing: &SharingShow,
    form: Fields,
    clashes: Vec<(String, String, String)>,
    status: StatusCode,
) -> Answer {
    let title = visit.lang.text("panel.links.title").to_owned();
    let (f, known) = tokio::join!(Frame::load(pages, visit, "settings", title), visit.backend().status());
    let page = Page {
        f,
        form,
        found: sharing.found_address.as_deref().map(shown),
        public_url: sharing.public_url.as_deref().map(shown),
        inbounds: inbounds(sharing, &known?),
        clashes,
    };
    render_as(status, &page)
}

/// Those that there are, and those that something is said of.
fn inbounds(sharing: &SharingShow, status: &Status) -> Vec<Inbound> {
    let mut tags: Vec<String> = status.inbounds.iter().map(|it| it.tag.clone()).collect();
    tags.extend(sharing.sharing.inbounds.keys().cloned());
    tags.sort_unstable();
    tags.dedup();
    let one = |(number, tag): (usize, String)| {
        let said = sharing.sharing.inbounds.get(&tag).cloned().unwrap_or_default();
        Inbound {
            shown: shown(&tag),
            number,
            address: said.address.unwrap_or_default(),
            port: said.port.map(|it| it.to_string()).unwrap_or_default(),
            server_name: said.server_name.unwrap_or_default(),
            insecure: match said.insecure {
                None => "",
                Some(true) => "yes",
                Some(false) => "no",
            },
            tls: said.tls.unwrap_or(false),
            hidden: said.hidden,
            tag,
        }
    };
    tags.into_iter().enumerate().map(one).collect()
}

pub async fn save(State(pages): State<Shared>, visit: Visit, form: Form) -> Answer {
    let sharing = visit.backend().sharing().await?;
    let mut fields = Fields::typed(&form, FIELDS);
    let change = read(&visit, &form, &sharing, &mut fields);
    if !fields.wrong()
        && let Err(error) = sharing.sharing.changed(&change)
    {
        fields.refused(visit.lang, &error);
    }
    if !fields.wrong() {
        let envelope = Envelope { if_rev: form.get("rev").parse().ok(), ..visit.envelope() };
        match visit.backend().change_sharing(envelope, change.clone()).await {
            Ok(_) => return Ok(Flash::done("panel.done.links", &[]).to(&pages, "/settings/links")),
            Err(error) if error.kind == ErrorKind::Invalid => fields.refused(visit.lang, &error),
            Err(error) if error.kind == ErrorKind::Stale => {
                let current = visit.backend().sharing().await?;
                let clashes = clashes(&visit, &current, &fields, &change);
                fields.set("rev", current.rev.to_string());
                let typed = typed(current, &change);
                return page(&pages, &visit, &typed, fields, clashes, StatusCode::PRECONDITION_FAILED).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let typed = typed(sharing, &change);
    page(&pages, &visit, &typed, fields, Vec::new(), StatusCode::UNPROCESSABLE_ENTITY).await
}

/// The settings with what was typed of inbounds in them, so that it stays in the form.
fn typed(mut there: SharingShow, change: &SharingChange) -> SharingShow {
    for (tag, said) in &change.inbounds {
        match said {
            Some(said) => drop(there.sharing.inbounds.insert(tag.clone(), said.clone())),
            None => drop(there.sharing.inbounds.remove(tag)),
        }
    }
    there
}

fn clashes(
    visit: &Visit,
    there: &SharingShow,
    typed: &Fields,
    change: &SharingChange,
) -> Vec<(String, String, String)> {
    let text = |value: &str| match value.trim() {
        "" => visit.lang.text("panel.form.empty").to_owned(),
        some => shown(some),
    };
    let now = fields_of(there);
    let fields = ["address", "title", "update_hours", "support_url"].iter();
    let differs = fields.filter(|name| now.v(name).trim() != typed.v(name).trim());
    let mut clashes: Vec<(String, String, String)> = differs
        .map(|name| {
            let label = visit.lang.text(&format!("panel.field.{name}")).to_owned();
            (label, text(now.v(name)), text(typed.v(name)))
        })
        .collect();
    let said = |it: Option<&InboundSharing>| {
        let json = it.map(|it| serde_json::to_string(it).unwrap_or_default());
        text(&json.unwrap_or_default())
    };
    for (tag, ours) in &change.inbounds {
        clashes.push((shown(tag), said(there.sharing.inbounds.get(tag)), said(ours.as_ref())));
    }
    clashes
}

fn read(visit: &Visit, form: &Form, sharing: &SharingShow, fields: &mut Fields) -> SharingChange {
    let text = |name: &str| Some(form.some(name).map(str::to_owned));
    let update_hours = form.get("update_hours").parse().ok();
    if update_hours.is_none() {
        fields.fail("update_hours", visit.lang.text("panel.invalid.count"));
    }
    let mut change = SharingChange {
        address: text("address"),
        title: text("title"),
        update_hours,
        support_url: text("support_url"),
        ..SharingChange::default()
    };
    let mut number = 0;
    while let Some(tag) = form.some(&format!("tag-{number}")) {
        let said = inbound(visit, form, number, fields);
        let before = sharing.sharing.inbounds.get(tag);
        if before != Some(&said) && (before.is_some() || said != InboundSharing::default()) {
            change.inbounds.insert(tag.to_owned(), Some(said).filter(|it| *it != InboundSharing::default()));
        }
        number += 1;
    }
    change
}

fn inbound(visit: &Visit, form: &Form, number: usize, fields: &mut Fields) -> InboundSharing {
    let field = |name: &str| form.some(&format!("{name}-{number}")).map(str::to_owned);
    let port = field("port").map(|it| it.parse::<u16>());
    if matches!(port, Some(Err(_))) {
        fields.fail("inbounds", visit.lang.text("panel.invalid.port"));
    }
    InboundSharing {
        address: field("address"),
        port: port.and_then(Result::ok),
        server_name: field("server_name"),
        insecure: match field("insecure").as_deref() {
            Some("yes") => Some(true),
            Some("no") => Some(false),
            _ => None,
        },
        tls: field("tls").map(|_| true),
        hidden: field("hidden").is_some(),
    }
}
