//! `discover`, `services`: what there is.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use handheld::Reachable;
use handheld::api::{Cloudlet, Service};
use serde::Serialize;
use vm_images::ServiceId;

use super::args::Global;
use super::output::{self, Spinner};
use super::{cloudlets, search};

#[derive(Serialize)]
struct Found<'a> {
    url: &'a str,
    /// The cloudlet in between.
    via: Option<&'a str>,
    rtt_ms: f64,
    #[serde(flatten)]
    cloudlet: &'a Cloudlet,
}

#[derive(Serialize)]
struct Discovered<'a> {
    discovery_ms: u64,
    cloudlets: Vec<Found<'a>>,
}

/// Lists the cloudlets that answer.
pub async fn discover(global: &Global, whole: Option<Duration>) -> anyhow::Result<()> {
    let mut search = search(global)?;
    if let Some(limit) = whole {
        search.limit = limit;
        search.whole_time = true;
    }
    let spinner = Spinner::default();
    spinner.step("looking for cloudlets");
    let started = now();
    let found = cloudlets(global, &search).await?;
    let discovery_ms = u64::try_from(started.elapsed().as_millis())?;
    spinner.clear();
    if global.json {
        let cloudlets = found.iter().map(as_found).collect();
        return output::json(&Discovered { discovery_ms, cloudlets });
    }
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    output::print(&output::table(
        &["NAME", "ADDRESS", "RTT", "CPU FREE", "MEMORY FREE", "INSTANCES", "RUNS ON", "SERVICES"],
        &rows,
    ))
}

fn as_found(one: &Reachable) -> Found<'_> {
    Found { url: one.client.url(), via: one.client.via(), rtt_ms: ms(one.rtt), cloudlet: &one.cloudlet }
}

fn row(one: &Reachable) -> Vec<String> {
    let (cloudlet, load) = (&one.cloudlet, &one.cloudlet.load);
    let free = load.cpu_total_millis.saturating_sub(load.cpu_used_millis);
    let services: Vec<&str> = cloudlet.services.iter().map(ServiceId::as_str).collect();
    vec![
        cloudlet.name.clone(),
        one.client.via().map_or_else(|| one.client.url().to_owned(), |via| format!("via {via}")),
        format!("{:.1} ms", ms(one.rtt)),
        format!("{:.1} of {:.1}", f64::from(free) / 1000.0, f64::from(load.cpu_total_millis) / 1000.0),
        format!("{} of {} MiB", load.memory_free_bytes >> 20, load.memory_total_bytes >> 20),
        load.instances.to_string(),
        cloudlet.accelerator.clone(),
        services.join(", "),
    ]
}

#[derive(Serialize)]
struct Offers<'a> {
    cloudlet: &'a str,
    url: &'a str,
    services: Vec<Service>,
}

/// Lists the services of every cloudlet.
pub async fn services(global: &Global) -> anyhow::Result<()> {
    let spinner = Spinner::default();
    spinner.step("looking for cloudlets");
    let found = cloudlets(global, &search(global)?).await?;
    spinner.step("asking cloudlets for their services");
    let lists = join_all(found.iter().map(|one| one.client.services())).await;
    spinner.clear();
    let mut offers = Vec::new();
    for (one, services) in found.iter().zip(lists) {
        offers.push(Offers { cloudlet: &one.cloudlet.name, url: one.client.url(), services: services? });
    }
    if global.json {
        return output::json(&offers);
    }
    let rows: Vec<Vec<String>> = offers
        .iter()
        .flat_map(|offer| offer.services.iter().map(|service| service_row(offer.cloudlet, service)))
        .collect();
    output::print(&output::table(
        &["SERVICE", "VERSION", "CLOUDLET", "READY", "USERS", "MEMORY", "CPU", "DESCRIPTION"],
        &rows,
    ))
}

fn service_row(cloudlet: &str, service: &Service) -> Vec<String> {
    vec![
        service.id.to_string(),
        service.version.clone(),
        cloudlet.to_owned(),
        service.ready_instances.to_string(),
        service.max_users.to_string(),
        format!("{} MiB", service.needs_memory_bytes >> 20),
        format!("{:.1}", f64::from(service.needs_cpu_millis) / 1000.0),
        service.description.clone(),
    ]
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

#[expect(clippy::disallowed_methods, reason = "tells the user how long the search took")]
pub(super) fn now() -> Instant {
    Instant::now()
}
