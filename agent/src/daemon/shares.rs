//! A user's share on each of several proxies.

use std::collections::BTreeMap;

use boxmeter_web::{
    api::types::{ServiceShare, Traffic, User},
    backend::ApiError,
};

use super::{answers, backend::Answerer, shared::Picture};
use crate::{core::event::UserId, ledger::UserRecord, service::Service};

impl Answerer {
    /// A user with what it moved on each proxy.
    pub(super) async fn user_with_shares(
        &self,
        record: &UserRecord,
        picture: &Picture,
    ) -> Result<User, ApiError> {
        let services = self.shares(record.id, picture).await?;
        Ok(User { services, ..self.user_of(record, picture).await? })
    }

    /// Nothing where there is only sing-box.
    async fn shares(&self, user: UserId, picture: &Picture) -> Result<Vec<ServiceShare>, ApiError> {
        let services = &picture.directory.services;
        if services.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.read(move |reader| reader.by_inbound(user)).await?;
        let mut shares: BTreeMap<String, Traffic> = BTreeMap::new();
        for (tag, counters) in rows {
            // Its name is what the tag begins with; all else is sing-box's.
            let own = tag.split_once('/').map(|(name, _)| name);
            let own = own.filter(|name| services.iter().any(|service| service.name == **name));
            let name = own.map_or_else(|| Service::singbox().name.to_string(), str::to_owned);
            let (share, more) = (shares.entry(name).or_default(), answers::traffic(counters));
            share.upload_payload_bytes += more.upload_payload_bytes;
            share.download_payload_bytes += more.download_payload_bytes;
            share.upload_wire_bytes += more.upload_wire_bytes;
            share.download_wire_bytes += more.download_wire_bytes;
        }
        Ok(shares.into_iter().map(|(service, traffic)| ServiceShare { service, traffic }).collect())
    }
}
