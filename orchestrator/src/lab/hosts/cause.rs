//! What to do about a failure on another host. The cause is found in the output of `ssh`, `sudo` and the
//! programs on that host, in the locale `C`.

use super::inventory::Become;
use crate::{finding::StorageProblem, host::Mount};

/// The words that a failing `ssh` prints, and the remedy. The first entry that fits counts.
const SSH: [(&[&str], &str); 16] = [
    (
        &["Could not resolve hostname", "Name or service not known", "Temporary failure in name resolution"],
        "correct `host` in the inventory, or give it a HostName in the ssh configuration",
    ),
    (
        &["REMOTE HOST IDENTIFICATION HAS CHANGED"],
        "the host's key has changed: if you expected that, remove the old one with `ssh-keygen -R`",
    ),
    (&["Host key verification failed"], "log in once by hand, and confirm the host's key"),
    (
        &["Permission denied (", "Too many authentication failures", "No more authentication methods"],
        "the host accepts none of the keys: load the right one into the agent, or put it into \
         ~/.ssh/authorized_keys there",
    ),
    (&["Connection refused"], "start the SSH server there, or correct the port in the ssh configuration"),
    (
        &["No route to host", "Network is unreachable"],
        "there is no route to the host: check that it is up, its address, and the routes to it",
    ),
    (
        &["Connection timed out", "Operation timed out", "Timeout, server"],
        "the host does not answer: check that it runs, its address, and firewalls on the way",
    ),
    (&["Can't open user config file"], "correct `ssh_config` in the inventory"),
    (
        &["Bad configuration option", "bad configuration option", "no argument after keyword"],
        "correct the ssh configuration",
    ),
    (
        &["Bad owner or permissions on"],
        "let nobody but its owner write to the ssh configuration (`chmod go-w`)",
    ),
    (
        &["UNPROTECTED PRIVATE KEY FILE", "bad permissions"],
        "let nobody but its owner read the key (`chmod 600`)",
    ),
    (
        &["Connection closed by", "Connection reset by", "kex_exchange_identification"],
        "the SSH server there ends the connection; its log says why",
    ),
    (
        &["no matching host key type", "no matching key exchange", "no matching cipher"],
        "client and server of SSH have no algorithm in common: allow one in the ssh configuration",
    ),
    (&["account is currently not available"], "give the user who logs in there a shell (`chsh`)"),
    (&["cannot run ssh"], "install ssh on this host (Debian's package is openssh-client)"),
    (&["System is booting up", "nologin"], "wait until the host has booted, or cancel its shutdown"),
];

/// Returns what to do if a host cannot be reached, from the output of `ssh`. `login` is a command that has to
/// succeed.
pub(crate) fn reach_remedy(output: &str, login: &str) -> String {
    let known = SSH.iter().find(|(signs, _)| signs.iter().any(|sign| output.contains(sign)));
    let must_work = format!("`{login}` has to work without asking for anything");
    known.map_or(must_work.clone(), |(_, fix)| format!("{fix}; {must_work}"))
}

/// Returns advice to use a different directory, as a remedy.
pub(crate) fn another_directory(named_in_inventory: bool) -> &'static str {
    if named_in_inventory {
        "set `images` in the inventory to another directory"
    } else {
        "set XDG_CACHE_HOME there to another directory, in /etc/environment for example"
    }
}

/// Returns what to do if a file cannot be stored on a host, from the output there; `None` if the output does
/// not show it.
pub(crate) fn upload_remedy(output: &str, otherwise: &str) -> Option<String> {
    if output.contains(NO_HOME) {
        return Some(format!("create the home directory there, or {otherwise}"));
    }
    if output.contains(FOREIGN) {
        return Some(format!("remove it, or {otherwise}"));
    }
    if output.contains(NO_SHA256SUM) {
        return Some("install it there; Debian's package is coreutils".into());
    }
    Some(StorageProblem::in_text(output)?.remedy("the user who logs in", otherwise))
}

/// The message of a host that cannot check files.
pub(super) const NO_SHA256SUM: &str = "sha256sum is not installed there";

/// The message of a host on which the program is not the uploaded one.
pub(super) const CHANGED: &str = "has changed since it was uploaded";

/// The message of a host on which the home directory is missing.
pub(super) const NO_HOME: &str = "is the home directory, but does not exist";

/// The message of a host on which a directory belongs to another user.
pub(super) const FOREIGN: &str = "does not belong to the user who logs in";

/// The message of a host on which the login user is not root although the inventory says so.
pub(super) const NOT_ROOT: &str = "is the login user, but not root";

/// Returns what to do if an uploaded program does not run at `path` on a host, from the output there and the
/// text of the host's `/proc/self/mountinfo`.
pub(crate) fn exec_remedy(output: &str, path: &str, mounts: &str) -> String {
    let mount = Mount::of(mounts, path.as_ref());
    let has = |option: &str| mount.as_ref().is_some_and(|mount| mount.options.iter().any(|o| o == option));
    let otherwise = another_directory(false);
    if has("noexec")
        && let Some(Mount { point, .. }) = &mount
    {
        return format!(
            "{point} is mounted with noexec: mount it without (`mount -o remount,exec {point}`), or \
             {otherwise}"
        );
    }
    if output.contains("GLIBC") || output.contains("not found") || output.contains("No such file") {
        return "the program needs libraries that the host does not have: use one that is linked statically, \
                as `cargo xtask dist` builds it"
            .into();
    }
    if output.contains("Exec format error") {
        return "the host cannot run programs for this CPU: use a host like this one".into();
    }
    if output.contains("Permission denied") || output.contains("Operation not permitted") {
        let remote =
            mount.filter(|mount| mount.file_system.starts_with("nfs") || mount.file_system.contains("fuse"));
        return match remote {
            Some(Mount { point, file_system, .. }) => {
                format!(
                    "root may not read {point} there, which is {file_system}: {otherwise}, on a local disk"
                )
            }
            None => format!(
                "a policy of the host forbids it (SELinux, AppArmor, fapolicyd): allow it, or {otherwise}"
            ),
        };
    }
    format!("`{path} --version` has to work there")
}

/// The words that `sudo` prints if it refuses, and what to do. The first entry that fits counts.
const SUDO: [(&[&str], &str); 9] = [
    (
        &["sudo: not found", "sudo: command not found", "sudo: No such file", "Unknown command: sudo"],
        "install sudo there, or log in as root and set `become: none`",
    ),
    (
        &["must have a tty"],
        "exempt its user from `requiretty` there (`Defaults:USER !requiretty`, with visudo), or log in as \
         root and set `become: none`",
    ),
    (
        &["syntax error", "parse error", "no valid sudoers"],
        "correct the sudoers file there (`visudo -c` checks it)",
    ),
    (
        &["no new privileges"],
        "the session may not gain privileges (no_new_privs, of a container or of the SSH server's unit): \
         allow it, or log in as root and set `become: none`",
    ),
    (
        &["nosuid", "setuid bit set", "effective uid is not 0"],
        "sudo there has to belong to root, with its setuid bit set, on a file system that is not mounted \
         with nosuid",
    ),
    (
        &["account validation failure", "PAM account management", "password expired", "authentication token"],
        "unlock the account of its user there, or renew the password",
    ),
    (
        &["not in the sudoers file", "is not allowed to", "may not run sudo"],
        "allow its user to run sudo there, without a password (`USER ALL=(ALL) NOPASSWD: ALL`, with \
         visudo), or log in as root and set `become: none`",
    ),
    (
        &["password is required", "terminal is required", "no askpass", "a password"],
        "allow its user to run sudo without a password (`USER ALL=(ALL) NOPASSWD: ALL`, with visudo), or \
         log in as root and set `become: none`",
    ),
    (
        &["unable to open audit", "unable to initialize policy", "error initializing"],
        "repair the installation of sudo there: sudo -n has to work",
    ),
];

/// Returns what to do if a node does not start as root on a host, from the output there; `None` if the
/// program could not be executed, which [`exec_remedy`] explains.
pub(crate) fn root_remedy(output: &str, how: Become) -> Option<String> {
    // A warning that does not keep sudo from working.
    let told: Vec<&str> = output.lines().filter(|line| !line.contains("unable to resolve host")).collect();
    let told = told.join("\n");
    if told.contains(CHANGED) {
        return Some("run testbed again, which uploads it again; somebody else may write there".into());
    }
    if told.contains(NOT_ROOT) {
        return Some("log in as root (`User root` in the ssh configuration), or set `become: sudo`".into());
    }
    if let (Become::Sudo, Some((_, fix))) =
        (how, SUDO.iter().find(|(signs, _)| signs.iter().any(|sign| told.contains(sign))))
    {
        return Some((*fix).into());
    }
    if told.contains("cannot create") && told.contains("namespace") || told.contains("node's namespaces") {
        return Some(
            "root there may not create namespaces: in a container, add CAP_SYS_ADMIN and CAP_NET_ADMIN, or \
             use a virtual machine"
                .into(),
        );
    }
    let is_exec = ["unable to execute", "exec:", "Permission denied", "Exec format error", "GLIBC"];
    if is_exec.iter().any(|sign| told.contains(sign)) {
        return None;
    }
    Some(match how {
        Become::Sudo => {
            "sudo -n has to work there without a password; or log in as root and set `become: none`".into()
        }
        Become::None => "check that root can run programs there".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_for_a_host_out_of_reach_follows_what_ssh_says() {
        for (output, words) in [
            ("ssh: Could not resolve hostname lab9: Name or service not known", "correct `host`"),
            ("ssh: connect to host 10.0.0.1 port 22: Connection refused", "start the SSH server"),
            ("ssh: connect to host 10.0.0.1 port 22: No route to host", "there is no route"),
            ("ssh: connect to host 10.0.0.1 port 22: Connection timed out", "does not answer"),
            ("me@lab1: Permission denied (publickey,password).", "none of the keys"),
            ("Host key verification failed.", "log in once by hand"),
            (
                "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
                "ssh-keygen -R",
            ),
            ("/x: line 1: Bad configuration option: foo", "correct the ssh configuration"),
            ("Bad owner or permissions on /x", "chmod go-w"),
            ("This account is currently not available.", "chsh"),
            ("cannot run ssh: No such file or directory", "openssh-client"),
        ] {
            let remedy = reach_remedy(output, "ssh lab1 true");
            assert!(remedy.contains(words) && remedy.contains("`ssh lab1 true`"), "{output}: {remedy}");
        }
        let unknown = reach_remedy("something else", "ssh lab1 true");
        assert_eq!(unknown, "`ssh lab1 true` has to work without asking for anything");
    }

    #[test]
    fn the_remedy_for_root_follows_what_sudo_says() {
        for (output, words) in [
            ("sh: 1: exec: sudo: not found", "install sudo"),
            ("sh: line 1: exec: sudo: not found", "install sudo"),
            ("sudo: sorry, you must have a tty to run sudo", "!requiretty"),
            ("sudo: a password is required", "without a password"),
            ("sudo: a terminal is required to read the password; either use the -S option", "NOPASSWD"),
            ("root is not in the sudoers file.", "allow its user to run sudo there"),
            ("Sorry, user lab is not allowed to execute '/x node' as root on lab1.", "allow its user to run"),
            (
                "sudo: The \"no new privileges\" flag is set, which prevents sudo from running as root.",
                "no_new",
            ),
            ("sudo: /usr/bin/sudo must be owned by uid 0 and have the setuid bit set", "setuid bit"),
            (
                "sudo: effective uid is not 0, is /usr/bin/sudo on a file system with the 'nosuid' option",
                "nosuid",
            ),
            ("/etc/sudoers:1:14: syntax error\nsudo: a password is required", "visudo -c"),
            (
                "sudo: account validation failure, is your account locked?\nsudo: a password is required",
                "unlock",
            ),
            (
                "sudo: unable to resolve host lab1: Name or service not known\nsudo: a password is required",
                "without a password",
            ),
            ("/x has changed since it was uploaded", "uploads it again"),
            ("error: cannot create network, mount and PID namespaces: EPERM", "CAP_SYS_ADMIN"),
            ("sudo: unable to resolve host lab1: Name or service not known", "sudo -n has to work"),
        ] {
            let remedy = root_remedy(output, Become::Sudo).unwrap();
            assert!(remedy.contains(words), "{output}: {remedy}");
        }
        let not_root = format!("lab {NOT_ROOT}");
        assert!(root_remedy(&not_root, Become::None).unwrap().contains("become: sudo"));
        assert_eq!(root_remedy("sudo: unable to execute /x: Permission denied", Become::Sudo), None);
        assert_eq!(root_remedy("sh: 1: exec: /x: Permission denied", Become::None), None);
    }

    #[test]
    fn the_remedy_for_a_program_that_does_not_run_follows_the_mount() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      2 1 0:5 / /home rw,noexec,relatime - ext4 /dev/sda2 rw\n\
                      3 1 0:6 / /nfs rw - nfs4 server:/home rw\n";
        let denied = "sh: 1: exec: Permission denied";
        let of = |output: &str, path: &str| exec_remedy(output, path, mounts);
        assert!(of(denied, "/home/me/x").contains("`mount -o remount,exec /home`"));
        assert!(of(denied, "/nfs/me/x").contains("root may not read /nfs there, which is nfs4"));
        assert!(of(denied, "/opt/x").contains("a policy of the host"));
        assert!(of("/x: /lib/libc.so.6: version `GLIBC_2.38' not found", "/opt/x").contains("statically"));
        assert!(of("Killed", "/opt/x").contains("`/opt/x --version`"));
    }

    #[test]
    fn the_remedy_for_an_upload_follows_what_the_host_says() {
        let of = |output: &str| upload_remedy(output, "choose another one");
        let says = |output: &str, words: &str| {
            let remedy = of(output).unwrap();
            assert!(
                remedy.contains(words) && remedy.ends_with("or choose another one"),
                "{output}: {remedy}"
            );
        };
        says("mkdir: cannot create directory '/home/me': Read-only file system", "for writing");
        says("mkdir: cannot create directory '/home/me': Permission denied", "make the directory writable");
        says("cat: write error: No space left on device", "free space");
        says("cat: write error: Disk quota exceeded", "quota");
        says("mkdir: cannot create directory '/x/y': Not a directory", "remove or rename");
        says(&format!("/home/me {NO_HOME}"), "create the home directory");
        says(&format!("/home/me/.cache {FOREIGN}"), "remove it");
        assert_eq!(of("Killed"), None);
    }
}
