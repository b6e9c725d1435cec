//! Changes other programs' configuration so that it agrees with what was decided: checked, atomic,
//! reversible. Decides nothing itself.

pub mod added;
mod backups;
mod check;
mod command;
pub mod editor;
pub mod live;
pub mod managed;
pub mod reconcile;
#[cfg(test)]
mod reconcile_tests;
mod reload;
pub mod reloads;
mod rollback;
pub mod swap;
pub mod users_edit;
