//! What was said, by kind.

use std::collections::BTreeMap;
use std::fmt;

use mesh::membership::Frame;

/// Frames and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    pub frames: u64,
    pub bytes: u64,
}

/// Everything that all nodes said.
#[derive(Debug, Clone, Default)]
pub struct Count {
    by_kind: BTreeMap<&'static str, Said>,
    /// Dials that reached somebody: a handshake each.
    pub handshakes: u64,
    /// Calls on the local network.
    pub hails: u64,
    /// Adverts that went over links, and how many of them whole.
    pub adverts: u64,
    pub whole: u64,
}

impl Count {
    pub fn frame(&mut self, frame: &Frame, bytes: usize) {
        let said = self.by_kind.entry(kind(frame)).or_default();
        said.frames += 1;
        said.bytes += bytes as u64;
        if let Frame::Adverts(adverts) = frame {
            self.adverts += adverts.len() as u64;
            let whole = adverts.iter().filter(|signed| signed.base.sequence == 0);
            self.whole += whole.count() as u64;
        }
    }

    pub fn frames(&self) -> u64 {
        self.by_kind.values().map(|said| said.frames).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.by_kind.values().map(|said| said.bytes).sum()
    }

    /// For `nodes` nodes, per node.
    pub fn per_node(&self, nodes: usize) -> impl fmt::Display {
        let n = nodes as f64;
        let mut text = String::new();
        for (kind, said) in &self.by_kind {
            let (frames, bytes) = (said.frames as f64 / n, said.bytes as f64 / n);
            text += &format!("  {kind:<12} {frames:8.1} frames {bytes:9.0} bytes\n");
        }
        let (handshakes, hails) = (self.handshakes as f64 / n, self.hails as f64 / n);
        let (adverts, whole) = (self.adverts as f64 / n, self.whole as f64 / n);
        text += &format!(
            "  {handshakes:.1} handshakes, {hails:.1} hails, {adverts:.1} adverts ({whole:.1} whole)"
        );
        text
    }
}

fn kind(frame: &Frame) -> &'static str {
    match frame {
        Frame::Hello { .. } => "hello",
        Frame::Beat { .. } => "beat",
        Frame::Summary { .. } => "summary",
        Frame::Want(_) => "want",
        Frame::Adverts(_) => "adverts",
        Frame::Certificates(_) => "certificates",
        Frame::Revocations(_) => "revocations",
        Frame::Bye(_) => "bye",
        Frame::Meet(_) => "meet",
        Frame::Part => "part",
        Frame::Ready => "ready",
        Frame::Have(_) => "have",
        Frame::Ask => "ask",
        Frame::Here => "here",
    }
}
