//! The checkers are checked: against histories made by hand, and against a judge that tries
//! everything.

mod against_judge;
mod gaps;
mod judge;
mod linear;
mod made;
mod sessions;
mod settled;
mod shortening;
mod superseded;
mod whole_history;
