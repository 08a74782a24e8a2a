//! Labs on other hosts: the hosts that an [`inventory`] names, reached through [`ssh`], or the machines of a
//! Vagrantfile ([`vagrant`]).

pub mod inventory;
mod memfile;
pub mod ssh;
pub mod vagrant;
