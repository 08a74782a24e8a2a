//! The files from which QEMU boots guests on another host.
//!
//! They are uploaded to a folder that others may write to. So a node copies each into a folder where only
//! root can write, checks what it has copied, and gives QEMU the copy: whatever happens to the uploaded file
//! at any time, QEMU boots what the orchestrator has sent.

use super::isolate::node_dir;
use crate::{bounded, node::protocol::UploadedFile};
use data_encoding::HEXLOWER;
use libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::mount::{MsFlags, mount};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The folder of the copies, in the node's own folder.
const FOLDER: &str = "boot";

/// Copies an uploaded file to the node's private directory. Returns the path of the copy.
///
/// # Errors
/// If the file cannot be read or copied, or if its content differs from what was uploaded.
pub(super) fn take(file: &UploadedFile) -> io::Result<PathBuf> {
    let folder = node_dir().join(FOLDER);
    match fs::create_dir(&folder) {
        Ok(()) => {
            // This is a separate file system, because the size of `/run` limits the saved guests.
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("testbed"), &folder, Some("tmpfs"), flags, Some("mode=700"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    copy_verified(file, &folder)
}

/// Copies an uploaded file into a folder and checks the copy. Returns its path.
fn copy_verified(file: &UploadedFile, folder: &Path) -> io::Result<PathBuf> {
    let UploadedFile { path, bytes, sha256 } = file;
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    // Refuse links and pipes, which other users could have put there.
    let from = File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
    let from = from.and_then(bounded::regular).map_err(named)?;
    let to = folder.join(sha256);
    let mut copy = File::create(&to)?;
    // One byte more, so that a longer file has a different digest.
    let (mut limited, mut hash, mut buffer) =
        ((&from).take(bytes.saturating_add(1)), Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = limited.read(&mut buffer).map_err(named)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        copy.write_all(&buffer[..read])?;
    }
    if HEXLOWER.encode(&hash.finalize()) != *sha256 {
        fs::remove_file(&to)?;
        return Err(io::Error::other(format!(
            "the content of {path} has changed since it was uploaded; find out who else writes to that folder"
        )));
    }
    // Only pruning uses this time.
    let _ = from.set_modified(SystemTime::now());
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn upload(path: &Path, content: &[u8]) -> UploadedFile {
        UploadedFile {
            path: path.display().to_string(),
            bytes: content.len() as u64,
            sha256: HEXLOWER.encode(&Sha256::digest(content)),
        }
    }

    #[test]
    fn only_the_content_that_was_uploaded_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (path, folder) = (dir.path().join("kernel"), dir.path().join("private"));
        fs::create_dir(&folder).unwrap();
        let content = vec![7; 3 << 20];
        fs::write(&path, &content).unwrap();
        let file = upload(&path, &content);
        let copy = copy_verified(&file, &folder).unwrap();
        // Changes to the uploaded file no longer affect the copy.
        fs::write(&path, "exchanged").unwrap();
        assert!(fs::read(&copy).unwrap() == content);

        let mut other = content.clone();
        other[1 << 20] ^= 1;
        let longer = [&content[..], b"more"].concat();
        for changed in [&other, &longer, &content[1..].to_vec(), &Vec::new()] {
            fs::write(&path, changed).unwrap();
            let error = copy_verified(&file, &folder).unwrap_err().to_string();
            assert!(error.contains("has changed since it was uploaded"), "{error}");
            assert!(!copy.exists(), "nothing unverified is left");
        }
    }

    #[test]
    fn links_and_pipes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link, pipe) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("pipe"));
        fs::write(&real, "kernel").unwrap();
        symlink(&real, &link).unwrap();
        assert!(copy_verified(&upload(&link, b"kernel"), dir.path()).is_err());
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = copy_verified(&upload(&pipe, b"kernel"), dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("it is not a regular file"), "{error}");
        let zero = copy_verified(&upload(Path::new("/dev/zero"), b"kernel"), dir.path());
        assert!(zero.is_err(), "a device");
    }
}
