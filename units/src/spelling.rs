//! The spellings of units, as templates that both the parser and the JSON Schema follow.
//!
//! A lower-case letter in a template stands for itself in either case, every other character only for itself:
//! `kB` is written `kB` or `KB`. A template that begins with `=` is written exactly like the rest of it:
//! `=mb/s` allows `mb/s`, but not `Mb/s`.

/// Returns whether `text` is a spelling that the template allows.
pub(crate) fn allows(template: &str, text: &str) -> bool {
    if let Some(exact) = template.strip_prefix('=') {
        return text == exact;
    }
    let fits = |(t, c): (char, char)| t == c || (t.is_ascii_lowercase() && t == c.to_ascii_lowercase());
    template.chars().count() == text.chars().count() && template.chars().zip(text.chars()).all(fits)
}

/// Returns a regular expression for the spellings that the template allows.
#[cfg(feature = "schema")]
pub(crate) fn pattern(template: &str) -> String {
    if let Some(exact) = template.strip_prefix('=') {
        return exact.into();
    }
    let mut pattern = String::new();
    for c in template.chars() {
        match c {
            'a'..='z' => pattern.extend(['[', c, c.to_ascii_uppercase(), ']']),
            c => pattern.push(c),
        }
    }
    pattern
}
