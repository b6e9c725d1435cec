//! Changes other programs' configuration so that it agrees with what was decided: checked, atomic,
//! reversible. Decides nothing itself.

pub mod singbox;
pub mod swap;
pub mod users_edit;
