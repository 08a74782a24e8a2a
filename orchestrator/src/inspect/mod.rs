//! What is there, seen from outside: nodes of runs in progress ([`processes`], [`status`]), the way into them
//! ([`shell`]), a host's means ([`observe`]), and all that a run needs ([`doctor`], [`local`], [`hosts`]).

pub mod doctor;
pub mod hosts;
pub mod local;
pub mod observe;
pub mod processes;
pub mod shell;
pub mod status;
