//! The scripts that store an uploaded file on a host, as the user who logs in there.
//!
//! Others may write to the directory: they can exchange what is at any path in it, at any time. So the file
//! gets a random name, and the script writes, checks and changes it through a single open descriptor.

use super::cause::{FOREIGN, NO_HOME, NO_SHA256SUM};

/// The upload directory on a host, as shell words, unless the inventory names another.
pub(super) const UPLOAD_DIR: &str = "\"${XDG_CACHE_HOME:-$HOME/.cache}\"/testbed/uploads";

/// Fails with a message if the upload directory would be in a home directory that is missing: `mkdir -p` by
/// root would create it.
fn needs_home(directory: &str) -> String {
    let unless = if directory == UPLOAD_DIR { "test -z \"${XDG_CACHE_HOME:-}\" && " } else { "" };
    if directory.contains("$HOME") {
        format!("if {unless}! test -d \"$HOME\"; then echo \"$HOME {NO_HOME}\" >&2; exit 1; fi; ")
    } else {
        String::new()
    }
}

/// Ensures that only the login user can write in the directory `$d`, from which root runs programs.
fn make_private() -> String {
    format!("if ! test -O \"$d\"; then echo \"$d {FOREIGN}\" >&2; exit 1; fi; chmod go-w \"$d\"; ")
}

/// Fails with a message if the host cannot check files.
fn needs_sha256sum() -> String {
    format!("if ! command -v sha256sum > /dev/null; then echo '{NO_SHA256SUM}' >&2; exit 1; fi; ")
}

/// Creates the directory `$d`, given as a word of a script, and sets `$f` to the file's path in it.
fn begin(directory: &str, digest: &str) -> String {
    let private = if directory == UPLOAD_DIR { make_private() } else { String::new() };
    let (home, sha256sum) = (needs_home(directory), needs_sha256sum());
    format!(
        "export LC_ALL=C; set -e; umask 022; {home}d={directory}; mkdir -p \"$d\"; {private}{sha256sum}\
         f=\"$d\"/{digest}; "
    )
}

/// Returns the script that prints the path of a file of this size in a directory if it is there with the
/// content, and else nothing.
pub(super) fn find(directory: &str, digest: &str, bytes: usize) -> String {
    let begin = begin(directory, digest);
    // One byte more, so that a longer file has a different digest.
    let limit = bytes + 1;
    format!(
        "{begin}if test -f \"$f\" && ! test -L \"$f\" && \
         test \"$(head -c {limit} < \"$f\" | sha256sum)\" = '{digest}  -'; \
         then touch -c -h \"$f\" 2> /dev/null || :; printf %s \"$f\"; fi"
    )
}

/// Returns the script that stores its standard input as a file in a directory and prints the path.
pub(super) fn store(directory: &str, digest: &str) -> String {
    let begin = begin(directory, digest);
    // The file has a temporary name until it is complete: the connection may be cut. With `-C`, the shell
    // opens no regular file that is already there. /proc leads to the open file, whatever has its name now.
    // `-T` keeps `mv` from moving the file into a directory.
    format!(
        "{begin}t=$(mktemp -u \"$d/.new.XXXXXX\"); trap 'rm -f \"$t\"' EXIT HUP TERM; set -C; \
         {{ cat && chmod 755 /proc/self/fd/1 && exec < /proc/self/fd/1 && \
         test \"$(sha256sum)\" = '{digest}  -'; }} > \"$t\" || exit; \
         mv -f -T \"$t\" \"$f\"; printf %s \"$f\""
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::shell_word;
    use data_encoding::HEXLOWER;
    use nix::{sys::stat::Mode, unistd::mkfifo};
    use sha2::{Digest, Sha256};
    use std::{
        env,
        ffi::OsString,
        fs::{self, File, Permissions},
        io::Write,
        os::unix::fs::{PermissionsExt, symlink},
        path::{Path, PathBuf},
        process::{Command, Output, Stdio},
        thread,
        time::Duration,
    };
    use tempfile::TempDir;

    const CONTENT: &[u8] = b"kernel";

    /// A directory to which others can write, on a host with this shell as `/bin/sh`.
    struct Host {
        shell: &'static [&'static str],
        dir: TempDir,
    }

    impl Host {
        /// Returns a host for each installed shell. That of `busybox sh` also has the programs of `busybox`.
        fn each() -> Vec<Self> {
            let mut hosts = Vec::new();
            for shell in [&["dash"][..], &["bash"], &["mksh"], &["busybox", "sh"]] {
                let host = Self { shell, dir: tempfile::tempdir().unwrap() };
                for name in ["bin", "images", "private"] {
                    fs::create_dir(host.path(name)).unwrap();
                }
                let mut install = Command::new(shell[0]);
                match shell {
                    ["busybox", _] => install.args(["--install", "-s"]).arg(host.path("bin")),
                    _ => install.args(["-c", "exit 0"]),
                };
                if install.status().is_ok_and(|status| status.success()) {
                    hosts.push(host);
                } else {
                    println!("skipped: {} is not installed", shell[0]);
                }
            }
            hosts
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// Returns the path at which the content is stored.
        fn stored(&self) -> PathBuf {
            self.path("images").join(digest())
        }

        fn word(&self) -> String {
            shell_word(self.path("images").to_str().unwrap())
        }

        fn command(&self, script: &str) -> Command {
            let mut path = OsString::from(self.path("bin"));
            path.push(":");
            path.push(env::var_os("PATH").unwrap());
            let mut command = Command::new(self.shell[0]);
            command.args(&self.shell[1..]).arg("-c").arg(script).env("PATH", path);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        }

        /// Returns what the script prints that looks for the content.
        fn find(&self) -> String {
            let output = self.command(&find(&self.word(), &digest(), CONTENT.len())).output().unwrap();
            assert!(output.status.success(), "{:?}: {output:?}", self.shell);
            String::from_utf8(output.stdout).unwrap()
        }

        /// Stores the content. Calls `meanwhile` with the path of the incomplete file.
        fn store(&self, content: &[u8], meanwhile: impl FnOnce(&Path)) -> Output {
            let mut child = self.command(&store(&self.word(), &digest())).spawn().unwrap();
            let incomplete = loop {
                if let Some(path) = self.incomplete() {
                    break Some(path);
                }
                if child.try_wait().unwrap().is_some() {
                    break None;
                }
                thread::sleep(Duration::from_millis(1));
            };
            if let Some(path) = incomplete {
                meanwhile(&path);
            }
            // The script may have ended.
            let _ = child.stdin.take().unwrap().write_all(content);
            child.wait_with_output().unwrap()
        }

        fn incomplete(&self) -> Option<PathBuf> {
            let entries = fs::read_dir(self.path("images")).unwrap().map(|entry| entry.unwrap());
            entries.map(|entry| entry.path()).find(|path| *path != self.stored())
        }

        /// Checks that the script has stored the content, and has left nothing else.
        fn assert_stored(&self, output: &Output) {
            let path = self.stored();
            assert!(output.status.success(), "{:?}: {output:?}", self.shell);
            assert_eq!(String::from_utf8_lossy(&output.stdout), path.to_str().unwrap());
            let metadata = fs::symlink_metadata(&path).unwrap();
            assert!(metadata.is_file() && fs::read(&path).unwrap() == CONTENT, "{:?}", self.shell);
            assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
            assert_eq!(self.incomplete(), None, "{:?}", self.shell);
            assert_eq!(self.find(), path.to_str().unwrap());
        }
    }

    fn digest() -> String {
        HEXLOWER.encode(&Sha256::digest(CONTENT))
    }

    #[test]
    fn a_file_is_stored_whole_or_not_at_all() {
        for host in Host::each() {
            assert_eq!(host.find(), "");
            for other in [&b"kerne"[..], b"kernel!", b"colonel"] {
                let output = host.store(other, |_| {});
                assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
                assert!(!host.stored().exists() && host.incomplete().is_none(), "{:?}", host.shell);
            }
            host.assert_stored(&host.store(CONTENT, |_| {}));
            for other in [&b"kerne"[..], b"kernel!", b"Kernel"] {
                fs::write(host.stored(), other).unwrap();
                assert_eq!(host.find(), "");
            }
            host.assert_stored(&host.store(CONTENT, |_| {}));
        }
    }

    #[test]
    fn an_upload_does_not_follow_what_others_put_in_its_place() {
        for host in Host::each() {
            let own = host.path("private").join("own");
            fs::write(&own, CONTENT).unwrap();
            fs::set_permissions(&own, Permissions::from_mode(0o600)).unwrap();
            let link = host.path("link");
            host.store(CONTENT, |incomplete| {
                symlink(&own, &link).unwrap();
                fs::rename(&link, incomplete).unwrap();
            });
            let mode = || fs::metadata(&own).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode(), 0o600, "{:?} has changed another file", host.shell);
            assert!(host.stored().is_symlink());
            assert_eq!(host.find(), "", "a link is used");

            host.assert_stored(&host.store(CONTENT, |_| {}));
            assert_eq!(mode(), 0o600);

            // Somebody guesses the name, and puts the link there before the file is created.
            fs::write(&own, "own").unwrap();
            let guess = format!(
                "mktemp() {{ t=$(command mktemp \"$@\"); ln -s -f {} \"$t\"; echo \"$t\"; }}; ",
                shell_word(own.to_str().unwrap())
            );
            let output = host.command(&(guess + &store(&host.word(), &digest()))).output().unwrap();
            assert!(!output.status.success(), "{output:?}");
            assert_eq!(fs::read(&own).unwrap(), b"own", "{:?} has written to another file", host.shell);
            assert_eq!(mode(), 0o600);
        }
    }

    #[test]
    fn an_upload_replaces_whatever_else_has_its_name() {
        for host in Host::each() {
            let (path, private) = (host.stored(), host.path("private"));
            symlink(&private, &path).unwrap();
            assert_eq!(host.find(), "");
            let output = host.store(CONTENT, |_| {});
            assert_eq!(fs::read_dir(&private).unwrap().count(), 0, "{:?} has followed a link", host.shell);
            // BusyBox refuses to replace a link to a directory.
            assert_eq!(output.status.success(), host.shell[0] != "busybox", "{output:?}");

            fs::remove_file(&path).unwrap();
            mkfifo(&path, Mode::S_IRWXU).unwrap();
            assert_eq!(host.find(), "");
            host.assert_stored(&host.store(CONTENT, |_| {}));

            // To read all of it would take hours.
            File::create(&path).unwrap().set_len(1 << 40).unwrap();
            assert_eq!(host.find(), "");
            host.assert_stored(&host.store(CONTENT, |_| {}));

            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            let output = host.store(CONTENT, |_| {});
            assert!(!output.status.success() && fs::read_dir(&path).unwrap().count() == 0, "{output:?}");
            assert_eq!(host.incomplete(), None);
        }
    }
}
