//! Reads apt's sources, and derives a source for backports, a newer suite of the same archive.
//!
//! Both formats are read: one source per line (`*.list`), and paragraphs (`*.sources`). The derived source is
//! a paragraph with the address and the key of a source that this host already has, so it does not extend the
//! host's trust. A backports suite has a low priority: apt installs its packages only on request and does not
//! upgrade anything else.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// The path of the file for [`Backports::New`], relative to apt's configuration directory.
pub(super) const FILE: &str = "sources.list.d/testbed-backports.sources";

/// The backports of a release: a suite such as `bookworm-backports`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Backports {
    /// The suite is among this host's sources.
    Configured { suite: String },
    /// The suite has to be added, with a new file.
    New {
        suite: String,
        /// The content of the new file.
        text: String,
        /// The file with the source whose address and key are used.
        derived_from: PathBuf,
    },
}

/// A source: a map from field names, in lower case, to the values as written, and the file that contains it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Source {
    fields: BTreeMap<String, String>,
    file: PathBuf,
}

impl Source {
    /// Returns whether the value of a field contains a word.
    fn has(&self, field: &str, word: &str) -> bool {
        self.fields.get(field).is_some_and(|value| value.split_whitespace().any(|each| each == word))
    }

    /// Returns whether this is an enabled source of binary packages of a suite.
    fn provides(&self, suite: &str) -> bool {
        let off =
            self.fields.get("enabled").is_some_and(|value| matches!(value.trim(), "no" | "false" | "0"));
        !off && self.has("types", "deb") && self.has("suites", suite) && self.has("components", "main")
    }
}

/// Finds or derives the source of the backports of the release `codename`. `apt` is apt's configuration
/// directory. Returns `None` if there is no source of that release.
pub(super) fn backports(apt: &Path, codename: &str) -> Option<Backports> {
    let sources = read(apt);
    let suite = format!("{codename}-backports");
    if sources.iter().any(|source| source.provides(&suite)) {
        return Some(Backports::Configured { suite });
    }
    let base = sources.iter().find(|source| source.provides(codename))?;
    let text = derived(base, &suite)?;
    Some(Backports::New { suite, text, derived_from: base.file.clone() })
}

/// Writes the text of a source of `suite` with the address and the key of `base`.
fn derived(base: &Source, suite: &str) -> Option<String> {
    let address = base.fields.get("uris")?.split_whitespace().next()?;
    let mut text = format!(
        "# Written by `testbed setup` to install QEMU from a newer suite of the archive in\n\
         # {}.\n\
         # apt takes no other package from it unless you ask for it. Delete this file to undo the change.\n\
         Types: deb\nURIs: {address}\nSuites: {suite}\nComponents: main\n",
        base.file.display()
    );
    for (field, name) in
        [("signed-by", "Signed-By"), ("architectures", "Architectures"), ("trusted", "Trusted")]
    {
        if let Some(value) = base.fields.get(field) {
            // A key may be part of the file; its lines then follow, with their indentation.
            let value = value.trim_end();
            let space = if value.starts_with('\n') { "" } else { " " };
            let _ = writeln!(text, "{name}:{space}{value}");
        }
    }
    Some(text)
}

/// Reads all sources below apt's configuration directory, in the order in which apt reads them.
fn read(apt: &Path) -> Vec<Source> {
    let mut files: Vec<PathBuf> = fs::read_dir(apt.join("sources.list.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files.insert(0, apt.join("sources.list"));
    let mut sources = Vec::new();
    for file in files {
        // apt, run by the same user, cannot read this file either.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let found = match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => paragraphs(&text),
            Some("list") => text.lines().filter_map(one_line).collect(),
            _ => continue,
        };
        sources.extend(found.into_iter().map(|fields| Source { fields, file: file.clone() }));
    }
    sources
}

/// Parses a `.sources` file: paragraphs of fields, in deb822 format.
fn paragraphs(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut all = Vec::new();
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut field = None;
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            if !fields.is_empty() {
                all.push(std::mem::take(&mut fields));
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some(value) = field.as_ref().and_then(|name| fields.get_mut(name)) {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            let name = name.to_ascii_lowercase();
            fields.insert(name.clone(), value.trim().to_owned());
            field = Some(name);
        }
    }
    all
}

/// Parses a line of a `.list` file: `deb [option=value ...] address suite component ...`.
fn one_line(line: &str) -> Option<BTreeMap<String, String>> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let (kind, rest) = line.split_once(char::is_whitespace)?;
    let mut fields = BTreeMap::from([("types".to_owned(), kind.to_owned())]);
    let mut rest = rest.trim_start();
    if let Some(inside) = rest.strip_prefix('[') {
        let (options, after) = inside.split_once(']')?;
        for (name, value) in options.split_whitespace().filter_map(|option| option.split_once('=')) {
            let name = if name == "arch" { "architectures" } else { name };
            fields.insert(name.to_ascii_lowercase(), value.replace(',', " "));
        }
        rest = after;
    }
    let mut words = rest.split_whitespace();
    fields.insert("uris".to_owned(), words.next()?.to_owned());
    fields.insert("suites".to_owned(), words.next()?.to_owned());
    fields.insert("components".to_owned(), words.collect::<Vec<_>>().join(" "));
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: &str = "\
Types: deb
# a comment within
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/archive.gpg

Types: deb
URIs: http://security.example/debian
Suites: bookworm-security
Components: main
";

    fn with(files: &[(&str, &str)]) -> (tempfile::TempDir, Option<Backports>) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let found = backports(dir.path(), "bookworm");
        (dir, found)
    }

    fn new_text(files: &[(&str, &str)]) -> String {
        let (_dir, found) = with(files);
        let Some(Backports::New { suite, text, .. }) = found else { panic!("{found:?}") };
        assert_eq!(suite, "bookworm-backports");
        text.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn the_new_source_has_the_same_archive_and_key() {
        assert_eq!(
            new_text(&[("sources.list.d/debian.sources", SOURCES)]),
            "Types: deb\nURIs: http://archive.example/debian\nSuites: bookworm-backports\nComponents: main\n\
             Signed-By: /usr/share/keyrings/archive.gpg\n"
        );
    }

    #[test]
    fn a_key_within_the_file_is_copied_whole() {
        let text = SOURCES.replace(
            " /usr/share/keyrings/archive.gpg",
            "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY\n -----END PGP PUBLIC KEY BLOCK-----",
        );
        let derived = new_text(&[("sources.list.d/debian.sources", &text)]);
        assert!(
            derived.ends_with(
                "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY\n \
                 -----END PGP PUBLIC KEY BLOCK-----\n"
            ),
            "{derived}"
        );
    }

    #[test]
    fn one_line_sources_are_read_too() {
        let list = "# deb http://old.example/debian bookworm main\n\
                    deb-src http://source.example/debian bookworm main\n\
                    deb [arch=amd64,i386 signed-by=/k.gpg] http://archive.example/debian bookworm main \
                    contrib\n";
        assert_eq!(
            new_text(&[("sources.list", list)]),
            "Types: deb\nURIs: http://archive.example/debian\nSuites: bookworm-backports\nComponents: main\n\
             Signed-By: /k.gpg\nArchitectures: amd64 i386\n"
        );
    }

    #[test]
    fn a_configured_backports_suite_is_found() {
        let list = "deb http://archive.example/debian bookworm-backports main\n";
        let (_dir, found) =
            with(&[("sources.list.d/debian.sources", SOURCES), ("sources.list.d/b.list", list)]);
        assert_eq!(found, Some(Backports::Configured { suite: "bookworm-backports".to_owned() }));
    }

    #[test]
    fn sources_that_are_disabled_or_of_another_release_are_ignored() {
        let off = SOURCES.replace("Types: deb\n#", "Types: deb\nEnabled: no\n#");
        assert_eq!(with(&[("sources.list.d/debian.sources", &off)]).1, None);
        let other = SOURCES.replace("bookworm ", "trixie ");
        assert_eq!(with(&[("sources.list.d/debian.sources", &other)]).1, None);
        assert_eq!(with(&[("sources.list.d/debian.sources.disabled", SOURCES)]).1, None);
        assert_eq!(with(&[]).1, None);
    }
}
