//! Several daemons with their mesh, who know each other's addresses.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use handheld::Client;
use mesh::NodeId;
use mesh::trust::Authority;

use super::mission;
use super::ports::free;
use super::{Daemon, PATIENCE, World};

pub struct Site {
    pub node: NodeId,
    pub world: World,
    daemon: Option<Daemon>,
}

impl Site {
    pub fn mesh(&self) -> SocketAddr {
        self.world.config.mesh.listen.unwrap()
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    /// Ends the daemon as a crash would, and starts it again.
    pub fn restart(&mut self) {
        self.daemon.take().unwrap().kill();
        self.daemon = Some(self.world.daemon());
    }

    /// The same, without what it knew to be revoked.
    pub fn forget_and_restart(&mut self) {
        self.daemon.take().unwrap().kill();
        std::fs::remove_file(self.world.state_dir().join("trust/revoked")).unwrap();
        self.daemon = Some(self.world.daemon());
    }

    /// As the operator at this cloudlet.
    pub fn operator(&self) -> Client {
        mission::client(self.daemon(), &self.world.config.trust_home().load().unwrap().unwrap())
    }

    /// Ends the daemon as a crash would.
    pub fn kill(mut self) {
        self.daemon.take().unwrap().kill();
    }

    pub fn stop(mut self) {
        self.daemon.take().unwrap().stop().unwrap();
    }
}

/// Cloudlets of these names; `change` may change their configuration.
pub fn sites(authority: &Authority, names: &[&str], change: impl Fn(&mut World)) -> Vec<Site> {
    let listens: Vec<SocketAddr> = names.iter().map(|_| free()).collect();
    let start = |(name, listen): (&&str, &SocketAddr)| {
        let mut world = mission::join(authority, name);
        world.config.mesh.enabled = true;
        world.config.mesh.multicast = false;
        world.config.mesh.listen = Some(*listen);
        let others = listens.iter().filter(|other| *other != listen);
        world.config.mesh.peers = others.map(ToString::to_string).collect();
        world.hypervisor.serve_at(mission::echo());
        change(&mut world);
        Site { node: mission::node(&world), daemon: Some(world.daemon()), world }
    };
    names.iter().zip(&listens).map(start).collect()
}

/// Waits until so many cloudlets are there, in the eyes of the one that is asked.
pub async fn acquainted(client: &Client, count: usize) {
    let begin = Instant::now();
    loop {
        let peers = client.peers().await.unwrap();
        let there = peers.iter().filter(|peer| peer.reach != handheld::api::PeerReach::Unreachable);
        if there.count() == count {
            return;
        }
        assert!(begin.elapsed() < 3 * PATIENCE, "not {count}: {peers:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
