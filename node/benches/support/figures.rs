//! A series of measurements: median, 95th percentile, range.

use std::fmt;

/// A series with a name.
#[derive(Debug)]
pub struct Figures {
    name: String,
    values: Vec<f64>,
}

impl Figures {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), values: Vec::new() }
    }

    pub fn add(&mut self, value: f64) {
        self.values.push(value);
        self.values.sort_by(f64::total_cmp);
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Nearest-rank quantile.
    fn quantile(&self, q: f64) -> f64 {
        let rank = (q * self.values.len() as f64).ceil().max(1.0) as usize;
        self.values.get(rank - 1).copied().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (self.quantile(0.0), self.quantile(1.0));
        write!(
            f,
            "{}: median {:.1}, p95 {:.1}, least {least:.1}, most {most:.1}, n {}",
            self.name,
            self.median(),
            self.quantile(0.95),
            self.values.len()
        )
    }
}
