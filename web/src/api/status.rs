//! The JSON of `GET /status`: is all well, and every part with what it counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::types::{Network, Schema, Time, Traffic};

/// `GET /status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    #[serde(default)]
    pub schema: Schema,
    pub ok: bool,
    pub degraded: Vec<Degradation>,
    pub agent: AgentStatus,
    pub kernel: KernelStatus,
    pub source: SourceStatus,
    pub ledger: LedgerStatus,
    pub singbox: SingboxStatus,
    /// The other proxies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceStatus>,
    /// The IANA zone of billing and of the times here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    #[serde(default)]
    pub inbounds: Vec<InboundStatus>,
    /// `None`: this agent does not enforce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<EnforcementStatus>,
}

impl Status {
    /// Is there to be a sing-box beside the other proxies?
    pub fn has_singbox(&self) -> bool {
        self.singbox.config.is_some() || self.services.is_empty()
    }
}

/// A part that does less than it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degradation {
    pub part: String,
    pub reason: String,
    pub since: Time,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    pub version: String,
    pub pid: u32,
    pub started_at: Time,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelStatus {
    pub attached: bool,
    pub epoch: String,
    pub ns_per_packet: NsPerPacket,
    pub counters: BTreeMap<String, u64>,
}

/// The programs' own cost, from the kernel's program statistics; `None` while those are off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NsPerPacket {
    pub ingress: Option<u64>,
    pub egress: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    Api,
    ClashLogs,
    LogFile,
}

impl SourceKind {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            SourceKind::Api => "api",
            SourceKind::ClashLogs => "clash-logs",
            SourceKind::LogFile => "log-file",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `None`: there is none yet.
    pub kind: Option<SourceKind>,
    pub connected: bool,
    /// Of attribution: sightings, waiters, whatever was dropped or aged out.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerStatus {
    pub path: String,
    pub committed_at: Option<Time>,
    #[serde(default)]
    pub rev: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// `None`: this agent makes no backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<BackupStatus>,
}

/// The backups that the agent makes by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupStatus {
    pub directory: String,
    pub last_at: Option<Time>,
    /// Of the last one that this agent made.
    pub last_bytes: Option<u64>,
    pub next_at: Option<Time>,
}

/// All `None` while no sing-box runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SingboxStatus {
    pub pid: Option<u32>,
    pub version: Option<String>,
    pub config: Option<String>,
}

/// A proxy beside sing-box. No `pid` while it does not run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    pub kind: String,
    pub pid: Option<u32>,
    pub version: Option<String>,
    pub config: Option<String>,
    pub source: SourceStatus,
}

/// What a user moved on one proxy, over all time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceShare {
    pub service: String,
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// One watched listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundStatus {
    pub tag: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub port: u16,
    pub networks: Vec<Network>,
    pub users: u64,
    /// Why its figures are less exact than usual, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What the limits do to users and to sing-box's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcementStatus {
    /// Users whose packets the kernel drops.
    pub cut_users: u64,
    /// Users that are taken out of `users`.
    pub taken_out_users: u64,
    /// Edits of sing-box's configuration since the agent started.
    pub edits: u64,
    /// Reloads of sing-box by boxmeter since the agent started; each drops open connections.
    pub reloads: u64,
    pub last_edit_at: Option<Time>,
    pub last_reload_at: Option<Time>,
    pub pending: Option<PendingReload>,
    /// Why the newest edit or reload did not work; `None` once one did.
    pub last_error: Option<EnforcementError>,
}

/// Edits that sing-box has not read yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingReload {
    pub since: Time,
    /// The reload comes at a quiet moment, at the latest then; `None`: it is left to the admin.
    pub at_latest: Option<Time>,
    /// How many users it is for.
    pub users: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcementError {
    pub at: Time,
    /// Says what to do.
    pub message: String,
}
