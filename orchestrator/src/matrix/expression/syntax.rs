//! The grammar of expressions, by recursive descent:
//!
//! ```text
//! any        = all { "or" all }
//! all        = unary { "and" unary }
//! unary      = "not" unary | "(" any ")" | comparison
//! comparison = PATH OPERATOR VALUE
//! ```

use super::{Ast, Comparison, Expression, ExpressionError, Operator};
use crate::matrix::{
    catalog,
    diagnostic::KeyPath,
    settings::value::Comparability,
    typed::{self, ReadErrorKind},
};

/// The deepest nesting of parentheses and `not` that is accepted, so that no text overflows the stack.
const MAX_DEPTH: usize = 50;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A path, an unquoted value or a keyword.
    Word(String),
    /// The content of a quoted value, without its quotes.
    Quoted(String),
    Operator(Operator),
    Open,
    Close,
    End,
}

/// A token and its position in the text, in characters.
#[derive(Debug, Clone)]
struct SpannedToken {
    token: Token,
    offset: usize,
    length: usize,
}

impl SpannedToken {
    fn error(&self, message: impl Into<String>, help: Option<String>) -> ExpressionError {
        ExpressionError { message: message.into(), help, offset: self.offset, length: self.length }
    }

    /// Returns how messages name the token.
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
        matches!(&self.token, Token::Word(text) if text.eq_ignore_ascii_case(word))
    }
}

pub(super) fn parse(text: &str) -> Result<Ast, ExpressionError> {
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

fn tokens(text: &str) -> Result<Vec<SpannedToken>, ExpressionError> {
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
                        message: format!("missing closing {quote} of a quoted value"),
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
        tokens.push(SpannedToken { token, offset: start, length: at - start });
    }
    tokens.push(SpannedToken { token: Token::End, offset: chars.len(), length: 0 });
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
    /// The tokens; the last is [`Token::End`], and `next` never moves beyond it.
    tokens: Vec<SpannedToken>,
    next: usize,
}

impl Parser {
    fn peek(&self) -> &SpannedToken {
        &self.tokens[self.next]
    }

    fn advance(&mut self) -> SpannedToken {
        let token = self.peek().clone();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    /// Advances if the next token is this keyword. Returns whether it was.
    fn accept(&mut self, word: &str) -> bool {
        let found = self.peek().is_word(word);
        if found {
            self.advance();
        }
        found
    }

    fn any(&mut self, depth: usize) -> Result<Ast, ExpressionError> {
        let mut nodes = vec![self.all(depth)?];
        while self.accept("or") {
            nodes.push(self.all(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Ast::Any(nodes) })
    }

    fn all(&mut self, depth: usize) -> Result<Ast, ExpressionError> {
        let mut nodes = vec![self.unary(depth)?];
        while self.accept("and") {
            nodes.push(self.unary(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Ast::All(nodes) })
    }

    fn unary(&mut self, depth: usize) -> Result<Ast, ExpressionError> {
        if depth > MAX_DEPTH {
            return Err(self.peek().error("nested too deeply", None));
        }
        if self.accept("not") {
            return Ok(Ast::Not(Box::new(self.unary(depth + 1)?)));
        }
        if self.peek().token != Token::Open {
            return self.comparison().map(Ast::Compare);
        }
        let open = self.advance();
        let node = self.any(depth + 1)?;
        match self.peek().token {
            Token::Close => {
                self.advance();
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
        let path = self.advance();
        let name = match &path.token {
            Token::Word(name) if !["and", "or", "not"].iter().any(|word| path.is_word(word)) => name.clone(),
            _ => {
                let help = "a comparison is written like `stress.rate <= 96MB/s`".into();
                return Err(path.error(format!("expected a setting, found {}", path.name()), Some(help)));
            }
        };
        let Some(setting) = catalog::find(&name) else {
            return Err(path.error(format!("`{name}` is not a setting"), catalog::suggest(&name)));
        };
        let after_path = self.advance();
        let Token::Operator(operator) = after_path.token else {
            let message = format!("expected an operator after `{name}`, found {}", after_path.name());
            return Err(after_path.error(message, Some("the operators are ==, !=, <, <=, > and >=".into())));
        };
        if operator.needs_order() && setting.comparability() != Comparability::Ordered {
            let message = format!("`{name}` has no order, so `{operator}` does not apply");
            return Err(after_path.error(message, Some("compare it with == or !=".into())));
        }
        let token = self.advance();
        let (Token::Word(text) | Token::Quoted(text)) = &token.token else {
            return Err(token.error(format!("expected a value, found {}", token.name()), None));
        };
        // Checked before the value is parsed, since the parser's own message would be less helpful.
        let comparable = setting.check_comparable(typed::is_none(text));
        comparable.map_err(|(message, help)| token.error(message, help))?;
        let invalid = |kind: ReadErrorKind| {
            token.error(kind.to_string(), catalog::help(&kind, &KeyPath::root().dotted(setting.path())))
        };
        let value = setting.literal(text).map_err(invalid)?;
        Ok(Comparison { setting, operator, value })
    }
}

impl Expression {
    /// Returns the conjunction of two conditions. In its text, each is in parentheses.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            text: format!("({self}) and ({other})"),
            root: Ast::All(vec![self.root.clone(), other.root.clone()]),
        }
    }
}
