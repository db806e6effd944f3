//! Leader mode against a group and wires whose failures a test chooses, under a paused clock.

mod batching;
mod expiry;
mod honesty;
mod leases;
mod machine;
mod reads;
mod wires;
mod words;
mod world;
mod writes;
