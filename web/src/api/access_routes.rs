//! Who asks, and the routes about signing in, sessions and tokens.

use std::net::IpAddr;

use axum::{
    Extension, Router,
    extract::{MatchedPath, Path, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::{
    change_routes::to_its_end,
    error::ApiError,
    order::{Actor, Envelope, Identity, Order, Origin},
    routes::{Access, RawQuery, Shared, read, secret, wrong_method},
};
use crate::access::{
    By, Need, NewToken, PasswordChange, Presented, SignIn, TotpCode, Visitor, Which, Who, need,
};

/// The visitor's session, as the panel hands it on.
pub const SESSION: HeaderName = HeaderName::from_static("x-boxmeter-session");
/// The visitor's address. Whoever sends it speaks for a visitor, and may no more than that one.
pub const FROM: HeaderName = HeaderName::from_static("x-boxmeter-from");
/// The visitor's browser.
pub const BROWSER: HeaderName = HeaderName::from_static("x-boxmeter-browser");
/// Nobody is before the page that asks; see [`Visitor::unattended`].
pub const UNATTENDED: HeaderName = HeaderName::from_static("x-boxmeter-unattended");
/// Of which a path may have some.
const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
/// Bytes of a browser's name that are kept.
const BROWSER_BYTES_MAX: usize = 200;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/who", get(who))
        .route("/session", post(sign_in).delete(sign_out))
        .route("/sessions", get(sessions).delete(end_others))
        .route("/sessions/{id}", delete(end_one))
        .route("/password", post(change_password))
        .route("/totp", post(offer_totp).put(totp_on).delete(totp_off))
        .route("/tokens", get(tokens).post(add_token))
        .route("/tokens/{id}", delete(delete_token))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// For whom a request speaks: nobody, if it says no address.
///
/// # Errors
/// `BadRequest` for an address that is none.
fn visitor(headers: &HeaderMap) -> Result<Option<Visitor>, ApiError> {
    let Some(from) = headers.get(&FROM) else { return Ok(None) };
    let from: IpAddr = from
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| ApiError::bad_request(format!("{FROM}: not an address")))?;
    let presented = match text(headers, &SESSION) {
        Some(session) => Some(Presented::Session(session.to_owned())),
        None => bearer(headers).map(|token| Presented::Token(token.to_owned())),
    };
    let browser = text(headers, &BROWSER).unwrap_or_default();
    let cut = browser.floor_char_boundary(BROWSER_BYTES_MAX.min(browser.len()));
    let unattended = headers.contains_key(&UNATTENDED);
    Ok(Some(Visitor { presented, from, browser: browser[..cut].to_owned(), unattended }))
}

/// The token of `Authorization: Bearer`.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = text(headers, &header::AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Asks the route's rule of the caller, or of the visitor that the panel speaks for. Who that is, is looked up
/// anew for each request.
pub(super) async fn need_access(
    State(backend): State<Shared>,
    access: Option<Extension<Access>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(Extension(own)) = access else {
        return ApiError::not_permitted(
            "you may not read the meter: be root or in the group boxmeter (log in again after \
             being added to it)",
        )
        .into_response();
    };
    if let Some(pattern) = request.extensions().get::<MatchedPath>()
        && need(request.method(), pattern.as_str()).is_none()
        && METHODS.iter().any(|it| need(it, pattern.as_str()).is_some())
    {
        return wrong_method().await;
    }
    match admitted(&backend, own, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

async fn admitted(backend: &Shared, own: Access, request: &mut Request) -> Result<(), ApiError> {
    let rule = request.extensions().get::<MatchedPath>().and_then(|it| need(request.method(), it.as_str()));
    let visitor = visitor(request.headers())?;
    let (access, who) = match &visitor {
        // The demonstration's panel has asked already.
        None => (own, request.extensions().get::<Who>().cloned().unwrap_or_else(|| socket(own, request))),
        Some(_) if !matches!(own, Access::Panel | Access::Admin) => {
            return Err(ApiError::not_permitted("only the panel and root may speak for a visitor"));
        }
        Some(visitor) if visitor.presented.is_some() => {
            let who = backend.who(visitor).await?;
            (who.access, who)
        }
        // Nobody yet: what the panel itself may do for one who is not in.
        Some(_) => (Access::Panel, socket(Access::Panel, request)),
    };
    match rule {
        Some(Need::Panel) if who.by == By::Socket && matches!(own, Access::Panel | Access::Admin) => {}
        Some(Need::Level(level)) if access >= level && !(visitor.is_some() && who.by == By::Socket) => {}
        Some(_) => return Err(too_little(&who)),
        None => return Err(ApiError::not_permitted("nobody may do this here")),
    }
    let extensions = request.extensions_mut();
    extensions.insert(access);
    if let Some(visitor) = visitor {
        if who.by != By::Socket {
            let (by, name) = (who.by, who.name.clone());
            extensions.insert(Identity::Visitor { by, name, from: visitor.from });
        }
        extensions.insert(visitor);
    }
    extensions.insert(who);
    Ok(())
}

fn too_little(who: &Who) -> ApiError {
    ApiError::not_permitted(match who.by {
        By::Socket => "you may look, but only root may do this: use sudo",
        By::Session | By::Token => "the token's scope does not reach this",
    })
}

/// Who is on the machine itself.
fn socket(access: Access, request: &Request) -> Who {
    let name = match request.extensions().get::<Identity>() {
        Some(Identity::Uid(uid)) => format!("uid:{uid}"),
        _ => String::new(),
    };
    let schema = super::types::Schema;
    Who { schema, by: By::Socket, name, id: String::new(), access, expires_at: None, totp: false }
}

fn done() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

async fn who(
    State(backend): State<Shared>,
    query: RawQuery,
    Extension(who): Extension<Who>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    Ok(secret(who))
}

async fn sign_in(
    State(backend): State<Shared>,
    query: RawQuery,
    visitor: Option<Extension<Visitor>>,
    request: Request,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let Some(Extension(visitor)) = visitor else {
        return Err(ApiError::bad_request("only the panel signs visitors in: open it in a browser"));
    };
    let body = super::order::body::<SignIn>(request).await?;
    let work = async move { backend.sign_in(&visitor, body).await };
    Ok(secret(to_its_end(work).await?))
}

async fn sign_out(
    State(backend): State<Shared>,
    query: RawQuery,
    Extension(who): Extension<Who>,
    identity: Option<Extension<Identity>>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let Some(Extension(identity)) = identity else {
        return Err(ApiError::bad_request("there is no session to end"));
    };
    // Whoever may only look may leave all the same.
    let envelope = Envelope::of(Actor { identity, origin: Origin::Panel });
    let work = async move { backend.sign_out(envelope, &who).await };
    to_its_end(work).await?;
    Ok(done())
}

async fn sessions(
    State(backend): State<Shared>,
    query: RawQuery,
    Extension(who): Extension<Who>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    Ok(secret(backend.sessions(&who).await?))
}

async fn end_others(
    State(backend): State<Shared>,
    query: RawQuery,
    Extension(who): Extension<Who>,
    order: Order<()>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let work = async move { backend.end_sessions(order.envelope, &who, Which::Others).await };
    to_its_end(work).await?;
    Ok(done())
}

async fn end_one(
    State(backend): State<Shared>,
    Path(id): Path<String>,
    query: RawQuery,
    Extension(who): Extension<Who>,
    order: Order<()>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let work = async move { backend.end_sessions(order.envelope, &who, Which::One(id)).await };
    to_its_end(work).await?;
    Ok(done())
}

async fn change_password(
    State(backend): State<Shared>,
    query: RawQuery,
    Extension(who): Extension<Who>,
    order: Order<PasswordChange>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    order.body.check()?;
    let work = async move { backend.change_password(order.envelope, &who, order.body).await };
    Ok(secret(to_its_end(work).await?))
}

async fn offer_totp(
    State(backend): State<Shared>,
    query: RawQuery,
    Extension(who): Extension<Who>,
    _order: Order<()>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    Ok(secret(backend.offer_totp(&who).await?))
}

async fn totp_on(
    state: State<Shared>,
    query: RawQuery,
    who: Extension<Who>,
    order: Order<TotpCode>,
) -> Result<Response, ApiError> {
    set_totp(state, query, who, order, true).await
}

async fn totp_off(
    state: State<Shared>,
    query: RawQuery,
    who: Extension<Who>,
    order: Order<TotpCode>,
) -> Result<Response, ApiError> {
    set_totp(state, query, who, order, false).await
}

async fn set_totp(
    State(backend): State<Shared>,
    query: RawQuery,
    Extension(who): Extension<Who>,
    order: Order<TotpCode>,
    on: bool,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let work = async move { backend.set_totp(order.envelope, &who, order.body, on).await };
    to_its_end(work).await?;
    Ok(done())
}

async fn tokens(State(backend): State<Shared>, query: RawQuery) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    Ok(secret(backend.tokens().await?))
}

async fn add_token(
    State(backend): State<Shared>,
    query: RawQuery,
    order: Order<NewToken>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    order.body.check(backend.now().timestamp())?;
    let work = async move { backend.add_token(order.envelope, order.body).await };
    let added = to_its_end(work).await?;
    Ok((StatusCode::CREATED, secret(added)).into_response())
}

async fn delete_token(
    State(backend): State<Shared>,
    Path(id): Path<String>,
    query: RawQuery,
    order: Order<()>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let work = async move { backend.delete_token(order.envelope, &id).await };
    to_its_end(work).await?;
    Ok(done())
}
