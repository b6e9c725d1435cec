//! [`Door`] over the socket: the agent knows, the panel only asks.

use async_trait::async_trait;
use http::{Method, Request};

use super::{
    Door, NewToken, PasswordChange, PasswordChanged, SessionList, SignIn, SignedIn, TokenAdded, TokenList,
    TotpCode, TotpOffer, Visitor, Which, Who,
};
use crate::api::{
    client::{Client, NOTHING, plain},
    error::ApiError,
    order::Envelope,
    params::Pairs,
};
use crate::share::percent;

/// `who` of the parameters is whom the client acts for: the agent takes it from what is presented.
#[async_trait]
impl Door for Client {
    async fn who(&self, visitor: &Visitor) -> Result<Who, ApiError> {
        self.acting_for(visitor).get("/who", &Pairs::new()).await
    }

    async fn sign_in(&self, visitor: &Visitor, sign_in: SignIn) -> Result<SignedIn, ApiError> {
        self.acting_for(visitor).send_json(Method::POST, plain("/session"), &sign_in).await
    }

    async fn sign_out(&self, envelope: Envelope, _who: &Who) -> Result<(), ApiError> {
        self.change(Method::DELETE, plain("/session"), &envelope, NOTHING).await
    }

    async fn sessions(&self, _who: &Who) -> Result<SessionList, ApiError> {
        self.get("/sessions", &Pairs::new()).await
    }

    async fn end_sessions(&self, envelope: Envelope, _who: &Who, which: Which) -> Result<(), ApiError> {
        let path = match which {
            Which::Others => "/sessions".to_owned(),
            Which::One(id) => format!("/sessions/{}", percent(&id)),
        };
        self.change(Method::DELETE, plain(&path), &envelope, NOTHING).await
    }

    async fn change_password(
        &self,
        envelope: Envelope,
        _who: &Who,
        change: PasswordChange,
    ) -> Result<PasswordChanged, ApiError> {
        self.change(Method::POST, plain("/password"), &envelope, Some(&change)).await
    }

    async fn offer_totp(&self, _who: &Who) -> Result<TotpOffer, ApiError> {
        self.answer(Request::post(plain("/totp")), Vec::new()).await
    }

    async fn set_totp(
        &self,
        envelope: Envelope,
        _who: &Who,
        code: TotpCode,
        on: bool,
    ) -> Result<(), ApiError> {
        let method = if on { Method::PUT } else { Method::DELETE };
        self.change(method, plain("/totp"), &envelope, Some(&code)).await
    }

    async fn tokens(&self) -> Result<TokenList, ApiError> {
        self.get("/tokens", &Pairs::new()).await
    }

    async fn add_token(&self, envelope: Envelope, new: NewToken) -> Result<TokenAdded, ApiError> {
        self.change(Method::POST, plain("/tokens"), &envelope, Some(&new)).await
    }

    async fn delete_token(&self, envelope: Envelope, id: &str) -> Result<(), ApiError> {
        self.change(Method::DELETE, plain(&format!("/tokens/{}", percent(id))), &envelope, NOTHING).await
    }
}
