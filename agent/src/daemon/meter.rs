//! The meter: carries the kernel's news and sing-box's sightings to the core, and the core's effects
//! to the kernel.
//!
//! Owns the kernel, the attributor and the accounts; decides nothing itself. Everything here runs on
//! one task, so that nothing needs a lock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use boxmeter_common::{
    command::{self, Command},
    flow::{FLOW_CLOSING, FLOW_OLD, Flow, FlowKey},
};

use crate::{
    clock,
    core::{
        account::{Accounts, Anomaly, UserSlot},
        attribute::{Attributor, Effect, FlowView, InboundInfo},
        event::{Counters, FlowId, FlowSeen, InboundIndex, Now, Slot, SourceEvent, UserId},
        snapshot::Publisher,
    },
    kernel::{Events, Kernel, KernelError, KernelEvent, PeerCursor, seen},
};

/// Peers walked per tick: 100,000 peers are walked within ten ticks, at about 3 ms each.
const PEERS_PER_TICK: u32 = 10_000;

/// A UDP peer without an owner is forgotten after this silence: probes and spoofed addresses must
/// not fill the table.
const PEER_IDLE_UNOWNED_NS: u64 = 60_000_000_000;

/// As sing-box's own default for UDP sessions.
const PEER_IDLE_OWNED_NS: u64 = 300_000_000_000;

/// From marking a peer to forgetting it; no program run lasts nearly as long.
const PEER_FORGET_NS: u64 = 200_000_000;

/// A complete walk over all sockets repairs lost events and settles what idle flows have pending.
const WALK_EVERY_NS: u64 = 10_000_000_000;

/// See the module.
pub struct Meter {
    pub kernel: Kernel,
    pub attributor: Attributor,
    pub accounts: Accounts,
    pub publisher: Publisher,
    /// `boxmeter_common::user::METER_*`.
    billed_meter: u32,
    /// Where UDP flows are, to end one by its id.
    peers: HashMap<FlowId, FlowKey>,
    peers_cursor: PeerCursor,
    forget: VecDeque<(u64, FlowId, FlowKey)>,
    commands: Vec<Command>,
    events_lost: u64,
    /// Payload of the flows that were listed last, and when: for their rates.
    listed: HashMap<FlowId, [u64; 2]>,
    listed_ns: u64,
    next_walk_ns: u64,
}

/// Rates are taken since the last listing if that is not longer ago, else over the flow's life.
const RATE_SINCE_MAX_NS: u64 = 30_000_000_000;

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
}

impl Meter {
    /// Takes over whatever the kernel's maps have: accounts, users and live flows.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn new(kernel: Kernel, billed_meter: u32) -> Result<Self, KernelError> {
        let mut accounts = Accounts::default();
        for user in kernel.users() {
            accounts.adopt_user(UserSlot(user.slot.0), user.user);
        }
        for account in kernel.accounts() {
            if let Some(user) = account.user {
                accounts.adopt(account.slot, user, account.inbound);
            }
        }
        Ok(Meter {
            kernel,
            attributor: Attributor::default(),
            accounts,
            publisher: Publisher::default(),
            billed_meter,
            peers: HashMap::new(),
            peers_cursor: PeerCursor::default(),
            forget: VecDeque::new(),
            commands: Vec::new(),
            events_lost: 0,
            listed: HashMap::new(),
            listed_ns: 0,
            next_walk_ns: 0,
        })
    }

    /// `known`: every inbound of this epoch, watched now or earlier.
    pub fn set_inbounds(&mut self, inbounds: &[InboundInfo], known: Vec<InboundIndex>) {
        self.accounts.set_inbounds(known);
        self.attributor.set_inbounds(inbounds);
    }

    pub fn set_users(&mut self, names: BTreeMap<Arc<str>, UserId>) -> Result<(), KernelError> {
        self.attributor.set_users(names, clock::now());
        self.carry_out()
    }

    /// Reads what the kernel has to say. To be called before each batch of sightings.
    ///
    /// # Errors
    /// When the kernel refuses a command.
    pub fn kernel_events(&mut self, events: &mut Events) -> Result<Vec<KernelEvent>, KernelError> {
        let mut others = Vec::new();
        while let Some(event) = events.poll() {
            match event {
                KernelEvent::Opened(flow) => {
                    let key = crate::kernel::key(&flow);
                    self.opened(flow, key);
                }
                KernelEvent::Closed { flow, at_ns, .. } => {
                    let key = crate::kernel::key(&flow);
                    self.opened(flow, key);
                    self.attributor.flow_closed(flow.id, at_ns, clock::now());
                }
                other => others.push(other),
            }
        }
        let lost = self.kernel.stat(boxmeter_common::stats::Stat::EventsFull);
        if lost != self.events_lost {
            self.events_lost = lost;
            self.walk_sockets()?;
            self.take_closed()?;
        }
        self.carry_out()?;
        Ok(others)
    }

    fn opened(&mut self, seen: FlowSeen, key: FlowKey) {
        if key.network == boxmeter_common::UDP {
            self.peers.insert(seen.id, key);
        }
        let owner = seen.owner.and_then(|slot| self.accounts.user_of(slot));
        self.attributor.flow_seen(seen, owner, clock::now());
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
                Effect::Handover { flow } => self.close_peer(flow, u64::MAX),
                Effect::Expire { flow } => self.by_id(command::OP_EXPIRE, flow),
                // No inbound is metered by reports yet, see `people::infos`.
                Effect::Reported { .. } => {}
            }
        }
        self.run()
    }

    fn own(&mut self, flow: &FlowSeen, user: UserId) -> Result<(), KernelError> {
        let slot = match self.kernel.allocate_account(user, flow.inbound, self.billed_meter) {
            Ok(slot) => slot,
            Err(full @ KernelError::Full { .. }) => {
                // Its bytes stay unattributed; nothing is lost, and people see why.
                self.publisher.degrade("kernel", full.to_string(), clock::now());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.accounts.adopt(slot, user, flow.inbound);
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
        Ok(())
    }

    fn by_id(&mut self, op: u32, flow: FlowId) {
        let key = self.peers.get(&flow).copied().unwrap_or_default();
        self.commands.push(Command { op, id: flow.0, key, ..Command::default() });
    }

    fn close_peer(&mut self, flow: FlowId, before_ns: u64) {
        if let Some(&key) = self.peers.get(&flow) {
            self.commands.push(Command {
                op: command::OP_CLOSE_PEER,
                id: flow.0,
                key,
                before_ns,
                ..Command::default()
            });
        }
    }

    fn run(&mut self) -> Result<(), KernelError> {
        if self.commands.is_empty() {
            return Ok(());
        }
        let mut commands = std::mem::take(&mut self.commands);
        let done = self.kernel.run(&mut commands);
        if done.is_err() {
            // Each command may be repeated: a move that was made leaves nothing to move.
            self.commands = commands;
            return done;
        }
        let now = clock::now();
        for command in commands {
            self.done(&command, now);
        }
        Ok(())
    }

    fn done(&mut self, command: &Command, now: Now) {
        let id = FlowId(command.id);
        match (command.op, command.result) {
            (command::OP_CLOSE_PEER, command::RESULT_LIVE) => {
                self.attributor.flow_closed(id, now.mono_ns, now);
                self.forget.push_back((now.mono_ns + PEER_FORGET_NS, id, command.key));
            }
            (command::OP_FORGET_PEER, _) => {
                self.peers.remove(&id);
            }
            (command::OP_OWN, command::RESULT_FULL) => {
                let reason = "more owners were told than flows picked up; they are told again".to_owned();
                self.publisher.degrade("kernel", reason, now);
            }
            _ => {}
        }
    }

    /// One tick: walks, ends idle peers, reads all accounts.
    ///
    /// # Errors
    /// When a map cannot be read; the counters stay in the kernel and come with a later tick.
    pub fn tick(&mut self) -> Result<Tick, KernelError> {
        let now = clock::now();
        if now.mono_ns >= self.next_walk_ns {
            self.walk_sockets()?;
            self.take_closed()?;
            self.next_walk_ns = now.mono_ns + WALK_EVERY_NS;
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
        Tick { rows: reading.rows, anomalies: reading.anomalies }
    }

    /// Everything seen of each inbound, owned or not.
    pub fn watched(&self) -> Vec<(InboundIndex, Counters)> {
        let inbounds = self.kernel.inbounds().into_iter();
        inbounds.map(|inbound| (inbound.index, self.kernel.watched(inbound.index))).collect()
    }

    fn walk_sockets(&mut self) -> Result<(), KernelError> {
        let began_ns = clock::mono_ns();
        let flows = self.kernel.walk_sockets()?;
        let mut open: BTreeSet<FlowId> = self.peers.keys().copied().collect();
        for flow in &flows {
            open.insert(FlowId(flow.id));
            self.found(flow);
        }
        self.attributor.reconcile_walk(&open, began_ns, clock::now());
        Ok(())
    }

    fn found(&mut self, flow: &Flow) {
        let mut flow_seen = seen(flow);
        if flow.flags & FLOW_OLD != 0 {
            flow_seen.opened_ns = 0;
        }
        self.opened(flow_seen, flow.key);
    }

    /// Ended flows that wait for an owner: all of them, whether or not their events arrived.
    fn take_closed(&mut self) -> Result<(), KernelError> {
        for flow in self.kernel.closed()? {
            self.found(&flow);
            self.attributor.flow_closed(FlowId(flow.id), flow.last_ns, clock::now());
        }
        Ok(())
    }

    fn walk_peers(&mut self, now: Now) -> Result<(), KernelError> {
        while self.forget.front().is_some_and(|&(due, ..)| due <= now.mono_ns) {
            if let Some((_, id, key)) = self.forget.pop_front() {
                self.commands.push(Command {
                    op: command::OP_FORGET_PEER,
                    id: id.0,
                    key,
                    ..Command::default()
                });
            }
        }
        let (flows, cursor) = self.kernel.walk_peers(self.peers_cursor, PEERS_PER_TICK)?;
        self.peers_cursor = cursor.unwrap_or_default();
        for flow in &flows {
            let id = FlowId(flow.id);
            if flow.flags & FLOW_CLOSING != 0 {
                if !self.forget.iter().any(|&(_, other, _)| other == id) {
                    self.forget.push_back((now.mono_ns + PEER_FORGET_NS, id, flow.key));
                }
                continue;
            }
            self.found(flow);
            let idle = if flow.owner == 0 { PEER_IDLE_UNOWNED_NS } else { PEER_IDLE_OWNED_NS };
            if flow.last_ns.saturating_add(idle) < now.mono_ns {
                self.close_peer(id, now.mono_ns - idle);
            }
        }
        self.run()
    }

    /// The open flows with their payload so far, for people.
    ///
    /// # Errors
    /// As [`Meter::tick`].
    pub fn flows(&mut self) -> Result<Vec<ListedFlow>, KernelError> {
        let mut found: HashMap<FlowId, Flow> = HashMap::new();
        for flow in self.kernel.walk_sockets()? {
            self.found(&flow);
            found.insert(FlowId(flow.id), flow);
        }
        let mut cursor = Some(PeerCursor::default());
        while let Some(at) = cursor {
            let (flows, next) = self.kernel.walk_peers(at, PEERS_PER_TICK)?;
            for flow in flows {
                if flow.flags & FLOW_CLOSING == 0 {
                    self.found(&flow);
                    found.insert(FlowId(flow.id), flow);
                }
            }
            cursor = next;
        }
        self.carry_out()?;
        let now_ns = clock::mono_ns();
        let since_ns = self.listed_ns;
        let flows = self.attributor.flows().filter_map(|view| {
            let flow = *found.get(&view.id)?;
            let before = self.listed.get(&view.id).filter(|_| now_ns - since_ns < RATE_SINCE_MAX_NS);
            let rates = match before {
                Some(&before) => rates(flow.payload, before, now_ns.saturating_sub(since_ns)),
                None => rates(flow.payload, [0; 2], now_ns.saturating_sub(flow.opened_ns)),
            };
            Some(ListedFlow { view, flow, rates })
        });
        let flows: Vec<ListedFlow> = flows.collect();
        self.listed = found.into_iter().map(|(id, flow)| (id, flow.payload)).collect();
        self.listed_ns = now_ns;
        Ok(flows)
    }
}

/// Bytes per second, by direction.
fn rates(now: [u64; 2], before: [u64; 2], elapsed_ns: u64) -> [u64; 2] {
    [0, 1].map(|direction| {
        let bytes = u128::from(now[direction].saturating_sub(before[direction]));
        u64::try_from(bytes * 1_000_000_000 / u128::from(elapsed_ns.max(1))).unwrap_or(u64::MAX)
    })
}
