//! Leader mode: the leader orders every write, any node takes requests.
