//! Files in memory, with paths that are valid for as long as this process lives. Nothing remains on disk, not
//! even after SIGKILL.

use nix::sys::memfd::{MFdFlags, memfd_create};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    path::PathBuf,
    process,
};

/// A file in memory, which other processes of the same user can read for as long as this value lives.
#[derive(Debug)]
pub(super) struct Memfile {
    file: File,
}

impl Memfile {
    /// Creates a file that contains this text.
    pub(super) fn with_text(text: &str) -> io::Result<Self> {
        let mut file = File::from(memfd_create(c"testbed-ssh-config", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        Ok(Self { file })
    }

    /// Returns the file's path, through this process's entry in `/proc`. A path to an inherited descriptor
    /// would not work: ssh closes descriptors that it inherits.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, process::Command};

    #[test]
    fn other_processes_can_read_the_file_while_it_lives() {
        let file = Memfile::with_text("Host a\n  Port 22\n").unwrap();
        let path = file.path();
        // Each reader starts at the beginning of the file.
        for _ in 0..2 {
            let output = Command::new("cat").arg(&path).output().unwrap();
            assert_eq!(output.stdout, b"Host a\n  Port 22\n");
        }
        let real = fs::read_link(&path).unwrap();
        assert!(!real.exists(), "{} is in a folder", real.display());
        drop(file);
        assert_ne!(fs::read_link(&path).ok(), Some(real));
    }
}
