//! Random histories, and what must hold when they are over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh::advert::Presence;
use mesh::membership::{Input, Members, Reach};
use rand::RngExt;

use super::{World, id, index};

impl World {
    /// A node says goodbye and ends.
    pub fn leave(&mut self, node: usize) {
        self.log.push(format!("{:?} leave {node}", self.now));
        self.step(node, Input::Leave);
        self.nodes[node].core = None;
        self.nodes[node].links.clear();
        self.nodes[node].has_left = true;
    }

    /// Forty random events.
    pub fn trouble(&mut self) {
        for _ in 0..40 {
            let node = self.rng.random_range(0..self.nodes.len());
            let is_up = self.nodes[node].core.is_some();
            match self.rng.random_range(0..100) {
                0..15 if is_up => self.crash(node),
                0..35 if !is_up => {
                    self.log.push(format!("{:?} start {node}", self.now));
                    // Its clock may have been reset, so its numbers start again.
                    if self.rng.random_bool(0.3) {
                        self.nodes[node].clock_skew_s = -1_000_000;
                    }
                    self.start(node);
                }
                35..60 if is_up => self.change(node),
                60..68 if is_up => self.leave(node),
                68..80 => {
                    let sides: Vec<usize> =
                        (0..self.nodes.len()).map(|_| self.rng.random_range(0..2)).collect();
                    self.split(|node| sides[node]);
                }
                80..90 => self.heal(),
                90..96 => {
                    self.nodes[node].clock_skew_s = self.rng.random_range(-500_000..500_000);
                    self.log.push(format!("{:?} clock of {node} jumps", self.now));
                }
                _ => {}
            }
            let pause = Duration::from_millis(self.rng.random_range(0..15_000));
            self.run_for(pause);
        }
    }

    /// The trouble ends: everybody who is up must come to know everybody who is up, and nobody else.
    pub fn calm(&mut self) {
        self.heal();
        self.loss = 0.0;
        // Without multicast, nodes that never met need somebody at a rendezvous address.
        if self.nodes[0].core.is_none() {
            self.start(0);
        }
        for node in &mut self.nodes {
            node.clock_skew_s = 0;
        }
        self.run_for(Duration::from_secs(90));
        self.assert_agreement();
        let frames = self.count.frames();
        self.run_for(Duration::from_secs(20));
        assert!(self.count.frames() - frames < 100 * self.nodes.len() as u64, "it does not come to rest");
        self.assert_agreement();
    }

    /// Everybody who is up knows everybody who is up and what they say, and nothing is on its way.
    pub fn assert_agreement(&mut self) {
        self.assert_one_mesh();
        let cores = self.nodes.iter_mut().filter_map(|node| node.core.as_mut());
        let digests: BTreeSet<u32> = cores.map(|core| core.digest()).collect();
        assert!(digests.len() <= 1, "digests differ");
    }

    /// Everybody who is up knows everybody who is up and what they say. Links may still be settling.
    pub fn assert_one_mesh(&mut self) {
        let up: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].core.is_some()).collect();
        for &node in &up {
            let members = self.nodes[node].core.as_ref().unwrap().members();
            let there: BTreeSet<usize> = members
                .iter()
                .filter(|(_, member)| !matches!(member.reach, Reach::UnreachableSince(_)))
                .map(|(other, _)| index(*other))
                .collect();
            assert_eq!(there, up.iter().copied().collect(), "who is there, as {node} sees it");
            for &other in &up {
                let advert = &members[&id(other)].advert;
                assert_eq!(advert.name, format!("{other}-{}", self.nodes[other].name), "as {node} sees it");
            }
            for (other, member) in &members {
                if self.nodes[index(*other)].has_left && member.advert.presence != Presence::Left {
                    assert!(matches!(member.reach, Reach::UnreachableSince(_)), "{other} has left");
                }
            }
        }
    }
}

/// When each node was first seen to say what it says.
pub type News = BTreeMap<usize, Vec<(Duration, u64)>>;

impl World {
    /// Everybody who is up holds whatever anybody said `age` ago or earlier, as far as `news` has heard; call it often.
    pub fn assert_news_travels(&self, news: &mut News, age: Duration) {
        let up: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].core.is_some()).collect();
        let held: BTreeMap<usize, Members> =
            up.iter().map(|node| (*node, self.nodes[*node].core.as_ref().unwrap().members())).collect();
        for &node in &up {
            let sequence = held[&node][&id(node)].advert.sequence;
            let said = news.entry(node).or_default();
            if said.last().is_none_or(|(_, last)| *last != sequence) {
                said.push((self.now, sequence));
            }
            let Some((at, due)) = said.iter().rfind(|(at, _)| *at + age <= self.now) else { continue };
            for &other in &up {
                let has = held[&other].get(&id(node)).map_or(0, |member| member.advert.sequence);
                assert!(has >= *due, "{other} does not hold at {:?} what {node} said at {at:?}", self.now);
            }
        }
    }
}
