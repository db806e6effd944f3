//! Placeholder until the log lands.
