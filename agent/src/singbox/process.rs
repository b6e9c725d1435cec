//! Finds the sing-box process that uses a configuration.
