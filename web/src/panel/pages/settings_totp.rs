//! `/settings/totp`: the second factor. A secret is offered on demand as a QR code, and holds once a code
//! of it was typed; it goes with a code too.

use askama::Template;
use axum::extract::State;
use http::StatusCode;

use super::{
    Shared, Visit,
    flash::Flash,
    form::Form,
    frame::{Answer, Frame, render_as},
    settings::who,
};
use crate::{access::TotpCode, backend::ErrorKind, share::qr};

#[derive(Template)]
#[template(path = "settings_totp.html")]
struct Page {
    f: Frame,
    /// Whether it is on, and to be turned off.
    on: bool,
    secret: String,
    uri: String,
    qr: String,
    wrong: bool,
}

/// The form that turns it off, or the button that asks for a secret: looking changes nothing.
pub async fn show(State(pages): State<Shared>, visit: Visit) -> Answer {
    let on = who(&visit)?.totp;
    page(&pages, &visit, on, Offer::default(), false, StatusCode::OK).await
}

#[derive(Default)]
struct Offer {
    secret: String,
    uri: String,
}

/// A new secret, which holds nothing until it is confirmed.
pub async fn offer(State(pages): State<Shared>, visit: Visit) -> Answer {
    let offer = visit.backend().offer_totp(who(&visit)?).await?;
    let offer = Offer { secret: offer.secret, uri: offer.uri };
    page(&pages, &visit, false, offer, false, StatusCode::OK).await
}

async fn page(
    pages: &Shared,
    visit: &Visit,
    on: bool,
    offer: Offer,
    wrong: bool,
    status: StatusCode,
) -> Answer {
    let f = Frame::load(pages, visit, "settings", visit.lang.text("panel.totp.title").to_owned()).await;
    let qr = qr::svg(&offer.uri).filter(|_| !on).unwrap_or_default();
    render_as(status, &Page { f, on, secret: offer.secret, uri: offer.uri, qr, wrong })
}

pub async fn turn_on(State(pages): State<Shared>, visit: Visit, form: Form) -> Answer {
    set(&pages, &visit, &form, true).await
}

pub async fn turn_off(State(pages): State<Shared>, visit: Visit, form: Form) -> Answer {
    set(&pages, &visit, &form, false).await
}

async fn set(pages: &Shared, visit: &Visit, form: &Form, on: bool) -> Answer {
    let code = form.get("code").chars().filter(|c| !c.is_whitespace()).collect();
    match visit.backend().set_totp(visit.envelope(), who(visit)?, TotpCode { code }, on).await {
        Ok(()) => {
            let key = if on { "panel.done.totp_on" } else { "panel.done.totp_off" };
            Ok(Flash::done(key, &[]).to(pages, "/settings"))
        }
        Err(error) if matches!(error.kind, ErrorKind::NotPermitted | ErrorKind::Invalid) => {
            // The secret that was offered stays the offered one: it comes back with the form.
            let offer = Offer { secret: form.get("secret").to_owned(), uri: form.get("uri").to_owned() };
            page(pages, visit, !on, offer, true, StatusCode::UNPROCESSABLE_ENTITY).await
        }
        Err(error) => Err(error.into()),
    }
}
