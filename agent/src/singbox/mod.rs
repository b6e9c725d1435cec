//! Reading sing-box: its configuration (`tree`, `config`, `files`) and its running process
//! (`process`). Reads only; everything that changes sing-box is in `enforcer::singbox`.

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

pub use config::{FoundUser, Inbound, LogOptions, Secret, SingboxConfig};
pub use files::{ConfigError, ConfigWatch};
pub use services::{ApiService, ClashApi, ManagerService};
