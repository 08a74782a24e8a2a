//! The confinement of a QEMU process: a filter of its system calls, and an unprivileged user.
//!
//! The destination's QEMU reads what arrives from the network, and each QEMU runs a guest. A flaw in QEMU
//! there must not give anybody control of the host. So QEMU gets a sandbox (seccomp), which it may have been
//! built without, and if root has started the lab, it becomes an unprivileged user once it has opened its
//! files and devices. To find out what works on a host, a QEMU confined like this is started.

use super::{
    machine::{GuestMachine, Role},
    machine_types::MachineTypes,
    trial,
};
use crate::{
    lab::Compute,
    node::{
        Node, NodeError,
        protocol::{Privilege, QEMU_USER},
    },
};
use futures::future;
use std::path::Path;

/// What confines a QEMU process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Whether QEMU's system calls are filtered.
    pub sandbox: bool,
    /// How QEMU becomes the user [`QEMU_USER`]; it stays the user of its node if absent.
    pub user: Option<UserOption>,
}

/// The option with which QEMU becomes another user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserOption {
    /// `-run-with user=`.
    RunWith,
    /// `-runas`, of older versions.
    RunAs,
}

impl Confinement {
    /// Returns the number of the user that QEMU becomes, if it changes its user.
    pub(super) fn user_number(self) -> Option<u32> {
        self.user.map(|_| QEMU_USER)
    }

    /// Allows QEMU on this node to be the destination of post-copy, which an unprivileged user may otherwise
    /// not be.
    pub(super) async fn offer_userfaultfd(self, node: &Node) -> Result<(), NodeError> {
        match self.user_number() {
            Some(user) => node.offer_userfaultfd(user).await,
            None => Ok(()),
        }
    }

    /// Returns the options of a QEMU in this role.
    ///
    /// A QEMU that saves a guest, or resumes a saved one, starts `cat` for that, so it has to be allowed to
    /// start programs. To change its user, it needs system calls that are otherwise forbidden; they are
    /// useless to the unprivileged user.
    pub(super) fn arguments(self, role: Role) -> Vec<String> {
        let mut arguments = Vec::new();
        if self.sandbox {
            let elevate = if self.user.is_some() { "allow" } else { "deny" };
            let spawn = match role {
                Role::Boot | Role::Source => "allow",
                Role::Destination | Role::Trial | Role::IncomingTrial => "deny",
            };
            let filter =
                format!("on,obsolete=deny,elevateprivileges={elevate},spawn={spawn},resourcecontrol=deny");
            arguments.extend(["-sandbox".into(), filter]);
        }
        let user = format!("{QEMU_USER}:{QEMU_USER}");
        match self.user {
            Some(UserOption::RunWith) => arguments.extend(["-run-with".into(), format!("user={user}")]),
            Some(UserOption::RunAs) => arguments.extend(["-runas".into(), user]),
            None => {}
        }
        arguments
    }

    /// Returns the confinements to try, from the strictest to none.
    fn candidates(privilege: Privilege) -> Vec<Self> {
        let users: &[_] = match privilege {
            Privilege::Root => &[Some(UserOption::RunWith), Some(UserOption::RunAs), None],
            // An ordinary user cannot become another user.
            Privilege::UserNamespace => &[None],
        };
        let with = |sandbox| users.iter().map(move |user| Self { sandbox, user: *user });
        with(true).chain(with(false)).collect()
    }
}

/// The confinement of the QEMUs of a lab, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfinementFinding {
    /// The strictest confinement that works at all ends.
    pub confinement: Confinement,
    /// What QEMU is not confined by although it should be, and why, as sentences for people.
    pub lacks: Vec<String>,
    /// The machine types of the QEMU at each end, or why QEMU does not list them.
    pub machine_types: Result<Vec<MachineTypes>, String>,
}

/// Finds the strictest confinement that works at all `ends`. The trials use `machine`, which may be any
/// machine; the output of QEMU is appended to `log`.
pub async fn choose(
    ends: &[&Compute],
    privilege: Privilege,
    machine: &GuestMachine,
    log: &Path,
) -> ConfinementFinding {
    let (mut confinement, mut refused) = (Confinement::default(), Vec::new());
    let mut machine_types = Err(String::new());
    for candidate in Confinement::candidates(privilege) {
        let machine = GuestMachine { confinement: candidate, ..machine.clone() };
        let trials = ends.iter().map(|end| trial::machine_types(end, &machine, log));
        machine_types = future::join_all(trials).await.into_iter().collect();
        match &machine_types {
            Ok(_) => {
                confinement = candidate;
                break;
            }
            Err(reason) => refused.push((candidate, reason.clone())),
        }
    }
    // Why the candidate was refused that differs in nothing else.
    let because = |differs: &dyn Fn(&Confinement) -> bool| {
        let refusal = refused.iter().find(|(candidate, _)| differs(candidate));
        refusal.map_or(String::new(), |(_, reason)| format!(": {reason}"))
    };
    let mut lacks = Vec::new();
    if !confinement.sandbox {
        let reason = because(&|other| other.sandbox && other.user == confinement.user);
        lacks.push(format!("QEMU runs without a sandbox, because it refuses one{reason}"));
    }
    if confinement.user.is_none() && privilege == Privilege::Root {
        let reason = because(&|other| other.user.is_some() && other.sandbox == confinement.sandbox);
        lacks.push(format!("QEMU runs as root, because it cannot become another user{reason}"));
    }
    ConfinementFinding { confinement, lacks, machine_types }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strictest_confinement_is_tried_first_and_none_last() {
        let of_root = Confinement::candidates(Privilege::Root);
        assert_eq!(of_root[0], Confinement { sandbox: true, user: Some(UserOption::RunWith) });
        assert_eq!(of_root.last(), Some(&Confinement::default()));
        let of_user = Confinement::candidates(Privilege::UserNamespace);
        assert!(of_user.iter().all(|confinement| confinement.user.is_none()));
        assert_eq!(of_user.last(), Some(&Confinement::default()));
    }
}
