//! Putting the layers together: defaults, then the file, then the environment, then flags.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::error::{Error, Origin, Problem};
use super::fields::{self, FIELDS, Field};
use super::file::{self, Leaf};
use super::{Config, Environment, Machine};

/// Variable that names the file.
const FILE_VARIABLE: &str = "CLOUDLET_CONFIG";
/// Start of every variable that sets a field.
const PREFIX: &str = "CLOUDLET_";
/// Between section and key in the name of a variable.
const SEPARATOR: &str = "__";
/// Where the file is on a machine that runs a cloudlet as a service.
const SYSTEM_FILE: &str = "/etc/cloudlet/cloudlet.toml";
/// Longest file that is read, bytes. A real one has under 10 KiB; the cap bounds what a wrong path can cost.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where values may come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The file that `--config` names.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Environment,
    /// The flags, in order; the last one wins.
    pub flags: Vec<Setting>,
    /// What the defaults depend on.
    pub machine: Machine,
    /// Where the file is if nobody names one and the user has none.
    pub system_file: PathBuf,
}

impl Sources {
    /// Of this process.
    pub fn here(file: Option<PathBuf>, flags: Vec<Setting>) -> Self {
        let environment = std::env::vars_os().collect();
        Self { file, environment, flags, machine: Machine::here(), system_file: SYSTEM_FILE.into() }
    }
}

/// A field that a flag sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The flag as typed, without the value.
    pub flag: String,
    /// `section.key`.
    pub field: String,
    /// The value as text.
    pub value: String,
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// The values.
    pub config: Config,
    /// Where each field of the table was set, by `section.key`.
    pub origins: BTreeMap<String, Origin>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

/// Loads the configuration.
///
/// # Errors
///
/// If a file that was named cannot be read, or with everything that is wrong with any value in any layer, also one
/// that a later layer overrides.
pub fn load(sources: &Sources) -> Result<Effective, Error> {
    let mut problems = Vec::new();
    let mut leaves = defaults(&sources.machine, &mut problems);
    let read = read_file(sources)?;
    if let Some((path, text)) = &read {
        let (found, wrong) = file::leaves(path, text);
        leaves.extend(found);
        problems.extend(wrong);
    }
    for found in environment(&sources.environment).into_iter().chain(sources.flags.iter().map(flag)) {
        match found {
            Ok(leaf) => leaves.push(leaf),
            Err(problem) => problems.push(problem),
        }
    }
    let mut table = Table::new();
    let mut origins: BTreeMap<String, Origin> = FIELDS.iter().map(|f| (f.name(), Origin::Default)).collect();
    for Leaf { field, value, origin } in leaves {
        origins.insert(field.name(), origin);
        if let Value::Table(section) =
            table.entry(field.section.to_owned()).or_insert_with(|| Value::Table(Table::new()))
        {
            section.insert(field.key.to_owned(), value);
        }
    }
    // A default that is wrong on this machine does not matter once something else is configured.
    problems.retain(|problem| {
        problem.origin != Origin::Default
            || problem.field.as_ref().and_then(|field| origins.get(field)) == Some(&Origin::Default)
    });
    if !problems.is_empty() {
        return Err(Error::Invalid(problems));
    }
    // Every value was checked, so this fails only if the table of fields and the struct differ, which a test excludes.
    let config = table.try_into().map_err(|error: toml::de::Error| {
        Error::Invalid(vec![Problem {
            origin: Origin::Default,
            field: None,
            message: error.message().to_owned(),
        }])
    })?;
    Ok(Effective { config, origins, file: read.map(|(path, _)| path) })
}

fn defaults(machine: &Machine, problems: &mut Vec<Problem>) -> Vec<Leaf> {
    let table = Table::try_from(machine.defaults()).unwrap_or_default();
    let mut leaves = Vec::new();
    for field in &FIELDS {
        let Some(value) = table.get(field.section).and_then(|section| section.get(field.key)) else {
            continue;
        };
        match field.kind.check(value) {
            Ok(value) => leaves.push(Leaf { field, value, origin: Origin::Default }),
            Err(why) => {
                let message = format!(
                    "{}; set it with {} or in the file",
                    file::must_be(field, &why),
                    field.variable()
                );
                problems.push(Problem { origin: Origin::Default, field: Some(field.name()), message });
            }
        }
    }
    leaves
}

fn read_file(sources: &Sources) -> Result<Option<(PathBuf, String)>, Error> {
    let named = sources.environment.get(OsStr::new(FILE_VARIABLE)).filter(|path| !path.is_empty());
    let must = |path: &Path, named_by: &'static str| {
        let text = read_capped(path, named_by)?;
        Ok(Some((path.to_owned(), text)))
    };
    if let Some(path) = &sources.file {
        return must(path, "--config");
    }
    if let Some(path) = named {
        return must(Path::new(path), FILE_VARIABLE);
    }
    let of_user = sources.machine.config_home.as_ref().map(|home| home.join("cloudlet/cloudlet.toml"));
    for path in of_user.iter().chain([&sources.system_file]) {
        match must(path, "its usual place") {
            Err(Error::Read { source, .. }) if is_absent(&source) => {}
            other => return other,
        }
    }
    Ok(None)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn read_capped(path: &Path, named_by: &'static str) -> Result<String, Error> {
    let cannot = |source| Error::Read { path: path.to_owned(), named_by, source };
    let mut text = String::new();
    let file = File::open(path).map_err(cannot)?;
    let bytes = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(cannot)?;
    if bytes as u64 > MAX_FILE_BYTES {
        return Err(Error::TooLong { path: path.to_owned(), most: MAX_FILE_BYTES });
    }
    Ok(text)
}

fn environment(variables: &Environment) -> Vec<Result<Leaf, Problem>> {
    let ours = variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value)));
    ours.filter_map(|(name, value)| {
        let rest = name.strip_prefix(PREFIX)?;
        let problem = |field: Option<&Field>, message: String| {
            let origin = Origin::Environment { variable: name.to_owned() };
            Some(Err(Problem { origin, field: field.map(Field::name), message }))
        };
        let Some((section, key)) = rest.split_once(SEPARATOR) else {
            // CLOUDLET_API_LISTEN would be ignored in silence; other variables are not ours to judge.
            let meant =
                FIELDS.iter().find(|f| rest.eq_ignore_ascii_case(&format!("{}_{}", f.section, f.key)))?;
            return problem(None, format!("unknown variable; did you mean {}?", meant.variable()));
        };
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        let Some(field) = fields::find(&section, &key) else {
            let meant = fields::meant(&section, &key).map(Field::variable);
            let hint = meant.map(|variable| format!("; did you mean {variable}?")).unwrap_or_default();
            return problem(None, format!("sets no known field{hint}"));
        };
        let Some(text) = value.to_str() else {
            return problem(Some(field), file::must_be(field, "and this is not UTF-8"));
        };
        match field.kind.check(&field.kind.read(text)) {
            Ok(value) => {
                Some(Ok(Leaf { field, value, origin: Origin::Environment { variable: name.to_owned() } }))
            }
            Err(why) => problem(Some(field), file::must_be(field, &why)),
        }
    })
    .collect()
}

fn flag(setting: &Setting) -> Result<Leaf, Problem> {
    let origin = Origin::Flag { flag: setting.flag.clone() };
    let problem = |field: Option<&Field>, message| {
        Err(Problem { origin: origin.clone(), field: field.map(Field::name), message })
    };
    let Some((section, key)) = setting.field.split_once('.') else {
        return problem(None, format!("'{}' is no field; write section.field=value", setting.field));
    };
    let Some(field) = fields::find(section, key) else {
        return problem(None, file::unknown_field(section, key));
    };
    match field.kind.check(&field.kind.read(&setting.value)) {
        Ok(value) => Ok(Leaf { field, value, origin }),
        Err(why) => problem(Some(field), file::must_be(field, &why)),
    }
}
