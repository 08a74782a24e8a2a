//! Predictions: the pre-copy model of one migration ([`precopy`]), and the preview of a whole run
//! ([`preview`]).

pub mod precopy;
pub mod preview;
