//! Labs on other hosts: which hosts an [`inventory`] names, how they are reached ([`ssh`]), and the machines
//! of a Vagrantfile ([`vagrant`]).

pub mod inventory;
mod memfile;
pub mod ssh;
pub mod vagrant;
