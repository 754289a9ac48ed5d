//! How many seconds of service a site is worth.

use std::time::Duration;

use super::{Instance, Settings, Site, Situation, User};
use crate::advert::Power;
use crate::selection::contact::Contact;

/// Points at which the future is looked at. A curve of [`Contact::chance`] is followed within 1 % of the horizon by 60.
const STEPS: u32 = 60;
/// What use through another cloudlet is worth beside direct use. Guess: twice the air time and a longer way.
pub(super) const RELAYED: f64 = 0.8;
/// How long a full battery lasts that does not say. Guess: a laptop under load.
const BATTERY: Duration = Duration::from_secs(2 * 3600);
/// How soon a cloudlet that is being emptied shall be empty. Guess.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);

/// When a site ends, from now; `None`: not within any horizon.
pub(super) fn power_ends(power: Power, settings: &Settings) -> Option<Duration> {
    match power {
        Power::Unknown | Power::Mains => None,
        Power::Battery { percent, .. } if percent <= settings.power_low_percent => Some(Duration::ZERO),
        Power::Battery { remaining: Some(remaining), .. } => {
            // It must not be used up to the last second.
            Some(remaining.mul_f64(1.0 - f64::from(settings.power_low_percent.min(100)) / 100.0))
        }
        Power::Battery { percent, remaining: None } => {
            let left = percent.saturating_sub(settings.power_low_percent);
            Some(BATTERY.mul_f64(f64::from(left) / 100.0))
        }
    }
}

/// What ends this site for the instances on it, from now: shutdown or drain, and power.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ends {
    pub told: Option<Duration>,
    pub power: Option<Duration>,
}

impl Ends {
    pub fn here(situation: &Situation, settings: &Settings) -> Self {
        let drained = situation.here.draining.then_some(DRAINED_WITHIN);
        let told = situation.shutdown.into_iter().chain(drained).min();
        Self { told, power: power_ends(situation.here.power, settings) }
    }

    pub fn of(site: &Site, settings: &Settings) -> Self {
        Self { told: None, power: power_ends(site.power, settings) }
    }

    fn lives(&self, at: Duration) -> f64 {
        let gone = |end: Option<Duration>| end.is_some_and(|end| at >= end);
        if gone(self.told) {
            return 0.0;
        }
        // At low power it works on until it does not; nobody knows when, so it is worth half.
        if gone(self.power) { 0.5 } else { 1.0 }
    }
}

/// Share of its CPU that an instance gets where so much is wanted in all.
pub(super) fn speed(wanted_millis: u32, total_millis: u32) -> f64 {
    if wanted_millis <= total_millis { 1.0 } else { f64::from(total_millis) / f64::from(wanted_millis) }
}

/// Ways on which users reach a site.
pub(super) struct Reaching<'a> {
    /// The site.
    pub site: &'a Site,
    /// Cloudlets through which it is reached, each with the link between the two.
    pub through: Vec<(&'a Site, &'a Contact)>,
}

impl Reaching<'_> {
    /// The chance that a user reaches the site then.
    fn user(&self, user: &User, at: Duration) -> f64 {
        let chance = |node| user.contacts.get(&node).map_or(0.0, |contact: &Contact| contact.chance(at));
        let relayed = self.through.iter().map(|(via, link)| chance(via.node) * link.chance(at) * RELAYED);
        relayed.fold(chance(self.site.node), f64::max)
    }

    /// The same for all users of an instance.
    pub fn users(&self, instance: &Instance, at: Duration) -> f64 {
        if instance.users.is_empty() {
            return 1.0;
        }
        let sum: f64 = instance.users.iter().map(|user| self.user(user, at)).sum();
        sum / instance.users.len() as f64
    }
}

/// Seconds of service in `from..to`, at full speed.
pub(super) fn served(
    instance: &Instance,
    reaching: &Reaching<'_>,
    ends: Ends,
    from: Duration,
    to: Duration,
) -> f64 {
    sum(from, to, |at| reaching.users(instance, at) * ends.lives(at))
}

/// ∫ `of` dt, seconds, by midpoints.
pub(super) fn sum(from: Duration, to: Duration, of: impl Fn(Duration) -> f64) -> f64 {
    let step = to.saturating_sub(from) / STEPS;
    let middles = (0..STEPS).map(|number| from + step * number + step / 2);
    middles.map(of).sum::<f64>() * step.as_secs_f64()
}

/// What each cause takes of the service here within the horizon, seconds: users that leave, power, load.
pub(super) fn losses(
    instance: &Instance,
    here: &Reaching<'_>,
    ends: Ends,
    speed: f64,
    horizon: Duration,
) -> (f64, f64, f64) {
    let users = sum(Duration::ZERO, horizon, |at| 1.0 - here.users(instance, at));
    let power = Ends { told: None, ..ends };
    let power = sum(Duration::ZERO, horizon, |at| 1.0 - power.lives(at));
    (users, power, horizon.as_secs_f64() * (1.0 - speed))
}
