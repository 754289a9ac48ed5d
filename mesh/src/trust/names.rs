//! Names in certificates: of missions, of certificates, and the URNs that carry what a certificate says.
//!
//! Everything that a certificate says in the mission is a URI in its subject alternative names, as in SPIFFE:
//! `openssl x509 -text` shows it, and no verifier stumbles over an extension that it does not know.
//!
//! | URI | in | meaning |
//! |---|---|---|
//! | `urn:cloudlet:mission:HEX32` | all | the mission |
//! | `urn:cloudlet:role:NAME` | all | `authority`, `cloudlet`, `handheld` or `enroller` |
//! | `urn:cloudlet:node:HEX32` | cloudlet, enroller | node id |
//! | `urn:cloudlet:allow:NAME` | cloudlet, handheld | may do this |
//! | | enroller | may grant this to handhelds |
//! | `urn:cloudlet:companion:HEX32` | enroller | serial of the same cloudlet's own certificate |
//! | `urn:cloudlet:rule:quiet` | authority | nobody sends multicast |
//! | `urn:cloudlet:images:HEX64` | authority | images signed with this key are used |
//!
//! An unknown permission allows nothing; any other unknown `urn:cloudlet:` name makes the certificate useless here.

use std::fmt;
use std::str::FromStr;

use crate::NodeId;

use super::permissions::Permissions;
use super::refusal::Refusal;
use super::rules::Rules;

const PREFIX: &str = "urn:cloudlet:";
/// Longest name for people in a certificate, bytes. Guess.
pub const MAX_NAME_BYTES: usize = 64;

/// Sixteen bytes, 32 hexadecimal digits in text.
macro_rules! id {
    ($(#[$about:meta])* $name:ident, $what:literal) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(super) [u8; 16]);

        impl $name {
            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; 16];
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) => Ok(Self(bytes)),
                    Err(_) => Err(ParseIdError { text: text.chars().take(40).collect(), what: $what }),
                }
            }
        }
    };
}

/// Text that is not such an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {what} (32 hexadecimal digits)")]
pub struct ParseIdError {
    text: String,
    what: &'static str,
}

id!(
    /// Names a mission: random, in every certificate of the mission.
    MissionId, "a mission id"
);
id!(
    /// Names a certificate of a mission: random, so that no two issuers give the same one.
    Serial, "a serial number"
);

impl Serial {
    /// A positive number of exactly 16 bytes, as RFC 5280 wants it, made of random bytes.
    pub(super) fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Self(bytes)
    }
}

/// Who a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Authority,
    Cloudlet(NodeId),
    Handheld,
    Enroller(NodeId),
}

/// What a certificate says in the mission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claims {
    pub mission: MissionId,
    pub subject: Subject,
    pub permissions: Permissions,
    pub companion: Option<Serial>,
    pub rules: Rules,
}

impl Claims {
    /// As URIs, in a fixed order.
    pub fn uris(&self) -> Vec<String> {
        let mut uris = vec![format!("{PREFIX}mission:{}", self.mission)];
        uris.extend(self.subject.uris());
        uris.extend(self.permissions.names().map(|name| format!("{PREFIX}allow:{name}")));
        uris.extend(self.companion.map(|serial| format!("{PREFIX}companion:{serial}")));
        uris.extend(self.rules.names().map(|name| format!("{PREFIX}{name}")));
        uris
    }

    /// From the URIs of a certificate.
    pub fn from_uris<'a>(uris: impl Iterator<Item = &'a str>) -> Result<Self, Refusal> {
        let found = Found::read(uris)?;
        let mission = found.mission.ok_or(Refusal::Malformed("it names no mission"))?;
        let subject = found.subject()?;
        if found.companion.is_some() != matches!(subject, Subject::Enroller(_)) {
            return Err(Refusal::Malformed("enrollers, and only they, name a companion"));
        }
        if !found.rules.is_empty() && subject != Subject::Authority {
            return Err(Refusal::Escalation("only the authority makes rules for the mission"));
        }
        let Found { permissions, companion, rules, .. } = found;
        Ok(Self { mission, subject, permissions, companion, rules })
    }
}

#[derive(Default)]
struct Found {
    mission: Option<MissionId>,
    role: Option<String>,
    node: Option<NodeId>,
    permissions: Permissions,
    companion: Option<Serial>,
    rules: Rules,
}

impl Subject {
    /// The word for it.
    pub fn role(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Cloudlet(_) => "cloudlet",
            Self::Handheld => "handheld",
            Self::Enroller(_) => "enroller",
        }
    }

    /// As URIs.
    pub fn uris(self) -> Vec<String> {
        let mut uris = vec![format!("{PREFIX}role:{}", self.role())];
        if let Self::Cloudlet(node) | Self::Enroller(node) = self {
            uris.push(format!("{PREFIX}node:{node}"));
        }
        uris
    }

    /// From the URIs of a request, which knows no mission yet.
    pub fn from_uris<'a>(uris: impl Iterator<Item = &'a str>) -> Result<Self, Refusal> {
        Found::read(uris)?.subject()
    }
}

impl Found {
    fn read<'a>(uris: impl Iterator<Item = &'a str>) -> Result<Self, Refusal> {
        let mut found = Self::default();
        for uri in uris {
            // Names of other worlds are none of ours.
            if let Some(name) = uri.strip_prefix(PREFIX) {
                found.take(name)?;
            }
        }
        Ok(found)
    }

    fn subject(&self) -> Result<Subject, Refusal> {
        match (self.role.as_deref(), self.node) {
            (Some("authority"), None) => Ok(Subject::Authority),
            (Some("cloudlet"), Some(node)) => Ok(Subject::Cloudlet(node)),
            (Some("handheld"), None) => Ok(Subject::Handheld),
            (Some("enroller"), Some(node)) => Ok(Subject::Enroller(node)),
            _ => Err(Refusal::Malformed("its role and node id do not fit together")),
        }
    }

    fn take(&mut self, name: &str) -> Result<(), Refusal> {
        const BAD: Refusal = Refusal::Malformed("one of its names is not sound");
        let (kind, value) = name.split_once(':').ok_or(BAD)?;
        match kind {
            "mission" => once(&mut self.mission, value.parse().map_err(|_| BAD)?),
            "role" => once(&mut self.role, value.to_owned()),
            "node" => once(&mut self.node, value.parse().map_err(|_| BAD)?),
            "rule" => self.rules.add_rule(value),
            "images" => self.rules.add_image_signer(value),
            "companion" => once(&mut self.companion, value.parse().map_err(|_| BAD)?),
            "allow" => {
                self.permissions = self.permissions | Permissions::named(value).unwrap_or_default();
                Ok(())
            }
            _ => Err(Refusal::Malformed("it says something that this release does not know")),
        }
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::Malformed("one of its names is there twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uris: &[&str]) -> Result<Claims, Refusal> {
        Claims::from_uris(uris.iter().copied())
    }

    #[test]
    fn every_kind_of_subject_round_trips() {
        let node = NodeId::from_bytes([3; 16]);
        for subject in
            [Subject::Authority, Subject::Cloudlet(node), Subject::Handheld, Subject::Enroller(node)]
        {
            let companion = matches!(subject, Subject::Enroller(_)).then_some(Serial([4; 16]));
            let mut rules = Rules::default();
            if subject == Subject::Authority {
                let key = |seed| vm_images::SigningKey::from_secret(&[seed; 32]).public();
                rules = Rules { quiet: true, image_signers: [key(1), key(2)].into() };
            }
            let permissions = Permissions::ALL;
            let claims = Claims { mission: MissionId([9; 16]), subject, permissions, companion, rules };
            let uris = claims.uris();
            assert_eq!(Claims::from_uris(uris.iter().map(String::as_str)), Ok(claims));
        }
    }

    #[test]
    fn what_is_unknown_allows_nothing_or_refuses() {
        let mission = format!("urn:cloudlet:mission:{}", "0a".repeat(16));
        let claims =
            read(&[&mission, "urn:cloudlet:role:handheld", "urn:cloudlet:allow:fly", "https://else"])
                .unwrap();
        assert_eq!(claims.permissions, Permissions::NONE);
        let signer = |seed| {
            format!("urn:cloudlet:images:{}", vm_images::SigningKey::from_secret(&[seed; 32]).public())
        };
        let many: Vec<String> = (0..=16).map(signer).collect();
        let authority = ["urn:cloudlet:role:authority", &mission].into_iter();
        let most = authority.clone().chain(many[..16].iter().map(String::as_str));
        assert_eq!(Claims::from_uris(most).unwrap().rules.image_signers.len(), 16);
        assert!(Claims::from_uris(authority.chain(many.iter().map(String::as_str))).is_err());
        for bad in [
            &[&*mission, "urn:cloudlet:role:cloudlet"][..],
            &[&mission, "urn:cloudlet:role:king"],
            &[&mission, "urn:cloudlet:role:handheld", "urn:cloudlet:role:handheld"],
            &[&mission, "urn:cloudlet:role:handheld", "urn:cloudlet:rank:7"],
            &[&mission, "urn:cloudlet:role:handheld", &mission],
            &["urn:cloudlet:role:handheld"],
            &[&mission, "urn:cloudlet:role"],
            &[&mission, "urn:cloudlet:role:handheld", "urn:cloudlet:rule:quiet"],
            &[&mission, "urn:cloudlet:role:handheld", &signer(1)],
            &[&mission, "urn:cloudlet:role:authority", "urn:cloudlet:rule:loud"],
            &[&mission, "urn:cloudlet:role:authority", "urn:cloudlet:images:00"],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
