//! Files in memory, under paths that last as long as this process.

use nix::sys::memfd::{MFdFlags, memfd_create};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    path::PathBuf,
    process,
};

/// A file without a name, which other processes of the user can read for as long as this value lives.
#[derive(Debug)]
pub(super) struct Memfile {
    file: File,
}

impl Memfile {
    /// One that holds this text.
    pub(super) fn holding(text: &str) -> io::Result<Self> {
        let mut file = File::from(memfd_create(c"testbed-ssh-config", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        Ok(Self { file })
    }

    /// Returns its path. It leads through this process: ssh closes descriptors that it inherits.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, process::Command};

    #[test]
    fn an_unnamed_file_is_read_by_others_while_it_lives() {
        let file = Memfile::holding("Host a\n  Port 22\n").unwrap();
        let path = file.path();
        // Each from its beginning.
        for _ in 0..2 {
            let output = Command::new("cat").arg(&path).output().unwrap();
            assert_eq!(output.stdout, b"Host a\n  Port 22\n");
        }
        let real = fs::read_link(&path).unwrap();
        assert!(!real.exists(), "{} is in no folder", real.display());
        drop(file);
        assert_ne!(fs::read_link(&path).ok(), Some(real));
    }
}
