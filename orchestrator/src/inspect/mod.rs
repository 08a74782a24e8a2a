//! Observes labs and hosts from outside a run: the nodes of runs in progress ([`processes`], [`status`]),
//! shells in these nodes ([`shell`]), the resources of a host ([`observe`]), and the checks of `testbed
//! doctor` ([`doctor`], [`local`], [`hosts`]).

pub mod doctor;
pub mod hosts;
pub mod local;
pub mod observe;
pub mod processes;
pub mod shell;
pub mod status;
