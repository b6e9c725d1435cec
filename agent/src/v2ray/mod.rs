//! Reading V2Ray and Xray: their configuration and how their processes are started. Reads only; files and
//! processes are found by the code that finds sing-box's.

pub mod config;
#[cfg(test)]
mod config_test;
pub mod process;
