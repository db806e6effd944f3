//! A node: put together, started and stopped in order.
