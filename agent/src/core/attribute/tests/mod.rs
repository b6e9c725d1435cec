//! Tables, scenarios and properties of attribution.
