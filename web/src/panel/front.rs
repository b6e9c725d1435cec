//! Whom the panel asks: the agent over its socket, or made-up data. A visitor's request is always asked with
//! what that visitor presents.

use std::sync::Arc;

use async_trait::async_trait;
use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{HeaderName, header};
use tower::ServiceExt as _;

use crate::{
    access::Visitor,
    api::{
        client::Client,
        order::{IDEMPOTENCY_KEY, Identity},
        routes,
    },
    backend::Backend,
    demo::Demo,
};

/// See the module.
#[async_trait]
pub trait Front: Send + Sync {
    /// What the panel asks for itself: the state of things, who somebody is, whose a subscription is.
    fn own(&self) -> Arc<dyn Backend>;

    /// The same for a visitor, with that one's rights and name.
    fn acting_for(&self, visitor: &Visitor) -> Arc<dyn Backend>;

    /// Answers a request to `/api/v1` for a visitor.
    async fn api(&self, visitor: Visitor, request: Request) -> Response;

    /// The password of made-up data, which the page of signing in tells.
    fn demo_password(&self) -> Option<&'static str> {
        None
    }
}

/// What of a request to `/api/v1` the agent is told. Whatever says who asks is not among it.
const PASSED: [HeaderName; 4] = [header::ACCEPT, header::CONTENT_TYPE, header::IF_MATCH, IDEMPOTENCY_KEY];
/// What of the agent's answer is told.
const TOLD: [HeaderName; 4] = [header::CONTENT_TYPE, header::CACHE_CONTROL, header::ETAG, header::ALLOW];

/// The agent.
#[async_trait]
impl Front for Client {
    fn own(&self) -> Arc<dyn Backend> {
        Arc::new(self.clone())
    }

    fn acting_for(&self, visitor: &Visitor) -> Arc<dyn Backend> {
        Arc::new(Client::acting_for(self, visitor))
    }

    async fn api(&self, visitor: Visitor, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |it| it.as_str());
        let mut passed = Request::builder().method(parts.method).uri(path);
        for name in &PASSED {
            for value in parts.headers.get_all(name) {
                passed = passed.header(name, value);
            }
        }
        match Client::acting_for(self, &visitor).pass(passed, body).await {
            Ok(answer) => {
                let (parts, body) = answer.into_parts();
                let mut response = Response::new(Body::new(body));
                *response.status_mut() = parts.status;
                for name in &TOLD {
                    if let Some(value) = parts.headers.get(name) {
                        response.headers_mut().insert(name, value.clone());
                    }
                }
                response
            }
            Err(error) => error.into_response(),
        }
    }
}

/// Made-up data, for everybody the same.
pub struct MadeUp(pub Arc<Demo>);

#[async_trait]
impl Front for MadeUp {
    fn own(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.0) as Arc<dyn Backend>
    }

    fn acting_for(&self, _visitor: &Visitor) -> Arc<dyn Backend> {
        self.own()
    }

    fn demo_password(&self) -> Option<&'static str> {
        Some(crate::demo::PASSWORD)
    }

    async fn api(&self, visitor: Visitor, request: Request) -> Response {
        let who = match self.own().who(&visitor).await {
            Ok(who) => who,
            Err(error) => return error.into_response(),
        };
        let (mut parts, body) = request.into_parts();
        // What the panel's own routes noted of the path would be taken for the API's.
        parts.extensions = http::Extensions::new();
        let foreign: Vec<HeaderName> =
            parts.headers.keys().filter(|it| it.as_str().starts_with("x-boxmeter-")).cloned().collect();
        for name in foreign {
            parts.headers.remove(name);
        }
        let mut request = Request::from_parts(parts, body);
        let identity = Identity::Visitor { by: who.by, name: who.name.clone(), from: visitor.from };
        request.extensions_mut().insert(who.access);
        request.extensions_mut().insert(identity);
        request.extensions_mut().insert(who);
        match routes::router(self.own()).oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
