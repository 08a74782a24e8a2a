//! The reference of matrix files: `docs/matrix.md` and the manual page testbed-matrix(5).
//!
//! Both are generated from the JSON Schema, which is generated from the types that read the files.

use super::text::{inlines, verbatim, wrapped};
use crate::matrix;
use roff::{Roff, bold, roman};
use serde_json::{Map, Value};
use std::{collections::HashSet, fmt::Write as _};

/// The file name of the manual page.
pub(super) const MANUAL_PAGE: &str = "testbed-matrix.5";

/// A matrix file that shows the parts of the format; a test expands it.
pub const EXAMPLE: &str = "\
name: my-first                                    # names the results folder
guest:   { memory: 512MiB, ballast: 100MiB }      # ballast: filled once, then left alone
link:    { rate: 400mbit }                        # shaped alike in both directions
stress:  { working_set: 1s, content: random }     # 1s: as much memory as the rate dirties in a second
migrate: { downtime_limit: 300ms, timeout: 30s }  # when QEMU may stop the guest; when to give up
axes:                                             # every combination of values is one cell
  stress.rate: [8MB/s, 32MB/s, 96MB/s]
repeat: 3                                         # migrate each cell three times
expect:                                           # decides the exit code
  - { where: stress.rate <= 32MB/s, outcome: converged, downtime: <= 1s }
  - { where: stress.rate >= 96MB/s, outcome: not-converged }
";

const INTRODUCTION: [&str; 4] = [
    "A matrix file is YAML. It describes a guest, a link, a workload and a way to migrate, and the axes \
     along which they vary. Each combination of values is a cell; `testbed run` migrates a guest for every \
     cell.",
    "Every setting has a default; `name` is the only key that every matrix needs. Units are mandatory: \
     `MB` is 10^6 bytes, `MiB` is 2^20 bytes, `mbit` is 10^6 bit/s. Unknown keys, missing units and \
     settings that contradict each other are errors with line, column and a hint, and nothing is started. \
     What this host or this QEMU lacks is not an error: the cell is skipped.",
    "Units and words are read in other spellings as well: `1 Gbit/s`, `512Mi`, `1m30s`, `250msec`, \
     `pre-copy`, `KVM`. A text that other programs read in different ways, such as `512M` or `100mbps`, is \
     an error that says how to write each meaning. `none` means that an optional setting is absent.",
    "Any setting of a section can be an axis, under its full name: `stress.rate`, `link.delay`. Conditions \
     (`where`, `exclude`, `--only`) compare settings with values and combine with `and`, `or` and `not`.",
];

/// The sections that hold settings, in the order of the file.
const SECTIONS: [&str; 6] = ["guest", "link", "storage", "probe", "stress", "migrate"];

/// A reference: headings, prose and definitions, before it is rendered.
#[derive(Debug)]
pub struct Page {
    blocks: Vec<Block>,
}

#[derive(Debug)]
enum Block {
    Heading(String),
    Paragraph(String),
    Code(&'static str),
    Item(Item),
}

/// A key of the file, or a word that is allowed as its value.
#[derive(Debug)]
struct Item {
    name: String,
    /// The allowed values, and the default.
    value: Option<String>,
    text: String,
    /// The allowed words, if each has a description.
    words: Vec<Item>,
}

/// Returns the reference of matrix files.
pub fn matrix() -> Page {
    let schema = matrix::schema();
    let mut reader = Reader::new(schema.as_value());
    let mut blocks: Vec<Block> =
        INTRODUCTION.iter().map(|text| Block::Paragraph((*text).to_string())).collect();
    blocks.push(Block::Code(EXAMPLE));
    blocks.push(Block::Heading("Top level".into()));
    blocks.extend(reader.keys(reader.root));
    let sections = SECTIONS.iter().map(|key| (*key, format!("The section `{key}`")));
    let lists = ["timeline", "expect"].map(|key| (key, format!("An entry of `{key}`")));
    for (key, title) in sections.chain(lists).chain([("reference", "The section `reference`".into())]) {
        blocks.push(Block::Heading(title));
        blocks.extend(reader.section(reader.mapping(key)));
    }
    // The mappings in the order in which settings refer to them; they may refer to others.
    let mut next = 0;
    while let Some(name) = reader.mappings.get(next).copied() {
        blocks.push(Block::Heading(format!("The mapping `{name}`")));
        blocks.extend(reader.section(&reader.root["$defs"][name]));
        next += 1;
    }
    Page { blocks }
}

impl Page {
    /// Returns the page as Markdown.
    pub fn markdown(&self) -> String {
        let mut page = String::from(
            "# Matrix files\n\nGenerated from the types that read matrix files, as is the manual page \
             testbed-matrix(5); do not edit.\n`UPDATE_GOLDEN=1 cargo test -p testbed` writes this page \
             anew.\n",
        );
        let mut in_list = false;
        for block in &self.blocks {
            if matches!(block, Block::Item(_)) && !in_list {
                page.push('\n');
            }
            in_list = matches!(block, Block::Item(_));
            match block {
                Block::Heading(text) => {
                    let _ = write!(page, "\n## {text}\n");
                }
                Block::Paragraph(text) => {
                    let _ = write!(page, "\n{}\n", wrapped(text, "", ""));
                }
                Block::Code(text) => {
                    let _ = write!(page, "\n```yaml\n{text}```\n");
                }
                Block::Item(item) => {
                    item_as_markdown(&mut page, item, "");
                }
            }
        }
        page
    }

    /// Returns the page as roff, for `man`.
    pub fn manual_page(&self) -> String {
        let mut roff = Roff::new();
        roff.control("TH", ["testbed-matrix", "5", "", "testbed", "Live-migration testbed"]);
        roff.control("SH", ["NAME"]).text([roman("testbed-matrix - matrix files of testbed(1)")]);
        roff.control("SH", ["DESCRIPTION"]);
        for block in &self.blocks {
            match block {
                Block::Heading(text) => {
                    roff.control("SH", [text.replace('`', "").to_uppercase().as_str()]);
                }
                Block::Paragraph(text) => {
                    roff.control("PP", []).text(inlines(text));
                }
                Block::Code(text) => {
                    roff.control("PP", []);
                    verbatim(&mut roff, &text.lines().map(ToString::to_string).collect::<Vec<_>>());
                }
                Block::Item(item) => item_as_roff(&mut roff, item),
            }
        }
        roff.control("SH", ["SEE ALSO"])
            .text([roman("testbed(1), testbed-run(1), testbed-plan(1), testbed-schema(1)")]);
        roff.to_roff()
    }
}

fn item_as_markdown(page: &mut String, item: &Item, indent: &str) {
    let value = item.value.as_ref().map_or_else(String::new, |value| format!(" ({value})"));
    let text = format!("`{}`{value}: {}", item.name, item.text);
    let inner = format!("{indent}  ");
    let _ = writeln!(page, "{}", wrapped(&text, &format!("{indent}- "), &inner));
    for word in &item.words {
        item_as_markdown(page, word, &inner);
    }
}

fn item_as_roff(roff: &mut Roff, item: &Item) {
    let mut term = vec![bold(item.name.as_str())];
    if let Some(value) = &item.value {
        term.push(roman(format!(" ({})", value.replace('`', ""))));
    }
    roff.control("TP", []).text(term).text(inlines(&item.text));
    if !item.words.is_empty() {
        roff.control("RS", []);
        for word in &item.words {
            item_as_roff(roff, word);
        }
        roff.control("RE", []);
    }
}

/// Reads the JSON Schema of matrix files, and remembers the definitions that it has met.
struct Reader<'a> {
    root: &'a Value,
    /// The mappings, other than the sections, that settings contain.
    mappings: Vec<&'a str>,
    /// The definitions whose words have been explained.
    explained: HashSet<&'a str>,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Value) -> Self {
        Self { root, mappings: Vec::new(), explained: HashSet::new() }
    }

    fn property(&self, name: &str) -> &'a Value {
        &self.root["properties"][name]
    }

    /// Returns the schema of a key, without the single value that may replace a section.
    fn mapping(&self, name: &str) -> &'a Value {
        let schema = self.property(name);
        let alternatives = schema["anyOf"].as_array().into_iter().flatten();
        alternatives.into_iter().find(|one| self.resolve(one).1["properties"].is_object()).unwrap_or(schema)
    }

    /// Follows a reference to the definition it names, through `null` and lists.
    fn resolve(&self, schema: &'a Value) -> (Option<&'a str>, &'a Value) {
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
            return (Some(name), &self.root["$defs"][name]);
        }
        if let Some(present) = optional(schema) {
            return self.resolve(present);
        }
        if schema["items"].is_object() {
            return self.resolve(&schema["items"]);
        }
        (None, schema)
    }

    /// Returns the keys of a mapping, one block for each.
    fn keys(&mut self, mapping: &'a Value) -> Vec<Block> {
        let properties = mapping["properties"].as_object().into_iter().flatten();
        properties.map(|(name, schema)| Block::Item(self.item(name, schema))).collect()
    }

    /// Returns a mapping's description and its keys. Remembers the mappings that these contain.
    fn section(&mut self, schema: &'a Value) -> Vec<Block> {
        let (_, mapping) = self.resolve(schema);
        let mut blocks = vec![Block::Paragraph(description(mapping))];
        blocks.extend(self.keys(mapping));
        for held in mapping["properties"].as_object().into_iter().flat_map(Map::values) {
            let (Some(name), definition) = self.resolve(held) else { continue };
            // The section `link` has all of a profile's keys.
            let is_section = name == "Profile"
                || SECTIONS.iter().any(|key| self.resolve(self.mapping(key)).0 == Some(name));
            if definition["properties"].is_object() && !is_section && !self.mappings.contains(&name) {
                self.mappings.push(name);
            }
        }
        blocks
    }

    fn item(&mut self, name: &str, schema: &'a Value) -> Item {
        let (definition_name, definition) = self.resolve(schema);
        let is_new = definition_name.is_none_or(|name| self.explained.insert(name));
        let words = words(definition).into_iter().filter(|_| is_new).map(|(name, word)| Item {
            name: name.to_owned(),
            value: None,
            text: description(word),
            words: Vec::new(),
        });
        let mut value = self.value(schema);
        match &schema["default"] {
            // A section's defaults are shown at its own keys.
            Value::Null | Value::Array(_) | Value::Object(_) => {}
            Value::String(text) => {
                let _ = write!(value, "; default `{text}`");
            }
            other => {
                let _ = write!(value, "; default `{other}`");
            }
        }
        Item { name: name.to_owned(), value: Some(value), text: description(schema), words: words.collect() }
    }

    /// Returns the allowed values, in words.
    fn value(&self, schema: &'a Value) -> String {
        if let Some(present) = optional(schema) {
            return format!("{}, optional", self.value(present));
        }
        if schema["items"].is_object() {
            let inner = self.value(&schema["items"]);
            return format!("list: {inner}");
        }
        let (name, definition) = self.resolve(schema);
        let words = words(definition);
        if !words.is_empty() {
            return either(&words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>());
        }
        if definition["properties"].is_object() {
            return name.map_or_else(|| "mapping".into(), |name| format!("mapping `{name}`"));
        }
        if let (None, Some(alternatives)) = (name, definition["anyOf"].as_array()) {
            let words: Vec<String> = alternatives.iter().map(|alternative| self.value(alternative)).collect();
            return either(&words);
        }
        if name.is_some() {
            return scalar(definition);
        }
        let kind = match &definition["type"] {
            Value::String(kind) => kind.as_str(),
            Value::Array(kinds) => {
                kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("")
            }
            _ => "",
        };
        match (kind, definition["minimum"].as_u64(), definition["maximum"].as_u64()) {
            ("integer", Some(least), Some(most)) => format!("{least} to {most}"),
            ("integer", Some(0) | None, None) => "integer".into(),
            ("integer", Some(least), None) => format!("integer, at least {least}"),
            ("boolean", ..) => "`true` or `false`".into(),
            ("", ..) => "see below".into(),
            (kind, ..) => kind.into(),
        }
    }
}

/// Returns the notation of a quantity or of a word with arguments.
fn scalar(definition: &Value) -> String {
    let alternatives = definition["anyOf"].as_array().into_iter().flatten();
    let words = alternatives.flat_map(|alternative| alternative["enum"].as_array().into_iter().flatten());
    let mut words: Vec<String> = words.filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
    let text = description(definition).replace(" with its unit, like ", " like ");
    // A long description ends with details.
    let text =
        if text.len() > 80 { text.split([',', ':']).next().unwrap_or_default().to_owned() } else { text };
    words.push(text.strip_prefix("a ").or(text.strip_prefix("A ")).unwrap_or(&text).to_owned());
    either(&words)
}

/// Joins alternatives.
fn either(words: &[String]) -> String {
    match words {
        [most @ .., last] if !most.is_empty() => format!("{} or {last}", most.join(", ")),
        words => words.concat(),
    }
}

/// Returns the words that a definition allows, each with its schema.
fn words(definition: &Value) -> Vec<(&str, &Value)> {
    let alternatives = definition["anyOf"].as_array().into_iter().flatten();
    alternatives.filter_map(|word| Some((word["const"].as_str()?, word))).collect()
}

/// Returns the schema of an optional value when it is present.
fn optional(schema: &Value) -> Option<&Value> {
    let alternatives = schema["anyOf"].as_array()?;
    let is_null = |alternative: &&Value| alternative["type"] == "null";
    alternatives.iter().find(is_null)?;
    alternatives.iter().find(|alternative| !is_null(alternative))
}

fn description(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::File;

    #[test]
    fn the_example_is_a_matrix() {
        let plan = File::parse(EXAMPLE, "example.yaml").and_then(|file| file.expand()).unwrap();
        assert_eq!(plan.cells.len(), 3);
    }

    #[test]
    fn every_setting_is_in_the_reference_with_its_description() {
        let page = matrix().markdown();
        let schema = matrix::schema();
        let reader = Reader::new(schema.as_value());
        for section in SECTIONS {
            let (_, mapping) = reader.resolve(reader.mapping(section));
            for (name, setting) in mapping["properties"].as_object().unwrap() {
                assert!(page.contains(&format!("- `{name}`")), "{section}.{name}");
                assert!(!description(setting).is_empty(), "{section}.{name}");
            }
        }
    }

    #[test]
    fn both_forms_say_the_same_of_a_setting() {
        let (markdown, roff) = (matrix().markdown(), matrix().manual_page());
        for text in ["downtime_limit", "working_set", "hot-cold:90%"] {
            assert!(markdown.contains(text), "{text}");
            assert!(roff.replace("\\-", "-").contains(text), "{text}");
        }
    }
}
