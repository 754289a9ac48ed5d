//! Where instances should be, between daemons in one process: what a handoff would cost, emptying a cloudlet by command, at its
//! end and by the automatic policy. Real meshes, TLS and streams, on hypervisors without guests.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests use real time and may panic"
)]

use std::time::Duration;

use handheld::api::{
    Code, Evacuate, Fate, FigureSource, HandoffState, Holds, Instance, Outcome, PlanVerdict, State,
};
use migration::VmId;
use node::config::Automatic;

mod api_support;
mod cli_support;
mod handoff_support;

use api_support::mission::{self, USE, client, code_of, ready};
use cli_support::Ran;
use handoff_support::*;

/// `cloudlet` with these arguments, at a site.
fn cloudlet(site: &Site, command: &str, arguments: &[&str]) -> Ran {
    let shell = cli_support::World::new();
    let api = format!("https://{}", mission::address(site.daemon()));
    let state = site.world.state_dir();
    let mut run = shell.command(&["--state-dir", state.to_str().unwrap(), command, "--api", &api]);
    Ran::of(run.env_remove("CLOUDLET_TRUST__INSECURE").args(arguments).output().unwrap())
}

/// So many instances at a site, each for a client of its own.
async fn instances(site: &Site, count: usize) -> Vec<Instance> {
    let operator = site.operator();
    let mut all = Vec::new();
    for number in 0..count * 3 {
        // The service takes three users; every third begins an instance.
        let instance = ready(&operator, "walker", &format!("phone-{number}")).await;
        if !all.iter().any(|known: &Instance| known.id == instance.id) {
            all.push(instance);
        }
    }
    assert_eq!(all.len(), count);
    all
}

fn stop(sites: Vec<Site>) {
    for mut site in sites {
        if let Some(daemon) = site.daemon.take() {
            daemon.stop().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_it_would_cost_and_what_it_does_not_know() {
    let authority = mission::authority();
    // One holds the service, one the base image only.
    let sites = sites(&authority, 3, |at, world| {
        if at == 2 {
            let id = world.store.by_name("walker").unwrap().id;
            world.store.remove(id).unwrap();
        }
    });
    knows(&sites[0], 2).await;
    let operator = sites[0].operator();
    let instance = ready(&operator, "walker", "phone").await;
    let (vm, image) = (VmId(instance.id), instance.image.parse().unwrap());
    sites[0].write_disk(vm, image, &[(3, noise(30, CLUSTER)), (7, noise(70, CLUSTER))]);

    let plan = operator.plan_handoff(instance.id, "site-1").await.unwrap();
    assert_eq!((plan.destination_holds, plan.images_bytes), (Holds::Service, 0), "{plan:?}");
    assert_eq!(
        (plan.disk_bytes.value, plan.disk_bytes.source),
        (2.0 * CLUSTER as f64, FigureSource::Measured)
    );
    assert_eq!(plan.memory_bytes.source, FigureSource::Assumed, "{plan:?}");
    assert_eq!(plan.dirty_bytes_per_s.source, FigureSource::Assumed, "{plan:?}");
    assert_eq!((plan.verdict, plan.against), (PlanVerdict::Fits, None));
    let rounds: u64 = plan.rounds.iter().map(|round| round.bytes).sum();
    assert!(
        plan.bytes.abs_diff(rounds + plan.last.bytes) <= 2 + plan.rounds.len() as u64,
        "the parts are the whole"
    );
    let base = operator.plan_handoff(instance.id, "site-2").await.unwrap();
    assert_eq!(base.destination_holds, Holds::Base, "{base:?}");
    assert!(base.images_bytes > 0 && base.total_ms > plan.total_ms, "{base:?}");
    // Nothing has moved, and nobody was asked.
    assert!(sites[0].executes(vm));
    assert_eq!(code_of(&operator.handoff(instance.id).await.unwrap_err()), Code::UnknownInstance);
    assert_eq!(code_of(&operator.plan_handoff(instance.id, "site-0").await.unwrap_err()), Code::UnknownPeer);

    let id = instance.id.to_string();
    let ran = cloudlet(&sites[0], "handoff", &[&id, "--to", "site-1", "--plan"]).succeeded();
    for part in ["site-1 holds the Service VM's image", "a guess: nothing was measured", "verdict:     fits"]
    {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }

    // A destination that would refuse is named with the reason, and one that is gone has no link.
    sites[1].operator().drain(true).await.unwrap();
    until("the advert that says so", || async {
        operator.plan_handoff(instance.id, "site-1").await.unwrap().against.is_some()
    })
    .await;
    sites[1].operator().drain(false).await.unwrap();

    // Once it was there and back, that is known.
    until("it is taken again", || async {
        operator.plan_handoff(instance.id, "site-1").await.unwrap().against.is_none()
    })
    .await;
    operator.hand_off(instance.id, "site-1").await.unwrap();
    let done = reached(&operator, &instance, HandoffState::Done).await;
    let other = ready(&operator, "walker", "other").await;
    let plan = operator.plan_handoff(other.id, "site-1").await.unwrap();
    // What was lacking, without what the guest added later.
    let (lacking, sent) = (plan.memory_bytes.value, done.sent_bytes as f64);
    assert!(lacking > 0.0 && lacking <= sent, "{lacking} of {sent}");
    let sources = [plan.memory_bytes.source, plan.dirty_bytes_per_s.source, plan.fixed_ms.source];
    assert_eq!(sources, [FigureSource::Earlier; 3]);
    let code = code_of(&operator.plan_handoff(uuid::Uuid::nil(), "site-1").await.unwrap_err());
    assert_eq!(code, Code::UnknownInstance);
    stop(sites);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evacuated_cloudlet_is_empty_and_says_what_stays() {
    let authority = mission::authority();
    let mut sites = sites(&authority, 3, |_, _| {});
    knows(&sites[0], 2).await;
    let (operator, all) = (sites[0].operator(), instances(&sites[0], 3).await);
    let dir = tempfile::tempdir().unwrap();
    let hand = mission::handheld(&authority, USE, &dir.path().join("hand"));
    let stranger = client(sites[0].daemon(), &hand);
    assert_eq!(code_of(&stranger.evacuate(&Evacuate::default()).await.unwrap_err()), Code::NotAllowed);
    assert_eq!(code_of(&operator.evacuation().await.unwrap_err()), Code::NotReady);

    let ran = cloudlet(&sites[0], "evacuate", &[]).succeeded();
    assert_eq!(ran.stdout.matches("serves at site-").count(), 3, "{}", ran.stdout);
    for instance in &all {
        let vm = VmId(instance.id);
        assert!(!sites[0].executes(vm) && (sites[1].executes(vm) ^ sites[2].executes(vm)), "{vm}");
    }
    assert!(sites[0].world.instance_dirs().is_empty());
    let evacuation = operator.evacuation().await.unwrap();
    assert!(evacuation.complete && evacuation.instances.iter().all(|one| one.fate == Fate::Moved));
    // Nobody new is taken until somebody says so.
    assert!(operator.cloudlet().await.unwrap().standing.draining);

    // The next one has only a destination that is empty itself, and one that is gone.
    let (full, other) = if all.iter().any(|one| sites[1].executes(VmId(one.id))) { (1, 2) } else { (2, 1) };
    sites[other].kill();
    let left = sites[full].operator().instances().await.unwrap();
    let left: Vec<&Instance> = left.iter().filter(|instance| instance.state == State::Ready).collect();
    assert!(!left.is_empty());
    let ran = cloudlet(&sites[full], "evacuate", &["--to", "site-0"]);
    assert_eq!(ran.code, 1, "{} {}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("stays: site-0 is being emptied"), "{}", ran.stdout);
    assert!(sites[full].executes(VmId(left[0].id)), "it serves on");
    stop(sites);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_go_home_over_several_cloudlets_and_restarts() {
    let authority = mission::authority();
    let mut sites = sites(&authority, 3, |_, world| world.keep = node::lifecycle::Keep::Ready);
    knows(&sites[0], 2).await;
    knows(&sites[1], 2).await;
    let instance = ready(&sites[0].operator(), "walker", "phone").await;
    // One that is at home stays.
    let native = ready(&sites[2].operator(), "walker", "other").await;
    let vm = VmId(instance.id);
    for (from, to) in [(0, "site-1"), (1, "site-2")] {
        let operator = sites[from].operator();
        operator.hand_off(instance.id, to).await.unwrap();
        reached(&operator, &instance, HandoffState::Done).await;
    }
    sites[2].daemon.take().unwrap().stop().unwrap();
    sites[2].start();
    knows(&sites[2], 2).await;
    let operator = sites[2].operator();
    until("it serves again", || async {
        operator.instance(instance.id).await.unwrap().state == State::Ready
    })
    .await;
    let ran = cloudlet(&sites[2], "reintegrate", &[]).succeeded();
    assert!(ran.stdout.contains(&instance.id.to_string()), "{}", ran.stdout);
    assert!(sites[0].executes(vm) && !sites[2].executes(vm));
    assert!(sites[2].executes(VmId(native.id)));
    let ran = cloudlet(&sites[0], "reintegrate", &[]).succeeded();
    assert_eq!(ran.stdout, "every instance here is at home\n");
    stop(sites);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_evacuation_takes_users_again() {
    let authority = mission::authority();
    let sites = sites(&authority, 2, |_, _| {});
    knows(&sites[0], 1).await;
    let operator = sites[0].operator();
    let instance = ready(&operator, "walker", "phone").await;
    // Nobody can take it, so that it lasts until somebody ends it.
    sites[1].operator().drain(true).await.unwrap();
    until("the advert that says so", || async {
        operator.plan_handoff(instance.id, "site-1").await.unwrap().against.is_some()
    })
    .await;
    operator.evacuate(&Evacuate::default()).await.unwrap();
    assert_eq!(code_of(&operator.evacuate(&Evacuate::default()).await.unwrap_err()), Code::NotReady);
    assert!(operator.cloudlet().await.unwrap().standing.draining);
    let ended = operator.cancel_evacuation().await.unwrap();
    assert!(!ended.complete && ended.instances.iter().all(|one| one.fate == Fate::Stays), "{ended:?}");
    assert!(!operator.cloudlet().await.unwrap().standing.draining);
    assert!(sites[0].executes(VmId(instance.id)));
    stop(sites);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_sends_instances_away_first() {
    let authority = mission::authority();
    let mut sites = sites(&authority, 2, |at, world| {
        world.config.handoff.evacuate_on_shutdown = at == 0;
        world.config.handoff.evacuate_limit_s = LIMIT.as_secs();
    });
    knows(&sites[0], 1).await;
    let instance = ready(&sites[0].operator(), "walker", "phone").await;
    sites[0].daemon.take().unwrap().stop().unwrap();
    let vm = VmId(instance.id);
    assert!(!sites[0].executes(vm) && sites[1].executes(vm));
    assert_eq!(sites[1].operator().instance(instance.id).await.unwrap().state, State::Ready);
    // The next daemon takes users again.
    sites[0].start();
    assert!(!sites[0].operator().cloudlet().await.unwrap().standing.draining);
    stop(sites);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_moves_says_or_keeps_still_as_configured() {
    let authority = mission::authority();
    for automatic in [Automatic::On, Automatic::DryRun, Automatic::Off] {
        let sites = sites(&authority, 2, |_, world| world.config.handoff.automatic = automatic);
        knows(&sites[0], 1).await;
        let operator = sites[0].operator();
        let instance = ready(&operator, "walker", "phone").await;
        let vm = VmId(instance.id);
        let decided = || async {
            let placement = operator.placement().await.unwrap();
            placement.decisions.into_iter().find(|one| one.instance == instance.id)
        };
        if automatic != Automatic::Off {
            until("it is said that it stays", || async { decided().await.is_some() }).await;
            let decision = decided().await.unwrap();
            assert_eq!((decision.outcome, &decision.to), (Outcome::Stay, &None), "{}", decision.explanation);
            assert!(decision.explanation.contains("stays; site-1 gains -"), "{}", decision.explanation);
            assert!(decision.considered[0].terms.contains_key("downtime"), "{decision:?}");
        }
        operator.drain(true).await.unwrap();
        match automatic {
            Automatic::On => {
                until("it has moved", || async { sites[1].executes(vm) && !sites[0].executes(vm) }).await
            }
            Automatic::DryRun => {
                let would = || async { decided().await.unwrap().outcome == Outcome::WouldMove };
                until("it is said that it would move", would).await;
                assert_eq!(decided().await.unwrap().reason.as_deref(), Some("drain"));
                let ran = cloudlet(&sites[0], "placement", &[]).succeeded();
                assert!(
                    ran.stdout.contains("would move to site-1: this cloudlet is being emptied"),
                    "{}",
                    ran.stdout
                );
            }
            // Longer than it takes to look twice.
            Automatic::Off => tokio::time::sleep(Duration::from_secs(5)).await,
        }
        if automatic != Automatic::On {
            assert!(sites[0].executes(vm), "{automatic:?}: it serves on here");
            assert_eq!(code_of(&operator.handoff(instance.id).await.unwrap_err()), Code::UnknownInstance);
        }
        stop(sites);
    }
}
