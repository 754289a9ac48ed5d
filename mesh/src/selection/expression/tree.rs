//! A checked expression as a tree, and its value.
//!
//! The crate `cel` could evaluate too, but was measured to need some 60 kB of stack for each level in a debug build: a sum of
//! thirty terms overflows the stack of a thread. What is let through is small, and so is this.

use super::NoValue;
use super::names::{Datum, Facts, Name};

/// A part of a checked expression. Kinds fit by construction: `check` makes these, and nobody else.
#[derive(Debug)]
pub(super) enum Node {
    Value(Datum),
    Name(&'static Name),
    Has(&'static Name),
    Not(Box<Node>),
    Negate(Box<Node>),
    Arithmetic(Arithmetic, Box<Node>, Box<Node>),
    Comparison(Comparison, Box<Node>, Box<Node>),
    /// Of all parts: `&&` is decided by one that is false, `||` by one that is true.
    Logic {
        decided_by: bool,
        parts: Vec<Node>,
    },
    If(Box<Node>, Box<Node>, Box<Node>),
    In(Box<Node>, Vec<Datum>),
    Clamp(Box<Node>, Box<Node>, Box<Node>),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Min,
    Max,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

impl Node {
    /// Its value. Takes time in proportion to the tree.
    pub(super) fn value(&self, facts: &Facts<'_>) -> Result<Datum, NoValue> {
        let number = |node: &Node| node.number(facts);
        Ok(match self {
            Self::Value(datum) => datum.clone(),
            Self::Name(name) => name.value(facts).ok_or_else(|| NoValue::NotKnown(vec![name.path]))?,
            Self::Has(name) => Datum::Flag(name.value(facts).is_some()),
            Self::Not(node) => Datum::Flag(!node.flag(facts)?),
            Self::Negate(node) => Datum::Number(-number(node)?),
            Self::Arithmetic(what, one, two) => Datum::Number(what.of(number(one)?, number(two)?)),
            Self::Comparison(what, one, two) => {
                Datum::Flag(what.holds(&one.value(facts)?, &two.value(facts)?)?)
            }
            Self::Logic { decided_by, parts } => Datum::Flag(logic(*decided_by, parts, facts)?),
            Self::If(question, yes, no) => match question.flag(facts)? {
                true => yes.value(facts)?,
                false => no.value(facts)?,
            },
            Self::In(item, list) => Datum::Flag(list.contains(&item.value(facts)?)),
            Self::Clamp(x, low, high) => Datum::Number(number(x)?.max(number(low)?).min(number(high)?)),
        })
    }

    fn number(&self, facts: &Facts<'_>) -> Result<f64, NoValue> {
        match self.value(facts)? {
            Datum::Number(number) => Ok(number),
            Datum::Flag(_) | Datum::Text(_) => Err(NoValue::NoNumber),
        }
    }

    fn flag(&self, facts: &Facts<'_>) -> Result<bool, NoValue> {
        match self.value(facts)? {
            Datum::Flag(flag) => Ok(flag),
            Datum::Number(_) | Datum::Text(_) => Err(NoValue::NoNumber),
        }
    }
}

/// As in CEL, a part without a value does not matter if another decides.
fn logic(decided_by: bool, parts: &[Node], facts: &Facts<'_>) -> Result<bool, NoValue> {
    let mut missing = None;
    for part in parts {
        match part.flag(facts) {
            Ok(flag) if flag == decided_by => return Ok(decided_by),
            Ok(_) => {}
            Err(no_value) => missing = missing.or(Some(no_value)),
        }
    }
    missing.map_or(Ok(!decided_by), Err)
}

impl Arithmetic {
    fn of(self, one: f64, two: f64) -> f64 {
        match self {
            Self::Add => one + two,
            Self::Subtract => one - two,
            Self::Multiply => one * two,
            Self::Divide => one / two,
            Self::Min => one.min(two),
            Self::Max => one.max(two),
        }
    }
}

impl Comparison {
    fn holds(self, one: &Datum, two: &Datum) -> Result<bool, NoValue> {
        if let (Datum::Number(one), Datum::Number(two)) = (one, two) {
            let order = one.partial_cmp(two).ok_or(NoValue::NoNumber)?;
            return Ok(match self {
                Self::Less => order.is_lt(),
                Self::LessOrEqual => order.is_le(),
                Self::Greater => order.is_gt(),
                Self::GreaterOrEqual => order.is_ge(),
                Self::Equal => order.is_eq(),
                Self::NotEqual => order.is_ne(),
            });
        }
        Ok(match self {
            Self::NotEqual => one != two,
            _ => one == two,
        })
    }
}
