//! The reason why a directory cannot be written to, and what to do about it.

use std::io;

/// The cause of a failed write, from the system's error number or from a program's error message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageProblem {
    /// No space is left.
    Full,
    /// Space is left, but no inodes for new files.
    NoInodes,
    /// The user's quota is used up.
    Quota,
    /// The file system is mounted read-only.
    ReadOnly,
    /// The user has no right to write there.
    Denied,
    /// There is a file in the place of a directory.
    InTheWay,
    /// A directory does not exist, and cannot be created.
    Missing,
    /// The device or the server of the file system does not answer properly.
    Broken,
    /// The user's file size limit is reached.
    Limited,
}

/// The C library's messages for error numbers, in the locale `C`. Those of musl follow those of glibc where
/// they differ.
const WORDS: [(&str, StorageProblem); 12] = [
    ("No space left on device", StorageProblem::Full),
    ("Disk quota exceeded", StorageProblem::Quota),
    ("Quota exceeded", StorageProblem::Quota),
    ("Read-only file system", StorageProblem::ReadOnly),
    ("Permission denied", StorageProblem::Denied),
    ("Operation not permitted", StorageProblem::Denied),
    ("Not a directory", StorageProblem::InTheWay),
    ("File exists", StorageProblem::InTheWay),
    ("No such file or directory", StorageProblem::Missing),
    ("Input/output error", StorageProblem::Broken),
    ("Stale file handle", StorageProblem::Broken),
    ("File too large", StorageProblem::Limited),
];

impl StorageProblem {
    /// Returns the cause that a program's error message names.
    pub fn in_text(text: &str) -> Option<Self> {
        // A script has failed for the reason that is printed last.
        let at = |(words, problem): &(&str, Self)| Some((text.rfind(words)?, *problem));
        WORDS.iter().filter_map(at).max_by_key(|(at, _)| *at).map(|(_, problem)| problem)
    }

    /// Returns the cause of an operating system's error.
    pub fn of(error: &io::Error) -> Option<Self> {
        Some(match error.raw_os_error()? {
            libc::ENOSPC => Self::Full,
            libc::EDQUOT => Self::Quota,
            libc::EROFS => Self::ReadOnly,
            libc::EACCES | libc::EPERM => Self::Denied,
            libc::ENOTDIR | libc::EEXIST => Self::InTheWay,
            libc::ENOENT => Self::Missing,
            libc::EIO | libc::ESTALE => Self::Broken,
            libc::EFBIG => Self::Limited,
            _ => return None,
        })
    }

    /// Returns what to do, in the imperative. `whose` names the user concerned, and follows a preposition;
    /// `otherwise` names another directory, in the imperative.
    pub fn remedy(self, whose: &str, otherwise: &str) -> String {
        let fix = match self {
            Self::Full => "free space there",
            Self::NoInodes => "remove files there, of which there are too many for the file system (`df -i`)",
            Self::Quota => &format!("remove files of {whose} there, whose quota is used up, or raise it"),
            Self::ReadOnly => "mount the file system for writing",
            Self::Denied => &format!("make the directory writable for {whose}"),
            Self::InTheWay => "remove or rename the file that is where a directory has to be",
            Self::Missing => "create the directory",
            Self::Broken => "repair the file system: the kernel's log (`dmesg`) there has more",
            Self::Limited => &format!("raise the limit on the size of files for {whose} (`ulimit -f`)"),
        };
        format!("{fix}, or {otherwise}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_in_the_error_number_and_in_its_text() {
        for code in [
            libc::ENOSPC,
            libc::EDQUOT,
            libc::EROFS,
            libc::EACCES,
            libc::EPERM,
            libc::ENOTDIR,
            libc::EEXIST,
            libc::ENOENT,
            libc::EIO,
            libc::ESTALE,
            libc::EFBIG,
        ] {
            let error = io::Error::from_raw_os_error(code);
            let text = format!("mkdir: cannot create directory '/srv/x': {error}");
            let problem = StorageProblem::of(&error);
            assert!(problem.is_some(), "{error}");
            assert_eq!(StorageProblem::in_text(&text), problem, "{text}");
        }
        assert_eq!(StorageProblem::in_text("Connection refused"), None);
        assert_eq!(StorageProblem::of(&io::Error::other("x")), None);
    }

    #[test]
    fn the_last_error_of_a_script_counts() {
        let text = "touch: cannot touch 'a': Permission denied\ncat: write error: No space left on device";
        assert_eq!(StorageProblem::in_text(text), Some(StorageProblem::Full));
    }

    #[test]
    fn no_two_causes_have_the_same_remedy() {
        use StorageProblem as P;
        let all = [
            P::Full,
            P::NoInodes,
            P::Quota,
            P::ReadOnly,
            P::Denied,
            P::InTheWay,
            P::Missing,
            P::Broken,
            P::Limited,
        ];
        let remedies: std::collections::BTreeSet<_> =
            all.iter().map(|problem| problem.remedy("the user", "name another directory")).collect();
        assert_eq!(remedies.len(), all.len());
    }
}
