//! Where everything in a YAML text is written.

use super::Spot;
use crate::matrix::diagnostic::{Position, Segment};
use saphyr_parser::{Event, Parser, Span};
use std::{collections::HashMap, ops::Range, sync::Arc};

/// The places of a text, as far as it can be read.
#[derive(Debug)]
pub(super) struct Places {
    chars: Vec<char>,
    root: Option<Arc<Node>>,
    second_document: Option<Range<usize>>,
}

/// A value and the characters it is written in.
#[derive(Debug)]
struct Node {
    /// Anchor and tag included; of a list or a mapping, up to its first item or key.
    written: Range<usize>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Scalar(String),
    List(Vec<Arc<Node>>),
    Mapping(Vec<(Arc<Node>, Arc<Node>)>),
}

/// A list or a mapping of which not all has been read.
struct Open {
    written: Range<usize>,
    anchor: usize,
    is_mapping: bool,
    /// Its items; of a mapping, keys and values in turn.
    items: Vec<Arc<Node>>,
}

impl Open {
    fn close(self) -> Node {
        let content = if self.is_mapping {
            let pairs = self.items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            Content::Mapping(pairs.collect())
        } else {
            Content::List(self.items)
        };
        Node { written: self.written, content }
    }
}

impl Places {
    /// Finds the places of a text. Where it is not YAML, they end.
    pub(super) fn of(text: &str) -> Self {
        let mut places = Self { chars: text.chars().collect(), root: None, second_document: None };
        let mut anchors: HashMap<usize, Arc<Node>> = HashMap::new();
        let mut open: Vec<Open> = Vec::new();
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let Ok((event, Span { start, end })) = event else { break };
            let length = places.chars.len();
            let written = start.index().min(length)..end.index().clamp(start.index().min(length), length);
            let (anchor, node) = match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents == 2 {
                        places.second_document = Some(written);
                        break;
                    }
                    continue;
                }
                Event::SequenceStart(anchor, _) => {
                    open.push(Open { written, anchor, is_mapping: false, items: Vec::new() });
                    continue;
                }
                Event::MappingStart(anchor, _) => {
                    open.push(Open { written, anchor, is_mapping: true, items: Vec::new() });
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                    Some(ended) => (ended.anchor, ended.close().into()),
                    None => continue,
                },
                Event::Scalar(text, _, anchor, _) => {
                    (anchor, Node { written, content: Content::Scalar(text.into()) }.into())
                }
                // What it stands for; nothing, inside of just that.
                Event::Alias(anchor) => match anchors.get(&anchor) {
                    Some(node) => (0, node.clone()),
                    None => (0, Node { written, content: Content::Scalar(String::new()) }.into()),
                },
                _ => continue,
            };
            if anchor > 0 {
                anchors.insert(anchor, node.clone());
            }
            places.add(&mut open, node);
        }
        while let Some(unended) = open.pop() {
            places.add(&mut open, unended.close().into());
        }
        places
    }

    fn add(&mut self, open: &mut [Open], node: Arc<Node>) {
        match open.last_mut() {
            Some(parent) => parent.items.push(node),
            None => self.root = Some(node),
        }
    }

    /// Where a second document begins.
    pub(super) fn second_document(&self) -> Option<Position> {
        self.second_document.clone().map(|written| self.position(written))
    }

    /// Where something is, or else the nearest thing around it. Nothing, if that is the whole text.
    pub(super) fn locate(&self, spot: &Spot) -> Option<Position> {
        let path = spot.path().segments();
        let Some(root) = &self.root else {
            // A text without a value.
            let end = self.chars.len();
            return path.is_empty().then(|| self.position(end..end));
        };
        let (mut node, mut key) = (root, None);
        for (i, segment) in path.iter().enumerate() {
            let is_last = i + 1 == path.len();
            let nth = usize::from(is_last && matches!(spot, Spot::SecondKey(_)));
            let Some((found_key, found)) = node.child(segment, nth) else {
                return (i > 0).then(|| self.value(node));
            };
            (node, key) = (found, found_key);
        }
        Some(match (spot, key) {
            (Spot::Key(_) | Spot::SecondKey(_), Some(key)) => self.value(key),
            (Spot::Within(_, before, length), _) => self.within(node, *before, *length),
            (Spot::Tag(_), _) => self.tag(node),
            _ => self.value(node),
        })
    }

    /// The anchor and the tag of a value, and then the value itself.
    fn parts(&self, node: &Node) -> (Vec<Range<usize>>, Range<usize>) {
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

    fn value(&self, node: &Node) -> Position {
        let (_, bare) = self.parts(node);
        match node.content {
            Content::Scalar(_) => self.position(bare),
            _ => self.position(bare.start..bare.start + 1),
        }
    }

    fn tag(&self, node: &Node) -> Position {
        let (properties, _) = self.parts(node);
        let tag = properties.into_iter().find(|property| self.chars[property.start] == '!');
        tag.map_or_else(|| self.value(node), |tag| self.position(tag))
    }

    /// Some characters of a scalar. It may be quoted, or folded over several lines; where it is written with
    /// escapes, it is marked as a whole.
    fn within(&self, node: &Node, before: usize, length: usize) -> Position {
        let (_, bare) = self.parts(node);
        let Content::Scalar(text) = &node.content else { return self.value(node) };
        let quotes = usize::from(self.chars[bare.clone()].first().is_some_and(|c| matches!(c, '"' | '\'')));
        let inner = bare.start + quotes..(bare.end - quotes).max(bare.start + quotes);
        // Folding moves nothing but whitespace.
        let visible = |c: &char| !c.is_whitespace();
        let written: Vec<usize> = inner.clone().filter(|at| visible(&self.chars[*at])).collect();
        if !text.chars().filter(visible).eq(written.iter().map(|at| self.chars[*at])) {
            return self.value(node);
        }
        let preceding = text.chars().take(before).filter(visible).count();
        let covered = text.chars().skip(before).take(length).filter(visible).count();
        // At the end of the text, what is missing would come after the last of it.
        let end = written.last().map_or(inner.start, |last| last + 1);
        let start = written.get(preceding).copied().filter(|_| covered > 0).unwrap_or(end);
        let end = written.get((preceding + covered).saturating_sub(1)).map_or(end, |last| last + 1);
        self.position(start..end.max(start))
    }

    /// Characters as a position: their first line, if they are on several.
    fn position(&self, chars: Range<usize>) -> Position {
        let is_break = |c: &char| matches!(c, '\n' | '\r');
        // After the last line break comes no line.
        let end = self.chars.len();
        let last = self.chars.strip_suffix(&['\n']).map_or(end, <[char]>::len);
        let before = &self.chars[..if chars.start < end { chars.start } else { last }];
        let line = 1 + before.iter().filter(|c| **c == '\n').count();
        let column = 1 + before.iter().rev().take_while(|c| !is_break(c)).count();
        let rest = self.chars[before.len()..].iter().take_while(|c| !is_break(c)).count();
        Position { line, column, length: chars.len().min(rest).max(1) }
    }
}

/// The place that is nearest to a line and a column, which count from 1: a parser may point past the end.
pub(super) fn nearest(text: &str, line: usize, column: usize) -> Position {
    let last = text.lines().count().max(1);
    let length = |line: usize| text.lines().nth(line - 1).map_or(0, |line| line.chars().count());
    let (line, column) = if line > last { (last, usize::MAX) } else { (line.max(1), column.max(1)) };
    Position { line, column: column.min(length(line) + 1), length: 1 }
}

impl Node {
    /// The key and the value of the `nth` of the entries that a segment names.
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
    use crate::matrix::diagnostic::FilePath;

    /// The characters that a spot marks.
    fn marked(text: &str, spot: &Spot) -> String {
        let Position { line, column, length } = Places::of(text).locate(spot).unwrap();
        text.lines().nth(line - 1).unwrap_or_default().chars().skip(column - 1).take(length).collect()
    }

    fn at(path: &str) -> FilePath {
        FilePath::root().dotted(path)
    }

    #[test]
    fn a_value_a_key_and_a_tag_are_found() {
        let text = "é: 'q r'\nm: &a { k: [1, -2.50] }\nn: !t &b word # no\nm: *a\no:\n  - - x\n    - y z\n";
        for (spot, expected) in [
            (Spot::Value(at("é")), "'q r'"),
            (Spot::Key(at("é")), "é"),
            (Spot::Value(at("m.k.1")), "-2.50"),
            (Spot::Value(at("m")), "{"),
            (Spot::Value(at("n")), "word"),
            (Spot::Tag(at("n")), "!t"),
            (Spot::SecondKey(at("m")), "m"),
            (Spot::Value(at("o.0.1")), "y z"),
            (Spot::Value(at("o.0.7")), "-"),
        ] {
            assert_eq!(marked(text, &spot), expected, "{spot:?}");
        }
        assert_eq!(Places::of(text).locate(&Spot::SecondKey(at("m"))).unwrap().line, 4);
        assert_eq!(Places::of(text).locate(&Spot::Key(at("nothing"))), None);
        let end = |text| Places::of(text).locate(&Spot::Value(FilePath::root())).map(|p| (p.line, p.column));
        assert_eq!(["", "# é\n", "#\n\n"].map(end), [Some((1, 1)), Some((1, 4)), Some((2, 1))]);
    }

    #[test]
    fn a_part_of_a_text_is_found_however_it_is_written() {
        let spot = Spot::Within(at("c"), 10, 4);
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
            assert_eq!(marked(text, &Spot::Within(at("c"), before, 4)), "bcde", "{text}");
            let end = Places::of(text).locate(&Spot::Within(at("c"), scalar.chars().count(), 0)).unwrap();
            assert_eq!(end.length, 1, "{text}");
        }
        assert_eq!(marked("c: \"not \\x61 == bcde\"", &spot), "\"not \\x61 == bcde\"", "escapes");
    }

    #[test]
    fn an_alias_to_what_it_is_in_and_many_aliases_are_no_harm() {
        assert_eq!(marked("a: &x [1, *x]\n", &Spot::Value(at("a.1"))), "*x");
        let level = |i: usize| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", "));
        let bomb = format!("a0: &a0 [x]\n{}", (1..40).map(level).collect::<String>());
        assert_eq!(marked(&bomb, &Spot::Value(at(&format!("a39{}", ".0".repeat(40))))), "x");
    }
}
