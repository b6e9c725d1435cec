//! The web panel: pages over a [`crate::backend::Backend`].

pub mod pages;
pub mod public;
