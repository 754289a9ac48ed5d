//! Users' own utilities and requirements, written in the Common Expression Language (CEL, <https://cel.dev>):
//!
//! ```text
//! require = 'link.rtt_ms < 200 && (!has(cloudlet.battery_percent) || cloudlet.battery_percent > 20)'
//! utility = '0.8 * measure.completion + 0.2 * (service.state == "running" ? 1 : 0)'
//! ```
//!
//! | | |
//! |---|---|
//! | names | [`NAMES`]; what is not known makes the whole expression unknown, unless `has(NAME)` is asked first |
//! | operators | `+ - * /`, `< <= > >= == !=`, `&& \|\| !`, `A ? B : C`, `TEXT in ["a", "b"]` |
//! | functions | `min(a, b)`, `max(a, b)`, `clamp(x, low, high)`, `has(NAME)` |
//!
//! The crate `cel` parses; `check` lets only this much of the language through, and `tree` evaluates it. So an
//! expression has no loops (CEL's `map`, `all` and the like are refused), makes no lists or text, takes time and memory
//! in proportion to its length, which is capped, and cannot meet a wrong type when it is used: names, types and lengths
//! are checked when it is loaded, with the position of what is wrong. All numbers are floating point: `1/2` is 0.5.
//! `&&` and `||` follow CEL: what is not known on one side does not matter if the other side decides.

mod check;
mod names;
mod tree;

use std::fmt;
use std::sync::Arc;

use cel::parser::Parser;

pub(super) use names::nearest_of;
use tree::Node;

pub use names::{Datum, Facts, Kind, NAMES, Name, named};

/// Longest expression, bytes. Guess: five lines that a person can still read.
pub const MAX_BYTES: usize = 1000;
/// Deepest nesting that the parser follows. Guess: deeper than anybody writes, and far from the end of a stack.
const MAX_DEPTH: u16 = 24;

/// Stack of the thread that parses. The parser was measured to need more than 130 kB for every pair of brackets in a debug
/// build: eight of them overflow a stack of 1 MiB. [`check`] allows 20, and this has room for 100.
const PARSER_STACK_BYTES: usize = 16 << 20;

/// A checked expression.
#[derive(Clone)]
pub struct Expression {
    source: String,
    tree: Arc<Node>,
    names: Vec<&'static Name>,
}

/// An expression that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at column {column} of '{}'", abridged(.source_text))]
pub struct BadExpression {
    /// The expression.
    pub source_text: String,
    /// Where, from 1.
    pub column: usize,
    /// What is wrong, and what would be right where that can be said.
    pub problem: String,
}

/// Why an expression has no value for a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoValue {
    /// These names are not known of it.
    NotKnown(Vec<&'static str>),
    /// The result is no number, as after a division by zero.
    NoNumber,
}

impl fmt::Display for NoValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotKnown(names) => write!(f, "{} not known", names.join(", ")),
            Self::NoNumber => f.write_str("the result is no number"),
        }
    }
}

impl Expression {
    /// Reads and checks an expression that must give a value of `kind`.
    pub fn new(source: &str, kind: Kind) -> Result<Self, BadExpression> {
        let bad = |column: usize, problem: String| BadExpression {
            source_text: source.to_owned(),
            column,
            problem,
        };
        if source.len() > MAX_BYTES {
            return Err(bad(MAX_BYTES + 1, format!("longer than {MAX_BYTES} bytes")));
        }
        check::shape(source).map_err(|problem| bad(problem.column, problem.what))?;
        let parsed = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES);
            thread.spawn_scoped(scope, || parse(source)).ok()?.join().ok()
        });
        let Some(parsed) = parsed else { return Err(bad(1, "the parser cannot cope with this".to_owned())) };
        let (found, tree, names) = parsed.map_err(|problem| bad(problem.column, problem.what))?;
        if found != kind {
            return Err(bad(1, format!("it must give {}, but it gives {}", kind.name(), found.name())));
        }
        Ok(Self { source: source.to_owned(), tree: Arc::new(tree), names })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names that it uses, each once, in the order of [`NAMES`].
    pub fn names(&self) -> &[&'static Name] {
        &self.names
    }

    /// Its value if it is a number.
    pub fn number(&self, facts: &Facts<'_>) -> Result<f64, NoValue> {
        match self.tree.value(facts)? {
            Datum::Number(number) if number.is_finite() => Ok(number),
            _ => Err(NoValue::NoNumber),
        }
    }

    /// Its value if it is true or false.
    pub fn flag(&self, facts: &Facts<'_>) -> Result<bool, NoValue> {
        match self.tree.value(facts)? {
            Datum::Flag(flag) => Ok(flag),
            _ => Err(NoValue::NoNumber),
        }
    }

    /// The names that it uses with their values, for people.
    pub fn figures(&self, facts: &Facts<'_>) -> String {
        let figure = |name: &&Name| match name.value(facts) {
            None => format!("{} not known", name.path),
            Some(Datum::Number(number)) => format!("{} = {}", name.path, short(number)),
            Some(Datum::Flag(flag)) => format!("{} = {flag}", name.path),
            Some(Datum::Text(text)) => format!("{} = {text:?}", name.path),
        };
        self.names.iter().map(figure).collect::<Vec<_>>().join(", ")
    }
}

/// The checked tree, what it gives, and the names that it uses.
fn parse(source: &str) -> Result<(Kind, Node, Vec<&'static Name>), check::Problem> {
    let parser = Parser::new().max_recursion_depth(MAX_DEPTH).error_recovery_limit(0);
    let (tree, positions) = parser.parse_with_source_info(source).map_err(|errors| {
        let first = errors.errors.first();
        let column = first.map_or(1, |error| usize::try_from(error.pos.1).unwrap_or(0).max(1));
        let what = first.map_or_else(|| "no expression".to_owned(), |error| plain(&error.msg));
        check::Problem { column, what }
    })?;
    check::check(&tree, &positions)
}

/// The message of the parser without what only its authors understand.
fn plain(message: &str) -> String {
    let message = message.trim();
    match message.strip_prefix("Syntax error: ") {
        Some(rest) => format!("syntax error: {rest}"),
        None => message.to_owned(),
    }
}

fn short(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn abridged(source: &str) -> String {
    const SHOWN: usize = 120;
    match source.char_indices().nth(SHOWN) {
        None => source.to_owned(),
        Some((end, _)) => format!("{} …", source.get(..end).unwrap_or_default()),
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.source)
    }
}
