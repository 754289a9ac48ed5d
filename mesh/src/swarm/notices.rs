//! Notices to everybody, over gossipsub.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use libp2p::PeerId;
use libp2p::gossipsub::{self, MessageAcceptance};

use super::behaviour::MAX_NOTICE_BYTES;
use super::handle::Notice;
use super::peers::key_of;
use super::task::Owner;
use crate::membership::Input;

/// Notices that one node may send at once, and per second. A guess.
const NOTICES_AT_ONCE: f64 = 50.0;
const NOTICES_PER_S: f64 = 10.0;
/// Notices beyond that after which a neighbour is cut that keeps bringing them.
const MAX_NOTICE_STRIKES: u32 = 200;

impl Owner {
    pub(super) fn announce(&mut self, bytes: Vec<u8>) -> bool {
        if bytes.len() > MAX_NOTICE_BYTES {
            return false;
        }
        let gossip = &mut self.swarm.behaviour_mut().proven.inner().gossip;
        gossip.publish(self.topic.clone(), bytes).is_ok()
    }

    /// Judges a notice.
    pub(super) fn notice(&mut self, from: PeerId, message: &gossipsub::Message) -> MessageAcceptance {
        let Some(author) = message.source else { return MessageAcceptance::Reject };
        if message.data.len() > MAX_NOTICE_BYTES {
            return MessageAcceptance::Reject;
        }
        let key = key_of(&author);
        let known = self.core.members().into_iter().find(|(_, member)| Some(member.key) == key);
        let Some((node, _)) = known else { return MessageAcceptance::Ignore };
        if !self.may_notice(author) {
            let strikes = self.notice_strikes.entry(from).or_default();
            *strikes += 1;
            if *strikes > MAX_NOTICE_STRIKES && from == author {
                let node = self.links.iter().find(|(_, connection)| {
                    self.connections.get(*connection).is_some_and(|known| known.peer == from)
                });
                if let Some(node) = node.map(|(node, _)| *node) {
                    self.step(Input::Offence(node));
                }
            }
            return MessageAcceptance::Ignore;
        }
        self.counts.notices.fetch_add(1, Ordering::Relaxed);
        // Nobody listens: fine.
        let _ = self.notices.send(Notice { from: node, bytes: Arc::from(message.data.as_slice()) });
        MessageAcceptance::Accept
    }

    pub(super) fn may_notice(&mut self, author: PeerId) -> bool {
        let now = self.now().boot;
        let (tokens, at) = self.notice_budget.entry(author).or_insert((NOTICES_AT_ONCE, now));
        *tokens = (*tokens + now.saturating_sub(*at).as_secs_f64() * NOTICES_PER_S).min(NOTICES_AT_ONCE);
        *at = now;
        let is_within = *tokens >= 1.0;
        if is_within {
            *tokens -= 1.0;
        }
        is_within
    }
}
