//! The text of a filter as tokens, one at a time, each with the byte where it starts.
//!
//! A literal's inside is left as it is written: only the parser knows whether a number is to be a key and whether a text is
//! to be a pattern ([`super::literal`]).

use super::Wrong;
use crate::schema::check_path;

/// A piece of the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'a> {
    /// The byte where it starts.
    pub at: usize,
    /// As it is written.
    pub written: &'a str,
    pub kind: Kind<'a>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind<'a> {
    Word(Word),
    /// A dotted path, its backquotes taken off.
    Path(String),
    Number,
    /// What stands between two quotes, as it is written.
    Text(&'a str),
    Symbol(Symbol),
    End,
}

/// Words of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    And,
    Between,
    Exists,
    False,
    In,
    Is,
    Key,
    Not,
    Null,
    Or,
    True,
}

impl Word {
    /// The word of this name, in any case.
    pub(super) fn of(name: &str) -> Option<Word> {
        const WORDS: [(&str, Word); 11] = [
            ("and", Word::And),
            ("between", Word::Between),
            ("exists", Word::Exists),
            ("false", Word::False),
            ("in", Word::In),
            ("is", Word::Is),
            ("key", Word::Key),
            ("not", Word::Not),
            ("null", Word::Null),
            ("or", Word::Or),
            ("true", Word::True),
        ];
        WORDS.into_iter().find(|(word, _)| word.eq_ignore_ascii_case(name)).map(|(_, word)| word)
    }
}

/// Characters with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symbol {
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Like,
    Unlike,
    Open,
    Close,
    Comma,
}

/// Symbols, a longer one before those that it begins with.
const SYMBOLS: [(&str, Symbol); 12] = [
    ("!=", Symbol::Unequal),
    ("<>", Symbol::Unequal),
    ("<=", Symbol::LessEqual),
    (">=", Symbol::GreaterEqual),
    ("!~", Symbol::Unlike),
    ("=", Symbol::Equal),
    ("<", Symbol::Less),
    (">", Symbol::Greater),
    ("~", Symbol::Like),
    ("(", Symbol::Open),
    (")", Symbol::Close),
    (",", Symbol::Comma),
];

/// What people write who come from elsewhere, and what is meant; a longer one before those that it begins with.
const FOREIGN: [(&str, &str); 18] = [
    ("==", "equality is `=`"),
    ("=~", "a pattern comes after `~`"),
    ("=<", "less or equal is `<=`"),
    ("=>", "greater or equal is `>=`"),
    ("~~", "a pattern comes after one `~`"),
    ("~=", "a pattern comes after `~`"),
    ("&&", "write `and`"),
    ("&", "write `and`"),
    ("||", "write `or`"),
    ("|", "write `or`"),
    ("[", "a list stands in round brackets"),
    ("]", "a list stands in round brackets"),
    ("“", "text stands in straight quotes"),
    ("”", "text stands in straight quotes"),
    ("‘", "text stands in straight quotes"),
    ("’", "text stands in straight quotes"),
    ("≤", "write `<=`"),
    ("≥", "write `>=`"),
];

/// Whether a name may go on with the character without backquotes.
pub(super) fn is_in_name(char: char) -> bool {
    char.is_alphanumeric() || matches!(char, '_' | '-')
}

/// Whether a path may begin with the character without backquotes.
pub(super) fn begins_path(char: char) -> bool {
    char.is_alphabetic() || char == '_'
}

/// Where the reading is.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    /// The next token; at the end, the end again and again.
    pub(super) fn next(&mut self) -> Result<Token<'a>, Wrong> {
        self.take_while(char::is_whitespace);
        let start = self.at;
        let kind = match self.peek() {
            None => Kind::End,
            Some('"') => self.quoted('"')?,
            Some('\'') => self.quoted('\'')?,
            Some('-' | '0'..='9') => self.number()?,
            Some(char) if char == '`' || char == '.' || begins_path(char) => self.path()?,
            Some(char) => self.symbol(char)?,
        };
        Ok(Token { at: start, written: self.since(start), kind })
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        let is_there = self.peek() == Some(wanted);
        self.at += if is_there { wanted.len_utf8() } else { 0 };
        is_there
    }

    fn take_while(&mut self, is_wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|char| !is_wanted(char)).unwrap_or(rest.len());
        let start = self.at;
        self.at += end;
        self.since(start)
    }

    fn symbol(&mut self, first: char) -> Result<Kind<'a>, Wrong> {
        let rest = self.rest();
        if let Some((_, hint)) = FOREIGN.iter().find(|(foreign, _)| rest.starts_with(foreign)) {
            return Err(Wrong::at(self.at, *hint));
        }
        match SYMBOLS.iter().find(|(symbol, _)| rest.starts_with(symbol)) {
            Some((written, symbol)) => {
                self.at += written.len();
                Ok(Kind::Symbol(*symbol))
            }
            None if first == '!' => Err(Wrong::at(self.at, "write `not`, or one of `!=` and `!~`")),
            None => Err(Wrong::at(self.at, format!("the character {first:?} has no meaning here"))),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Kind<'a>, Wrong> {
        let open = self.at;
        self.take(quote);
        let start = self.at;
        let mut chars = self.rest().char_indices();
        while let Some((offset, char)) = chars.next() {
            if char == '\\' {
                chars.next();
            } else if char == quote {
                self.at = start + offset;
                let inside = self.since(start);
                self.take(quote);
                return Ok(Kind::Text(inside));
            }
        }
        Err(Wrong::at(open, format!("the text that begins here has no closing {quote}")))
    }

    fn number(&mut self) -> Result<Kind<'a>, Wrong> {
        let start = self.at;
        let digits = |lexer: &mut Lexer<'a>| !lexer.take_while(|char| char.is_ascii_digit()).is_empty();
        self.take('-');
        let mut is_number = digits(self);
        if self.take('.') {
            is_number &= digits(self);
        }
        if self.take('e') || self.take('E') {
            let _sign = self.take('+') || self.take('-');
            is_number &= digits(self);
        }
        let more = self.take_while(|char| is_in_name(char) || char == '.');
        if is_number && more.is_empty() {
            return Ok(Kind::Number);
        }
        let written = abridged(self.since(start));
        let what =
            format!("{written} is no number; text stands in quotes, a name that begins so in backquotes");
        Err(Wrong::at(start, what))
    }

    /// A path, or a word where one name without backquotes is one.
    fn path(&mut self) -> Result<Kind<'a>, Wrong> {
        let start = self.at;
        let mut path = String::new();
        loop {
            if self.peek() == Some('`') {
                self.backquoted(&mut path)?
            } else {
                path.push_str(self.take_while(is_in_name))
            }
            if !self.take('.') {
                break;
            }
            path.push('.');
        }
        if let Some(word) = Word::of(self.since(start)) {
            return Ok(Kind::Word(word));
        }
        match check_path("path", &path) {
            Ok(()) => Ok(Kind::Path(path)),
            Err(violation) => Err(Wrong::at(start, format!("a path: {}", violation.description))),
        }
    }

    fn backquoted(&mut self, path: &mut String) -> Result<(), Wrong> {
        let open = self.at;
        self.take('`');
        let start = path.len();
        loop {
            path.push_str(self.take_while(|char| !matches!(char, '`' | '.')));
            let here = self.at;
            if self.take('.') {
                let hint = "a name holds no dot; a dot between names stands outside of the backquotes";
                return Err(Wrong::at(here, hint));
            }
            if !self.take('`') {
                return Err(Wrong::at(open, "the name that begins here has no closing backquote"));
            }
            if !self.take('`') {
                break;
            }
            path.push('`');
        }
        if path.len() == start { Err(Wrong::at(open, "a name is empty")) } else { Ok(()) }
    }
}

impl Token<'_> {
    /// What it is, for messages.
    pub(super) fn told(&self) -> String {
        match self.kind {
            Kind::End => "the end".to_owned(),
            Kind::Text(_) | Kind::Number => abridged(self.written),
            Kind::Word(_) | Kind::Path(_) | Kind::Symbol(_) => format!("`{}`", abridged(self.written)),
        }
    }
}

/// At most so much of what was written as a message may repeat.
pub(super) fn abridged(written: &str) -> String {
    const CHARS_MAX: usize = 40;
    match written.char_indices().nth(CHARS_MAX) {
        None => written.to_owned(),
        Some((end, _)) => format!("{}…", written.get(..end).unwrap_or_default()),
    }
}
