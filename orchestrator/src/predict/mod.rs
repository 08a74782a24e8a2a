//! What a migration will do, before it is run: the pre-copy model ([`precopy`]), and what a run of a plan
//! would do ([`preview`]).

pub mod precopy;
pub mod preview;
