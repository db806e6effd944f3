//! What every table engine must do.
