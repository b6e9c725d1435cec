//! Carries out what `matching` judges: owners, second users, hand-overs, and waiting.

use super::*;

impl Attributor {
    pub(super) fn decide_or_wait(&mut self, waiting: Waiting, now: Now) {
        let judgement = self.judge(&waiting);
        if self.carry_out(&waiting, judgement) {
            return;
        }
        let later = matches!(judgement, Some((_, Judgement::Later)));
        let waiting = Waiting { deciding: later, ..waiting };
        match self.waiters.add(waiting, now.mono_ns) {
            Some(number) if later => self.waiters.decide_later(number, now.mono_ns),
            Some(_) => {}
            None => self.counters.sightings_waiting_full += 1,
        }
    }

    /// Looks at a waiting sighting again.
    pub(super) fn recheck(&mut self, number: u64, now: Now) {
        let Some(waiting) = self.waiters.get(number).cloned() else { return };
        let mut judgement = self.judge(&waiting);
        if let Some((user, Judgement::Own { flow, by_port, .. })) = judgement
            && waiting.final_decision
            && self.is_contested(number, &waiting, flow, by_port)
        {
            judgement = Some((user, Judgement::Ambiguous));
        }
        if self.carry_out(&waiting, judgement) {
            self.waiters.remove(number);
        } else if matches!(judgement, Some((_, Judgement::Later))) && !waiting.deciding {
            if let Some(waiting) = self.waiters.get_mut(number) {
                waiting.deciding = true;
            }
            self.waiters.decide_later(number, now.mono_ns);
        }
    }

    /// A flow opened: it may be the one that sightings wait for.
    pub(super) fn recheck_at(&mut self, key: Key, now: Now) {
        let forwarded = self.inbounds.get(&key.inbound()).is_some_and(|inbound| inbound.forwarded);
        let numbers = if forwarded {
            self.waiters.at_port(key.inbound(), key.port)
        } else {
            self.waiters.at(key.inbound(), key.peer())
        };
        for number in numbers {
            self.recheck(number, now);
        }
    }

    /// Whether a sighting of another user claims the same flow, with nothing to tell which of them is
    /// forged. Both are marked, so that the other does not win when this one has gone.
    fn is_contested(&mut self, number: u64, waiting: &Waiting, flow: FlowRef, by_port: bool) -> bool {
        let mut contested = waiting.contested;
        let Some(candidate) = self.flows.get(flow).copied() else { return contested };
        for other in self.waiters.at_port(flow.0.inbound(), flow.0.port) {
            let Some(rival) = self.waiters.get_mut(other) else { continue };
            let same_address = rival.peer.ip() == flow.0.peer().ip();
            if other != number
                && rival.user != waiting.user
                && (by_port || same_address)
                && rival.when.fits(&candidate)
            {
                rival.contested = true;
                contested = true;
            }
        }
        contested
    }

    /// `None` while the user is not known.
    fn judge(&mut self, waiting: &Waiting) -> Option<(UserNo, Judgement)> {
        let user = self.users.by_name(&waiting.user)?;
        let mut networks = [waiting.network, other(waiting.network)].into_iter();
        let judgement = networks
            .find_map(|network| {
                let judgement = self.judge_on(waiting, network, user);
                (judgement != Judgement::NoFlow).then_some(judgement)
            })
            .unwrap_or(Judgement::NoFlow);
        Some((user, judgement))
    }

    fn judge_on(&self, waiting: &Waiting, network: Network, user: UserNo) -> Judgement {
        let mut exact = Vec::new();
        let mut any_address = Vec::new();
        for &index in waiting.inbounds.iter() {
            let Some(inbound) = self.inbounds.get(&index) else { continue };
            let Some(key) = Key::new(index, network, waiting.peer) else { continue };
            if !inbound.networks.contains(&network) {
                continue;
            }
            let fits = |&(_, flow): &(FlowRef, &Flow)| waiting.when.fits(flow);
            let owned = |(at, flow): (FlowRef, &Flow)| (at, *flow);
            if inbound.forwarded {
                let flows = self.flows.at_port(key.inbound, network, key.port);
                any_address.extend(flows.filter(fits).map(owned));
            } else {
                exact.extend(self.flows.at(key).filter(fits).map(owned));
            }
        }
        match (exact.is_empty(), any_address.is_empty()) {
            (true, _) => judge_forwarded(&any_address, waiting, user),
            (false, true) => judge_true_address(&exact, waiting, user),
            (false, false) => Judgement::Ambiguous,
        }
    }

    /// Whether the sighting has come to its end.
    fn carry_out(&mut self, waiting: &Waiting, judgement: Option<(UserNo, Judgement)>) -> bool {
        let Some((user, judgement)) = judgement else { return false };
        match judgement {
            Judgement::NoFlow | Judgement::Later | Judgement::AtLast => return false,
            Judgement::Own { flow, by_port, weak } => {
                self.own(flow, user, waiting, by_port);
                if weak {
                    self.flows.set_weak(flow);
                }
            }
            Judgement::Repeat(flow) => {
                self.counters.sightings_repeated += 1;
                self.flows.confirm(flow, by(waiting.source), short(waiting.connection));
                self.remember_connection(flow.0, user, waiting);
            }
            Judgement::Second(flow) => self.second(flow, user, waiting),
            Judgement::Ambiguous => self.counters.sightings_ambiguous += 1,
        }
        true
    }

    fn own(&mut self, at: FlowRef, user: UserNo, waiting: &Waiting, by_port: bool) {
        let Some(flow) = self.flows.get(at) else { return };
        if at.0.network == Network::Udp && !flow.is_open() {
            self.counters.sightings_late += 1;
            return;
        }
        self.counters.sightings_owned += 1;
        self.counters.flows_by_port += u64::from(by_port);
        let by = if by_port { OwnerBy::ByPort } else { by(waiting.source) };
        self.flows.set_owner(at, user, Some(by), short(waiting.connection));
        self.tell_owner(at, user, by);
        self.remember_connection(at.0, user, waiting);
    }

    pub(super) fn tell_owner(&mut self, at: FlowRef, user: UserNo, by: OwnerBy) {
        if let (Some(flow), Some(user)) = (self.flows.get(at), self.users.id(user)) {
            self.effects.push_back(Effect::Own { flow: seen(at, flow), user, by });
        }
    }

    /// Another user than the owner was seen on the flow.
    fn second(&mut self, at: FlowRef, user: UserNo, waiting: &Waiting) {
        let Some(flow) = self.flows.get(at).copied() else { return };
        let remembered = self.remember_connection(at.0, user, waiting);
        if flow.handed_over && flow.is_open() && remembered {
            self.counters.sightings_handed_over += 1;
            return;
        }
        if remembered && self.owner_has_gone(at.0, &flow) {
            self.counters.sightings_handed_over += 1;
            self.counters.flows_handed_over += 1;
            self.flows.set_handed_over(at);
            self.effects.push_back(Effect::Handover { flow: at.1 });
            return;
        }
        self.counters.sightings_shared += 1;
        if flow.shared_with.is_none() {
            self.counters.flows_shared += 1;
            self.flows.set_shared(at, user);
            if let Some(user) = self.users.id(user) {
                self.effects.push_back(Effect::Shared { flow: at.1, user });
            }
        }
    }

    /// Only the API tells the ends of connections, so that only there their absence says something.
    fn owner_has_gone(&self, key: Key, flow: &Flow) -> bool {
        let Some(owner) = flow.owner else { return false };
        flow.is_open()
            && flow.shared_with.is_none()
            && flow.by == Some(OwnerBy::Api)
            && !self.connections.may_be_open(key, owner)
    }

    /// Whether the connection is remembered as open at a UDP peer.
    fn remember_connection(&mut self, key: Key, user: UserNo, waiting: &Waiting) -> bool {
        if key.network != Network::Udp || waiting.source != SourceKind::Api || waiting.closed {
            return false;
        }
        let remembered = self.connections.open(key, waiting.connection, user);
        self.counters.udp_connections_full += u64::from(!remembered);
        remembered
    }

    /// The inbound on which the kernel cannot give this connection's bytes to anybody.
    pub(super) fn metered_by_report(
        &self,
        inbounds: &[InboundIndex],
        sighting: &Sighting,
        connection: u64,
        when: &When,
    ) -> Option<InboundIndex> {
        let by_report = |index: &&InboundIndex| {
            let Some(inbound) = self.inbounds.get(index) else { return false };
            if sighting.peer.port() == 0 {
                return inbound.loses_port;
            }
            sighting.network == Network::Udp
                && inbound.reported_udp
                && !inbound.networks.contains(&Network::Udp)
                && (self.reported.is_known(connection) || !self.is_over_tcp(**index, sighting.peer, when))
        };
        inbounds.iter().find(by_report).copied()
    }

    /// UDP that comes over a TCP flow is reported with that flow's address, and the kernel counts it.
    fn is_over_tcp(&self, inbound: InboundIndex, peer: SocketAddr, when: &When) -> bool {
        Key::new(inbound, Network::Tcp, peer)
            .is_some_and(|key| self.flows.at(key).any(|(_, flow)| when.fits(flow)))
    }

    pub(super) fn report(
        &mut self,
        sighting: &Sighting,
        connection: u64,
        inbound: InboundIndex,
        totals: [u64; 2],
    ) {
        let Some(user) = self.users.by_name(&sighting.user) else {
            self.counters.sightings_unknown_user += 1;
            return;
        };
        if !self.reported.is_known(connection) {
            let old = sighting
                .created_ms
                .is_some_and(|at| matches!(self.clock.instants(at), Instants::BeforeStart { .. }));
            let before = if old { totals } else { [0; 2] };
            let begin = Begin { id: Arc::clone(&sighting.connection), user, inbound, before };
            if !self.reported.begin(connection, begin) {
                self.counters.reported_connections_full += 1;
            }
            self.counters.reported_connections_old += u64::from(old);
        }
        self.counters.sightings_reported += 1;
        self.take_totals(connection, Some(totals));
        if sighting.closed {
            let ended = self.reported.end(connection);
            self.tell_reported(ended);
        }
    }

    pub(super) fn take_totals(&mut self, connection: u64, totals: Option<[u64; 2]>) {
        let fresh = totals.and_then(|totals| self.reported.totals(connection, totals));
        self.tell_reported(fresh);
    }

    pub(super) fn tell_reported(&mut self, fresh: Option<Fresh>) {
        let Some(Fresh { id, user, inbound, bytes, totals, ended }) = fresh else { return };
        if let Some(user) = self.users.id(user) {
            let connection = id;
            let told = ReportedBytes { user, inbound, bytes, connection, totals, ended };
            self.effects.push_back(Effect::Reported(told));
        }
    }
}

fn by(source: SourceKind) -> OwnerBy {
    match source {
        SourceKind::Api => OwnerBy::Api,
        SourceKind::ClashLogs => OwnerBy::ClashLogs,
        SourceKind::LogFile => OwnerBy::LogFile,
    }
}

fn other(network: Network) -> Network {
    match network {
        Network::Tcp => Network::Udp,
        Network::Udp => Network::Tcp,
    }
}
