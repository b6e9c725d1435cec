//! Reading sing-box: its configuration (`tree`, `config`, `files`) and its running process
//! (`process`). Reads only; everything that changes sing-box is in `enforcer::server`. Files, trees and
//! processes of other proxies are read by the same code (`service`).

pub mod config;
#[cfg(test)]
mod config_test;
pub mod files;
pub mod process;
pub mod servers;
pub mod services;
pub mod sockets;
pub mod splice;
pub mod tree;

pub use config::{FoundUser, Inbound, LogOptions, ProxyConfig, Secret};
pub use files::{ConfigError, ConfigWatch};
pub use services::{ApiService, ClashApi, GrpcApi, ManagerService};
