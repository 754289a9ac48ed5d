//! What of CEL is let through: types are found, names looked up, and everything that could loop or grow is refused.

use cel::common::ast::operators as op;
use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo};

use super::names::{self, Datum, Kind, Name};
use super::tree::{Arithmetic, Comparison, Node};

/// Deepest nesting of brackets, checked before the parser sees them.
const MAX_BRACKETS: usize = 20;
/// Most operators, dots, commas and opening brackets together: the parser needs time and stack for each. Guess: five times
/// what people write.
const MAX_OPERATORS: usize = 100;
/// Most elements of the list after `in`.
const MAX_ELEMENTS: usize = 50;
/// The functions, for the error that names the nearest.
const FUNCTIONS: [&str; 4] = ["min", "max", "clamp", "has"];

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Problem {
    /// From 1.
    pub(super) column: usize,
    pub(super) what: String,
}

type Checked = Result<(Kind, Node), Problem>;

/// Refuses deep nesting and long chains before they cost the parser its stack or its time.
pub(super) fn shape(source: &str) -> Result<(), Problem> {
    let (mut depth, mut signs, mut operators) = (0_usize, 0_usize, 0_usize);
    for (place, letter) in source.chars().enumerate() {
        let problem = |what: &str| Problem { column: place + 1, what: what.to_owned() };
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        signs = match letter {
            '!' | '-' | '?' => signs + 1,
            letter if letter.is_whitespace() => signs,
            _ => 0,
        };
        operators += usize::from("([{+-*/%<>=!&|?.,".contains(letter));
        if operators > MAX_OPERATORS {
            return Err(problem("too many operators"));
        }
        if depth > MAX_BRACKETS {
            return Err(problem("brackets nested too deeply"));
        }
        if signs > 2 {
            return Err(problem("too many signs in a row"));
        }
        if letter.is_control() && !letter.is_whitespace() {
            return Err(problem("a control character"));
        }
    }
    Ok(())
}

/// Checks what the parser made and turns it into a tree; says what it gives and which names it uses.
pub(super) fn check(
    tree: &IdedExpr,
    positions: &SourceInfo,
) -> Result<(Kind, Node, Vec<&'static Name>), Problem> {
    let mut checker = Checker { positions, used: Vec::new() };
    let (kind, node) = checker.any(tree)?;
    let used = names::NAMES.iter().filter(|name| checker.used.contains(&name.path)).collect();
    Ok((kind, node, used))
}

struct Checker<'a> {
    positions: &'a SourceInfo,
    used: Vec<&'static str>,
}

impl Checker<'_> {
    fn problem<T>(&self, at: &IdedExpr, what: impl Into<String>) -> Result<T, Problem> {
        // The parser counts letters from 0.
        let column = self.positions.offset_for(at.id).map_or(1, |(start, _)| start as usize + 1);
        Err(Problem { column, what: what.into() })
    }

    fn any(&mut self, tree: &IdedExpr) -> Checked {
        match &tree.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(flag) => Ok((Kind::Flag, Node::Value(Datum::Flag(*flag.inner())))),
                LiteralValue::String(text) => {
                    Ok((Kind::Text, Node::Value(Datum::Text(text.inner().to_owned()))))
                }
                LiteralValue::Double(number) => number_node(*number.inner()),
                LiteralValue::Int(whole) => number_node(*whole.inner() as f64),
                _ => self.problem(tree, "only numbers, texts, true and false can be written here"),
            },
            Expr::Select(select) => self.name(tree, select),
            Expr::Ident(word) => {
                let hint = similar(names::nearest(word));
                let what = format!("unknown name '{word}'; names have two parts, such as link.rtt_ms{hint}");
                self.problem(tree, what)
            }
            Expr::Call(call) => self.call(tree, call),
            Expr::Comprehension(_) => self.problem(tree, "loops over lists are not allowed"),
            Expr::List(_) => self.problem(tree, "a list may only stand after 'in'"),
            Expr::Map(_) | Expr::Struct(_) => self.problem(tree, "maps and structures are not allowed"),
            Expr::Unspecified => self.problem(tree, "nothing"),
        }
    }

    fn name(&mut self, at: &IdedExpr, select: &SelectExpr) -> Checked {
        let Expr::Ident(group) = &select.operand.expr else {
            return self.problem(at, "names have two parts, such as link.rtt_ms");
        };
        let path = format!("{group}.{}", select.field);
        let Some(name) = names::named(&path) else {
            let hint = similar(names::nearest(&path));
            // The operand's place is where the name begins; the selection's own is its dot.
            return self.problem(&select.operand, format!("unknown name '{path}'{hint}"));
        };
        self.used.push(name.path);
        Ok(if select.test { (Kind::Flag, Node::Has(name)) } else { (name.kind, Node::Name(name)) })
    }

    fn call(&mut self, at: &IdedExpr, call: &CallExpr) -> Checked {
        if call.target.is_some() {
            return self.problem(at, format!("methods such as '.{}()' are not allowed", call.func_name));
        }
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (op::NEGATE, [one]) => Ok((Kind::Number, Node::Negate(self.of(one, Kind::Number)?))),
            (op::LOGICAL_NOT, [one]) => Ok((Kind::Flag, Node::Not(self.of(one, Kind::Flag)?))),
            (op::LOGICAL_AND | op::LOGICAL_OR, parts) => {
                let parts = parts.iter().map(|part| self.of(part, Kind::Flag).map(|part| *part));
                let parts = parts.collect::<Result<_, _>>()?;
                Ok((Kind::Flag, Node::Logic { decided_by: name == op::LOGICAL_OR, parts }))
            }
            (op::EQUALS | op::NOT_EQUALS, [one, two]) => self.equal(name, one, two),
            (op::CONDITIONAL, [question, yes, no]) => self.conditional(question, yes, no),
            (op::IN, [item, list]) => self.contained(item, list),
            ("clamp", [x, low, high]) => {
                let mut number = |one| self.of(one, Kind::Number);
                Ok((Kind::Number, Node::Clamp(number(x)?, number(low)?, number(high)?)))
            }
            ("min" | "max", [_] | []) => self.problem(at, format!("{name} takes two numbers")),
            ("clamp", _) => self.problem(at, "clamp takes three numbers: clamp(x, low, high)"),
            (_, [one, two]) if arithmetic(name).is_some() || comparison(name).is_some() => {
                let (one, two) = (self.of(one, Kind::Number)?, self.of(two, Kind::Number)?);
                Ok(match (arithmetic(name), comparison(name)) {
                    (Some(what), _) => (Kind::Number, Node::Arithmetic(what, one, two)),
                    (_, what) => (Kind::Flag, Node::Comparison(what.unwrap_or(Comparison::Equal), one, two)),
                })
            }
            _ => self.unknown_call(at, name),
        }
    }

    fn unknown_call<T>(&self, at: &IdedExpr, name: &str) -> Result<T, Problem> {
        let is_word = name.starts_with(|c: char| c.is_alphabetic());
        match name {
            op::MODULO => self.problem(at, "% is not allowed"),
            "min" | "max" => self.problem(at, format!("{name} takes two numbers")),
            word if is_word => {
                let hint = similar(super::nearest_of(word, FUNCTIONS.into_iter()));
                self.problem(at, format!("unknown function '{word}'{hint}"))
            }
            _ => self.problem(at, "this operator is not allowed"),
        }
    }

    /// The argument, which must be of `wanted`.
    fn of(&mut self, argument: &IdedExpr, wanted: Kind) -> Result<Box<Node>, Problem> {
        let (found, node) = self.any(argument)?;
        if found != wanted {
            let what = format!("{} is needed here, but this is {}", wanted.name(), found.name());
            return self.problem(argument, what);
        }
        Ok(Box::new(node))
    }

    fn equal(&mut self, name: &str, one: &IdedExpr, two: &IdedExpr) -> Checked {
        let ((first, left), (second, right)) = (self.any(one)?, self.any(two)?);
        if first != second {
            let what = format!("cannot compare {} with {}", first.name(), second.name());
            return self.problem(two, what);
        }
        let what = if name == op::EQUALS { Comparison::Equal } else { Comparison::NotEqual };
        Ok((Kind::Flag, Node::Comparison(what, Box::new(left), Box::new(right))))
    }

    fn conditional(&mut self, question: &IdedExpr, yes: &IdedExpr, no: &IdedExpr) -> Checked {
        let (asked, condition) = self.any(question)?;
        if asked != Kind::Flag {
            let what = format!("before '?' must be true or false, but this is {}", asked.name());
            return self.problem(question, what);
        }
        let ((first, one), (second, two)) = (self.any(yes)?, self.any(no)?);
        if first != second {
            return self.problem(no, format!("one way gives {}, the other {}", first.name(), second.name()));
        }
        Ok((first, Node::If(Box::new(condition), Box::new(one), Box::new(two))))
    }

    fn contained(&mut self, item: &IdedExpr, list: &IdedExpr) -> Checked {
        let (wanted, node) = self.any(item)?;
        let Expr::List(elements) = &list.expr else {
            return self.problem(list, "after 'in' must be a list, such as [\"kvm\", \"tcg\"]");
        };
        if elements.elements.len() > MAX_ELEMENTS {
            return self.problem(list, format!("a list has at most {MAX_ELEMENTS} elements"));
        }
        let mut values = Vec::new();
        for element in &elements.elements {
            let (found, value) = self.any(element)?;
            let Node::Value(value) = value else {
                return self.problem(element, "the list may hold only numbers and texts");
            };
            if found != wanted {
                let what = format!("cannot compare {} with {}", wanted.name(), found.name());
                return self.problem(element, what);
            }
            values.push(value);
        }
        Ok((Kind::Flag, Node::In(Box::new(node), values)))
    }
}

fn number_node(number: f64) -> Checked {
    Ok((Kind::Number, Node::Value(Datum::Number(number))))
}

fn arithmetic(name: &str) -> Option<Arithmetic> {
    Some(match name {
        op::ADD => Arithmetic::Add,
        op::SUBSTRACT => Arithmetic::Subtract,
        op::MULTIPLY => Arithmetic::Multiply,
        op::DIVIDE => Arithmetic::Divide,
        "min" => Arithmetic::Min,
        "max" => Arithmetic::Max,
        _ => return None,
    })
}

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        op::LESS => Comparison::Less,
        op::LESS_EQUALS => Comparison::LessOrEqual,
        op::GREATER => Comparison::Greater,
        op::GREATER_EQUALS => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

fn similar(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}
