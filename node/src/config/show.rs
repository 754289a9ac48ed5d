//! The configuration as people read it: the effective one with origins, and a commented template.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};
use toml::Table;

use super::fields::{Computed, FIELDS, Field, SECTIONS};
use super::{Config, Effective};

impl Effective {
    /// As a TOML file, each value with where it was set.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        match &self.file {
            Some(path) => _ = writeln!(out, "# Read from {}", path.display()),
            None => out.push_str("# No configuration file\n"),
        }
        let table = Table::try_from(&self.config).unwrap_or_default();
        each_section(&mut out, |out, field| {
            let origin = self.origins.get(&field.name()).map(ToString::to_string).unwrap_or_default();
            _ = match (value(&table, field), field.computed) {
                (Some(value), _) => writeln!(out, "{} = {value}  # {origin}", field.key),
                (None, Some(Computed { is, .. })) => writeln!(out, "# {} is not set: {is}", field.key),
                (None, None) => writeln!(out, "# {} is not set", field.key),
            };
        });
        out
    }

    /// As JSON: `{"file": …, "fields": {"section.key": {"value": …, "origin": …}}}`.
    pub fn to_json(&self) -> Json {
        let table = Table::try_from(&self.config).unwrap_or_default();
        let fields: serde_json::Map<String, Json> = FIELDS
            .iter()
            .map(|field| {
                let value = value(&table, field).and_then(|value| serde_json::to_value(value).ok());
                let origin = self.origins.get(&field.name()).map(ToString::to_string);
                (field.name(), json!({"value": value, "origin": origin}))
            })
            .collect();
        json!({"file": self.file, "fields": fields})
    }
}

/// A configuration file with every field commented out and explained.
pub fn template() -> String {
    let mut out = "\
# Configuration of a cloudlet.
#
# Read from --config FILE, else $CLOUDLET_CONFIG, else $XDG_CONFIG_HOME/cloudlet/cloudlet.toml (~/.config/…),
# else /etc/cloudlet/cloudlet.toml. The environment overrides it (CLOUDLET_<SECTION>__<FIELD>, such as
# CLOUDLET_API__LISTEN), and flags override the environment (--set section.field=value).
#
# Every field is here, with its default; remove the '#' before a field to change it.
"
    .to_owned();
    // Constants only are taken from it; what depends on the machine is described in words.
    let table = Table::try_from(Config::default()).unwrap_or_default();
    each_section(&mut out, |out, field| {
        out.push('\n');
        for line in wrap(field.about, 98) {
            _ = writeln!(out, "# {line}");
        }
        let takes = field.takes();
        let (default, shown) = match (field.computed, value(&table, field)) {
            (Some(Computed { is, example }), _) => (is.to_owned(), format!("{example:?}")),
            (None, Some(value)) => (value.to_string(), value.to_string()),
            (None, None) => (String::new(), String::new()),
        };
        let takes = takes[..1].to_uppercase() + &takes[1..];
        _ = writeln!(out, "# {takes}. Default: {default}.\n#{} = {shown}", field.key);
    });
    out
}

fn each_section(out: &mut String, mut with: impl FnMut(&mut String, &Field)) {
    for (section, about) in SECTIONS {
        _ = writeln!(out, "\n# {about}\n[{section}]");
        for field in FIELDS.iter().filter(|field| field.section == section) {
            with(out, field);
        }
    }
}

fn value<'a>(table: &'a Table, field: &Field) -> Option<&'a toml::Value> {
    table.get(field.section)?.get(field.key)
}

/// Breaks text at spaces so that lines have at most `width` letters, if words allow.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_says_unit_range_and_default_of_every_field() {
        let template = template();
        for field in &FIELDS {
            let at =
                template.find(&format!("\n#{} = ", field.key)).unwrap_or_else(|| panic!("{}", field.name()));
            let above = template[..at].rsplit("\n\n").next().unwrap();
            for part in
                [field.takes()[1..].to_owned(), "Default: ".to_owned(), field.unit.unwrap_or("").to_owned()]
            {
                assert!(above.contains(&part), "{}: '{part}' not in {above}", field.name());
            }
        }
    }

    #[test]
    fn lines_of_the_template_are_not_too_long() {
        for line in template().lines() {
            assert!(line.chars().count() <= 130, "{line}");
        }
    }
}
