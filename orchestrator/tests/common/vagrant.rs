//! A stub of Vagrant, which names hosts.

use super::write_script;
use std::{ffi::OsString, fs, path::Path};

/// The inventory of its machines.
pub(crate) const INVENTORY: &str = "\
controller: { host: lab0, guests: eth2 }
compute1: { host: lab1, guests: eth2, migration: eth1 }
compute2: { host: lab2, guests: eth2, migration: eth1 }
become: none
";

/// What Vagrant says of machines that have not been started.
pub(crate) const NOT_UP: &str = "cat >&2 <<'END'
The provider for this Vagrant-managed machine is reporting that it
is not yet ready for SSH.
END
exit 1";

/// Puts a `vagrant` there that runs this script when it is asked for `ssh-config`, and knows nothing else.
pub(crate) fn stub(folder: &Path, script: &str) {
    fs::create_dir_all(folder).unwrap();
    let text = format!("#!/bin/sh\n[ \"$*\" = ssh-config ] || exit 64\n{script}\n");
    write_script(&folder.join("vagrant"), &text);
}

/// `PATH` with this folder before the others.
pub(crate) fn path_with(folder: &Path) -> OsString {
    let others = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths([folder.to_path_buf()].into_iter().chain(std::env::split_paths(&others))).unwrap()
}
