//! The values in a configuration file, each with its line.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::Value;
use toml::de::{DeTable, DeValue};

use super::error::{Origin, Problem};
use super::fields::{self, Field, SECTIONS};
use super::nearest::nearest;

/// A value in the file.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub field: &'static Field,
    pub value: Value,
    pub origin: Origin,
}

/// Every value of a known field in `text`, and what is wrong with the rest. `path` is only for messages.
pub(super) fn leaves(path: &Path, text: &str) -> (Vec<Leaf>, Vec<Problem>) {
    let mut reader = Reader { path, text, leaves: Vec::new(), problems: Vec::new() };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let message = format!("this is not TOML: {}", error.message().replace('\n', ", "));
        reader.problem(&error.span().unwrap_or_default(), None, message);
    }
    // What a broken file seems to contain is a guess of the parser: say nothing more about it.
    if reader.problems.is_empty() {
        for (name, value) in root.get_ref() {
            reader.section(name.get_ref(), &name.span(), value.get_ref());
        }
    }
    // The parser's tables are sorted by name; people read files from the top.
    reader.problems.sort_by_key(|problem| line_of(&problem.origin));
    (reader.leaves, reader.problems)
}

fn line_of(origin: &Origin) -> usize {
    if let Origin::File { line, .. } = origin { *line } else { 0 }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    leaves: Vec<Leaf>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn section(&mut self, section: &str, span: &Range<usize>, value: &DeValue<'_>) {
        if !SECTIONS.iter().any(|(known, _)| *known == section) {
            return self.unknown_section(section, span);
        }
        let DeValue::Table(table) = value else {
            let message = format!("[{section}] must be a section, not {}", value.type_str());
            return self.problem(span, None, message);
        };
        for (key, value) in table {
            self.key(section, key, value);
        }
    }

    fn unknown_section(&mut self, section: &str, span: &Range<usize>) {
        let message = match nearest(section, SECTIONS.iter().map(|(known, _)| *known)) {
            Some(known) => format!("unknown section '{section}'; did you mean '{known}'?"),
            None => match fields::FIELDS.iter().find(|field| field.key == section) {
                Some(field) => {
                    format!("'{section}' stands outside its section; it belongs into [{}]", field.section)
                }
                None => {
                    let known: Vec<_> = SECTIONS.iter().map(|(known, _)| *known).collect();
                    format!("unknown section '{section}'; the sections are {}", known.join(", "))
                }
            },
        };
        self.problem(span, None, message);
    }

    fn key(&mut self, section: &str, key: &Spanned<std::borrow::Cow<'_, str>>, value: &Spanned<DeValue<'_>>) {
        let name = key.get_ref();
        let Some(field) = fields::find(section, name) else {
            return self.problem(&key.span(), None, unknown_field(section, name));
        };
        let checked = plain(value.get_ref()).and_then(|value| field.kind.check(&value));
        match checked {
            Ok(value) => {
                let origin = self.origin(&key.span());
                self.leaves.push(Leaf { field, value, origin });
            }
            Err(why) => self.problem(&key.span(), Some(field), must_be(field, &why)),
        }
    }

    fn problem(&mut self, span: &Range<usize>, field: Option<&Field>, message: String) {
        let origin = self.origin(span);
        self.problems.push(Problem { origin, field: field.map(Field::name), message });
    }

    fn origin(&self, span: &Range<usize>) -> Origin {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        Origin::File { path: self.path.to_owned(), line }
    }
}

/// The message about a field that does not exist.
pub(super) fn unknown_field(section: &str, key: &str) -> String {
    let name: String = format!("{section}.{key}").chars().filter(|c| !c.is_control()).take(80).collect();
    match fields::meant(section, key) {
        Some(field) => format!("unknown field '{name}'; did you mean '{}'?", field.name()),
        None => {
            let known: Vec<_> =
                fields::FIELDS.iter().filter(|f| f.section == section).map(|f| f.key).collect();
            if known.is_empty() {
                let sections: Vec<_> = SECTIONS.iter().map(|(known, _)| *known).collect();
                format!("unknown field '{name}'; the sections are {}", sections.join(", "))
            } else {
                format!("unknown field '{name}'; [{section}] has {}", known.join(", "))
            }
        }
    }
}

/// The message about a value that a field does not take.
pub(super) fn must_be(field: &Field, why: &str) -> String {
    format!("{} must be {}, {why}", field.name(), field.takes())
}

/// A value without spans. Fields have no nested tables, so these are only named, not copied.
fn plain(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => Value::Integer(
            i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| format!("not {}", number.as_str().chars().take(80).collect::<String>()))?,
        ),
        DeValue::Float(number) => Value::Float(number.as_str().parse().map_err(|_| format!("not {number}"))?),
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Datetime(moment) => Value::Datetime(*moment),
        DeValue::Array(values) => {
            Value::Array(values.iter().map(|value| plain(value.get_ref())).collect::<Result<_, _>>()?)
        }
        DeValue::Table(_) => return Err("not a table".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        leaves(Path::new("c.toml"), text).1.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn values_remember_their_line() {
        let (leaves, problems) = leaves(Path::new("c.toml"), "# top\n[api]\n\nlisten = \"[::]:80\"\n");
        assert_eq!(problems, []);
        assert_eq!(leaves.len(), 1);
        assert_eq!(
            (leaves[0].field.name(), leaves[0].origin.to_string()),
            ("api.listen".into(), "c.toml:4".into())
        );
    }

    #[test]
    fn every_problem_is_told_with_its_line_from_the_top() {
        let text = "[instances]\nmax = 0\nidle_stop = 5\n[api]\nlisen = 1\n[nod]\n[log]\njson = \"yes\"\n";
        assert_eq!(
            problems(text),
            [
                "c.toml:2: instances.max must be a whole number from 1 to 1000, not 0",
                "c.toml:3: unknown field 'instances.idle_stop'; did you mean 'instances.idle_stop_s'?",
                "c.toml:5: unknown field 'api.lisen'; did you mean 'api.listen'?",
                "c.toml:6: unknown section 'nod'; did you mean 'node'?",
                "c.toml:8: log.json must be true or false, not 'yes'",
            ]
        );
    }

    #[test]
    fn broken_toml_is_told_with_its_line_only() {
        let found = problems("[api]\nlisten = \"0.0.0.0:1\nlisen = 3\n");
        assert!(found.iter().any(|p| p.starts_with("c.toml:2: this is not TOML: ")), "{found:?}");
        let twice = problems("[api]\nlisten = \"0.0.0.0:1\"\nlisten = \"0.0.0.0:2\"\n");
        assert_eq!(twice.len(), 1, "{twice:?}");
        assert!(twice[0].starts_with("c.toml:3: ") && twice[0].contains("duplicate"), "{twice:?}");
    }

    #[test]
    fn structure_errors_are_named() {
        assert_eq!(
            problems("listen = \"x\"\n"),
            ["c.toml:1: 'listen' stands outside its section; it belongs into [api]"]
        );
        assert_eq!(problems("api = 3\n"), ["c.toml:1: [api] must be a section, not integer"]);
        assert_eq!(problems("[[api]]\n"), ["c.toml:1: [api] must be a section, not array"]);
        let deep = problems("[api.listen]\nport = 3\n");
        assert!(
            deep[0].starts_with("c.toml:1: api.listen must be an IP address")
                && deep[0].ends_with("not a table")
        );
        let huge = problems("[instances]\nmax = 99999999999999999999\n");
        assert!(huge[0].ends_with("not 99999999999999999999"), "{huge:?}");
    }

    #[test]
    fn moments_may_be_written_without_quotes_and_numbers_in_other_bases() {
        let (leaves, problems) = leaves(
            Path::new("c.toml"),
            "mission.ends = 2026-12-01T06:00:00Z\ninstances.max = 0x10\ninstances.cpu_overcommit = 2\n",
        );
        assert_eq!(problems, []);
        let values: Vec<_> = leaves.iter().map(|leaf| (leaf.field.key, leaf.value.to_string())).collect();
        assert!(values.contains(&("ends", "\"2026-12-01T06:00:00Z\"".into())), "{values:?}");
        assert!(values.contains(&("max", "16".into())) && values.contains(&("cpu_overcommit", "2.0".into())));
    }
}
