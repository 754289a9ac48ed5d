//! An instance that runs elsewhere now.

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// Most addresses of a cloudlet that are read. Guess: a vehicle has two networks and an address of each family in both.
const MAX_ADDRESSES: usize = 8;
/// What the body of an answer 410 says in `error`.
const MOVED: &str = "moved";

/// Where an instance went. It is the [`super::Event::Moved`] of its former place's stream, and, as [`Gone`], the body of
/// that place's answer 410 to whoever asks for the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Moved {
    /// Which. Its id is the same there, and so are its users.
    pub instance: Uuid,
    /// Node id of the cloudlet that has it, text form of `mesh::NodeId`.
    pub node: String,
    /// URLs of that cloudlet's API, as it says; one or several.
    #[serde(default, deserialize_with = "one_or_several")]
    pub api: Vec<String>,
}

/// The body of an answer 410: the instance was here and has moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Gone {
    /// `moved`.
    pub error: String,
    /// Where to.
    #[serde(flatten)]
    pub moved: Moved,
}

impl From<Moved> for Gone {
    fn from(moved: Moved) -> Self {
        Self { error: MOVED.to_owned(), moved }
    }
}

impl Gone {
    /// Where the instance went, if that is what the answer says.
    pub fn moved(self) -> Option<Moved> {
        (self.error == MOVED).then_some(self.moved)
    }
}

fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Addresses {
        None(()),
        One(String),
        Several(Vec<String>),
    }
    Ok(match Addresses::deserialize(deserializer)? {
        Addresses::None(()) => Vec::new(),
        Addresses::One(one) => vec![one],
        Addresses::Several(all) => all.into_iter().take(MAX_ADDRESSES).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Event;

    const ID: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";

    #[test]
    fn the_event_and_the_answer_are_read_with_one_address_or_several() {
        let moved = |api: &[&str]| Moved {
            instance: ID.parse().unwrap(),
            node: "8c".repeat(16),
            api: api.iter().map(ToString::to_string).collect(),
        };
        let rest = format!("\"instance\":\"{ID}\",\"node\":\"{}\"", "8c".repeat(16));
        for (text, api) in [
            ("\"https://a:1\"", &["https://a:1"][..]),
            ("[\"https://a:1\",\"https://b:2\"]", &["https://a:1", "https://b:2"]),
            ("null", &[]),
        ] {
            let event = format!("{{\"event\":\"moved\",{rest},\"api\":{text}}}");
            assert_eq!(serde_json::from_str::<Event>(&event).unwrap(), Event::Moved(moved(api)));
            let gone = format!("{{\"error\":\"moved\",{rest},\"api\":{text}}}");
            assert_eq!(serde_json::from_str::<Gone>(&gone).unwrap().moved(), Some(moved(api)));
        }
        let event = serde_json::to_string(&Event::Moved(moved(&["https://a:1"]))).unwrap();
        assert_eq!(event, format!("{{\"event\":\"moved\",{rest},\"api\":[\"https://a:1\"]}}"));
        let other = format!("{{\"error\":\"gone fishing\",{rest}}}");
        assert_eq!(serde_json::from_str::<Gone>(&other).unwrap().moved(), None);
    }

    #[test]
    fn a_thousand_addresses_are_not_kept() {
        let many = vec!["https://a:1"; 1000];
        let text = serde_json::json!({"instance": ID, "node": "8c", "api": many}).to_string();
        assert_eq!(serde_json::from_str::<Moved>(&text).unwrap().api.len(), MAX_ADDRESSES);
    }
}
