//! Labs on other hosts: the hosts that an [`inventory`] names, reached through [`ssh`], or the machines of a
//! Vagrantfile ([`vagrant`]).
//!
//! `connection` opens the single connection to each host, `shell` passes commands through its login shell,
//! and [`session`] runs one of the user's programs there. `storing` has the scripts that store uploaded files
//! there, and [`uploads`] removes old ones.

pub(crate) mod cause;
mod connection;
pub mod host_path;
pub mod inventory;
mod memfile;
pub mod session;
mod shell;
pub mod ssh;
mod storing;
pub mod uploads;
pub mod vagrant;
