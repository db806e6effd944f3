//! What the log promises, on the simulated disk.

mod support;

mod basics;
mod crashes;
mod damage;
mod holes;
mod planted;
