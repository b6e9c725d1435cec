//! `boxmeter doctor`: what is not well with the machine and the proxies' configurations, and what to do.
//! `check` is pure over facts that others gathered; `gather` reads sing-box's; `fix` repairs.

pub mod check;
pub mod fix;
pub mod gather;
mod report;
pub mod services;

pub use check::{Finding, Inputs, KernelFact, Severity, check};
pub use report::run;
