//! The source map of a YAML text: the line and the column of each key and value.

use super::Location;
use crate::matrix::diagnostic::{Position, Segment};
use saphyr_parser::{Event, Parser, Span};
use std::{collections::HashMap, ops::Range, sync::Arc};

/// The positions of all keys and values of a text, up to the first syntax error.
#[derive(Debug)]
pub(super) struct SourceMap {
    chars: Vec<char>,
    root: Option<Arc<SourceNode>>,
    second_document: Option<Range<usize>>,
}

/// A value and its position in the text.
#[derive(Debug)]
struct SourceNode {
    /// The characters of the value, including its anchor and tag. For a list or a mapping, only those up to
    /// its first item or key.
    written: Range<usize>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Scalar(String),
    List(Vec<Arc<SourceNode>>),
    Mapping(Vec<(Arc<SourceNode>, Arc<SourceNode>)>),
}

/// A list or a mapping whose end has not been reached yet.
struct OpenCollection {
    written: Range<usize>,
    anchor: usize,
    is_mapping: bool,
    /// The items read so far. For a mapping, keys and values alternate.
    items: Vec<Arc<SourceNode>>,
}

impl OpenCollection {
    fn close(self) -> SourceNode {
        let content = if self.is_mapping {
            let pairs = self.items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            Content::Mapping(pairs.collect())
        } else {
            Content::List(self.items)
        };
        SourceNode { written: self.written, content }
    }
}

impl SourceMap {
    /// Maps a text. Keys and values after the first syntax error are missing.
    pub(super) fn of(text: &str) -> Self {
        let mut map = Self { chars: text.chars().collect(), root: None, second_document: None };
        let mut anchors: HashMap<usize, Arc<SourceNode>> = HashMap::new();
        let mut open: Vec<OpenCollection> = Vec::new();
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let Ok((event, Span { start, end })) = event else { break };
            let length = map.chars.len();
            let written = start.index().min(length)..end.index().clamp(start.index().min(length), length);
            let (anchor, node) = match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents == 2 {
                        map.second_document = Some(written);
                        break;
                    }
                    continue;
                }
                Event::SequenceStart(anchor, _) => {
                    open.push(OpenCollection { written, anchor, is_mapping: false, items: Vec::new() });
                    continue;
                }
                Event::MappingStart(anchor, _) => {
                    open.push(OpenCollection { written, anchor, is_mapping: true, items: Vec::new() });
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                    Some(ended) => (ended.anchor, ended.close().into()),
                    None => continue,
                },
                Event::Scalar(text, _, anchor, _) => {
                    (anchor, SourceNode { written, content: Content::Scalar(text.into()) }.into())
                }
                // An alias has the position of its anchor's value. Inside that very value, where the alias
                // would contain itself, it counts as an empty scalar.
                Event::Alias(anchor) => match anchors.get(&anchor) {
                    Some(node) => (0, node.clone()),
                    None => (0, SourceNode { written, content: Content::Scalar(String::new()) }.into()),
                },
                _ => continue,
            };
            if anchor > 0 {
                anchors.insert(anchor, node.clone());
            }
            map.add(&mut open, node);
        }
        while let Some(unended) = open.pop() {
            map.add(&mut open, unended.close().into());
        }
        map
    }

    fn add(&mut self, open: &mut [OpenCollection], node: Arc<SourceNode>) {
        match open.last_mut() {
            Some(parent) => parent.items.push(node),
            None => self.root = Some(node),
        }
    }

    /// Returns the position of the second document, if the text has one.
    pub(super) fn second_document(&self) -> Option<Position> {
        self.second_document.clone().map(|written| self.position(written))
    }

    /// Returns the position of `location` or, if the text does not have it, of the innermost value around it.
    /// Returns nothing if that is the whole text.
    pub(super) fn locate(&self, location: &Location) -> Option<Position> {
        let path = location.path().segments();
        let Some(root) = &self.root else {
            // The text is empty, or has comments only.
            let end = self.chars.len();
            return path.is_empty().then(|| self.position(end..end));
        };
        let (mut node, mut key) = (root, None);
        for (i, segment) in path.iter().enumerate() {
            let is_last = i + 1 == path.len();
            let nth = usize::from(is_last && matches!(location, Location::SecondKey(_)));
            let Some((found_key, found)) = node.child(segment, nth) else {
                return (i > 0).then(|| self.value(node));
            };
            (node, key) = (found, found_key);
        }
        Some(match (location, key) {
            (Location::Key(_) | Location::SecondKey(_), Some(key)) => self.value(key),
            (Location::Within(_, before, length), _) => self.within(node, *before, *length),
            (Location::Tag(_), _) => self.tag(node),
            _ => self.value(node),
        })
    }

    /// Splits a node into its properties (anchor and tag, in the order of the text) and the bare value.
    fn parts(&self, node: &SourceNode) -> (Vec<Range<usize>>, Range<usize>) {
        let (mut properties, mut bare) = (Vec::new(), node.written.clone());
        let count = |from: &Range<usize>, counts: fn(&char) -> bool| {
            self.chars[from.clone()].iter().take_while(|c| counts(c)).count()
        };
        while matches!(self.chars[bare.clone()].first(), Some('&' | '!')) {
            let end = bare.start + count(&bare, |c| !c.is_whitespace());
            properties.push(bare.start..end);
            bare.start = end + count(&(end..bare.end), |c| c.is_whitespace());
        }
        (properties, bare)
    }

    fn value(&self, node: &SourceNode) -> Position {
        let (_, bare) = self.parts(node);
        match node.content {
            Content::Scalar(_) => self.position(bare),
            _ => self.position(bare.start..bare.start + 1),
        }
    }

    fn tag(&self, node: &SourceNode) -> Position {
        let (properties, _) = self.parts(node);
        let tag = properties.into_iter().find(|property| self.chars[property.start] == '!');
        tag.map_or_else(|| self.value(node), |tag| self.position(tag))
    }

    /// Returns the position of `length` characters of a scalar that follow the first `before`. The scalar may
    /// be quoted, or folded over several lines. If it contains escapes, returns the position of all of it.
    fn within(&self, node: &SourceNode, before: usize, length: usize) -> Position {
        let (_, bare) = self.parts(node);
        let Content::Scalar(text) = &node.content else { return self.value(node) };
        let quotes = usize::from(self.chars[bare.clone()].first().is_some_and(|c| matches!(c, '"' | '\'')));
        let inner = bare.start + quotes..(bare.end - quotes).max(bare.start + quotes);
        // Folding changes nothing but whitespace, so the characters are matched without it.
        let visible = |c: &char| !c.is_whitespace();
        let written: Vec<usize> = inner.clone().filter(|at| visible(&self.chars[*at])).collect();
        if !text.chars().filter(visible).eq(written.iter().map(|at| self.chars[*at])) {
            return self.value(node);
        }
        let preceding = text.chars().take(before).filter(visible).count();
        let covered = text.chars().skip(before).take(length).filter(visible).count();
        // An error at the end of an expression (something is missing there) points after its last character.
        let end = written.last().map_or(inner.start, |last| last + 1);
        let start = written.get(preceding).copied().filter(|_| covered > 0).unwrap_or(end);
        let end = written.get((preceding + covered).saturating_sub(1)).map_or(end, |last| last + 1);
        self.position(start..end.max(start))
    }

    /// Converts a range of characters to a position. If the range spans several lines, the position covers
    /// only the first.
    fn position(&self, chars: Range<usize>) -> Position {
        let is_break = |c: &char| matches!(c, '\n' | '\r');
        // The end of the text is on its last line, not on an empty line after the final line break.
        let end = self.chars.len();
        let last = self.chars.strip_suffix(&['\n']).map_or(end, <[char]>::len);
        let before = &self.chars[..if chars.start < end { chars.start } else { last }];
        let line = 1 + before.iter().filter(|c| **c == '\n').count();
        let column = 1 + before.iter().rev().take_while(|c| !is_break(c)).count();
        let rest = self.chars[before.len()..].iter().take_while(|c| !is_break(c)).count();
        Position { line, column, length: chars.len().min(rest).max(1) }
    }
}

/// Returns where lists and mappings in brackets are nested deeper than `limit`. The other parser would take
/// time proportional to the square of the depth.
pub(super) fn deeper_than(limit: usize, text: &str) -> Option<Position> {
    let brackets = || text.bytes().filter(|byte| matches!(byte, b'[' | b'{'));
    if brackets().count() <= limit {
        return None;
    }
    let at = |span: Span| Position { line: span.start.line(), column: span.start.col() + 1, length: 1 };
    let mut depth = 0;
    for event in Parser::new_from_str(text) {
        match event {
            Ok((Event::SequenceStart(..) | Event::MappingStart(..), span)) => {
                depth += 1;
                if depth > limit {
                    return Some(at(span));
                }
            }
            Ok((Event::SequenceEnd | Event::MappingEnd, _)) => depth -= 1,
            Ok(_) => {}
            // Beyond a syntax error the depth is unknown, but it is at most the number of brackets.
            Err(error) => {
                let marker = *error.marker();
                return (brackets().count() > 100 * limit).then(|| at(Span::empty(marker)));
            }
        }
    }
    None
}

/// Returns the position in the text that is nearest to a line and a column, both from 1: the parser may point
/// past the end of the text.
pub(super) fn nearest(text: &str, line: usize, column: usize) -> Position {
    let last = text.lines().count().max(1);
    let length = |line: usize| text.lines().nth(line - 1).map_or(0, |line| line.chars().count());
    let (line, column) = if line > last { (last, usize::MAX) } else { (line.max(1), column.max(1)) };
    Position { line, column: column.min(length(line) + 1), length: 1 }
}

impl SourceNode {
    /// Returns the item or the entry that `segment` names, as its key (if it has one) and its value. Of
    /// several entries with the same key, returns the `nth`, counted from 0.
    fn child(&self, segment: &Segment, nth: usize) -> Option<(Option<&Arc<Self>>, &Arc<Self>)> {
        match (&self.content, segment) {
            (Content::List(items), Segment::Index(index)) => items.get(*index).map(|item| (None, item)),
            (Content::Mapping(entries), Segment::Key(name)) => {
                let named =
                    |entry: &&(Arc<Self>, _)| matches!(&entry.0.content, Content::Scalar(key) if key == name);
                entries.iter().filter(named).nth(nth).map(|(key, value)| (Some(key), value))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::diagnostic::KeyPath;

    /// Returns the characters at a location.
    fn marked(text: &str, location: &Location) -> String {
        let Position { line, column, length } = SourceMap::of(text).locate(location).unwrap();
        text.lines().nth(line - 1).unwrap_or_default().chars().skip(column - 1).take(length).collect()
    }

    fn at(path: &str) -> KeyPath {
        KeyPath::root().dotted(path)
    }

    #[test]
    fn a_value_a_key_and_a_tag_are_found() {
        let text = "é: 'q r'\nm: &a { k: [1, -2.50] }\nn: !t &b word # no\nm: *a\no:\n  - - x\n    - y z\n";
        for (location, expected) in [
            (Location::Value(at("é")), "'q r'"),
            (Location::Key(at("é")), "é"),
            (Location::Value(at("m.k.1")), "-2.50"),
            (Location::Value(at("m")), "{"),
            (Location::Value(at("n")), "word"),
            (Location::Tag(at("n")), "!t"),
            (Location::SecondKey(at("m")), "m"),
            (Location::Value(at("o.0.1")), "y z"),
            (Location::Value(at("o.0.7")), "-"),
        ] {
            assert_eq!(marked(text, &location), expected, "{location:?}");
        }
        assert_eq!(SourceMap::of(text).locate(&Location::SecondKey(at("m"))).unwrap().line, 4);
        assert_eq!(SourceMap::of(text).locate(&Location::Key(at("nothing"))), None);
        let end =
            |text| SourceMap::of(text).locate(&Location::Value(KeyPath::root())).map(|p| (p.line, p.column));
        assert_eq!(["", "# é\n", "#\n\n"].map(end), [Some((1, 1)), Some((1, 4)), Some((2, 1))]);
    }

    #[test]
    fn part_of_a_scalar_is_found_in_every_style() {
        let location = Location::Within(at("c"), 10, 4);
        for text in [
            "c: not a == bcde",
            "c: 'not a ==  bcde'",
            "c: not a\n  ==\n  bcde\n",
            "c: >-\n  not a ==\n  bcde\n",
            "c: \"not\n  a == bcde\"",
            "c: |\n    not a ==\n    bcde\n",
        ] {
            let value: serde_json::Value = serde_yaml::from_str(text).unwrap();
            let scalar = value["c"].as_str().unwrap();
            let before = scalar.chars().take_while(|c| *c != 'b').count();
            assert_eq!(marked(text, &Location::Within(at("c"), before, 4)), "bcde", "{text}");
            let end =
                SourceMap::of(text).locate(&Location::Within(at("c"), scalar.chars().count(), 0)).unwrap();
            assert_eq!(end.length, 1, "{text}");
        }
        assert_eq!(marked("c: \"not \\x61 == bcde\"", &location), "\"not \\x61 == bcde\"", "escapes");
    }

    #[test]
    fn recursive_aliases_and_alias_bombs_are_handled() {
        assert_eq!(marked("a: &x [1, *x]\n", &Location::Value(at("a.1"))), "*x");
        let level = |i: usize| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", "));
        let bomb = format!("a0: &a0 [x]\n{}", (1..40).map(level).collect::<String>());
        assert_eq!(marked(&bomb, &Location::Value(at(&format!("a39{}", ".0".repeat(40))))), "x");
    }
}
