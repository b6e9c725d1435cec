//! The meter: carries the kernel's news and sing-box's sightings to the core, and the core's effects
//! to the kernel.
//!
//! Owns the kernel, the attributor and the accounts; decides nothing itself. Everything here runs on
//! one task, so that nothing needs a lock.

mod walks;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use boxmeter_common::{
    command::{self, Command},
    flow::{Flow, FlowKey},
    stats::Stat,
};

use super::{flow_rates::FlowRates, gate::FlowNews, peers::Peers};

use crate::{
    clock,
    core::{
        account::{Accounts, Anomaly, UserSlot},
        attribute::{Attributor, Effect, FlowView, InboundInfo, ReportedBytes},
        event::{Counters, FlowId, FlowSeen, InboundIndex, Now, Slot, SourceEvent, UserId},
        snapshot::Publisher,
    },
    daemon::guard::Bulk,
    fault,
    kernel::{Events, Kernel, KernelError, KernelEvent, PeerCursor},
};

/// A complete walk over all sockets repairs lost events and settles what idle flows have pending; limits
/// live on what it finds.
const WALK_EVERY_NS: u64 = crate::core::crowd::LOOKS_WITHIN_NS;

/// The same where connections without a user are ended: they go on until a walk finds them.
const GUARDED_WALK_EVERY_NS: u64 = 2_000_000_000;

/// News taken in one turn: several times what the ring buffer holds, so that only a flood that is
/// faster than the agent meets this, and even then the tick gets its turn.
const NEWS_PER_TURN: usize = 65_536;

/// Commands that wait because the kernel refused to run them. The oldest go first, and are counted:
/// walks find out again what they were about.
const COMMANDS_WAITING_MAX: usize = 65_536;

/// A trouble of the kernel's side is shown for this long after it was met last.
const TROUBLE_SHOWN_NS: u64 = 60_000_000_000;

/// See the module.
pub struct Meter {
    pub kernel: Kernel,
    pub attributor: Attributor,
    pub accounts: Accounts,
    pub publisher: Publisher,
    /// `boxmeter_common::user::METER_*`.
    billed_meter: u32,
    peers: Peers,
    peers_cursor: PeerCursor,
    /// The walk over UDP peers has gone round: until then the flows of an agent before are not all known.
    peers_walked: bool,
    commands: Vec<Command>,
    commands_dropped: u64,
    /// Until the next tick, which is one second of them at most.
    reported: Vec<ReportedBytes>,
    events_lost: u64,
    peers_full: u64,
    flow_rates: FlowRates,
    /// When all sockets were walked last by a tick.
    walked_ns: Option<u64>,
    /// Whether connections without a user are ended.
    pub(super) guarded: bool,
    /// Limits want walks as often as this.
    pub(super) walk_within_ns: u64,
    /// Events about users may be among those that were lost.
    pub(super) lost: bool,
    /// TCP flows without an account that moved much, as the last walk found them.
    pub(super) bulk: Vec<Bulk>,
    /// sing-box's namespace is known, so that a walk finds all sockets there are.
    pub walks_are_complete: bool,
    trouble_until_ns: Option<u64>,
    /// For the gate, which takes them in each turn.
    flow_news: Vec<FlowNews>,
    /// The flows that the last complete walk found open.
    walked: Option<BTreeSet<FlowId>>,
}

/// An open flow, for people.
pub struct ListedFlow {
    pub view: FlowView,
    pub flow: Flow,
    /// Payload bytes per second, by direction.
    pub rates: [u64; 2],
}

/// One reading of all accounts.
pub struct Tick {
    pub rows: Vec<crate::core::account::Row>,
    pub anomalies: Vec<Anomaly>,
    /// What sing-box reported since the last one.
    pub reported: Vec<ReportedBytes>,
}

impl Meter {
    /// Takes over whatever the kernel's maps have: accounts, users and live flows.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn new(kernel: Kernel, billed_meter: u32) -> Result<Self, KernelError> {
        let mut accounts = Accounts::default();
        for user in kernel.users() {
            // `[billing] meter` may have changed while no agent ran.
            kernel.set_meter(user.slot, billed_meter);
            accounts.adopt_user(UserSlot(user.slot.0), user.user);
        }
        for account in kernel.accounts() {
            if let Some(user) = account.user {
                accounts.adopt(account.slot, user, account.inbound);
            }
        }
        accounts.set_inbounds(kernel.inbounds().into_iter().map(|inbound| inbound.index));
        let peers_full = kernel.stat(Stat::PeersFull);
        Ok(Meter {
            kernel,
            attributor: Attributor::default(),
            accounts,
            publisher: Publisher::default(),
            billed_meter,
            peers: Peers::default(),
            peers_cursor: PeerCursor::default(),
            peers_walked: false,
            commands: Vec::new(),
            commands_dropped: 0,
            reported: Vec::new(),
            events_lost: 0,
            peers_full,
            flow_rates: FlowRates::default(),
            walked_ns: None,
            guarded: false,
            walk_within_ns: WALK_EVERY_NS,
            lost: false,
            bulk: Vec::new(),
            walks_are_complete: false,
            trouble_until_ns: None,
            flow_news: Vec::new(),
            walked: None,
        })
    }

    /// `known`: every inbound of this epoch, watched now or earlier.
    pub fn set_inbounds(&mut self, inbounds: &[InboundInfo], known: Vec<InboundIndex>) {
        self.accounts.set_inbounds(known);
        self.attributor.set_inbounds(inbounds);
    }

    /// What the ledger knows of former lives of the agent, in UTC milliseconds.
    pub fn set_last_seen(&mut self, seen: impl IntoIterator<Item = (UserId, i64)>) {
        for (user, at_ms) in seen {
            self.accounts.set_last_seen(user, at_ms);
            self.publisher.set_activity(user, self.accounts.activity(user));
        }
    }

    /// A service told of bytes of the user that the kernel does not see.
    pub fn seen(&mut self, user: UserId, at_ms: i64) {
        self.accounts.seen(user, at_ms);
        self.publisher.set_activity(user, self.accounts.activity(user));
    }

    pub fn set_users(&mut self, names: BTreeMap<Arc<str>, UserId>) -> Result<(), KernelError> {
        self.attributor.set_users(names, clock::now());
        self.carry_out()
    }

    /// Reads what the kernel has to say; what is about users goes to `others`. To be called before each
    /// batch of sightings.
    ///
    /// # Errors
    /// When the kernel refuses a command.
    pub fn kernel_events(
        &mut self,
        events: &mut Events,
        others: &mut Vec<KernelEvent>,
    ) -> Result<(), KernelError> {
        for _ in 0..NEWS_PER_TURN {
            let Some(event) = events.poll() else { break };
            match event {
                KernelEvent::Opened(flow) => {
                    let key = crate::kernel::key(&flow);
                    self.opened(flow, key, clock::now());
                }
                KernelEvent::Closed { flow, at_ns, .. } => {
                    let (key, now) = (crate::kernel::key(&flow), clock::now());
                    self.opened(flow, key, now);
                    self.attributor.flow_closed(flow.id, at_ns, now);
                    self.flow_news.push(FlowNews::Ended(flow.id));
                }
                other => others.push(other),
            }
        }
        let lost = self.kernel.stat(Stat::EventsFull);
        if lost != self.events_lost {
            self.walk_sockets()?;
            self.take_closed()?;
            self.events_lost = lost;
            self.lost = true;
        }
        self.carry_out()
    }

    /// Were events lost since the last call? Flows were made up for by a walk; users are the caller's.
    pub fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    fn opened(&mut self, seen: FlowSeen, key: FlowKey, now: Now) {
        if key.network == boxmeter_common::UDP {
            self.peers.opened(seen.id, key);
        }
        let owner = seen.owner.and_then(|slot| self.accounts.user_of(slot));
        if let Some(user) = owner {
            self.flow_news.push(FlowNews::Owned(seen, user));
        }
        self.attributor.flow_seen(seen, owner, now);
    }

    /// What the source tells, handed to the core; [`Meter::carry_out`] does what follows.
    pub fn source_event(&mut self, event: SourceEvent) {
        let now = clock::now();
        match event {
            SourceEvent::Connected { source, replay: true } => self.attributor.replay_begins(source, now),
            SourceEvent::Connected { replay: false, .. } | SourceEvent::Disconnected { .. } => {}
            SourceEvent::Sighting(sighting) => self.attributor.sighting(sighting, now),
            SourceEvent::Ended { source, connection, totals } => {
                self.attributor.ended(source, &connection, totals, now);
            }
            SourceEvent::Lost { .. } => {}
        }
    }

    /// Carries out everything that the core wants done.
    ///
    /// # Errors
    /// When the kernel refuses a command; what it did not work off is tried again with the next call.
    pub fn carry_out(&mut self) -> Result<(), KernelError> {
        while let Some(effect) = self.attributor.poll_effect() {
            match effect {
                Effect::Own { flow, user, .. } => self.own(&flow, user)?,
                Effect::Shared { flow, .. } => self.by_id(command::OP_SHARED, flow),
                Effect::Handover { flow } => self.commands.extend(self.peers.close(flow, u64::MAX)),
                Effect::Expire { flow } => self.by_id(command::OP_EXPIRE, flow),
                Effect::Reported(told) => self.reported.push(told),
            }
        }
        self.run()
    }

    fn own(&mut self, flow: &FlowSeen, user: UserId) -> Result<(), KernelError> {
        let slot = match self.kernel.allocate_account(user, flow.inbound, self.billed_meter) {
            Ok(slot) => slot,
            Err(full @ KernelError::Full { .. }) => {
                // Its bytes stay unattributed; nothing is lost, and people see why.
                self.trouble(full.to_string(), clock::now());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.accounts.begin(slot, user, flow.inbound);
        if let Some(user_slot) = self.kernel.user_slot(user) {
            self.accounts.adopt_user(UserSlot(user_slot.0), user);
        }
        let key = crate::kernel::key(flow);
        self.commands.push(Command {
            op: command::OP_OWN,
            slot: slot.0,
            id: flow.id.0,
            key,
            ..Command::default()
        });
        self.flow_news.push(FlowNews::Owned(*flow, user));
        Ok(())
    }

    fn by_id(&mut self, op: u32, flow: FlowId) {
        let key = self.peers.key(flow).unwrap_or_default();
        self.commands.push(Command { op, id: flow.0, key, ..Command::default() });
    }

    fn run(&mut self) -> Result<(), KernelError> {
        if self.commands.is_empty() {
            return Ok(());
        }
        let mut commands = std::mem::take(&mut self.commands);
        let done = self.kernel.run(&mut commands);
        if done.is_err() {
            // Each command may be repeated: a move that was made leaves nothing to move.
            let over = commands.len().saturating_sub(COMMANDS_WAITING_MAX);
            self.commands_dropped += over as u64;
            commands.drain(..over);
            self.commands = commands;
            return done;
        }
        let now = clock::now();
        for command in commands {
            self.done(&command, now);
        }
        Ok(())
    }

    /// Something of the kernel's side does not work as it should: people see it for a while.
    pub fn trouble(&mut self, reason: String, now: Now) {
        if self.trouble_until_ns.is_none() {
            tracing::error!("{reason}");
        }
        self.publisher.degrade("kernel", reason, now);
        self.trouble_until_ns = Some(now.mono_ns.saturating_add(TROUBLE_SHOWN_NS));
    }

    fn troubles(&mut self, now: Now) {
        if self.trouble_until_ns.is_some_and(|until| until <= now.mono_ns) {
            self.trouble_until_ns = None;
            self.publisher.restore("kernel");
        }
        let full = self.kernel.stat(Stat::PeersFull);
        if full != self.peers_full {
            self.peers_full = full;
            let reason = "there is no room for more UDP clients: the bytes of new ones are counted for nobody; \
                          is somebody flooding a port with spoofed addresses?";
            self.trouble(reason.to_owned(), now);
        }
        self.publisher.set_counter("commands_dropped", self.commands_dropped);
    }

    fn done(&mut self, command: &Command, now: Now) {
        if let Some(ended) = self.peers.done(command, now.mono_ns) {
            self.attributor.flow_closed(ended, now.mono_ns, now);
            self.flow_news.push(FlowNews::Ended(ended));
        }
        if (command.op, command.result) == (command::OP_OWN, command::RESULT_FULL) {
            let reason = "more owners were told than flows picked up; they are told again".to_owned();
            self.trouble(reason, now);
        }
    }

    /// One tick: walks, ends idle peers, reads all accounts.
    ///
    /// # Errors
    /// When a map cannot be read; the counters stay in the kernel and come with a later tick.
    pub fn tick(&mut self) -> Result<Tick, KernelError> {
        let now = clock::now();
        self.troubles(now);
        self.flow_rates.forget_old(now.mono_ns);
        let guarded_ns = if self.guarded { GUARDED_WALK_EVERY_NS } else { WALK_EVERY_NS };
        let every_ns = guarded_ns.min(self.walk_within_ns) / fault::hurry();
        if self.walked_ns.is_none_or(|walked_ns| now.mono_ns.saturating_sub(walked_ns) >= every_ns) {
            self.walk_sockets()?;
            self.take_closed()?;
            self.walked_ns = Some(now.mono_ns);
        }
        self.walk_peers(now)?;
        self.attributor.tick(now);
        self.carry_out()?;
        Ok(self.read())
    }

    /// Settles what idle sockets still have pending and reads all accounts: for an answer that is to
    /// include everything up to now.
    ///
    /// # Errors
    /// As [`Meter::tick`].
    pub fn read_now(&mut self) -> Result<Tick, KernelError> {
        self.walk_sockets()?;
        self.carry_out()?;
        Ok(self.read())
    }

    fn read(&mut self) -> Tick {
        let now = clock::now();
        let readings: Vec<(Slot, Counters)> =
            self.kernel.accounts().map(|account| (account.slot, account.counters)).collect();
        let reading = self.accounts.read(&readings, now);
        let reported = std::mem::take(&mut self.reported);
        Tick { rows: reading.rows, anomalies: reading.anomalies, reported }
    }

    /// Everything seen of each inbound, owned or not.
    pub fn watched(&self) -> Vec<(InboundIndex, Counters)> {
        let inbounds = self.kernel.inbounds().into_iter();
        inbounds.map(|inbound| (inbound.index, self.kernel.watched(inbound.index))).collect()
    }

    /// What happened to flows since the last call.
    pub fn take_flow_news(&mut self) -> Vec<FlowNews> {
        std::mem::take(&mut self.flow_news)
    }

    /// The open flows, if all sockets were walked since the last call, and all peers at least once.
    pub fn take_walk(&mut self) -> Option<BTreeSet<FlowId>> {
        self.walked.take().filter(|_| self.peers_walked)
    }

    /// The open flows of some users.
    pub fn flows_of(&self, users: &BTreeSet<UserId>) -> Vec<FlowSeen> {
        if users.is_empty() {
            return Vec::new();
        }
        self.attributor.flows_of(users).map(flow_seen).collect()
    }

    /// An open flow.
    pub fn flow(&self, id: FlowId) -> Option<FlowSeen> {
        self.attributor.flow(id).map(flow_seen)
    }
}

fn flow_seen(view: FlowView) -> FlowSeen {
    FlowSeen {
        id: view.id,
        inbound: view.inbound,
        network: view.network,
        peer: view.peer,
        opened_ns: view.opened_ns,
        owner: None,
    }
}
