//! What values a field takes: reading them from text, checking them, describing them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use mesh::advert::Position;
use toml::Value;
use toml::value::Datetime;
use vm_images::ServiceId;

use super::moment;

/// Most interfaces that can be listed (guess).
const MAX_INTERFACES: usize = 64;
/// Most addresses of other cloudlets (guess).
const MAX_PEERS: usize = 64;
/// Most services that can be listed (guess).
const MAX_SERVICES: usize = 64;
/// Longest name of a network interface, bytes (`IFNAMSIZ` - 1).
const MAX_INTERFACE_BYTES: usize = 15;
/// Longest hypervisor URI, bytes (guess).
const MAX_URI_BYTES: usize = 500;

/// What values a field takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Text without control characters.
    Text {
        /// Shortest, bytes.
        least_bytes: usize,
        /// Longest, bytes.
        most_bytes: usize,
    },
    /// Absolute path of a directory.
    Directory {
        /// Longest, bytes.
        most_bytes: usize,
    },
    /// IP address and port.
    Address,
    /// True or false.
    Boolean,
    /// Names of network interfaces.
    Interfaces,
    /// Addresses and ports of other cloudlets.
    Peers,
    /// Names of services.
    Services,
    /// `embed`, or the URI of a libvirt daemon on this host.
    Hypervisor,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number.
    Whole {
        /// Least.
        least: i64,
        /// Most.
        most: i64,
    },
    /// A number.
    Number {
        /// Least.
        least: f64,
        /// Most.
        most: f64,
    },
    /// A moment, RFC 3339 with an offset.
    Moment,
    /// A place on the ground.
    Position,
    /// A log filter.
    Filter {
        /// Longest, bytes.
        most_bytes: usize,
    },
}

impl Kind {
    /// Whether a list, so that text from outside is split at commas.
    fn is_list(self) -> bool {
        matches!(self, Self::Interfaces | Self::Peers | Self::Services)
    }

    /// The value that a text from a flag or an environment variable stands for. Not yet checked; text that cannot be
    /// read as the wanted type stays text, so that checking names it.
    pub(super) fn read(self, text: &str) -> Value {
        let number = match self {
            Self::Boolean => text.parse().ok().map(Value::Boolean),
            Self::Whole { .. } => text.parse().ok().map(Value::Integer),
            Self::Number { .. } => text.parse().ok().map(Value::Float),
            _ => None,
        };
        if self.is_list() {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            return Value::Array(words.map(|word| Value::String(word.to_owned())).collect());
        }
        number.unwrap_or_else(|| Value::String(text.to_owned()))
    }

    /// The value in the type that the configuration has for it.
    ///
    /// # Errors
    ///
    /// Why it is not allowed, to be put after "must be …, ".
    pub(super) fn check(self, value: &Value) -> Result<Value, String> {
        let good = match (self, value) {
            (Self::Boolean, Value::Boolean(_)) => true,
            (Self::Whole { least, most }, Value::Integer(n)) => (least..=most).contains(n),
            (Self::Number { .. }, &Value::Integer(n)) => {
                // Whole numbers in the range of any field here are exact as f64.
                return self.check(&Value::Float(n as f64)).map_err(|_| format!("not {n}"));
            }
            (Self::Number { least, most }, Value::Float(n)) => (least..=most).contains(n),
            (Self::Moment, Value::Datetime(moment)) => return self.check(&Value::String(moment.to_string())),
            (Self::Interfaces, Value::Array(names)) => return check_interfaces(names, value),
            (Self::Peers, Value::Array(peers)) => return check_peers(peers, value),
            (Self::Services, Value::Array(names)) => return check_services(names, value),
            (_, Value::String(text)) => return self.check_text(text).map(|()| value.clone()),
            _ => false,
        };
        if good { Ok(value.clone()) } else { Err(format!("not {}", shown(value))) }
    }

    fn check_text(self, text: &str) -> Result<(), String> {
        let quoted = || format!("not '{}'", excerpt(text));
        let fits = |most: usize| {
            if text.len() <= most {
                Ok(())
            } else {
                Err(format!("not {} bytes: '{}'", text.len(), excerpt(text)))
            }
        };
        let good = match self {
            Self::Text { least_bytes, most_bytes } => {
                fits(most_bytes)?;
                text.len() >= least_bytes && !text.chars().any(char::is_control)
            }
            Self::Directory { most_bytes } => {
                fits(most_bytes)?;
                Path::new(text).is_absolute() && !text.contains('\0')
            }
            Self::Address => text.parse::<SocketAddr>().is_ok(),
            Self::Hypervisor => {
                text == "embed" || (text.starts_with("qemu:///") && text.len() <= MAX_URI_BYTES)
            }
            Self::Choice(words) => words.contains(&text),
            Self::Moment => {
                text.parse::<Datetime>().ok().and_then(|moment| moment::unix_s(&moment)).is_some()
            }
            Self::Position => position(text).is_some(),
            Self::Filter { most_bytes } => {
                fits(most_bytes)?;
                return tracing_subscriber::EnvFilter::builder()
                    .parse(text)
                    .map(drop)
                    .map_err(|error| format!("not '{}' ({error})", excerpt(text)));
            }
            Self::Boolean
            | Self::Interfaces
            | Self::Peers
            | Self::Services
            | Self::Whole { .. }
            | Self::Number { .. } => false,
        };
        if good { Ok(()) } else { Err(quoted()) }
    }

    /// In words, with the unit of its numbers.
    pub(super) fn describe(self, unit: Option<&str>) -> String {
        let of = unit.map(|unit| format!(" of {unit}")).unwrap_or_default();
        match self {
            Self::Text { least_bytes, most_bytes } => {
                format!("text of {least_bytes} to {most_bytes} bytes without control characters")
            }
            Self::Directory { most_bytes } => format!("an absolute path of at most {most_bytes} bytes"),
            Self::Address => "an IP address and a port, such as \"0.0.0.0:8477\" or \"[::]:8477\"".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Interfaces => format!(
                "a list of at most {MAX_INTERFACES} interface names of at most {MAX_INTERFACE_BYTES} bytes, such as [\"eth0\"]"
            ),
            Self::Peers => {
                format!("a list of at most {MAX_PEERS} addresses with ports, such as [\"10.0.0.7:8479\"]")
            }
            Self::Services => {
                format!("a list of at most {MAX_SERVICES} names of services, each once, such as [\"speech\"]")
            }
            Self::Hypervisor => "\"embed\" or a URI such as \"qemu:///system\"".to_owned(),
            Self::Choice(words) => {
                words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
            }
            Self::Whole { least, most } => format!("a whole number{of} from {least} to {most}"),
            Self::Number { least, most } => format!("a number{of} from {least} to {most}"),
            Self::Moment => {
                "a date and time with an offset (RFC 3339), such as \"2026-12-01T06:00:00Z\"".to_owned()
            }
            Self::Position => "latitude and longitude in degrees, such as \"48.137,11.575\"".to_owned(),
            Self::Filter { most_bytes } => {
                format!("a log filter of at most {most_bytes} bytes, such as \"info\" or \"info,mesh=debug\"")
            }
        }
    }
}

/// `LATITUDE,LONGITUDE` in degrees; `None` if that is nowhere.
pub(super) fn position(text: &str) -> Option<Position> {
    let (latitude, longitude) = text.split_once(',')?;
    Position::new(latitude.trim().parse().ok()?, longitude.trim().parse().ok()?)
}

fn check_interfaces(names: &[Value], whole: &Value) -> Result<Value, String> {
    if names.len() > MAX_INTERFACES {
        return Err(format!("not {} names", names.len()));
    }
    for name in names {
        let good = name.as_str().is_some_and(|name| {
            (1..=MAX_INTERFACE_BYTES).contains(&name.len())
                && !name.contains(|c: char| c == '/' || c.is_whitespace())
        });
        if !good {
            return Err(format!("and {} is no interface name", shown(name)));
        }
    }
    Ok(whole.clone())
}

fn check_peers(peers: &[Value], whole: &Value) -> Result<Value, String> {
    if peers.len() > MAX_PEERS {
        return Err(format!("not {} addresses", peers.len()));
    }
    let is_address = |peer: &&Value| peer.as_str().is_some_and(|peer| peer.parse::<SocketAddr>().is_ok());
    match peers.iter().find(|peer| !is_address(peer)) {
        Some(bad) => Err(format!("and {} is no address with a port", shown(bad))),
        None => Ok(whole.clone()),
    }
}

fn check_services(names: &[Value], whole: &Value) -> Result<Value, String> {
    if names.len() > MAX_SERVICES {
        return Err(format!("not {} names", names.len()));
    }
    let mut seen = BTreeSet::new();
    for name in names {
        match name.as_str().and_then(|text| text.parse::<ServiceId>().ok()) {
            None => return Err(format!("and {} is no name of a service", shown(name))),
            Some(service) if !seen.insert(service.clone()) => {
                return Err(format!("and '{service}' is there twice"));
            }
            Some(_) => {}
        }
    }
    Ok(whole.clone())
}

/// A value as a message shows it: its type if that explains more.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", excerpt(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        other => excerpt(&other.to_string()),
    }
}

fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
    if text.chars().count() > 80 {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(kind: Kind, text: &str) -> bool {
        kind.check(&kind.read(text)).is_ok()
    }

    #[test]
    fn ranges_include_their_ends_and_nothing_beyond() {
        let whole = Kind::Whole { least: 1, most: 60 };
        for (text, good) in
            [("1", true), ("60", true), ("0", false), ("61", false), ("-1", false), ("2.5", false)]
        {
            assert_eq!(takes(whole, text), good, "{text}");
        }
        let number = Kind::Number { least: 0.1, most: 100.0 };
        for (text, good) in [("0.1", true), ("100", true), ("0.09", false), ("NaN", false), ("inf", false)] {
            assert_eq!(takes(number, text), good, "{text}");
        }
        assert_eq!(number.check(&Value::Integer(4)), Ok(Value::Float(4.0)));
        assert_eq!(number.check(&Value::Integer(101)), Err("not 101".to_owned()));
    }

    #[test]
    fn text_is_bounded_in_bytes_and_free_of_control_characters() {
        let text = Kind::Text { least_bytes: 1, most_bytes: 4 };
        for (value, good) in
            [("abcd", true), ("ää", true), ("", false), ("abcde", false), ("ääa", false), ("a\nb", false)]
        {
            assert_eq!(takes(text, value), good, "{value:?}");
        }
        let directory = Kind::Directory { most_bytes: 10 };
        for (value, good) in
            [("/a", true), ("a", false), ("~/a", false), ("/123456789", true), ("/1234567890", false)]
        {
            assert_eq!(takes(directory, value), good, "{value:?}");
        }
    }

    #[test]
    fn addresses_moments_hypervisors_filters_and_interfaces_are_checked() {
        for (kind, text, good) in [
            (Kind::Address, "[::]:0", true),
            (Kind::Address, "localhost:80", false),
            (Kind::Address, "1.2.3.4", false),
            (Kind::Moment, "2026-12-01T06:00:00+02:00", true),
            (Kind::Moment, "2026-12-01T06:00:00", false),
            (Kind::Moment, "2026-12-01", false),
            (Kind::Hypervisor, "qemu:///system", true),
            (Kind::Hypervisor, "xen:///", false),
            (Kind::Filter { most_bytes: 99 }, "info,mesh=debug", true),
            (Kind::Filter { most_bytes: 99 }, "mesh=loud", false),
            (Kind::Interfaces, "eth0, wlan0", true),
            (Kind::Interfaces, "", true),
            (Kind::Interfaces, "eth0/1", false),
            (Kind::Interfaces, "sixteen-bytes-xx", false),
            (Kind::Peers, "10.0.0.7:8479,[::1]:1", true),
            (Kind::Peers, "", true),
            (Kind::Peers, "truck-7", false),
            (Kind::Services, "speech,maps-2", true),
            (Kind::Services, "", true),
            (Kind::Services, "speech,speech", false),
            (Kind::Services, "Speech", false),
            (Kind::Services, "../x", false),
            (Kind::Boolean, "true", true),
            (Kind::Boolean, "yes", false),
            (Kind::Choice(&["auto", "kvm"]), "kvm", true),
            (Kind::Choice(&["auto", "kvm"]), "KVM", false),
        ] {
            assert_eq!(takes(kind, text), good, "{kind:?} {text:?}");
        }
    }

    #[test]
    fn a_wrong_type_is_shown_as_it_was_written() {
        let text = Kind::Text { least_bytes: 1, most_bytes: 40 };
        assert_eq!(text.check(&Value::Integer(5)), Err("not 5".to_owned()));
        assert_eq!(Kind::Boolean.check(&Value::String("yes".into())), Err("not 'yes'".to_owned()));
        assert_eq!(Kind::Interfaces.check(&Value::String("eth0".into())), Err("not 'eth0'".to_owned()));
    }
}
