//! `cloudlet config`: show, template, check.

use serde_json::json;

use super::args::{Config as Action, Global};
use super::output::{Failure, Output};
use crate::config::{self, fields};

pub(super) fn run(action: Action, global: &Global, output: Output) -> Result<(), Failure> {
    match action {
        Action::Show => {
            let effective = super::load(global, Vec::new())?;
            output.result(|| effective.to_toml(), || effective.to_json())
        }
        Action::Template => output.result(config::template, template_json),
        Action::Check => {
            let effective = super::load(global, Vec::new())?;
            let file = effective.file;
            output.result(
                || match &file {
                    Some(path) => format!("{}: the configuration is valid", path.display()),
                    None => "there is no configuration file; the configuration is valid".to_owned(),
                },
                || json!({"valid": true, "file": file}),
            )
        }
    }
}

/// The table of fields.
fn template_json() -> serde_json::Value {
    let fields = fields::FIELDS.iter().map(|field| {
        json!({
            "field": field.name(),
            "variable": field.variable(),
            "about": field.about,
            "takes": field.takes(),
            "unit": field.unit,
            "default": field.computed.map(|computed| computed.is),
        })
    });
    let defaults = toml::Table::try_from(config::Config::default()).unwrap_or_default();
    let with_defaults = fields.zip(&fields::FIELDS).map(|(mut described, field)| {
        if field.computed.is_none() {
            described["default"] = defaults
                .get(field.section)
                .and_then(|section| section.get(field.key))
                .and_then(|value| serde_json::to_value(value).ok())
                .unwrap_or_default();
        }
        described
    });
    json!({"fields": with_defaults.collect::<Vec<_>>()})
}
