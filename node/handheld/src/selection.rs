//! Which of the reachable cloudlets serves best: asks each for the service, then lets [`mesh::selection`] decide.

use std::time::Duration;

use futures_util::future::join_all;
use mesh::advert::Load;
use mesh::selection::record::Survey;
use mesh::selection::{
    Candidate, Choice, Contact, Current, Fetch, Instance, Link, Motion, Need, Offer, Policy, Power, Task,
};
use vm_images::ServiceId;
use vm_images::manifest::Accelerator;

use crate::api::{Fetchable, Guests, Place, PowerSource, Service, Sharing};
use crate::{Behind, Reachable, now};

/// What is asked for, by whom.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The service.
    pub service: ServiceId,
    /// Whether others may use the same instance.
    pub sharing: Sharing,
    /// What the service is to do.
    pub task: Task,
    /// By when, from now.
    pub deadline: Option<Duration>,
    /// Where the handheld is.
    pub here: Option<Here>,
    /// Who served last: another must be better by the margin of the policy's hysteresis.
    pub current: Option<Current>,
    /// Whether the handheld's certificate lets it use services, see [`crate::Access::may_use_services`].
    pub permitted: Option<bool>,
}

impl Wanted {
    /// A shared instance for the usual task, whenever it is done, by somebody of whom nothing is known.
    pub fn of(service: ServiceId) -> Self {
        Self {
            service,
            sharing: Sharing::Shared,
            task: Task::default(),
            deadline: None,
            here: None,
            current: None,
            permitted: None,
        }
    }
}

/// Where a handheld is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Here {
    /// The place.
    pub place: Place,
    /// How far its radio reaches, metres.
    pub range_m: f64,
}

impl Here {
    /// Range of a radio of which nobody says anything, metres. Guess: 802.11 with the antenna of a vehicle on one side.
    pub const USUAL_RANGE_M: f64 = 300.0;
}

/// A cloudlet and what it has of the wanted service.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// The cloudlet.
    pub reachable: Reachable,
    /// Its offer, if it has one and said so.
    pub service: Option<Service>,
    /// What the link carried at least, bytes per second; `None`: not measured.
    pub rate_bytes_per_s: Option<u64>,
}

impl Surveyed {
    /// How it would fetch the service, if it does not hold it.
    fn fetch(&self, service: &ServiceId) -> Option<&Fetchable> {
        let lacks = self.service.is_none();
        self.reachable.cloudlet.fetchable.iter().find(|one| lacks && one.service == *service)
    }

    /// Whether it has the service, or could fetch it.
    pub fn offers(&self, service: &ServiceId) -> bool {
        self.service.is_some() || self.fetch(service).is_some()
    }
}

/// Asks every cloudlet that lists the service what it needs and how ready it is, all at once. Where there is a choice,
/// the links are timed too; see [`rate`].
pub async fn survey(service: &ServiceId, cloudlets: Vec<Reachable>) -> Vec<Surveyed> {
    let surveyed = join_all(cloudlets.into_iter().map(|reachable| describe(service, reachable))).await;
    let offering = surveyed.iter().filter(|one| one.offers(service)).count();
    if offering < 2 {
        return surveyed;
    }
    let mut timed = Vec::new();
    // One after the other: at once they would share the air and measure each other.
    for one in surveyed {
        let rate_bytes_per_s = if one.offers(service) { rate(&one.reachable).await } else { None };
        timed.push(Surveyed { rate_bytes_per_s, ..one });
    }
    timed
}

async fn describe(service: &ServiceId, mut reachable: Reachable) -> Surveyed {
    let listed = reachable.cloudlet.services.contains(service);
    if let Some(Behind { place, hearsay: true }) = reachable.behind
        && listed
        && let Ok(said) = reachable.client.cloudlet().await
    {
        // What it says itself counts, whatever the one in between told.
        reachable.cloudlet = said;
        reachable.behind = Some(Behind { place, hearsay: false });
    }
    let silent = |reachable| Surveyed { reachable, service: None, rate_bytes_per_s: None };
    if !reachable.cloudlet.services.contains(service) {
        return silent(reachable);
    }
    match reachable.client.service(service).await {
        Ok(service) => Surveyed { service, ..silent(reachable) },
        Err(error) => {
            tracing::warn!(
                cloudlet = reachable.cloudlet.name,
                error = &error as &dyn std::error::Error,
                "it lists the service but does not describe it"
            );
            silent(reachable)
        }
    }
}

/// Longest time that one link is timed. A link that needs longer for some tens of kilobytes has failed the test.
const RATE_LIMIT: Duration = Duration::from_secs(1);

/// Bytes per second that the link carries at least: the length of a known answer (the API's own description) by the time
/// from asking to its last byte. The time that the cloudlet took and the round trip are in it, so the link is at least as
/// good as that. `None` if there was no answer in time; then the default for links that nobody measured counts.
pub async fn rate(reachable: &Reachable) -> Option<u64> {
    let started = now();
    let answer = tokio::time::timeout(RATE_LIMIT, reachable.client.description_bytes()).await;
    let bytes = u128::try_from(answer.ok()?.ok()?).ok()?;
    u64::try_from(bytes * 1_000_000 / started.elapsed().as_micros().max(1)).ok()
}

/// Chooses by `policy`; the choice says why.
pub fn choose(wanted: &Wanted, surveyed: &[Surveyed], policy: &Policy) -> Choice {
    let (need, candidates) = picture(wanted, surveyed);
    policy.choose(&need, &candidates, wanted.current)
}

/// What was found, on paper, so that the choice can be replayed.
pub fn record(wanted: &Wanted, surveyed: &[Surveyed]) -> Survey {
    let (need, candidates) = picture(wanted, surveyed);
    Survey::of(&need, &candidates, wanted.current)
}

/// What was found, as [`Policy::choose`] takes it.
pub fn picture(wanted: &Wanted, surveyed: &[Surveyed]) -> (Need, Vec<Candidate>) {
    let need = need(wanted, surveyed);
    let candidates = surveyed.iter().map(|one| candidate(wanted, &need, one)).collect();
    (need, candidates)
}

/// What an instance needs. Cloudlets may hold versions with different needs; the least is taken, because one that then
/// turns out to be too small refuses by itself and the next one is asked.
fn need(wanted: &Wanted, surveyed: &[Surveyed]) -> Need {
    let offers = || surveyed.iter().filter_map(|one| one.service.as_ref());
    Need {
        memory_bytes: offers().map(|offer| offer.needs_memory_bytes).min().unwrap_or(0),
        cpu_millis: offers().map(|offer| offer.needs_cpu_millis).min().unwrap_or(0),
        instance: match wanted.sharing {
            Sharing::Shared => Instance::Shared,
            Sharing::Private => Instance::Own,
        },
        task: wanted.task,
        deadline: wanted.deadline,
        // All versions that were seen run on one system; of several the first in the alphabet is as good as any.
        guest_system: offers().filter_map(|offer| offer.guest_system.clone()).min(),
        ..Need::of(wanted.service.clone())
    }
}

fn candidate(wanted: &Wanted, need: &Need, surveyed: &Surveyed) -> Candidate {
    let Surveyed { reachable, service, rate_bytes_per_s } = surveyed;
    let fetch = surveyed.fetch(&wanted.service).map(|Fetchable { bytes, from, rate_bytes_per_s, .. }| {
        Fetch { bytes: *bytes, from: from.clone(), rate_bytes_per_s: *rate_bytes_per_s }
    });
    let (load, standing) = (&reachable.cloudlet.load, &reachable.cloudlet.standing);
    // Whole microseconds, as they are recorded, so that a recorded survey leads to the same figures.
    let rtt = Duration::from_micros(u64::try_from(reachable.rtt.as_micros()).unwrap_or(u64::MAX));
    let hops = u8::try_from(1 + reachable.client.relays()).ok();
    let link = Link { rtt: Some(rtt), rate_bytes_per_s: *rate_bytes_per_s, hops, ..Link::default() };
    let load = Load {
        cpu_used_millis: load.cpu_used_millis,
        cpu_total_millis: load.cpu_total_millis,
        memory_free_bytes: load.memory_free_bytes,
        memory_total_bytes: load.memory_total_bytes,
        instances: load.instances,
        queue_length: load.queue_length,
    };
    let guests = standing.guests.as_ref();
    let ready_time = service.as_ref().and_then(|service| service.ready_ms).map(Duration::from_millis);
    Candidate {
        accelerator: match reachable.cloudlet.accelerator.as_str() {
            "kvm" => Some(Accelerator::Kvm),
            "tcg" => Some(Accelerator::Tcg),
            _ => None,
        },
        guest_speed_permille: guests.and_then(|guests| guests.speed_permille),
        architecture: guests.map(|guests| guests.architecture.clone()),
        guest_systems: guests.map(|guests| guests.systems.iter().cloned().collect()),
        contact: contact(wanted.here.as_ref(), reachable),
        ready_time,
        fetch,
        power: standing.power.map(power),
        draining: standing.draining,
        permitted: wanted.permitted,
        // It was asked a moment ago; how old hearsay is, nobody says.
        load_age: (!reachable.behind.is_some_and(|behind| behind.hearsay)).then_some(Duration::ZERO),
        ..Candidate::unknown(
            reachable.node,
            &reachable.label(),
            load,
            link,
            offer(need, service.as_ref(), guests),
        )
    }
}

fn offer(need: &Need, service: Option<&Service>, guests: Option<&Guests>) -> Offer {
    let Some(service) = service else {
        let system = need.guest_system.as_ref();
        let has_base = system.zip(guests).is_some_and(|(system, guests)| guests.systems.contains(system));
        return if has_base { Offer::Base } else { Offer::Nothing };
    };
    // A release that does not say which have room leaves it to be tried.
    let joinable = service.joinable_instances.unwrap_or(service.ready_instances);
    if joinable > 0 && service.max_users > 1 { Offer::Running } else { Offer::Cached }
}

fn power(power: PowerSource) -> Power {
    match power {
        PowerSource::Mains => Power::External,
        PowerSource::Battery { percent, .. } => {
            Power::Battery { charge_permille: u16::from(percent.min(100)) * 10 }
        }
    }
}

/// How long the way there will last: to the cloudlet, or to the one in between and from there on, whichever ends first.
fn contact(here: Option<&Here>, reachable: &Reachable) -> Contact {
    let Some(Here { place: ours, range_m }) = here else { return Contact::Unknown };
    let between =
        |one: &Place, two: Option<&Place>| match (motion(ours, one), two.and_then(|two| motion(ours, two))) {
            (Some(one), Some(two)) => Contact::predict(&one, &two, *range_m),
            _ => Contact::Unknown,
        };
    let theirs = reachable.cloudlet.standing.place.as_ref();
    match reachable.behind {
        None => between(ours, theirs),
        Some(Behind { place: None, .. }) => Contact::Unknown,
        Some(Behind { place: Some(middle), .. }) => {
            between(ours, Some(&middle)).shorter(between(&middle, theirs))
        }
    }
}

/// On the plane around `origin`; `None` if the numbers are no place.
fn motion(origin: &Place, place: &Place) -> Option<Motion> {
    let (origin, (at, motion)) = (origin.unpack()?.0, place.unpack()?);
    let (heading, speed) = motion.map_or((0.0, 0.0), |motion| (motion.heading_deg(), motion.speed_m_s()));
    Some(Motion::on_earth(origin, at, heading.into(), speed.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Cloudlet, Heading, Standing};
    use crate::{Client, api};

    fn place(east_m: f64, motion: Option<(f32, f32)>) -> Place {
        let motion = motion.map(|(heading_deg, speed_m_s)| Heading { heading_deg, speed_m_s });
        Place { latitude_deg: 0.0, longitude_deg: east_m / 111_195.0, motion }
    }

    fn reachable(standing: Standing, behind: Option<Behind>) -> Reachable {
        let load = api::Load {
            cpu_used_millis: 0,
            cpu_total_millis: 2000,
            memory_free_bytes: 1 << 30,
            memory_total_bytes: 1 << 30,
            instances: 2,
            queue_length: 1,
        };
        let cloudlet = Cloudlet {
            api_version: api::VERSION,
            node_id: "01".repeat(16),
            name: "a".to_owned(),
            software: String::new(),
            accelerator: "tcg".to_owned(),
            load,
            services: Vec::new(),
            fetchable: Vec::new(),
            standing,
        };
        let (client, node) = (Client::new("http://127.0.0.1:1").unwrap(), mesh::NodeId::from_bytes([1; 16]));
        Reachable { client, cloudlet, node, rtt: Duration::from_millis(3), behind }
    }

    fn service(joinable_instances: Option<u32>) -> Service {
        Service {
            id: "speech".parse().unwrap(),
            version: "1".to_owned(),
            description: String::new(),
            image: String::new(),
            guest_system: Some("debian-12".to_owned()),
            needs_memory_bytes: 1 << 20,
            needs_cpu_millis: 1000,
            max_users: 4,
            ready_instances: 1,
            joinable_instances,
            ready_ms: Some(430),
        }
    }

    fn seen(wanted: &Wanted, service: Option<Service>, reachable: Reachable) -> Candidate {
        let other = Surveyed {
            reachable: self::reachable(Standing::default(), None),
            service: Some(self::service(None)),
            rate_bytes_per_s: None,
        };
        let surveyed = [Surveyed { reachable, service, rate_bytes_per_s: None }, other];
        picture(wanted, &surveyed).1.swap_remove(0)
    }

    #[test]
    fn what_a_cloudlet_says_of_itself_is_what_is_reckoned_with() {
        let guests =
            Guests { architecture: "x86_64".to_owned(), speed_permille: Some(90), ..Guests::default() };
        let standing = Standing {
            draining: true,
            power: Some(PowerSource::Battery { percent: 40, remaining_s: None }),
            guests: Some(guests),
            ..Standing::default()
        };
        let wanted = Wanted { permitted: Some(false), ..Wanted::of("speech".parse().unwrap()) };
        let one = seen(&wanted, Some(service(Some(0))), reachable(standing, None));
        assert_eq!(one.offer, Offer::Cached, "its instance has no room");
        assert_eq!(one.power, Some(Power::Battery { charge_permille: 400 }));
        assert_eq!(one.ready_time, Some(Duration::from_millis(430)));
        assert_eq!((one.draining, one.permitted, one.load.queue_length), (true, Some(false), 1));
        assert_eq!((one.guest_speed_permille, one.link.hops), (Some(90), Some(1)));
        assert_eq!(one.contact, Contact::Unknown);
        for joinable in [Some(1), None] {
            let one = seen(&wanted, Some(service(joinable)), reachable(Standing::default(), None));
            assert_eq!(one.offer, Offer::Running);
        }
    }

    #[test]
    fn without_the_service_the_base_system_is_what_is_held() {
        let wanted = Wanted::of("speech".parse().unwrap());
        let holds = |systems: &[&str]| {
            let systems = systems.iter().map(|system| (*system).to_owned()).collect();
            let guests = Guests { systems, ..Guests::default() };
            let standing = Standing { guests: Some(guests), ..Standing::default() };
            seen(&wanted, None, reachable(standing, None)).offer
        };
        assert_eq!(holds(&["debian-12"]), Offer::Base);
        assert_eq!(holds(&["debian-13"]), Offer::Nothing);
    }

    #[test]
    fn one_that_could_fetch_the_service_is_a_candidate_with_its_figures() {
        let wanted = Wanted::of("speech".parse().unwrap());
        let mut fetching = reachable(Standing::default(), None);
        fetching.cloudlet.fetchable = vec![Fetchable {
            service: wanted.service.clone(),
            image: String::new(),
            bytes: 62_000_000,
            from: "two".to_owned(),
            rate_bytes_per_s: Some(1_200_000),
        }];
        let one = seen(&wanted, None, fetching.clone());
        assert_eq!(
            (one.offer, one.fetch.as_ref().map(|fetch| fetch.bytes)),
            (Offer::Nothing, Some(62_000_000))
        );
        let surveyed = [Surveyed { reachable: fetching.clone(), service: None, rate_bytes_per_s: None }];
        let choice = choose(&wanted, &surveyed, &Policy::default());
        assert_eq!(choice.chosen, Some(one.node), "there is nobody else");
        let explained = choice.to_string();
        assert!(explained.contains("51.667 s   62.0 MB from two at 1.2 MB/s"), "{explained}");
        assert_eq!(seen(&wanted, Some(service(None)), fetching).fetch, None, "it has it by now");
    }

    #[test]
    fn contact_lasts_as_long_as_the_way_to_the_one_in_between_and_the_way_from_there() {
        let at = |place| Standing { place: Some(place), ..Standing::default() };
        let here = Here { place: place(0.0, None), range_m: 300.0 };
        let wanted = Wanted { here: Some(here), ..Wanted::of("speech".parse().unwrap()) };
        let lasts = |standing, behind| match seen(&wanted, None, reachable(standing, behind)).contact {
            Contact::Unknown => None,
            known => known.expected().map(|lasts| lasts.as_secs_f64().round()),
        };
        let leaving = place(100.0, Some((90.0, 10.0)));
        // Some radios reach farther than they should: the middle of the forecast is a second beyond the nominal 20.
        assert_eq!(lasts(at(leaving), None), Some(21.0));
        assert_eq!(lasts(Standing::default(), None), None, "it does not say where it is");
        // The one in between stands still at 200 m; the far one leaves its range after 20 s.
        let middle = Some(Behind { place: Some(place(200.0, None)), hearsay: false });
        assert_eq!(lasts(at(place(300.0, Some((90.0, 10.0)))), middle), Some(21.0));
        let moving = Some(Behind { place: Some(place(250.0, Some((90.0, 5.0)))), hearsay: false });
        let far = at(place(300.0, Some((90.0, 5.0))));
        assert_eq!(lasts(far, moving), Some(10.0), "the middle leaves first");
    }
}
