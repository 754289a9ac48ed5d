//! What is known of a candidate, for people: what a choice that looks wrong is argued over with.

use std::time::Duration;

use super::{Candidate, Contact, Fetch, Offer, Power};

impl std::fmt::Display for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mega = |figure: u64| figure as f64 / 1e6;
        write!(f, "{:.1} MB from {}", mega(self.bytes), self.from)?;
        match self.rate_bytes_per_s {
            Some(rate) => write!(f, " at {:.1} MB/s", mega(rate)),
            None => f.write_str(" over a link that was not measured"),
        }
    }
}

impl Candidate {
    /// Name and figure of what is known, in the order in which people ask.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let yes_or_no = |yes: Option<bool>| match yes {
            None => "not known".to_owned(),
            Some(true) => "yes".to_owned(),
            Some(false) => "no".to_owned(),
        };
        vec![
            ("holds", self.holds()),
            ("link", self.way()),
            ("contact", self.contact_fact()),
            ("load", self.load_fact()),
            ("power", self.power_fact()),
            ("draining", yes_or_no(Some(self.draining))),
            ("permitted", yes_or_no(self.permitted)),
        ]
    }

    fn holds(&self) -> String {
        let what = match self.offer {
            Offer::Running => "an instance with room",
            Offer::Cached => "the image",
            Offer::Base => "the base system only",
            Offer::Nothing => "nothing of it",
        };
        let fetch = self.fetch.as_ref().map_or_else(String::new, |fetch| format!("; it could fetch {fetch}"));
        match self.ready_time {
            Some(time) => format!("{what}; a new instance takes {:.2} s there{fetch}", time.as_secs_f64()),
            None => format!("{what}{fetch}"),
        }
    }

    fn way(&self) -> String {
        let link = &self.link;
        let mut words = vec![match link.rtt {
            Some(rtt) => format!("{:.1} ms", rtt.as_secs_f64() * 1000.0),
            None => "round trip not known".to_owned(),
        }];
        words.extend(link.rate_bytes_per_s.map(|rate| format!("{:.0} kB/s", rate as f64 / 1000.0)));
        words.extend(link.signal_dbm.map(|dbm| format!("{dbm} dBm")));
        words.extend(link.hops.filter(|hops| *hops > 1).map(|hops| format!("{hops} hops")));
        words.join(", ")
    }

    fn contact_fact(&self) -> String {
        let s = Duration::as_secs;
        match self.contact {
            Contact::Unknown => "not known".to_owned(),
            Contact::Predicted { lasts } => format!("{} s if nobody turns", s(&lasts)),
            // The middle half of the ways: the longest is an hour wherever somebody may stop.
            Contact::Forecast { ends } => {
                let quarter = ends.len() / 4;
                let (early, late) = (&ends[quarter], &ends[ends.len() - 1 - quarter]);
                format!("{} to {} s by place and motion of both", s(early), s(late))
            }
            Contact::History { median, lasted } => {
                format!("lasts for {} s by now; earlier ones had {} s", s(&lasted), s(&median))
            }
        }
    }

    fn load_fact(&self) -> String {
        let load = &self.load;
        let cores = |millis: u32| f64::from(millis) / 1000.0;
        let age = match self.load_age {
            Some(age) if age >= Duration::from_secs(1) => format!(", told {} s ago", age.as_secs()),
            _ => String::new(),
        };
        format!(
            "{:.1} of {:.1} cores in use, {} MiB free, {} instances, {} of them starting{age}",
            cores(load.cpu_used_millis),
            cores(load.cpu_total_millis),
            load.memory_free_bytes >> 20,
            load.instances,
            load.queue_length
        )
    }

    fn power_fact(&self) -> String {
        match self.power {
            None => "not known".to_owned(),
            Some(Power::External) => "external".to_owned(),
            Some(Power::Battery { charge_permille }) => format!("battery at {} %", charge_permille / 10),
        }
    }
}
