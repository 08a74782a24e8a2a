//! What is there, seen from outside: nodes of runs in progress ([`observe`], [`status`]) and hosts ([`doctor`]).

pub mod doctor;
pub mod observe;
pub mod status;
