//! Faults on links, as a decorator of any transport.
