//! System calls that have no safe wrapper. The crate's `unsafe` is here, nowhere else.
#![allow(unsafe_code)]

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::ffi::c_int;

extern "C" fn do_nothing(_signal: c_int) {}

/// Makes this process survive a signal. Programs that it starts get the default action.
///
/// # Errors
/// If no process survives the signal.
pub fn survive(signal: Signal) -> nix::Result<()> {
    // A handler that does nothing, because programs would inherit SIG_IGN.
    let action = SigAction::new(SigHandler::Handler(do_nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, which is safe in a signal handler.
    unsafe { sigaction(signal, &action) }.map(drop)
}
