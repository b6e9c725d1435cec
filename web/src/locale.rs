//! Texts for people, in every language that is kept.
