//! `cloudlet position`, `cloudlet drain`: what the running cloudlet says of its circumstances.

use handheld::api::{Heading, Place, PowerSource, Standing};
use serde_json::json;

use super::args::{Global, Position, Switch};
use super::output::{Failure, Output};
use super::vm;

pub(super) fn position(position: Position, global: &Global, output: Output) -> Result<(), Failure> {
    let config = super::load(global, Vec::new())?.config;
    let client = vm::client(&config, position.api.as_deref())?;
    let motion = position.heading.zip(position.speed);
    let motion = motion.map(|(heading_deg, speed_m_s)| Heading { heading_deg, speed_m_s });
    let told = position.latitude.zip(position.longitude);
    let told = told.map(|(latitude_deg, longitude_deg)| Place { latitude_deg, longitude_deg, motion });
    let standing = vm::block_on(async {
        match told {
            None if !position.forget => Ok(client.cloudlet().await?.standing),
            told => client.tell_place(told.as_ref()).await,
        }
    })?;
    show(standing.map_err(vm::failure)?, output)
}

pub(super) fn drain(
    state: Option<Switch>,
    api: Option<&str>,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    let config = super::load(global, Vec::new())?.config;
    let client = vm::client(&config, api)?;
    let standing = vm::block_on(async {
        match state {
            None => Ok(client.cloudlet().await?.standing),
            Some(state) => client.drain(state == Switch::On).await,
        }
    })?;
    show(standing.map_err(vm::failure)?, output)
}

fn show(standing: Standing, output: Output) -> Result<(), Failure> {
    output.result(
        || {
            let new = if standing.draining { "nobody new (drained)" } else { "taken" };
            let rows =
                [("position", place(&standing)), ("power", power(&standing)), ("new users", new.to_owned())];
            rows.iter().map(|(head, text)| format!("{:<11}{text}\n", format!("{head}:"))).collect()
        },
        || json!(standing),
    )
}

/// Where it is, for people.
pub(super) fn place(standing: &Standing) -> String {
    let Some(place) = &standing.place else { return "not known".to_owned() };
    let at = format!("{:.5},{:.5}", place.latitude_deg, place.longitude_deg);
    match place.motion {
        None => at,
        Some(motion) => format!("{at} at {:.1} m/s towards {:.0}°", motion.speed_m_s, motion.heading_deg),
    }
}

/// What it runs on, for people.
pub(super) fn power(standing: &Standing) -> String {
    match standing.power {
        None => "not known".to_owned(),
        Some(PowerSource::Mains) => "mains".to_owned(),
        Some(PowerSource::Battery { percent, remaining_s: None }) => format!("battery {percent} %"),
        Some(PowerSource::Battery { percent, remaining_s: Some(left) }) => {
            format!("battery {percent} %, {}:{:02} h", left / 3600, left / 60 % 60)
        }
    }
}
