//! A directory on another host, as an inventory names it.

use crate::layout::shell_word;
use serde::Deserialize;
use std::{fmt, path::PathBuf};

/// A directory on another host: an absolute path, or `~/…` in the home directory of the user who logs in
/// there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPath(String);

impl HostPath {
    /// Returns the path, unless it begins in the home directory of the login user.
    pub fn absolute(&self) -> Option<PathBuf> {
        self.0.starts_with('/').then(|| PathBuf::from(&self.0))
    }

    /// Returns the path as a word of a script for `sh` on the host, where the login user runs it.
    pub fn script_word(&self) -> String {
        match self.0.strip_prefix('~') {
            Some("" | "/") => "\"$HOME\"".into(),
            Some(below) => format!("\"$HOME\"{}", shell_word(below)),
            None => shell_word(&self.0),
        }
    }
}

impl fmt::Display for HostPath {
    /// Writes the path as the inventory has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HostPath {
    type Error = String;

    fn try_from(path: String) -> Result<Self, String> {
        check_text("a path", &path)?;
        if path.starts_with('/') || path == "~" || path.starts_with("~/") {
            return Ok(Self(path));
        }
        Err(if path.starts_with('~') {
            format!("{path:?} is another user's home directory; write its absolute path")
        } else {
            let below = path.trim_start_matches("./");
            format!(
                "{path:?} is a relative path, and it is not clear to which directory of a host; write an \
                 absolute path (\"/srv/{below}\"), or one in the home directory of the login user \
                 (\"~/{below}\")"
            )
        })
    }
}

/// Checks that a text of an inventory is not empty and contains no control characters. `what` says what the
/// text must be, and follows "is not" in the error.
pub(super) fn check_text(what: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("it is empty, which is not {what}; leave it out, or give it a value"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?} contains a control character, so it is not {what}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn path(text: &str) -> Result<HostPath, String> {
        HostPath::try_from(text.to_owned())
    }

    #[test]
    fn a_path_is_absolute_or_in_the_home_directory() {
        for good in ["/srv/images", "/", "~", "~/img", "/srv/it's \"here\"", "/~/x", "~/~"] {
            assert_eq!(path(good).unwrap().to_string(), good);
        }
        for (bad, words) in [
            ("images", "write an absolute path (\"/srv/images\")"),
            ("./images", "(\"~/images\")"),
            ("../images", "relative path"),
            ("~lab/images", "another user's home directory"),
            ("$HOME/images", "relative path"),
            ("", "it is empty"),
            ("/srv/\nimages", "control character"),
        ] {
            let problem = path(bad).unwrap_err();
            assert!(problem.contains(words), "{bad:?}: {problem}");
        }
    }

    #[test]
    fn a_shell_expands_only_the_home_directory() {
        for (text, expanded) in [
            ("~", "/home/me"),
            ("~/", "/home/me"),
            ("~/img", "/home/me/img"),
            ("~/it's a \"dir\" $(x)", "/home/me/it's a \"dir\" $(x)"),
            ("/srv/~/`x` $HOME", "/srv/~/`x` $HOME"),
        ] {
            let script = format!("printf %s {}", path(text).unwrap().script_word());
            let output = Command::new("sh").args(["-c", &script]).env("HOME", "/home/me").output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), expanded);
        }
    }
}
