//! What others see of the flows: live counts of users, and flows as people see them.

use std::collections::BTreeSet;

use super::*;

impl Attributor {
    /// Open flows and addresses of a user.
    pub fn live(&self, user: UserId) -> Live {
        self.users.known(user).map_or(Live::default(), |user| self.flows.live(user))
    }

    /// Open flows and addresses of all users who have any.
    pub fn all_live(&self) -> impl Iterator<Item = (UserId, Live)> {
        self.flows.all_live().filter_map(|(user, live)| Some((self.users.id(user)?, live)))
    }

    /// Open flows and addresses of the users for whom that may have changed since the last call.
    pub fn take_live_changes(&mut self) -> Vec<(UserId, Live)> {
        let changed = self.flows.take_changed().into_iter();
        changed.filter_map(|user| Some((self.users.id(user)?, self.flows.live(user)))).collect()
    }

    /// The open flows, in the order of inbound, port and address.
    pub fn flows(&self) -> impl Iterator<Item = FlowView> {
        let mut open: Vec<(FlowRef, &Flow)> = self.flows.iter().filter(|(_, flow)| flow.is_open()).collect();
        open.sort_unstable_by_key(|(at, _)| *at);
        open.into_iter().map(|(at, flow)| self.view(at, flow))
    }

    /// The open flows, in no order.
    pub fn open(&self) -> impl Iterator<Item = FlowView> {
        self.flows.iter().filter(|(_, flow)| flow.is_open()).map(|(at, flow)| self.view(at, flow))
    }

    /// The open flows of some users, in no order.
    pub fn flows_of<'a>(&'a self, users: &'a BTreeSet<UserId>) -> impl Iterator<Item = FlowView> + 'a {
        let theirs = |flow: &Flow| {
            flow.owner.and_then(|user| self.users.id(user)).is_some_and(|id| users.contains(&id))
        };
        let open = self.flows.iter().filter(move |(_, flow)| flow.is_open() && theirs(flow));
        open.map(|(at, flow)| self.view(at, flow))
    }

    /// One open flow.
    pub fn flow(&self, id: FlowId) -> Option<FlowView> {
        let at = self.flows.find(id)?;
        self.flows.get(at).filter(|flow| flow.is_open()).map(|flow| self.view(at, flow))
    }

    /// The open flows whose owner is not known.
    pub fn unowned_live(&self) -> impl Iterator<Item = FlowView> {
        self.flows
            .iter()
            .filter(|(_, flow)| flow.is_open() && !flow.is_owned())
            .map(|(at, flow)| self.view(at, flow))
    }

    fn view(&self, at: FlowRef, flow: &Flow) -> FlowView {
        let (key, id) = at;
        FlowView {
            id,
            inbound: key.inbound(),
            network: key.network,
            peer: key.peer(),
            opened_ns: flow.opened_ns,
            user: flow.owner.and_then(|user| self.users.id(user)),
            by: if flow.shared_with.is_some() { Some(OwnerBy::Shared) } else { flow.by },
            shared_with: flow.shared_with.and_then(|user| self.users.id(user)),
        }
    }
}
