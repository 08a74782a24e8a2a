//! Labs on other hosts: the hosts that an [`inventory`] names, reached through [`ssh`], or the machines of a
//! Vagrantfile ([`vagrant`]). [`uploads`] removes old files that were uploaded to them.

pub(crate) mod cause;
pub mod host_path;
pub mod inventory;
mod memfile;
pub mod ssh;
pub mod uploads;
pub mod vagrant;
