//! The choice in words.

use std::fmt;

use super::completion::{Basis, Completion};
use super::{Choice, Considered, Term, Verdict};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("chosen: the best"),
            Self::Stays => {
                f.write_str("chosen: serves now or served last, and no other is better by the margin")
            }
            Self::Held => f.write_str("chosen: serves now or served last, for too short a time to leave it"),
            Self::Lost { behind, most_by } => {
                if *behind < 0.0 {
                    write!(f, "better by {:.3}, which is not worth a change", -behind)?;
                } else if *behind == 0.0 {
                    f.write_str("equally good, but its node id is larger")?;
                } else {
                    write!(f, "lost by {behind:.3}")?;
                }
                match most_by {
                    Some((term, cost)) => write!(f, ", most by {term} ({cost:.3})"),
                    None => Ok(()),
                }
            }
            Self::Cannot(reasons) => {
                f.write_str("cannot: ")?;
                for (place, reason) in reasons.iter().enumerate() {
                    write!(f, "{}{reason}", if place == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Choice {
    /// Every candidate on a line of its own; below it the terms of its score, the parts of its completion and what was
    /// known of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.considered.iter().try_for_each(|one| write!(f, "{one}"))
    }
}

impl fmt::Display for Considered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let score = self.score.map_or_else(|| "none".to_owned(), |score| format!("{score:.3}"));
        writeln!(f, "{} ({})  score {score}  {}", self.name, self.node.short(), self.verdict)?;
        for Term { name, value, share, figure } in &self.terms {
            writeln!(f, "    {name:<15} {value:.3} x {share:.4} = {:.3}   {figure}", value * share)?;
        }
        if let Some(completion) = &self.completion {
            write!(f, "{completion}")?;
        }
        writeln!(f, "    known of it")?;
        self.facts.iter().try_for_each(|(name, figure)| writeln!(f, "      {name:<13} {figure}"))
    }
}

impl fmt::Display for Completion {
    /// A line for the whole and one for each part.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    done in {}", self.summary())?;
        for part in &self.parts {
            let basis = match part.basis {
                Basis::Known => "",
                Basis::Assumed => " (assumed)",
            };
            let seconds = part.time.as_secs_f64();
            writeln!(f, "      {:<13} {seconds:>9.3} s   {}{basis}", part.name, part.figure)?;
        }
        Ok(())
    }
}
