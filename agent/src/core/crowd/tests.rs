//! Limits and sharing.
