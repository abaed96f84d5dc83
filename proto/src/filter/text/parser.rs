//! From tokens to a filter, by descent: a function for each rule of the grammar ([`super`]).
//!
//! Levels and conditions are counted as they are where a filter is compiled, so what is read here is never refused there for
//! its size. The descent itself goes no deeper than brackets and `not`s stand inside each other, which is bounded too.

use std::mem;

use super::lexer::{Kind, Lexer, Symbol, Token, Word, abridged};
use super::printer::path_text;
use super::{Wrong, literal, place};
use crate::filter::{Bounds, Filter, Glob};
use crate::fulltext::query_words;
use crate::geo::Region;
use crate::limits::{FILTER_DEPTH_MAX, FILTER_NODES_MAX, FILTER_VALUES_MAX, GLOB_BYTES_MAX, NESTING_MAX};
use crate::record::{Key, Value};
use crate::schema::{at_most, check_key};

/// The filter that the whole of `text` is.
pub(super) fn filter(text: &str) -> Result<Filter, Wrong> {
    let mut lexer = Lexer::new(text);
    let token = lexer.next()?;
    let mut parser = Parser { text, lexer, token, conditions: 0, nested: 0 };
    if parser.token.kind == Kind::End {
        return Err(Wrong::at(parser.token.at, "a condition is needed, such as cpu >= 8"));
    }
    let read = parser.any()?;
    match parser.token.kind {
        Kind::End => Ok(read.filter),
        Kind::Symbol(Symbol::Close) => Err(parser.wrong("this `)` closes nothing")),
        _ => Err(parser.expected("`and`, `or` or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    /// The next one.
    token: Token<'a>,
    /// Conditions so far.
    conditions: usize,
    /// Brackets and `not`s that the next token is in.
    nested: usize,
}

/// A filter and its levels.
struct Read {
    filter: Filter,
    levels: usize,
}

/// The arguments of `within` and `within_box`, behind the field.
const WITHIN: &[&str] = &["lat", "lon", "radius_m"];
const WITHIN_BOX: &[&str] = &["top", "left", "bottom", "right"];

/// One end of a range.
type Bound = (Symbol, Value);

impl<'a> Parser<'a> {
    fn any(&mut self) -> Result<Read, Wrong> {
        self.joined(Word::Or, Filter::Any, Self::all)
    }

    fn all(&mut self) -> Result<Read, Wrong> {
        self.joined(Word::And, Filter::All, Self::term)
    }

    /// Parts with `word` between them; one alone stays what it is.
    fn joined(
        &mut self,
        word: Word,
        join: fn(Vec<Filter>) -> Filter,
        part: fn(&mut Self) -> Result<Read, Wrong>,
    ) -> Result<Read, Wrong> {
        let first = part(self)?;
        let at = self.token.at;
        if self.token.kind != Kind::Word(word) {
            return Ok(first);
        }
        let (mut parts, mut levels) = (vec![first.filter], first.levels);
        while self.takes(&Kind::Word(word))? {
            let next = part(self)?;
            levels = levels.max(next.levels);
            parts.push(next.filter);
        }
        self.condition(at, levels + 1, join(parts))
    }

    fn term(&mut self) -> Result<Read, Wrong> {
        let at = self.token.at;
        match self.token.kind {
            Kind::Word(Word::Not) => self.inside(|parser| {
                let part = parser.term()?;
                parser.negated(at, part)
            }),
            Kind::Symbol(Symbol::Open) => self.inside(|parser| {
                let read = parser.any()?;
                parser.close(at, "`and`, `or`")?;
                Ok(read)
            }),
            Kind::Path(_) => self.of_field(),
            Kind::Word(Word::Key) => self.of_key(),
            Kind::Word(Word::Exists) => self.of_existence(),
            Kind::Word(word @ (Word::True | Word::False)) => {
                self.advance()?;
                let holds = word == Word::True;
                self.condition(at, 1, if holds { Filter::All(vec![]) } else { Filter::Any(vec![]) })
            }
            Kind::Text(_) | Kind::Number => self.chain(),
            Kind::Word(_) | Kind::Symbol(_) | Kind::End => Err(self.expected("a condition")),
        }
    }

    /// Steps over the bracket or `not` that stands here and reads what it holds.
    fn inside(&mut self, read: impl FnOnce(&mut Self) -> Result<Read, Wrong>) -> Result<Read, Wrong> {
        let at = self.token.at;
        self.nested += 1;
        at_most("", "brackets and `not`s inside each other", NESTING_MAX, self.nested)
            .map_err(|violation| Wrong::at(at, violation.description))?;
        self.advance()?;
        let read = read(self)?;
        self.nested -= 1;
        Ok(read)
    }

    /// Counts a condition that is made at `at`.
    fn condition(&mut self, at: usize, levels: usize, filter: Filter) -> Result<Read, Wrong> {
        self.conditions += 1;
        at_most("", "conditions", FILTER_NODES_MAX, self.conditions)
            .and_then(|()| at_most("", "levels", FILTER_DEPTH_MAX, levels))
            .map_err(|violation| Wrong::at(at, violation.description))?;
        Ok(Read { filter, levels })
    }

    fn negated(&mut self, at: usize, part: Read) -> Result<Read, Wrong> {
        self.condition(at, part.levels + 1, Filter::Not(Box::new(part.filter)))
    }

    /// A condition on one field or on the key, turned around if it is written so.
    fn leaf(&mut self, at: usize, is_negated: bool, filter: Filter) -> Result<Read, Wrong> {
        let leaf = self.condition(at, 1, filter)?;
        if is_negated { self.negated(at, leaf) } else { Ok(leaf) }
    }

    fn of_field(&mut self) -> Result<Read, Wrong> {
        let at = self.token.at;
        let field = self.path()?;
        let operator = self.advance()?;
        match operator.kind {
            Kind::Symbol(symbol @ (Symbol::Equal | Symbol::Unequal)) => {
                let value = self.value(&field)?;
                self.leaf(at, symbol == Symbol::Unequal, Filter::Equal(field, value))
            }
            Kind::Symbol(symbol @ (Symbol::Like | Symbol::Unlike)) => {
                let filter = self.pattern(field)?;
                self.leaf(at, symbol == Symbol::Unlike, filter)
            }
            Kind::Symbol(symbol) if is_order(symbol) => {
                let bound = (symbol, self.ordered(&field)?);
                self.leaf(at, false, Filter::Range(field, bounds([bound])))
            }
            Kind::Word(Word::In) => self.among(at, false, field),
            Kind::Word(Word::Between) => self.between(at, false, field),
            Kind::Word(Word::Not) => match self.advance()?.kind {
                Kind::Word(Word::In) => self.among(at, true, field),
                Kind::Word(Word::Between) => self.between(at, true, field),
                Kind::Path(name) if is_about_words(&name) => self.of_words(at, true, field, &name),
                _ => {
                    let what = "behind a field, `not` goes before `in`, `between`, `match` or `phrase`";
                    Err(Wrong::at(operator.at, what))
                }
            },
            Kind::Word(Word::Is) => {
                let is_there = self.takes(&Kind::Word(Word::Not))?;
                if !self.takes(&Kind::Word(Word::Null))? {
                    return Err(self.expected("`null` or `not null`; equality is `=`"));
                }
                self.leaf(at, !is_there, Filter::Exists(field))
            }
            Kind::Path(ref name) if is_about_words(name) => self.of_words(at, false, field, name),
            Kind::Symbol(Symbol::Open) if field.eq_ignore_ascii_case("within") => self.of_region(at, WITHIN),
            Kind::Symbol(Symbol::Open) if field.eq_ignore_ascii_case("within_box") => {
                self.of_region(at, WITHIN_BOX)
            }
            _ => Err(after_field(&field, &operator)),
        }
    }

    /// `within(f, 52.5, 13.4, 1000)` or `within_box(f, 53, 13, 52, 14)`, from behind its bracket; `names` are those of its numbers.
    fn of_region(&mut self, at: usize, names: &[&str]) -> Result<Read, Wrong> {
        let field = self.path()?;
        let mut places = Vec::with_capacity(names.len());
        let mut numbers = Vec::with_capacity(names.len());
        for name in names {
            self.needs(&Kind::Symbol(Symbol::Comma), &format!("`,` and a number, {name}"))?;
            places.push(self.token.at);
            numbers.push(self.float(name)?);
        }
        self.needs(&Kind::Symbol(Symbol::Close), "the `)` behind the numbers")?;
        let (region, filter) = match numbers.as_slice() {
            [lat, lon, radius_m] => {
                let filter = Filter::Within { field, lat: *lat, lon: *lon, radius_m: *radius_m };
                (Region::circle(*lat, *lon, *radius_m), filter)
            }
            [top, left, bottom, right] => {
                let (top, left, bottom, right) = (*top, *left, *bottom, *right);
                let filter = Filter::WithinBox { field, top, left, bottom, right };
                (Region::rectangle(top, left, bottom, right), filter)
            }
            _ => return Err(self.expected("the numbers of a region")),
        };
        // What is wrong with a number is told where it stands.
        region.map_err(|bad| {
            let place = names.iter().position(|name| *name == bad.name).and_then(|at| places.get(at));
            Wrong::at(place.copied().unwrap_or(at), bad.why)
        })?;
        self.leaf(at, false, filter)
    }

    fn float(&mut self, name: &str) -> Result<f64, Wrong> {
        let Token { at, written, ref kind } = self.token;
        if *kind != Kind::Number {
            return Err(self.expected(&format!("a number, {name}")));
        }
        let number = match literal::number(at, written)? {
            Value::Int(whole) => whole as f64,
            Value::Float(float) => float,
            _ => return Err(self.expected(&format!("a number, {name}"))),
        };
        self.advance()?;
        Ok(number)
    }

    fn of_existence(&mut self) -> Result<Read, Wrong> {
        let at = self.advance()?.at;
        let field = self.path()?;
        self.leaf(at, false, Filter::Exists(field))
    }

    fn of_key(&mut self) -> Result<Read, Wrong> {
        let at = self.advance()?.at;
        let operator = self.advance()?;
        match operator.kind {
            Kind::Symbol(symbol @ (Symbol::Equal | Symbol::Unequal)) => {
                let key = self.key()?;
                self.leaf(at, symbol == Symbol::Unequal, Filter::Keys(vec![key]))
            }
            Kind::Word(Word::In) => {
                let keys = self.list("keys", Self::key)?;
                self.leaf(at, false, Filter::Keys(keys))
            }
            Kind::Word(Word::Not) if self.takes(&Kind::Word(Word::In))? => {
                let keys = self.list("keys", Self::key)?;
                self.leaf(at, true, Filter::Keys(keys))
            }
            Kind::Word(Word::Is) => Err(Wrong::at(
                operator.at,
                "every record has a key; a field of this name is `key`, in backquotes",
            )),
            _ => {
                let what = "a record's key is asked for by `=`, `!=`, `in` and `not in` only; a field of this name \
                            stands in backquotes";
                Err(Wrong::at(operator.at, what))
            }
        }
    }

    /// `8 <= cpu < 64`, or one half of it.
    fn chain(&mut self) -> Result<Read, Wrong> {
        let at = self.token.at;
        let first = self.ordered("field")?;
        let operator = self.advance()?;
        let Some(symbol) = order(&operator) else {
            let what = format!(
                "a field stands before its value, as in cpu = 8; behind a value comes `<`, `<=`, `>` or `>=`, \
                 not {}",
                operator.told()
            );
            return Err(Wrong::at(operator.at, what));
        };
        let field = self.path()?;
        let lower = (turned(symbol), first);
        let Some(second) = order(&self.token) else {
            return self.leaf(at, false, Filter::Range(field, bounds([lower])));
        };
        if is_less(symbol) != is_less(second) {
            return Err(self.wrong("a chain goes one way, as in 8 <= cpu < 64"));
        }
        self.advance()?;
        let upper = (second, self.ordered(&field)?);
        self.leaf(at, false, Filter::Range(field, bounds([lower, upper])))
    }

    fn among(&mut self, at: usize, is_negated: bool, field: String) -> Result<Read, Wrong> {
        let values = self.list("values", |parser| parser.value(&field))?;
        self.leaf(at, is_negated, Filter::In(field, values))
    }

    fn between(&mut self, at: usize, is_negated: bool, field: String) -> Result<Read, Wrong> {
        let from = (Symbol::GreaterEqual, self.ordered(&field)?);
        self.needs(&Kind::Word(Word::And), "`and` between the bounds")?;
        let to = (Symbol::LessEqual, self.ordered(&field)?);
        self.leaf(at, is_negated, Filter::Range(field, bounds([from, to])))
    }

    /// `match "a b"`, `match any "a b"` or `phrase "a b"`, from behind its first word, which is `test`.
    fn of_words(&mut self, at: usize, is_negated: bool, field: String, test: &str) -> Result<Read, Wrong> {
        let is_phrase = test.eq_ignore_ascii_case("phrase");
        let quantifier = match &self.token.kind {
            Kind::Path(name) if !is_phrase => {
                ["all", "any"].into_iter().find(|word| word.eq_ignore_ascii_case(name))
            }
            _ => None,
        };
        if quantifier.is_some() {
            self.advance()?;
        }
        let Kind::Text(inside) = self.token.kind else {
            return Err(self.expected("words in quotes, such as \"disk full\""));
        };
        let text = self.advance()?.at;
        let query = literal::text(text + 1, inside)?;
        // What is wrong with it is told where it stands.
        query_words("", &query, None, is_phrase)
            .map_err(|violation| Wrong::at(text, format!("the words: {}", violation.description)))?;
        let filter = if is_phrase {
            Filter::Phrase(field, query)
        } else {
            Filter::Match { field, query, any: quantifier == Some("any") }
        };
        self.leaf(at, is_negated, filter)
    }

    fn pattern(&mut self, field: String) -> Result<Filter, Wrong> {
        let Kind::Text(inside) = self.token.kind else {
            return Err(self.expected("a pattern in quotes, such as \"web*\""));
        };
        let at = self.advance()?.at;
        let pattern = literal::pattern(at + 1, inside)?;
        let glob = Glob::new(&pattern).map_err(|why| Wrong::at(at, why.to_string()))?;
        if let Some(prefix) = glob.prefix() {
            return Ok(Filter::Prefix(field, prefix));
        }
        at_most("", "bytes", GLOB_BYTES_MAX, pattern.len())
            .map_err(|violation| Wrong::at(at, format!("the pattern has {}", violation.description)))?;
        Ok(Filter::Glob(field, pattern))
    }

    /// `( item, item )`, or none.
    fn list<T>(
        &mut self,
        what: &str,
        mut item: impl FnMut(&mut Self) -> Result<T, Wrong>,
    ) -> Result<Vec<T>, Wrong> {
        let open = self.token.at;
        self.needs(&Kind::Symbol(Symbol::Open), &format!("`(` before the {what}"))?;
        let mut items = Vec::new();
        if self.takes(&Kind::Symbol(Symbol::Close))? {
            return Ok(items);
        }
        loop {
            at_most("", what, FILTER_VALUES_MAX, items.len() + 1)
                .map_err(|violation| self.wrong(violation.description))?;
            items.push(item(self)?);
            if !self.takes(&Kind::Symbol(Symbol::Comma))? {
                break;
            }
        }
        self.close(open, "`,`")?;
        Ok(items)
    }

    /// A value that has an order.
    fn ordered(&mut self, field: &str) -> Result<Value, Wrong> {
        let at = self.token.at;
        match self.value(field)? {
            Value::Bool(_) => Err(Wrong::at(at, "booleans have no order")),
            value => Ok(value),
        }
    }

    fn value(&mut self, field: &str) -> Result<Value, Wrong> {
        let Token { at, written, ref kind } = self.token;
        let value = match kind {
            Kind::Number => literal::number(at, written)?,
            Kind::Text(inside) => Value::Text(literal::text(at + 1, inside)?),
            Kind::Word(Word::True) => Value::Bool(true),
            Kind::Word(Word::False) => Value::Bool(false),
            Kind::Word(Word::Null) => {
                let field = abridged(&path_text(field));
                let what = format!("null equals nothing; write {field} is null, or {field} is not null");
                return Err(self.wrong(what));
            }
            Kind::Path(_) | Kind::Word(_) => {
                let told = self.token.told();
                let what = "text stands in quotes, and fields are not compared with each other";
                return Err(self.wrong(format!("expected a value, found {told}; {what}")));
            }
            Kind::Symbol(_) | Kind::End => return Err(self.expected("a value")),
        };
        self.advance()?;
        Ok(value)
    }

    fn key(&mut self) -> Result<Key, Wrong> {
        let Token { at, written, ref kind } = self.token;
        let key = match kind {
            Kind::Number => literal::number_key(at, written)?,
            Kind::Text(inside) => Key::Text(literal::text(at + 1, inside)?),
            _ => return Err(self.expected("a key: a whole number, or text in quotes")),
        };
        check_key("", &key)
            .map_err(|violation| Wrong::at(at, format!("a key: {}", violation.description)))?;
        self.advance()?;
        Ok(key)
    }

    fn path(&mut self) -> Result<String, Wrong> {
        match &mut self.token.kind {
            Kind::Path(path) => {
                let path = mem::take(path);
                self.advance()?;
                Ok(path)
            }
            Kind::Word(_) => Err(self.wrong(format!(
                "{} is a word of the language; a field of this name stands in backquotes",
                self.token.told()
            ))),
            _ => Err(self.expected("a field")),
        }
    }

    /// The bracket that closes the one at the byte `open`; `others` could stand here too.
    fn close(&mut self, open: usize, others: &str) -> Result<(), Wrong> {
        if self.takes(&Kind::Symbol(Symbol::Close))? {
            return Ok(());
        }
        let (line, column) = place(self.text, open);
        let line = if line > 1 { format!("line {line}, ") } else { String::new() };
        Err(self.expected(&format!("{others} or the `)` for the `(` in {line}column {column}")))
    }

    fn needs(&mut self, wanted: &Kind<'a>, told: &str) -> Result<(), Wrong> {
        if self.takes(wanted)? { Ok(()) } else { Err(self.expected(told)) }
    }

    /// Steps over the next token if it is this one.
    fn takes(&mut self, wanted: &Kind<'a>) -> Result<bool, Wrong> {
        let is_there = self.token.kind == *wanted;
        if is_there {
            self.advance()?;
        }
        Ok(is_there)
    }

    /// Steps over the next token and returns it.
    fn advance(&mut self) -> Result<Token<'a>, Wrong> {
        let next = self.lexer.next()?;
        Ok(mem::replace(&mut self.token, next))
    }

    fn wrong(&self, what: impl Into<String>) -> Wrong {
        Wrong::at(self.token.at, what)
    }

    fn expected(&self, wanted: &str) -> Wrong {
        self.wrong(format!("expected {wanted}, found {}", self.token.told()))
    }
}

/// Whether a name behind a field asks for words there.
fn is_about_words(name: &str) -> bool {
    ["match", "phrase"].into_iter().any(|word| word.eq_ignore_ascii_case(name))
}

fn is_order(symbol: Symbol) -> bool {
    matches!(symbol, Symbol::Less | Symbol::LessEqual | Symbol::Greater | Symbol::GreaterEqual)
}

fn order(token: &Token<'_>) -> Option<Symbol> {
    match token.kind {
        Kind::Symbol(symbol) if is_order(symbol) => Some(symbol),
        _ => None,
    }
}

fn is_less(symbol: Symbol) -> bool {
    matches!(symbol, Symbol::Less | Symbol::LessEqual)
}

/// The symbol that says the same with both sides changed over.
fn turned(symbol: Symbol) -> Symbol {
    match symbol {
        Symbol::Less => Symbol::Greater,
        Symbol::LessEqual => Symbol::GreaterEqual,
        Symbol::Greater => Symbol::Less,
        Symbol::GreaterEqual => Symbol::LessEqual,
        other => other,
    }
}

/// The bounds of a field that stands to the left of each symbol.
fn bounds<const N: usize>(ends: [Bound; N]) -> Bounds {
    let mut bounds = Bounds::default();
    for (symbol, value) in ends {
        match symbol {
            Symbol::Greater => bounds.gt = Some(value),
            Symbol::GreaterEqual => bounds.gte = Some(value),
            Symbol::Less => bounds.lt = Some(value),
            Symbol::LessEqual => bounds.lte = Some(value),
            _ => {}
        }
    }
    bounds
}

/// Behind a field stands something that compares nothing.
fn after_field(field: &str, found: &Token<'_>) -> Wrong {
    const OTHERS: [(&str, &str); 12] = [
        ("like", "a pattern comes after `~`, with * and ?"),
        ("glob", "a pattern comes after `~`, with * and ?"),
        ("matches", "a pattern comes after `~`, with * and ?"),
        ("prefix", "how a text starts is written ~ \"web*\""),
        ("starts", "how a text starts is written ~ \"web*\""),
        ("contains", "what a text contains is written ~ \"*web*\""),
        ("eq", "equality is `=`"),
        ("ne", "what is not equal is `!=`"),
        ("gte", "greater or equal is `>=`"),
        ("lte", "less or equal is `<=`"),
        ("within", "points near another one are within(field, lat, lon, radius_m)"),
        ("near", "points near another one are within(field, lat, lon, radius_m)"),
    ];
    let field = abridged(&path_text(field));
    let hint = match &found.kind {
        Kind::Path(path) => {
            OTHERS.iter().find(|(other, _)| other.eq_ignore_ascii_case(path)).map(|(_, hint)| *hint)
        }
        _ => None,
    };
    let what = match (hint, &found.kind) {
        (Some(hint), _) => hint.to_owned(),
        (None, Kind::End | Kind::Word(_) | Kind::Symbol(Symbol::Close)) => {
            format!("what is asked of {field}? A truth value is asked for by {field} = true")
        }
        _ => format!(
            "expected a comparison behind {field} (= != < <= > >= ~ !~ in, not in, between, is, match, phrase), found {}",
            found.told()
        ),
    };
    Wrong::at(found.at, what)
}
