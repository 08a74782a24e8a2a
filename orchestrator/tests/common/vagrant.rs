//! A stub of `vagrant`, whose `ssh-config` is a script of the test.

use super::write_script;
use std::{fs, path::Path};

/// The inventory of the stub's machines.
pub(crate) const INVENTORY: &str = "\
controller: { host: lab0, guests: eth2 }
compute1: { host: lab1, guests: eth2, migration: eth1 }
compute2: { host: lab2, guests: eth2, migration: eth1 }
become: none
";

/// A script for the stub that answers like Vagrant when the machines have not been started.
pub(crate) const NOT_UP: &str = "cat >&2 <<'END'
The provider for this Vagrant-managed machine is reporting that it
is not yet ready for SSH.
END
exit 1";

/// Creates a `vagrant` in `folder` that runs this script for `vagrant ssh-config` and fails otherwise.
pub(crate) fn stub(folder: &Path, script: &str) {
    fs::create_dir_all(folder).unwrap();
    let text = format!("#!/bin/sh\n[ \"$*\" = ssh-config ] || exit 64\n{script}\n");
    write_script(&folder.join("vagrant"), &text);
}
