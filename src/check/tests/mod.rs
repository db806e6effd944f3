//! The checkers are checked: against histories made by hand, and against a judge that tries
//! everything.

mod against_judge;
mod judge;
mod linear;
mod made;
mod settled;
mod shortening;
mod whole_history;
