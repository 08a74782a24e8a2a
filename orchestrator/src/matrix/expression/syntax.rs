//! The grammar of expressions, by recursive descent:
//!
//! ```text
//! any        = all { "or" all }
//! all        = unary { "and" unary }
//! unary      = "not" unary | "(" any ")" | comparison
//! comparison = PATH OPERATOR VALUE
//! ```

use super::{Comparison, Expression, ExpressionError, Node, Operator};
use crate::matrix::{
    catalog,
    settings::value::{Compared, Value},
    typed::Refusal,
};

/// Deeper nesting is refused, so that no text overflows the stack.
const DEEPEST: usize = 50;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A path, a value or a keyword.
    Word(String),
    /// A quoted value.
    Quoted(String),
    Operator(Operator),
    Open,
    Close,
    End,
}

#[derive(Debug, Clone)]
struct Placed {
    token: Token,
    offset: usize,
    length: usize,
}

impl Placed {
    fn error(&self, message: impl Into<String>, help: Option<String>) -> ExpressionError {
        ExpressionError { message: message.into(), help, offset: self.offset, length: self.length }
    }

    /// How a message names it.
    fn name(&self) -> String {
        match &self.token {
            Token::Word(text) | Token::Quoted(text) => format!("`{text}`"),
            Token::Operator(operator) => format!("`{operator}`"),
            Token::Open => "`(`".into(),
            Token::Close => "`)`".into(),
            Token::End => "the end".into(),
        }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(&self.token, Token::Word(text) if text == word)
    }
}

pub(super) fn parse(text: &str) -> Result<Node, ExpressionError> {
    let mut parser = Parser { tokens: tokens(text)?, next: 0 };
    let root = parser.any(0)?;
    let rest = parser.peek();
    match rest.token {
        Token::End => Ok(root),
        Token::Close => Err(rest.error("`)` without `(`", None)),
        _ => {
            let help = "join comparisons with `and` or `or`; quote a value that has spaces".into();
            Err(rest.error(format!("expected `and`, `or` or the end, found {}", rest.name()), Some(help)))
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Placed>, ExpressionError> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let start = at;
        let token = match chars[at] {
            c if c.is_whitespace() => {
                at += 1;
                continue;
            }
            '(' => Token::Open,
            ')' => Token::Close,
            quote @ ('\'' | '"') => {
                let Some(length) = chars[at + 1..].iter().position(|c| *c == quote) else {
                    return Err(ExpressionError {
                        message: format!("a quoted value without the closing {quote}"),
                        help: None,
                        offset: at,
                        length: chars.len() - at,
                    });
                };
                at += length + 1;
                Token::Quoted(chars[start + 1..at].iter().collect())
            }
            '=' | '!' | '<' | '>' | '&' | '|' => {
                while at + 1 < chars.len() && matches!(chars[at + 1], '=' | '!' | '<' | '>' | '&' | '|') {
                    at += 1;
                }
                operator(&chars[start..=at], start)?
            }
            _ => {
                let ends = |c: &char| c.is_whitespace() || "()=!<>&|'\"".contains(*c);
                at = chars[at..].iter().position(ends).map_or(chars.len(), |length| at + length) - 1;
                Token::Word(chars[start..=at].iter().collect())
            }
        };
        at += 1;
        tokens.push(Placed { token, offset: start, length: at - start });
    }
    tokens.push(Placed { token: Token::End, offset: chars.len(), length: 0 });
    Ok(tokens)
}

fn operator(chars: &[char], offset: usize) -> Result<Token, ExpressionError> {
    let text: String = chars.iter().collect();
    if let Some((_, operator)) = Operator::ALL.iter().find(|(name, _)| *name == text) {
        return Ok(Token::Operator(*operator));
    }
    let help = match text.as_str() {
        "=" => "equality is written `==`",
        "&&" | "&" => "write `and`",
        "||" | "|" => "write `or`",
        "!" => "write `not`",
        "=<" => "write `<=`",
        "=>" => "write `>=`",
        _ => "the operators are ==, !=, <, <=, > and >=",
    };
    Err(ExpressionError {
        message: format!("`{text}` is not an operator"),
        help: Some(help.into()),
        offset,
        length: chars.len(),
    })
}

struct Parser {
    /// Ends with [`Token::End`], which is never passed.
    tokens: Vec<Placed>,
    next: usize,
}

impl Parser {
    fn peek(&self) -> &Placed {
        &self.tokens[self.next]
    }

    fn take(&mut self) -> Placed {
        let token = self.peek().clone();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn takes(&mut self, word: &str) -> bool {
        let found = self.peek().is_word(word);
        if found {
            self.take();
        }
        found
    }

    fn any(&mut self, depth: usize) -> Result<Node, ExpressionError> {
        let mut nodes = vec![self.all(depth)?];
        while self.takes("or") {
            nodes.push(self.all(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    fn all(&mut self, depth: usize) -> Result<Node, ExpressionError> {
        let mut nodes = vec![self.unary(depth)?];
        while self.takes("and") {
            nodes.push(self.unary(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    fn unary(&mut self, depth: usize) -> Result<Node, ExpressionError> {
        if depth > DEEPEST {
            return Err(self.peek().error("nested too deeply", None));
        }
        if self.takes("not") {
            return Ok(Node::Not(Box::new(self.unary(depth + 1)?)));
        }
        if self.peek().token != Token::Open {
            return self.comparison().map(Node::Compare);
        }
        let open = self.take();
        let node = self.any(depth + 1)?;
        match self.peek().token {
            Token::Close => {
                self.take();
                Ok(node)
            }
            Token::End => Err(open.error("`(` without `)`", None)),
            _ => {
                let found = self.peek();
                Err(found.error(format!("expected `and`, `or` or `)`, found {}", found.name()), None))
            }
        }
    }

    fn comparison(&mut self) -> Result<Comparison, ExpressionError> {
        let path = self.take();
        let name = match &path.token {
            Token::Word(name) if !matches!(name.as_str(), "and" | "or" | "not") => name.clone(),
            _ => {
                let help = "a comparison is written like `stress.rate <= 96MB/s`".into();
                return Err(path.error(format!("expected a setting, found {}", path.name()), Some(help)));
            }
        };
        let Some(setting) = catalog::find(&name) else {
            return Err(path.error(format!("`{name}` is not a setting"), catalog::suggest(&name)));
        };
        let placed = self.take();
        let Token::Operator(operator) = placed.token else {
            let message = format!("expected an operator after `{name}`, found {}", placed.name());
            return Err(placed.error(message, Some("the operators are ==, !=, <, <=, > and >=".into())));
        };
        if operator.orders() && setting.compared() != Compared::Ordered {
            let message = format!("`{name}` has no order, so `{operator}` does not apply");
            return Err(placed.error(message, Some("compare it with == or !=".into())));
        }
        let token = self.take();
        let (Token::Word(text) | Token::Quoted(text)) = &token.token else {
            return Err(token.error(format!("expected a value, found {}", token.name()), None));
        };
        // Nothing else would be a value of it, and would say less.
        let comparable = setting.comparable(*text == Value::None.to_string());
        comparable.map_err(|(message, help)| token.error(message, help))?;
        let refused = |refusal: Refusal| token.error(refusal.to_string(), catalog::help(&refusal));
        let value = setting.literal(text).map_err(refused)?;
        Ok(Comparison { setting, operator, value })
    }
}

impl Expression {
    /// Both conditions at once, each in parentheses.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            text: format!("({self}) and ({other})"),
            root: Node::All(vec![self.root.clone(), other.root.clone()]),
        }
    }
}
